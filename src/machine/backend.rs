//! The seam between the replicated machine and the state machine that a user brings: a component run by `wasm/`, or
//! Rust code in process.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::Budget;
use crate::protocol::GuestFault;
use crate::types::Digest;

/// Names a piece of a backend's data for triggers; its meaning is the backend's own.
pub type Key = Bytes;

/// What a backend answers to a command or a query: a reply, or a refusal. A refusal is a normal answer, the same on
/// every replica; it is not a fault.
pub type BackendReply = Result<Bytes, String>;

/// Where in the log a call stands: the only index and time that a backend may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The entry being applied; for a query, the last one applied.
    pub index: u64,
    /// That entry's time in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// One committed command, as a backend sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendCommand {
    /// Where it stands.
    pub at: Moment,
    /// Set for an ephemeral command: what it writes lives as long as this session.
    pub session: Option<u64>,
    /// What the client wrote.
    pub data: Bytes,
}

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendOutcome {
    /// What the client is told.
    pub reply: BackendReply,
    /// The keys whose data changed.
    pub changed: Vec<Key>,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAnswer {
    /// What the client is told.
    pub reply: BackendReply,
    /// The keys that the reply depends on.
    pub watched: Vec<Key>,
}

/// Where the state being restored comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `version` of the backend that wrote the snapshot.
    pub version: String,
    /// The bytes given when the cluster was created.
    pub config: Bytes,
    /// Set when a running cluster moves to this backend: the operator's migration argument.
    pub migration: Option<Bytes>,
}

/// A call into a backend did not return. The instance is dead and must not be called again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The guest is to blame: the call would fail on any node with the same budget and history.
    #[error("the backend failed ({kind}): {message}")]
    Guest {
        /// What it did.
        kind: GuestFault,
        /// What the engine or the guest said about it.
        message: String,
    },
    /// This node is to blame: out of memory, out of address space, a watchdog. Never an outcome; the replica stops.
    #[error("this node could not run the backend: {0}")]
    Host(String),
}

/// Why a backend could not be started from its config or from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The backend said no: the config or the snapshot is not one it can use.
    #[error("the backend refused to start: {0}")]
    Refused(String),
    /// The backend died trying.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The snapshot could not be read.
    #[error("the snapshot could not be read: {0}")]
    Source(String),
}

/// One running instance of a user's state machine. After a [`Fault`] it is dead: drop it.
///
/// Everything it does must follow from its state and the arguments of the call. How commands are split into batches
/// differs between replicas and must not matter.
pub trait Backend: Send {
    /// Names the format of this backend's state.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return.
    fn version(&mut self) -> Result<String, Fault>;

    /// Sets what calls of [`apply`](Self::apply) and [`expire_session`](Self::expire_session) may use from now on. A backend
    /// that counts nothing has nothing to set.
    fn set_budget(&mut self, _budget: Budget) {}

    /// Applies committed commands in order, with one outcome for each.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return, or returned another number of outcomes.
    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault>;

    /// Reads. `at` is the last applied entry.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return.
    fn query(&mut self, at: Moment, request: &[u8]) -> Result<BackendAnswer, Fault>;

    /// Ends a session: removes its ephemeral data and returns the changed keys.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return.
    fn expire_session(&mut self, at: Moment, session: u64) -> Result<Vec<Key>, Fault>;

    /// Begins to read the whole state. `at` is the last applied entry; each call may use what `budget` allows.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return.
    fn read_state(&mut self, at: Moment, budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault>;

    /// Writes the whole state to `sink`, in chunks of at most `max_chunk_bytes`. `at` is the last applied entry.
    ///
    /// # Errors
    /// [`SnapshotError::Fault`] when a call did not return, [`SnapshotError::Sink`] when the sink refused a chunk;
    /// after the latter the instance is alive.
    fn snapshot(
        &mut self,
        at: Moment,
        max_chunk_bytes: u32,
        sink: &mut dyn FnMut(Bytes) -> Result<(), String>,
    ) -> Result<(), SnapshotError> {
        let mut reader = self.read_state(at, Budget::Configured)?;
        let mut sunk = Ok(());
        while sunk.is_ok()
            && let Some(chunk) = reader.next_chunk(max_chunk_bytes)?
        {
            sunk = sink(chunk);
        }
        reader.close()?;
        sunk.map_err(SnapshotError::Sink)
    }
}

/// Reads the state of an instance, chunk by chunk.
pub trait StateReader {
    /// The next chunk, of 1 to `max_bytes` bytes; none after the last.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return: the instance is dead.
    fn next_chunk(&mut self, max_bytes: u32) -> Result<Option<Bytes>, Fault>;

    /// Ends the reading, wherever it is. The instance goes on.
    ///
    /// # Errors
    /// [`Fault`] when the call did not return: the instance is dead.
    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// The state of a backend in process, whose chunks are as they are.
impl<I: Iterator<Item = Bytes>> StateReader for I {
    fn next_chunk(&mut self, _max_bytes: u32) -> Result<Option<Bytes>, Fault> {
        Ok(self.next())
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

/// Why a snapshot was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The backend died writing it.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It could not be stored.
    #[error("the snapshot could not be stored: {0}")]
    Sink(String),
}

/// Makes instances of one backend.
pub trait BackendFactory: Send + Sync {
    /// An instance with empty state.
    ///
    /// # Errors
    /// [`StartError`] when the backend refuses the config or dies.
    fn init(&self, at: Moment, config: &[u8]) -> Result<Box<dyn Backend>, StartError>;

    /// An instance with the state of a snapshot. `chunks` returns `None` after the last one.
    ///
    /// # Errors
    /// [`StartError`] when the backend refuses the snapshot or dies, or the source fails.
    fn restore(
        &self,
        at: Moment,
        origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError>;
}

/// Where a machine finds the backend that it is to go on with.
pub trait BackendSource {
    /// What makes instances of this component.
    ///
    /// # Errors
    /// [`Fault::Host`] when this node does not have it.
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault>;
}

/// Has no backend for anybody: for logs that never change it.
#[derive(Clone, Copy, Debug)]
pub struct NoOthers;

impl BackendSource for NoOthers {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        Err(Fault::Host(format!("there is no other backend here, and {component} is wanted")))
    }
}

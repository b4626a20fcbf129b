//! The deterministic replicated machine: what every replica of a cluster does with a committed entry.
//!
//! [`Machine::apply`] is a pure function of state and entries. The state is the applied position with its time, what
//! the cluster was created with ([`Genesis`]), the clients' sessions, the access list, the user's backend ([`Backend`]) and the hash chain
//! ([`HashChain`]) that proves two replicas equal. All of it is in a snapshot: the host's part in the header
//! ([`SnapshotHead`]), the backend's in chunks.
//!
//! Start reading here, then [`Command`] for what an entry can say, `apply` for what becomes of it, `session` for what makes
//! commands run once, `upgrade` for another backend, and [`Backend`] for the seam to a user's code.

mod apply;
mod backend;
mod chain;
mod command;
mod outcome;
mod ruling;
mod runner;
mod session;
mod snapshot;
mod upgrade;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use backend::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, BackendReply, BackendSource, Fault, Key,
    Moment, NoOthers, Origin, SnapshotError, StartError, StateReader,
};
pub use chain::HashChain;
pub use command::Command;
pub use outcome::{Applied, Outcome};
pub use ruling::{Budget, Ruling, Rulings};
pub use runner::{Died, Past, Ran, Run, RunError, Runner, Target};
pub use session::SessionTerms;
pub use snapshot::{HostPart, SnapshotHead};

pub use crate::protocol::GuestFault;

use crate::access::AccessControl;
use crate::feature_level::FeatureLevel;
use crate::planted::{self, Bug};
use crate::raft::SnapshotMeta;
use crate::settings::Settings;
use crate::types::{ClusterId, Digest, LogPosition, SessionId};
use session::Sessions;

/// What a cluster is created with, equal on all its replicas. In a machine, the component is the one that it runs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// The cluster.
    pub cluster: ClusterId,
    /// The digest of the backend's component.
    pub component: Digest,
    /// What the backend is initialized with.
    pub config: Bytes,
    /// The replicated settings.
    pub settings: Settings,
}

/// One replica's machine.
pub struct Machine {
    genesis: Genesis,
    applied: LogPosition,
    time_ms: u64,
    chain: HashChain,
    sessions: Sessions,
    access: AccessControl,
    level: FeatureLevel,
    backend_version: String,
    backend: Box<dyn Backend>,
}

impl Machine {
    /// Most bytes of a chunk of a snapshot.
    pub const MAX_CHUNK_BYTES: u32 = 64 << 10;

    /// The machine of a new cluster, before its first entry.
    ///
    /// # Errors
    /// [`StartError`] when the backend refuses its config or dies.
    pub fn start(genesis: Genesis, factory: &dyn BackendFactory) -> Result<Self, StartError> {
        let mut backend = factory.init(Moment::default(), &genesis.config)?;
        let backend_version = backend.version()?;
        Ok(Self {
            genesis,
            applied: LogPosition::ZERO,
            time_ms: 0,
            chain: HashChain::default(),
            sessions: Sessions::default(),
            access: AccessControl::default(),
            level: FeatureLevel::FIRST,
            backend_version,
            backend,
        })
    }

    /// The machine as it was when a snapshot was taken. `chunks` gives the backend's part and `None` at its end.
    ///
    /// # Errors
    /// [`StartError`] when the backend refuses the snapshot or dies, the chunks cannot be read, or the host's part
    /// contradicts itself.
    pub fn restore(
        head: SnapshotHead,
        factory: &dyn BackendFactory,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Self, StartError> {
        let last = head.meta.position.index;
        if let Some(session) = head.host.sessions.impossible(last) {
            return Err(StartError::Source(format!("no session {session} can be as it says at entry {last}")));
        }
        let access = head.host.access.clone();
        if access.set_at > last {
            let reason = format!("no access list can be set at entry {} as of entry {last}", access.set_at);
            return Err(StartError::Source(reason));
        }
        access.list.check().map_err(|error| StartError::Source(error.to_string()))?;
        let level = head.host.level;
        if !level.is_supported() {
            return Err(apply::unsupported("the snapshot", level).into());
        }
        let at = Moment { index: last.0, time_ms: head.meta.time_ms };
        let mut backend = factory.restore(at, &head.origin(), chunks)?;
        let backend_version = backend.version()?;
        Ok(Self {
            genesis: head.genesis(),
            applied: head.meta.position,
            time_ms: head.meta.time_ms,
            chain: head.chain,
            sessions: head.host.sessions,
            access,
            level,
            backend_version,
            backend,
        })
    }

    /// Has the backend answer a query from the state as it is.
    ///
    /// # Errors
    /// [`Fault`]: the machine is dead and must be restored.
    pub fn query(&mut self, request: &[u8]) -> Result<BackendAnswer, Fault> {
        let at = self.moment();
        self.backend.query(at, request)
    }

    /// What a snapshot of the state as it is begins with; `meta` is of the last entry applied.
    #[must_use]
    pub fn snapshot_head(&self, meta: SnapshotMeta) -> SnapshotHead {
        let Genesis { cluster, component, config, settings } = self.genesis.clone();
        let is_lacking = planted::has(Bug::SessionsNotInSnapshot);
        let sessions = if is_lacking { Sessions::default() } else { self.sessions.clone() };
        let (backend_version, access, level) = (self.backend_version.clone(), self.access.clone(), self.level);
        let host = HostPart { config, settings, backend_version, sessions, access, level };
        SnapshotHead { meta, cluster, backend: component, chain: self.chain, host }
    }

    /// Writes the backend's part of a snapshot of the state as it is.
    ///
    /// # Errors
    /// [`SnapshotError`]; after [`SnapshotError::Fault`] the machine is dead and must be restored.
    pub fn write_snapshot(&mut self, sink: &mut dyn FnMut(Bytes) -> Result<(), String>) -> Result<(), SnapshotError> {
        self.write_snapshot_cut(Self::MAX_CHUNK_BYTES, sink)
    }

    /// The same, in chunks of at most so many bytes. It must not matter.
    ///
    /// # Errors
    /// As [`Self::write_snapshot`].
    pub fn write_snapshot_cut(
        &mut self,
        max_chunk_bytes: u32,
        sink: &mut dyn FnMut(Bytes) -> Result<(), String>,
    ) -> Result<(), SnapshotError> {
        let at = self.moment();
        self.backend.snapshot(at, max_chunk_bytes, sink)
    }

    /// The open sessions, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<(SessionId, SessionTerms)> {
        self.sessions.iter().map(|(id, terms)| (id, terms.clone())).collect()
    }

    /// Who may do what.
    #[must_use]
    pub fn access(&self) -> &AccessControl {
        &self.access
    }

    /// What entries there may be.
    #[must_use]
    pub fn level(&self) -> FeatureLevel {
        self.level
    }

    /// The component that the machine runs.
    #[must_use]
    pub fn component(&self) -> Digest {
        self.genesis.component
    }

    /// How many sessions have ended and left ephemeral data behind, because the backend died of their end.
    #[must_use]
    pub fn orphaned(&self) -> usize {
        self.sessions.orphaned()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// The hash chain at the last entry applied.
    #[must_use]
    pub fn chain(&self) -> HashChain {
        self.chain
    }

    fn moment(&self) -> Moment {
        Moment { index: self.applied.index.0, time_ms: self.time_ms }
    }
}

#[cfg(test)]
mod tests;

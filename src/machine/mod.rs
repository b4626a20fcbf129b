//! The deterministic replicated machine: what every replica of a cluster does with a committed entry.
//!
//! [`Machine::apply`] is a pure function of state and entries. The state is the applied position with its time, what
//! the cluster was created with ([`Genesis`]), the user's backend ([`Backend`]) and the hash chain ([`HashChain`])
//! that proves two replicas equal. All of it is in a snapshot: the host's part in the header ([`SnapshotHead`]), the
//! backend's in chunks.
//!
//! Start reading here, then [`Command`] for what an entry can say and [`Backend`] for the seam to a user's code.

mod backend;
mod chain;
mod command;
mod snapshot;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use backend::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, BackendReply, Fault, GuestFault, Key,
    Moment, Origin, SnapshotError, StartError,
};
pub use chain::HashChain;
pub use command::Command;
pub use snapshot::{HostPart, SnapshotHead};

use crate::raft::{Entry, Payload, SnapshotMeta};
use crate::settings::Settings;
use crate::types::{ClusterId, Digest, LogPosition};

/// What a cluster is created with, equal on all its replicas.
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
    backend_version: String,
    backend: Box<dyn Backend>,
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub position: LogPosition,
    /// What the backend answered, if the entry held a command for it.
    pub reply: Option<BackendReply>,
}

impl Machine {
    /// Most bytes of a chunk of a snapshot.
    pub const MAX_CHUNK_BYTES: u32 = 256 << 10;

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
            backend_version,
            backend,
        })
    }

    /// The machine as it was when a snapshot was taken. `chunks` gives the backend's part and `None` at its end.
    ///
    /// # Errors
    /// [`StartError`] when the backend refuses the snapshot or dies, or the chunks cannot be read.
    pub fn restore(
        head: SnapshotHead,
        factory: &dyn BackendFactory,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Self, StartError> {
        let at = Moment { index: head.meta.position.index.0, time_ms: head.meta.time_ms };
        let mut backend = factory.restore(at, &head.origin(), chunks)?;
        let backend_version = backend.version()?;
        Ok(Self {
            genesis: head.genesis(),
            applied: head.meta.position,
            time_ms: head.meta.time_ms,
            chain: head.chain,
            backend_version,
            backend,
        })
    }

    /// Applies entries that follow the last one applied, and says what became of each.
    ///
    /// # Errors
    /// [`Fault`]: the machine is dead, and it is not known how far it came. It must be restored from a snapshot.
    ///
    /// # Panics
    /// If the entries do not follow: that is a defect of the caller.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Applied>, Fault> {
        let mut outcomes = self.backend_outcomes(entries)?.into_iter();
        let mut applied = Vec::with_capacity(entries.len());
        for entry in entries {
            assert_eq!(entry.index, self.applied.index.next(), "entries are applied in order and without gaps");
            let outcome = match &entry.payload {
                Payload::Noop | Payload::Membership(_) => None,
                Payload::Data(_) => outcomes.next(),
            };
            self.chain.extend(entry, outcome.as_ref());
            self.applied = entry.position();
            self.time_ms = entry.time_ms;
            applied.push(Applied { position: entry.position(), reply: outcome.map(|outcome| outcome.reply) });
        }
        Ok(applied)
    }

    /// Has the backend apply the commands among the entries, all in one call.
    fn backend_outcomes(&mut self, entries: &[Entry]) -> Result<Vec<BackendOutcome>, Fault> {
        let mut commands = Vec::with_capacity(entries.len());
        for entry in entries {
            if let Payload::Data(data) = &entry.payload {
                let Command::Write { data } = Command::decode(data).map_err(|error| unknown_command(entry, &error))?;
                let at = Moment { index: entry.index.0, time_ms: entry.time_ms };
                commands.push(BackendCommand { at, session: None, data });
            }
        }
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.backend.apply(&commands)?;
        if outcomes.len() != commands.len() {
            let message = format!("{} outcomes for {} commands", outcomes.len(), commands.len());
            return Err(Fault::Guest { kind: GuestFault::BrokenContract, message });
        }
        Ok(outcomes)
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
        let host = HostPart { config, settings, backend_version: self.backend_version.clone() };
        SnapshotHead { meta, cluster, backend: component, chain: self.chain, host }
    }

    /// Writes the backend's part of a snapshot of the state as it is.
    ///
    /// # Errors
    /// [`SnapshotError`]; after [`SnapshotError::Fault`] the machine is dead and must be restored.
    pub fn write_snapshot(&mut self, sink: &mut dyn FnMut(Bytes) -> Result<(), String>) -> Result<(), SnapshotError> {
        let at = self.moment();
        self.backend.snapshot(at, Self::MAX_CHUNK_BYTES, sink)
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

/// A replica that cannot read a committed entry must stop: skipping it would part it from those that can.
fn unknown_command(entry: &Entry, error: &crate::codec::DecodeError) -> Fault {
    Fault::Host(format!(
        "entry {} holds no command that this version of zraft knows ({error}); run the version that the other replicas run",
        entry.index
    ))
}

#[cfg(test)]
mod tests;

//! What a peer keeps: the entries of its log, the hard state beside it, and what a snapshot is known by.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::raft::Configuration;
use crate::types::{Digest, Incarnation, Index, LogPosition, Term};

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: Term,
    /// Its position in the log.
    pub index: Index,
    /// Milliseconds since the Unix epoch by the leader's clock, never before the previous entry's: the only time
    /// that replicated state may depend on.
    pub time_ms: u64,
    /// What it says.
    pub payload: Payload,
}

impl Entry {
    /// What an entry takes beyond its data when bytes are budgeted, roughly its encoded header.
    pub const OVERHEAD_BYTES: usize = 32;

    /// Where the entry stands.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition::new(self.term, self.index)
    }

    /// The size that budgets count, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.payload.size_bytes()
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which commits the entries of older terms (thesis section 3.6.2).
    Noop,
    /// The set of peers from this entry on (thesis chapter 4).
    Membership(Configuration),
    /// A command for the machine, opaque here.
    Data(Bytes),
    /// How the machine is to take an earlier entry.
    Verdict(Verdict),
    /// The machine is to go on with another backend. Variants are only ever added at the end: the log outlives the program
    /// that wrote it.
    Upgrade(Upgrade),
}

impl Payload {
    /// The size that budgets count of an entry that says this, in bytes.
    pub(super) fn size_bytes(&self) -> usize {
        Entry::OVERHEAD_BYTES
            + match self {
                Self::Noop => 0,
                Self::Membership(configuration) => configuration.size_bytes(),
                Self::Data(data) => data.len(),
                Self::Verdict(verdict) => verdict.ruling.len(),
                Self::Upgrade(upgrade) => upgrade.migration.as_ref().map_or(0, Bytes::len),
            }
    }
}

/// What the leader has found out about an entry that a machine cannot simply apply. It stands behind that entry and must be
/// known before it is applied, so the log keeps all verdicts in memory, as it does configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The entry that it is about.
    pub on: Index,
    /// What the machine is told, opaque here.
    pub ruling: Bytes,
}

/// From which backend to which the machine is to go. Opaque here but for the component that it needs: who does not have that
/// must get it before the entry is applied, so the log keeps it in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// The component that must be the machine's: else nothing is changed.
    pub from: Digest,
    /// The component that is to be.
    pub to: Digest,
    /// What the operator has to say to it.
    pub migration: Option<Bytes>,
}

/// What a peer must remember across a crash besides its log (Figure 2 of the Raft paper).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term the peer has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<Incarnation>,
    /// A lower bound of what is committed. Written along with the other two and never for its own sake: it lets a
    /// restarted peer apply at once what it is known to have applied.
    pub commit: Index,
}

/// Names a snapshot and says what Raft needs to continue from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot covers.
    pub position: LogPosition,
    /// That entry's time, so that time goes on from there.
    pub time_ms: u64,
    /// The configuration in effect at that entry.
    pub configuration: Configuration,
}

//! What the core asks of its driver. Effects are data: the driver carries them out and reports back by calls.

use bytes::Bytes;

use crate::raft::{Configuration, Entry, Envelope, HardState, ReadId, SnapshotMeta};
use crate::types::{Incarnation, Index, LogPosition, RoleName, Term};

/// Everything a peer wants done since the last time it was asked.
///
/// The order that the driver must keep:
/// 1. `write` is handed to the store before any later `Ready`'s; writes become durable in that order, and each is
///    then reported by [`Raft::persisted`](crate::raft::Raft::persisted). Nothing else waits for it: what may only
///    be said once a write is durable is kept back in the core and comes out of a later `Ready`.
/// 2. `messages` may leave at once, in order. Losing, repeating or reordering them is safe.
/// 3. `install` comes before `apply` when both are there.
/// 4. `apply` is applied in order, after the `apply` of earlier `Ready`s, and reported by
///    [`Raft::applied`](crate::raft::Raft::applied).
/// 5. The rest in any order, concurrently with the above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// What must become durable.
    pub write: Option<Write>,
    /// What to send.
    pub messages: Vec<Envelope>,
    /// The snapshot that the machine must restore before it applies anything more.
    pub install: Option<SnapshotMeta>,
    /// Committed and locally durable entries, without gaps, following the last ones given out.
    pub apply: Vec<Entry>,
    /// Reads whose index is known. Each may be served once the machine has applied that index.
    pub reads: Vec<ReadReady>,
    /// Reads that will never be answered: the leader or the term changed, or the request or its answer got lost.
    /// Asking again is safe.
    pub reads_lost: Vec<ReadId>,
    /// Entries that are no longer in memory and are needed; each is answered by
    /// [`Raft::log_read`](crate::raft::Raft::log_read).
    pub log_reads: Vec<LogRead>,
    /// Followers that need entries which are gone from the log: each is sent this peer's latest snapshot along
    /// with the message, and the end of the transfer is reported by
    /// [`Raft::snapshot_sent`](crate::raft::Raft::snapshot_sent).
    pub snapshots: Vec<Envelope>,
    /// Set when the role, term or leader has changed: the new one.
    pub status: Option<SoftState>,
}

/// Names a [`Write`]; grows by one with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteToken(pub u64);

/// A change of a peer's durable state, atomic. Its parts take effect in the order of the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Names this write when it is reported durable.
    pub token: WriteToken,
    /// The new hard state.
    pub hard_state: Option<HardState>,
    /// The snapshot, already a durable file, that becomes the peer's snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// Entries up to here are forgotten. The log goes on after this position even if it is now empty.
    pub discard_through: Option<LogPosition>,
    /// Entries from here on are forgotten.
    pub truncate_from: Option<Index>,
    /// Entries to append, without gaps, after the last that is left.
    pub entries: Vec<Entry>,
}

impl Write {
    /// A write that changes nothing yet.
    #[must_use]
    pub fn new(token: WriteToken) -> Self {
        Self {
            token,
            hard_state: None,
            snapshot: None,
            discard_through: None,
            truncate_from: None,
            entries: Vec::new(),
        }
    }

    /// The first write of a new peer: what every peer of a new cluster starts with, equal on all of them. Its
    /// token comes before those of [`Raft`](crate::raft::Raft).
    #[must_use]
    pub fn bootstrap(configuration: Configuration, time_ms: u64) -> Self {
        let position = LogPosition::new(Term(1), Index(1));
        Self {
            hard_state: Some(HardState { term: position.term, vote: None, commit: position.index }),
            entries: vec![Entry {
                term: position.term,
                index: position.index,
                time_ms,
                payload: crate::raft::Payload::Membership(configuration),
            }],
            ..Self::new(WriteToken(0))
        }
    }

    /// The same with a command behind it, which is as much agreed on as the peers are.
    #[must_use]
    pub fn and_command(mut self, data: Bytes) -> Self {
        if let (Some(last), Some(hard_state)) = (self.entries.last(), &mut self.hard_state) {
            let index = last.index.next();
            let entry = Entry { index, payload: crate::raft::Payload::Data(data), ..*last };
            hard_state.commit = index;
            self.entries.push(entry);
        }
        self
    }
}

/// A read that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// What [`Raft::read_index`](crate::raft::Raft::read_index) returned.
    pub id: ReadId,
    /// The state to serve it from must have applied this index.
    pub index: Index,
}

/// Asks for entries from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogRead {
    /// Whom they are for.
    pub purpose: LogReadPurpose,
    /// The first entry wanted. It is durable.
    pub from: Index,
    /// The last entry wanted.
    pub to: Index,
    /// Enough entries to pass this many bytes by [`Entry::size_bytes`] are enough; at least one is returned.
    pub max_bytes: usize,
}

/// Whom a [`LogRead`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogReadPurpose {
    /// This peer's machine.
    Apply,
    /// A follower.
    Replicate(Incarnation),
}

/// What changes without being durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftState {
    /// The role.
    pub role: RoleName,
    /// The term.
    pub term: Term,
    /// The leader of the term, as far as known.
    pub leader: Option<Incarnation>,
}

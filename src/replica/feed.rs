//! Committed entries on their way to the machine.

use std::collections::VecDeque;

use crate::raft::{Entry, SnapshotMeta};
use crate::types::{Index, LogPosition};

/// The entries that the machine has not reported applied, and how far it will be once it has done what it was given.
///
/// Entries are in order and without gaps, and follow the last one reported. Their bytes are bounded by what the core gives
/// out before it hears that they are applied.
pub(super) struct Feed {
    /// Committed and not reported applied, oldest first.
    entries: VecDeque<Entry>,
    /// How many of them the machine was given.
    given: usize,
    /// The last entry reported, and its time.
    reported: (LogPosition, u64),
    /// What the entries reported since the machine began, or was restored, take in the log.
    reported_bytes: u64,
    /// What those that it was given take.
    given_bytes: u64,
}

impl Feed {
    pub(super) fn new(snapshot: Option<&SnapshotMeta>) -> Self {
        let reported = snapshot.map_or((LogPosition::ZERO, 0), |meta| (meta.position, meta.time_ms));
        Self { entries: VecDeque::new(), given: 0, reported, reported_bytes: 0, given_bytes: 0 }
    }

    /// The machine goes on from a snapshot.
    pub(super) fn install(&mut self, meta: &SnapshotMeta) {
        *self = Self::new(Some(meta));
    }

    pub(super) fn push(&mut self, entries: Vec<Entry>) {
        self.entries.extend(entries);
    }

    /// Where the machine will stand, and when.
    pub(super) fn position(&self) -> (LogPosition, u64) {
        let last = self.given.checked_sub(1).and_then(|last| self.entries.get(last));
        last.map_or(self.reported, |entry| (entry.position(), entry.time_ms))
    }

    /// The last entry that the machine has reported.
    pub(super) fn reported(&self) -> LogPosition {
        self.reported.0
    }

    /// What the log from where the machine began, or was restored, takes up to there, in bytes.
    pub(super) fn log_bytes(&self) -> u64 {
        self.reported_bytes + self.given_bytes
    }

    /// Whether the machine has reported all that it was given.
    pub(super) fn is_idle(&self) -> bool {
        self.given == 0
    }

    /// The entry that the machine has not reported and comes first.
    pub(super) fn first(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Gives out the entries up to `limit` that the machine was not given.
    pub(super) fn give(&mut self, limit: Index) -> Vec<Entry> {
        let fresh = self.entries.range(self.given..).take_while(|entry| entry.index <= limit);
        let entries: Vec<_> = fresh.cloned().collect();
        self.given += entries.len();
        self.given_bytes += entries.iter().map(size_bytes).sum::<u64>();
        entries
    }

    /// The machine has applied everything up to an entry.
    pub(super) fn applied(&mut self, last: Index) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= last) {
            if self.given > 0 {
                (self.given, self.given_bytes) = (self.given - 1, self.given_bytes - size_bytes(&entry));
            }
            self.reported_bytes += size_bytes(&entry);
            self.reported = (entry.position(), entry.time_ms);
        }
    }

    /// The machine has applied nothing but what it has reported: the rest is to be given anew.
    pub(super) fn take_back(&mut self) {
        (self.given, self.given_bytes) = (0, 0);
    }
}

fn size_bytes(entry: &Entry) -> u64 {
    entry.size_bytes() as u64
}

//! What has been given to the machine, and what it has applied.

use crate::raft::cache::within;
use crate::raft::inflights::Inflights;
use crate::raft::log::Log;
use crate::raft::{Entry, LogRead, LogReadPurpose};
use crate::types::Index;

/// The way of committed entries to the machine.
///
/// Invariants: `given <= log.may_apply()` and `applied <= given`; entries are given once, in order and without gaps;
/// bytes given and not applied stay within the limit, but for one entry that alone is larger.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    given: Index,
    applied: Index,
    unapplied: Inflights,
    max_bytes: usize,
    /// The read that is on its way, and entries that one has brought.
    reading: Option<LogRead>,
    fetched: Vec<Entry>,
}

/// What is next for the machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Entries(Vec<Entry>),
    Read(LogRead),
}

impl Delivery {
    /// The machine stands at `applied`.
    pub(super) fn new(applied: Index, max_bytes: usize) -> Self {
        Self { given: applied, applied, unapplied: Inflights::default(), max_bytes, reading: None, fetched: Vec::new() }
    }

    pub(super) fn given(&self) -> Index {
        self.given
    }

    pub(super) fn applied(&self) -> Index {
        self.applied
    }

    /// The machine has applied up to `index`.
    pub(super) fn set_applied(&mut self, index: Index) {
        self.applied = self.applied.max(index.min(self.given));
        self.unapplied.release_through(self.applied);
    }

    /// The machine goes on from a snapshot.
    pub(super) fn install(&mut self, position: Index) {
        self.given = position;
        self.reading = None;
        self.fetched.clear();
    }

    /// The machine goes back to a snapshot.
    pub(super) fn rewind(&mut self, position: Index) {
        self.install(position);
        self.applied = self.applied.min(position);
        self.unapplied = Inflights::default();
    }

    pub(super) fn has_next(&self, log: &Log) -> bool {
        self.reading.is_none() && self.given < log.may_apply() && self.unapplied.bytes() < self.max_bytes
    }

    /// Gives out what the machine may apply next.
    pub(super) fn next(&mut self, log: &Log) -> Option<Next> {
        if !self.has_next(log) {
            return None;
        }
        let (from, to) = (self.given.next(), log.may_apply());
        let max_bytes = self.max_bytes - self.unapplied.bytes();
        if self.fetched.is_empty() {
            let Some(entries) = log.cached(from, to, max_bytes) else {
                let to = to.min(log.first_cached().prev());
                let read = LogRead { purpose: LogReadPurpose::Apply, from, to, max_bytes };
                self.reading = Some(read);
                return Some(Next::Read(read));
            };
            return Some(Next::Entries(self.give(entries)));
        }
        let count = within(self.fetched.iter(), max_bytes).count();
        let rest = self.fetched.split_off(count);
        let entries = std::mem::replace(&mut self.fetched, rest);
        Some(Next::Entries(self.give(entries)))
    }

    fn give(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        self.given = entries.last().map_or(self.given, |entry| entry.index);
        self.unapplied.add(self.given, entries.iter().map(Entry::size_bytes).sum());
        entries
    }

    /// The answer to a read. One that is not waited for any more is dropped.
    pub(super) fn log_read(&mut self, log: &Log, read: LogRead, entries: Vec<Entry>) {
        if self.reading != Some(read) {
            return;
        }
        self.reading = None;
        if log.holds_all(read.from, &entries) {
            self.fetched = entries;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::raft::{Configuration, Payload, Restored, SnapshotMeta};
    use crate::types::{LogPosition, Term};

    const ENTRY_BYTES: usize = Entry::OVERHEAD_BYTES + 8;

    fn log(entries: u64, cached_bytes: usize) -> Log {
        let mut log = Log::new(Restored::default(), cached_bytes);
        (1..=entries).for_each(|index| log.append(entry(index)));
        log.commit_to(Index(entries));
        log
    }

    fn entry(index: u64) -> Entry {
        let payload = Payload::Data(Bytes::from_static(b"12345678"));
        Entry { term: Term(1), index: Index(index), time_ms: 0, payload }
    }

    fn persist(log: &mut Log) {
        let write = log.take_write().unwrap();
        log.persisted(write.token);
    }

    fn indexes(next: Option<Next>) -> Vec<u64> {
        match next {
            Some(Next::Entries(entries)) => entries.iter().map(|entry| entry.index.0).collect(),
            other => panic!("not entries: {other:?}"),
        }
    }

    #[test]
    fn nothing_is_given_before_it_is_durable_or_beyond_the_limit() {
        let mut log = log(5, usize::MAX);
        let mut delivery = Delivery::new(Index(0), 2 * ENTRY_BYTES);
        assert_eq!(delivery.next(&log), None);
        persist(&mut log);
        assert_eq!(indexes(delivery.next(&log)), [1, 2]);
        assert_eq!(delivery.next(&log), None, "two entries are not applied yet");
        delivery.set_applied(Index(2));
        assert_eq!(indexes(delivery.next(&log)), [3, 4]);
    }

    #[test]
    fn what_is_not_in_memory_is_read_and_a_stale_answer_is_dropped() {
        let mut log = log(5, 2 * ENTRY_BYTES);
        persist(&mut log);
        let mut delivery = Delivery::new(Index(0), 2 * ENTRY_BYTES);
        let Some(Next::Read(read)) = delivery.next(&log) else { panic!("nothing is cached") };
        assert_eq!((read.from, read.to), (Index(1), Index(3)));
        assert!(!delivery.has_next(&log), "one read at a time");
        delivery.log_read(&log, LogRead { from: Index(2), ..read }, vec![entry(2)]);
        assert!(!delivery.has_next(&log));
        delivery.log_read(&log, read, vec![entry(1), entry(2), entry(3)]);
        assert_eq!(indexes(delivery.next(&log)), [1, 2]);
        delivery.set_applied(Index(2));
        assert_eq!(indexes(delivery.next(&log)), [3]);
        assert_eq!(indexes(delivery.next(&log)), [4], "the rest of the limit");
    }

    #[test]
    fn a_snapshot_takes_the_place_of_what_was_on_its_way() {
        let mut log = log(5, 0);
        persist(&mut log);
        let mut delivery = Delivery::new(Index(0), 2 * ENTRY_BYTES);
        let Some(Next::Read(read)) = delivery.next(&log) else { panic!("nothing is cached") };
        let position = LogPosition::new(Term(1), Index(9));
        log.install(SnapshotMeta { position, time_ms: 0, configuration: Configuration::default() });
        delivery.install(Index(9));
        delivery.log_read(&log, read, vec![entry(1)]);
        assert_eq!(delivery.next(&log), None);
        log.append(entry(10));
        log.commit_to(Index(10));
        persist(&mut log);
        let Some(Next::Read(read)) = delivery.next(&log) else { panic!("nothing is cached") };
        assert_eq!(read.from, Index(10));
    }
}

//! A peer's persistent state (Figure 2 of the Raft paper) as it will be once all its writes are durable, and how far
//! they are.

use std::collections::VecDeque;

use crate::raft::cache::Cache;
use crate::raft::{Configuration, Entry, HardState, Restored, SnapshotMeta, Verdict, Write, WriteToken};
use crate::types::{Digest, Incarnation, Index, LogPosition, PeerId, Term};

/// Term, vote and log.
///
/// Invariants, each with a test below:
/// 1. `base <= stable <= handed <= last` and `base <= commit <= last`.
/// 2. The commit index never shrinks, and nothing at or before it is truncated.
/// 3. Every entry after `stable` is in the cache; beyond that the cache keeps to its bytes.
/// 4. `stable` counts only entries that are still in the log: a write's late report counts for nothing where its
///    entries were overwritten meanwhile.
/// 5. Replaying the writes handed out gives the state kept here, but for the commit index, which waits for a write
///    that has another reason.
/// 6. The term of every entry is known without reading the disk.
#[derive(Clone, Debug)]
pub(super) struct Log {
    state: Restored,
    cache: Cache,
    max_cached_bytes: usize,
    /// The hard state of the latest write handed out.
    written: HardState,
    /// The last entry handed out in a write and not truncated since.
    handed: Index,
    /// The last entry known to be durable.
    stable: Index,
    /// What the next write has to say besides hard state and entries.
    snapshot_changed: bool,
    base_changed: bool,
    truncate_from: Option<Index>,
    /// Writes handed out and not reported durable, oldest first.
    writes: VecDeque<PendingWrite>,
    next_token: WriteToken,
}

#[derive(Clone, Debug)]
struct PendingWrite {
    token: WriteToken,
    /// The last entry that is durable once this write is. Clamped by truncations.
    last: Index,
}

impl Log {
    pub(super) fn new(restored: Restored, max_cached_bytes: usize) -> Self {
        let mut state = restored;
        let snapshot = state.snapshot.as_ref().map_or(Index::ZERO, |meta| meta.position.index);
        let written = state.hard_state;
        state.hard_state.commit = written.commit.min(state.last).max(snapshot).max(state.base.index);
        Self {
            written,
            handed: state.last,
            stable: state.last,
            cache: Cache::default(),
            max_cached_bytes,
            snapshot_changed: false,
            base_changed: false,
            truncate_from: None,
            writes: VecDeque::new(),
            next_token: WriteToken(1),
            state,
        }
    }

    pub(super) fn term(&self) -> Term {
        self.state.hard_state.term
    }

    pub(super) fn vote(&self) -> Option<Incarnation> {
        self.state.hard_state.vote
    }

    pub(super) fn commit(&self) -> Index {
        self.state.hard_state.commit
    }

    pub(super) fn stable(&self) -> Index {
        self.stable
    }

    pub(super) fn base(&self) -> LogPosition {
        self.state.base
    }

    pub(super) fn last(&self) -> Index {
        self.state.last
    }

    pub(super) fn last_position(&self) -> LogPosition {
        self.state.last_position()
    }

    pub(super) fn last_time_ms(&self) -> u64 {
        self.state.last_time_ms
    }

    pub(super) fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.state.snapshot.as_ref()
    }

    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        self.state.term_at(index)
    }

    /// Whether the log holds the entry, or begins just after it.
    pub(super) fn holds(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    pub(super) fn last_not_after(&self, index: Index, term: Term) -> Index {
        self.state.last_not_after(index, term)
    }

    /// The configuration in effect at an index not before the snapshot.
    pub(super) fn configuration_at(&self, index: Index) -> &Configuration {
        static NOBODY: Configuration = Configuration::NOBODY;
        self.state.configuration_at(index).unwrap_or(&NOBODY)
    }

    /// The newest configuration in the log, committed or not (thesis section 4.1).
    pub(super) fn configuration(&self) -> &Configuration {
        self.configuration_at(self.last())
    }

    /// Where a peer lives by the newest configuration in the log that names it.
    pub(super) fn address(&self, peer: Incarnation) -> Option<&PeerId> {
        let in_log = self.state.configurations.iter().rev().map(|(_, configuration)| configuration);
        let in_snapshot = self.snapshot().map(|meta| &meta.configuration);
        in_log.chain(in_snapshot).find_map(|configuration| configuration.address(peer))
    }

    /// Where the newest configuration stands; that of a snapshot at the latest there.
    pub(super) fn configuration_index(&self) -> Index {
        let snapshot = self.snapshot().map_or(Index::ZERO, |meta| meta.position.index);
        self.state.configurations.last().map_or(snapshot, |(index, _)| *index)
    }

    /// The verdicts in the log and where they stand, oldest first.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = &(Index, Verdict)> {
        self.state.verdicts.iter()
    }

    /// The upgrades in the log: where they stand, and the component that each needs, oldest first.
    pub(super) fn upgrades(&self) -> &[(Index, Digest)] {
        &self.state.upgrades
    }

    /// The last index that the machine may apply.
    pub(super) fn may_apply(&self) -> Index {
        self.commit().min(self.stable)
    }

    /// The first entry in memory, or the one after the last.
    pub(super) fn first_cached(&self) -> Index {
        self.cache.first().unwrap_or(self.last().next())
    }

    /// Entries `from..=to` that fit `max_bytes`, at least one. None when they have to be read from the store.
    pub(super) fn cached(&self, from: Index, to: Index, max_bytes: usize) -> Option<Vec<Entry>> {
        self.cache.range(from, to, max_bytes)
    }

    /// Whether the entries are the ones that the log holds from `from` on.
    pub(super) fn holds_all(&self, from: Index, entries: &[Entry]) -> bool {
        (from.0..).zip(entries).all(|(index, entry)| entry.index.0 == index && self.holds(entry.position()))
    }

    /// Enters a term, with or without a vote in it.
    pub(super) fn set_term(&mut self, term: Term, vote: Option<Incarnation>) {
        debug_assert!(term > self.term() || self.vote().is_none_or(|given| Some(given) == vote));
        self.state.hard_state.term = term;
        self.state.hard_state.vote = vote;
    }

    /// Moves the commit index forward, never back and never beyond the last entry.
    pub(super) fn commit_to(&mut self, index: Index) {
        self.state.hard_state.commit = self.commit().max(index.min(self.last()));
    }

    /// Appends the entry that follows the last.
    pub(super) fn append(&mut self, entry: Entry) {
        self.state.append(&entry).expect("entries are appended without gaps");
        self.cache.push(entry);
    }

    /// Forgets the entries from `from` on, which are not committed.
    pub(super) fn truncate_from(&mut self, from: Index) {
        assert!(from > self.commit(), "a committed entry is never truncated");
        if from <= self.handed {
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
        }
        self.state.truncate_from(from);
        self.cache.truncate_from(from);
        self.clamp(from.prev());
    }

    /// Replaces the whole log by a snapshot that is ahead of the commit index (thesis section 5.3).
    pub(super) fn install(&mut self, meta: SnapshotMeta) {
        assert!(meta.position.index > self.commit(), "a snapshot that is behind is not installed");
        let base = meta.position;
        if self.handed > base.index || self.truncate_from.is_some() {
            self.truncate_from = Some(base.index.next());
        }
        self.state.snapshot = Some(meta);
        self.state.discard_through(base);
        self.state.truncate_from(base.index.next());
        self.cache = Cache::default();
        self.clamp(base.index);
        (self.handed, self.stable) = (base.index, base.index);
        self.snapshot_changed = true;
        self.base_changed = true;
        self.commit_to(base.index);
    }

    /// Takes the own machine's snapshot for the prefix that it covers, but for its last `keep` entries (thesis
    /// section 5.1).
    pub(super) fn compact(&mut self, meta: SnapshotMeta, keep: u64) {
        let through = Index(meta.position.index.0.saturating_sub(keep));
        self.state.snapshot = Some(meta);
        self.snapshot_changed = true;
        if let Some(term) = self.term_at(through).filter(|_| through > self.base().index) {
            self.state.discard_through(LogPosition::new(term, through));
            self.cache.discard_through(through);
            self.base_changed = true;
        }
    }

    fn clamp(&mut self, last: Index) {
        self.handed = self.handed.min(last);
        self.stable = self.stable.min(last);
        self.writes.iter_mut().for_each(|write| write.last = write.last.min(last));
    }

    pub(super) fn has_write(&self) -> bool {
        let (now, written) = (self.state.hard_state, self.written);
        (now.term, now.vote) != (written.term, written.vote)
            || self.handed < self.last()
            || self.truncate_from.is_some()
            || self.snapshot_changed
            || self.base_changed
    }

    /// Everything that has changed since the last write, if that is worth one.
    pub(super) fn take_write(&mut self) -> Option<Write> {
        if !self.has_write() {
            return None;
        }
        let mut write = Write::new(self.next_token);
        self.next_token.0 += 1;
        write.hard_state = Some(self.state.hard_state).filter(|now| *now != self.written);
        write.snapshot = self.state.snapshot.clone().filter(|_| self.snapshot_changed);
        write.discard_through = Some(self.base()).filter(|_| self.base_changed);
        write.truncate_from = self.truncate_from.take();
        if self.handed < self.last() {
            let entries = self.cached(self.handed.next(), self.last(), usize::MAX);
            write.entries = entries.expect("entries that were not written are in the cache");
        }
        self.written = self.state.hard_state;
        self.handed = self.last();
        (self.snapshot_changed, self.base_changed) = (false, false);
        self.writes.push_back(PendingWrite { token: write.token, last: self.last() });
        Some(write)
    }

    /// The write after which everything said so far is durable, or none if it is already.
    pub(super) fn durable_after(&self) -> Option<WriteToken> {
        let handed_out = self.writes.back().map(|write| write.token);
        if self.has_write() { Some(self.next_token) } else { handed_out }
    }

    /// Keeps no durable entry in memory.
    pub(super) fn forget_cached(&mut self) {
        self.cache.shrink(0, self.stable);
    }

    /// Whether the store has a write that it has not reported durable.
    pub(super) fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// A write is durable, and so are those before it.
    pub(super) fn persisted(&mut self, token: WriteToken) {
        while let Some(write) = self.writes.pop_front_if(|write| write.token <= token) {
            self.stable = self.stable.max(write.last);
        }
        self.cache.shrink(self.max_cached_bytes, self.stable);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{MemStorage, Payload};

    const CACHED_BYTES: usize = 100;

    fn log() -> Log {
        Log::new(Restored::default(), CACHED_BYTES)
    }

    #[test]
    fn entries_from_elsewhere_are_recognized() {
        let mut log = log();
        append(&mut log, 1, 3);
        append(&mut log, 2, 2);
        let held = log.cached(Index(2), Index(4), usize::MAX).unwrap();
        assert!(log.holds_all(Index(2), &held));
        assert!(!log.holds_all(Index(1), &held), "they begin later");
        assert!(!log.holds_all(Index(2), &[held[0].clone(), held[2].clone()]), "one is missing");
        let mut other = held;
        other[2].term = Term(1);
        assert!(!log.holds_all(Index(2), &other), "one is of another term");
    }

    fn append(log: &mut Log, term: u64, count: usize) {
        for _ in 0..count {
            let payload = Payload::Data(Bytes::from_static(b"12345678"));
            log.append(Entry { term: Term(term), index: log.last().next(), time_ms: log.last().0, payload });
        }
    }

    fn persist(log: &mut Log) {
        if let Some(write) = log.take_write() {
            log.persisted(write.token);
        }
    }

    fn meta(term: u64, index: u64) -> SnapshotMeta {
        let position = LogPosition::new(Term(term), Index(index));
        SnapshotMeta { position, time_ms: 0, configuration: Configuration::default() }
    }

    #[test]
    fn a_late_report_of_overwritten_entries_counts_for_nothing() {
        let mut log = log();
        append(&mut log, 1, 5);
        let first = log.take_write().unwrap();
        log.truncate_from(Index(3));
        append(&mut log, 2, 3);
        let second = log.take_write().unwrap();
        assert_eq!((second.truncate_from, second.entries.len()), (Some(Index(3)), 3));
        log.persisted(first.token);
        assert_eq!(log.stable(), Index(2), "entries 3 to 5 of term 1 are gone");
        log.persisted(second.token);
        assert_eq!(log.stable(), Index(5));
    }

    #[test]
    fn a_late_report_after_an_install_counts_for_nothing() {
        let mut log = log();
        append(&mut log, 1, 9);
        let first = log.take_write().unwrap();
        log.install(meta(2, 5));
        append(&mut log, 2, 2);
        log.persisted(first.token);
        assert_eq!((log.stable(), log.last()), (Index(5), Index(7)));
    }

    #[test]
    fn entries_stay_in_memory_until_they_are_durable_and_then_as_long_as_they_fit() {
        let mut log = log();
        append(&mut log, 1, 9);
        assert_eq!(log.first_cached(), Index(1));
        persist(&mut log);
        assert_eq!(log.first_cached(), Index(8), "two entries of 40 bytes fit 100");
        assert_eq!(log.cached(Index(7), Index(9), usize::MAX), None);
        assert_eq!(log.cached(Index(8), Index(9), 1).unwrap().len(), 1);
    }

    #[test]
    fn the_commit_index_is_written_only_with_something_else() {
        let mut log = log();
        append(&mut log, 1, 2);
        persist(&mut log);
        log.commit_to(Index(2));
        assert_eq!((log.take_write(), log.durable_after()), (None, None));
        append(&mut log, 1, 1);
        assert_eq!(log.take_write().unwrap().hard_state.unwrap().commit, Index(2));
        log.commit_to(Index(1));
        assert_eq!(log.commit(), Index(2), "the commit index never shrinks");
    }

    #[test]
    #[should_panic(expected = "a committed entry is never truncated")]
    fn a_committed_entry_is_never_truncated() {
        let mut log = log();
        append(&mut log, 1, 2);
        log.commit_to(Index(2));
        log.truncate_from(Index(2));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Truncate(u64),
        Commit(u64),
        Install(u64),
        Compact(u64),
        Vote,
        Write,
        Persist,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..5_usize).prop_map(Step::Append),
            2 => (0..6_u64).prop_map(Step::Truncate),
            2 => (0..6_u64).prop_map(Step::Commit),
            1 => (1..9_u64).prop_map(Step::Install),
            1 => (0..6_u64).prop_map(Step::Compact),
            1 => Just(Step::Vote),
            3 => Just(Step::Write),
            3 => Just(Step::Persist),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn invariants_hold_whatever_happens(steps in prop::collection::vec(step(), 1..60)) {
            let (mut log, mut store, mut term) = (log(), MemStorage::default(), 1);
            let mut unreported = VecDeque::new();
            let mut model: std::collections::BTreeMap<Index, Term> = std::collections::BTreeMap::new();
            let mut durable_model;
            for step in steps {
                let (before, commit) = (log.commit(), log.commit());
                match step {
                    Step::Append(count) => {
                        append(&mut log, term, count);
                        let first = log.last().0 + 1 - count as u64;
                        model.extend((first..=log.last().0).map(|index| (Index(index), Term(term))));
                    }
                    Step::Truncate(back) => {
                        let from = Index(log.last().0.saturating_sub(back)).max(commit.next());
                        log.truncate_from(from);
                        model.split_off(&from);
                        term += 1;
                        append(&mut log, term, 1);
                        model.insert(log.last(), Term(term));
                    }
                    Step::Commit(ahead) => log.commit_to(Index(commit.0 + ahead)),
                    Step::Install(ahead) => {
                        term += 1;
                        log.install(meta(term, commit.0 + ahead));
                        model.clear();
                    }
                    Step::Compact(keep) => {
                        let index = log.may_apply();
                        if log.snapshot().is_none_or(|old| old.position.index < index) && index > log.base().index {
                            log.compact(meta(log.term_at(index).unwrap().0, index.0), keep);
                            model = model.split_off(&log.base().index.next());
                        }
                    }
                    Step::Vote => log.set_term(log.term().next(), Some(Incarnation(1))),
                    Step::Write => unreported.extend(log.take_write()),
                    Step::Persist => {
                        if let Some(write) = unreported.pop_front() {
                            store.write(&write).unwrap();
                            log.persisted(write.token);
                        }
                    }
                }
                prop_assert!(log.base().index <= log.stable && log.stable <= log.handed && log.handed <= log.last());
                prop_assert!(log.base().index <= log.commit() && log.commit() <= log.last() && before <= log.commit());
                prop_assert!(log.first_cached() <= log.stable().next());
                for (index, term) in &model {
                    prop_assert_eq!(log.term_at(*index), Some(*term));
                }
                prop_assert_eq!(log.last(), model.keys().last().copied().unwrap_or(log.base().index));
                // What counts as durable is in the store, unless a later truncation or discard is on its way.
                durable_model = store.restored();
                for index in log.base().index.next().0..=log.stable().0 {
                    prop_assert_eq!(durable_model.term_at(Index(index)), log.term_at(Index(index)));
                }
            }
            unreported.extend(log.take_write());
            for write in unreported {
                store.write(&write).unwrap();
                log.persisted(write.token);
            }
            let mut durable = store.restored();
            durable.hard_state.commit = log.commit();
            prop_assert_eq!(&durable, &log.state);
            prop_assert_eq!(log.stable(), log.last());
        }
    }
}

//! The durable side of a peer as Raft sees it: what a store gives back at start, and what writes mean.

use crate::raft::{Configuration, Entry, HardState, Payload, SnapshotMeta, Verdict, Write};
use crate::types::{Digest, Index, LogPosition, Term};

/// What a peer finds when it starts: everything Raft needs but the entries themselves, which stay in the store.
///
/// A store makes it by replaying its writes through [`Restored::replay`]; so all stores agree on what a
/// [`Write`] means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Term, vote and a lower bound of the commit index.
    pub hard_state: HardState,
    /// The latest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The position just before the first entry of the log.
    pub base: LogPosition,
    /// The last entry's index; equals `base.index` when the log is empty.
    pub last: Index,
    /// The last entry's time, or that of the position before an empty log.
    pub last_time_ms: u64,
    /// Where in the log each term begins, oldest first.
    pub terms: Vec<LogPosition>,
    /// The configurations in the log and where they stand, oldest first.
    pub configurations: Vec<(Index, Configuration)>,
    /// The verdicts in the log and where they stand, oldest first.
    pub verdicts: Vec<(Index, Verdict)>,
    /// The upgrades in the log: where they stand, and the component that each needs, oldest first.
    pub upgrades: Vec<(Index, Digest)>,
}

/// A write that does not fit the state it is applied to. A store that finds one while it opens is damaged; one that
/// is asked for it is driven wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWrite {
    /// Entries that do not follow the last one.
    #[error("entry {found} cannot follow entry {last}")]
    Gap {
        /// The last index in the log.
        last: Index,
        /// The index of the entry that should have followed.
        found: Index,
    },
    /// Forgets a prefix that is already forgotten, and more.
    #[error("the log already begins after entry {base}: it cannot be cut back to begin after entry {found}")]
    Backwards {
        /// The index just before the log.
        base: Index,
        /// The index that the write names.
        found: Index,
    },
}

impl Restored {
    /// Applies one write.
    ///
    /// # Errors
    /// [`InvalidWrite`]; the state is then undefined and must not be used.
    pub fn replay(&mut self, write: &Write) -> Result<(), InvalidWrite> {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(base) = write.discard_through {
            if base.index < self.base.index {
                return Err(InvalidWrite::Backwards { base: self.base.index, found: base.index });
            }
            self.discard_through(base);
        }
        if let Some(from) = write.truncate_from {
            self.truncate_from(from);
        }
        write.entries.iter().try_for_each(|entry| self.append(entry))
    }

    pub(super) fn discard_through(&mut self, base: LogPosition) {
        let term_after = self.term_at(base.index.next());
        self.terms.retain(|start| start.index > base.index);
        if let Some(term) = term_after {
            let start = LogPosition::new(term, base.index.next());
            if self.terms.first().is_none_or(|first| first.index > start.index) {
                self.terms.insert(0, start);
            }
        }
        self.configurations.retain(|(index, _)| *index > base.index);
        self.verdicts.retain(|(index, _)| *index > base.index);
        self.upgrades.retain(|(index, _)| *index > base.index);
        self.base = base;
        self.last = self.last.max(base.index);
        self.take_time_of_base();
    }

    pub(super) fn truncate_from(&mut self, from: Index) {
        self.terms.retain(|start| start.index < from);
        self.configurations.retain(|(index, _)| *index < from);
        self.verdicts.retain(|(index, _)| *index < from);
        self.upgrades.retain(|(index, _)| *index < from);
        self.last = self.last.min(from.prev()).max(self.base.index);
        self.take_time_of_base();
    }

    /// An empty log takes the time of the snapshot it follows. (A truncation that leaves entries is followed by an
    /// append in the same write, which brings its own time.)
    fn take_time_of_base(&mut self) {
        let at_base = self.snapshot.as_ref().filter(|snapshot| snapshot.position == self.base);
        if let (true, Some(snapshot)) = (self.last == self.base.index, at_base) {
            self.last_time_ms = snapshot.time_ms;
        }
    }

    pub(super) fn append(&mut self, entry: &Entry) -> Result<(), InvalidWrite> {
        if entry.index != self.last.next() {
            return Err(InvalidWrite::Gap { last: self.last, found: entry.index });
        }
        if self.terms.last().is_none_or(|start| start.term != entry.term) {
            self.terms.push(entry.position());
        }
        match &entry.payload {
            Payload::Membership(configuration) => self.configurations.push((entry.index, configuration.clone())),
            Payload::Verdict(verdict) => self.verdicts.push((entry.index, verdict.clone())),
            Payload::Upgrade(upgrade) => self.upgrades.push((entry.index, upgrade.to)),
            Payload::Noop | Payload::Data(_) => {}
        }
        self.last = entry.index;
        self.last_time_ms = entry.time_ms;
        Ok(())
    }

    /// The term of the entry at `index`, if the log holds it or it is the base.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|start| start.index <= index);
        Some(self.terms[run - 1].term)
    }

    /// The last entry's position, or the base.
    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        LogPosition::new(self.terms.last().map_or(self.base.term, |start| start.term), self.last)
    }

    /// The last index, at most `index`, whose entry is not of a later term than `term`. Two logs that both go back
    /// this way skip whole terms at a time (thesis section 3.5). Before the base nothing is known: the answer there
    /// is only an upper bound.
    pub(super) fn last_not_after(&self, index: Index, term: Term) -> Index {
        let later_run = self.terms.partition_point(|start| start.term <= term);
        let bound = self.terms.get(later_run).map_or(self.last, |start| start.index.prev());
        let all_later = bound <= self.base.index && self.base.term > term;
        index.min(if all_later { self.base.index.prev() } else { bound })
    }

    /// The configuration in effect at `index`, which is not before the snapshot: the newest in the log up to there,
    /// else the snapshot's (thesis section 4.1). None on a peer that has never heard of one.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> Option<&Configuration> {
        let in_log = self.configurations.iter().rev().find(|(at, _)| *at <= index);
        in_log.map(|(_, configuration)| configuration).or(self.snapshot.as_ref().map(|meta| &meta.configuration))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{LogRead, MemStorage, Upgrade, WriteToken};
    use crate::types::Incarnation;

    /// A log that keeps every entry ever appended in a plain list and forgets nothing about the discarded.
    #[derive(Default)]
    struct Naive {
        base: Index,
        entries: Vec<Entry>,
    }

    impl Naive {
        fn last(&self) -> Index {
            self.entries.last().map_or(self.base, |entry| entry.index)
        }

        fn term_at(&self, index: Index) -> Option<Term> {
            self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term)
        }

        fn last_not_after(&self, index: Index, term: Term) -> Option<Index> {
            let fits = |entry: &&Entry| entry.index <= index && entry.term <= term;
            self.entries.iter().rev().find(fits).map(|entry| entry.index)
        }
    }

    fn entry(term: u64, index: u64, is_membership: bool) -> Entry {
        let voters = [(Incarnation(index), "p@h:1".parse().expect("a peer"))].into();
        let payload = if is_membership { Payload::Membership(Configuration::of(voters)) } else { Payload::Noop };
        Entry { term: Term(term), index: Index(index), time_ms: index * 10, payload }
    }

    /// Back from the end where to truncate, forward from the base where to discard, and what to append.
    type Step = (Option<u64>, Option<u64>, Vec<(u64, bool)>);

    fn step() -> impl Strategy<Value = Step> {
        let truncate = prop::option::weighted(0.3, 0..4_u64);
        let discard = prop::option::weighted(0.3, 0..5_u64);
        (truncate, discard, prop::collection::vec((0..2_u64, prop::bool::weighted(0.2)), 1..5))
    }

    proptest! {
        #[test]
        fn replay_agrees_with_a_plain_list(steps in prop::collection::vec(step(), 1..15)) {
            let (mut store, mut naive, mut term) = (MemStorage::default(), Naive::default(), 1);
            for (number, (truncate, discard, appends)) in (1..).zip(steps) {
                let mut write = Write::new(WriteToken(number));
                if let Some(forward) = discard {
                    let index = Index(naive.base.0 + forward).min(naive.last());
                    if let Some(term) = naive.term_at(index) {
                        write.discard_through = Some(LogPosition::new(term, index));
                        naive.base = index;
                    }
                }
                if let Some(back) = truncate {
                    let from = Index(naive.last().0.saturating_sub(back)).max(naive.base.next());
                    write.truncate_from = Some(from);
                    naive.entries.retain(|entry| entry.index < from);
                    term += 1;
                }
                for (newer, is_membership) in appends {
                    term += newer;
                    let entry = entry(term, naive.last().0 + 1, is_membership);
                    naive.entries.push(entry.clone());
                    write.entries.push(entry);
                }
                store.write(&write).expect("writes fit");

                let restored = store.restored();
                prop_assert_eq!((restored.base.index, restored.last), (naive.base, naive.last()));
                prop_assert_eq!(restored.last_time_ms, naive.last().0 * 10);
                prop_assert!(restored.terms.is_sorted_by(|run, next| run.term < next.term && run.index < next.index));
                for index in (naive.base.0..=naive.last().0 + 1).map(Index) {
                    let term = naive.term_at(index).unwrap_or_default();
                    prop_assert_eq!(restored.term_at(index).unwrap_or_default(), term);
                    if let Some(expected) = naive.last_not_after(index, Term(4)).filter(|at| *at >= naive.base) {
                        prop_assert_eq!(restored.last_not_after(index, Term(4)), expected);
                    } else if naive.base > Index::ZERO {
                        prop_assert!(restored.last_not_after(index, Term(4)) < naive.base);
                    }
                }
                let configurations = naive.entries.iter().filter(|entry| entry.index > naive.base);
                let is_membership = |entry: &&Entry| matches!(entry.payload, Payload::Membership(_));
                let expected: Vec<_> = configurations.filter(is_membership).map(|entry| entry.index).collect();
                let found: Vec<_> = restored.configurations.iter().map(|(index, _)| *index).collect();
                prop_assert_eq!(found, expected);
                let read = LogRead {
                    purpose: crate::raft::LogReadPurpose::Apply,
                    from: naive.base.next(),
                    to: naive.last(),
                    max_bytes: usize::MAX,
                };
                let kept = naive.entries.iter().filter(|entry| entry.index > naive.base);
                prop_assert_eq!(store.read(&read), kept.cloned().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn verdicts_go_with_their_entries() {
        let mut restored = Restored::default();
        for index in 1..=5 {
            let verdict = Verdict { on: Index(index - 1), ruling: bytes::Bytes::new() };
            restored.append(&Entry { payload: Payload::Verdict(verdict), ..entry(1, index, false) }).unwrap();
        }
        restored.discard_through(LogPosition::new(Term(1), Index(2)));
        restored.truncate_from(Index(5));
        assert_eq!(restored.verdicts.iter().map(|(index, _)| index.0).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn upgrades_go_with_their_entries() {
        let mut restored = Restored::default();
        let component = |index: u64| Digest::of(&index.to_le_bytes());
        for index in 1..=5 {
            let upgrade = Upgrade { from: component(0), to: component(index), migration: None };
            restored.append(&Entry { payload: Payload::Upgrade(upgrade), ..entry(1, index, false) }).unwrap();
        }
        restored.discard_through(LogPosition::new(Term(1), Index(2)));
        restored.truncate_from(Index(5));
        assert_eq!(restored.upgrades, [3, 4].map(|index| (Index(index), component(index))));
    }

    #[test]
    fn writes_that_do_not_fit_are_refused() {
        let mut store = MemStorage::default();
        let mut write = Write::new(WriteToken(1));
        write.entries = vec![entry(1, 2, false)];
        assert_eq!(store.write(&write), Err(InvalidWrite::Gap { last: Index(0), found: Index(2) }));

        let mut store = MemStorage::default();
        let mut write = Write::new(WriteToken(1));
        write.discard_through = Some(LogPosition::new(Term(1), Index(5)));
        store.write(&write).unwrap();
        write.discard_through = Some(LogPosition::new(Term(1), Index(4)));
        assert_eq!(store.write(&write), Err(InvalidWrite::Backwards { base: Index(5), found: Index(4) }));
    }

    #[test]
    fn a_snapshot_beyond_the_log_gives_it_a_new_beginning_with_the_snapshots_time() {
        let mut store = MemStorage::default();
        let mut write = Write::new(WriteToken(1));
        write.entries = vec![entry(1, 1, true), entry(1, 2, false)];
        store.write(&write).unwrap();
        let position = LogPosition::new(Term(3), Index(9));
        let mut write = Write::new(WriteToken(2));
        write.snapshot = Some(SnapshotMeta { position, time_ms: 77, configuration: Configuration::default() });
        write.discard_through = Some(position);
        write.truncate_from = Some(Index(10));
        store.write(&write).unwrap();
        let restored = store.restored();
        assert_eq!((restored.last_position(), restored.last_time_ms), (position, 77));
        assert_eq!(restored.configuration_at(Index(9)), Some(&Configuration::default()));
        assert_eq!(store.entries().count(), 0);
    }
}

//! What waits for an index that is known to be current: first for the index, then for the machine to apply it.

use std::collections::BTreeMap;

use crate::raft::{Raft, ReadId, ReadReady};
use crate::types::Index;

/// Things that must not be answered from the past (ReadIndex, thesis section 6.4).
///
/// - A thing is in `new` until its index is asked for, in `asked` until that is known, and in `confirmed` until it is taken
///   out. One question serves all that were new when it was asked, and none that came later.
/// - A question that got lost is asked anew, under a new name. Raft says of each whether it is answered or lost.
pub(super) struct Confirming<T> {
    new: Vec<T>,
    asked: BTreeMap<ReadId, Vec<T>>,
    confirmed: BTreeMap<Index, Vec<T>>,
    /// Things in `asked` and `confirmed`.
    waiting: usize,
}

/// Things that are not to wait any longer, by what they have waited for.
pub(super) struct Extracted<T> {
    /// No index is known for these.
    pub(super) unconfirmed: Vec<T>,
    /// The machine has not reached the index of these.
    pub(super) confirmed: Vec<T>,
}

impl<T> Default for Confirming<T> {
    fn default() -> Self {
        Self { new: Vec::new(), asked: BTreeMap::new(), confirmed: BTreeMap::new(), waiting: 0 }
    }
}

impl<T> Confirming<T> {
    pub(super) fn len(&self) -> usize {
        self.new.len() + self.waiting
    }

    pub(super) fn add(&mut self, thing: T) {
        self.new.push(thing);
    }

    /// Asks for an index that is current for all that is new. Without a leader it goes on waiting.
    pub(super) fn ask(&mut self, raft: &mut Raft) {
        if self.new.is_empty() {
            return;
        }
        if let Ok(id) = raft.read_index() {
            let things = std::mem::take(&mut self.new);
            self.waiting += things.len();
            self.asked.insert(id, things);
        }
    }

    /// These questions got no answer and never will.
    pub(super) fn lost(&mut self, ids: &[ReadId]) {
        for id in ids {
            if let Some(things) = self.asked.remove(id) {
                self.waiting -= things.len();
                self.new.extend(things);
            }
        }
    }

    /// These questions are answered.
    pub(super) fn confirmed(&mut self, reads: &[ReadReady]) {
        for read in reads {
            if let Some(things) = self.asked.remove(&read.id) {
                self.confirmed.entry(read.index).or_default().extend(things);
            }
        }
    }

    /// Takes out what a machine at `applied` may answer.
    pub(super) fn take(&mut self, applied: Index) -> Vec<T> {
        let mut things = Vec::new();
        while let Some(first) = self.confirmed.first_entry().filter(|first| *first.key() <= applied) {
            things.extend(first.remove());
        }
        self.waiting -= things.len();
        things
    }

    /// Takes out what is chosen, wherever it stands.
    pub(super) fn extract(&mut self, mut chosen: impl FnMut(&T) -> bool) -> Extracted<T> {
        let mut unconfirmed = Vec::new();
        for things in self.asked.values_mut() {
            unconfirmed.extend(things.extract_if(.., |thing| chosen(thing)));
        }
        let mut confirmed = Vec::new();
        for things in self.confirmed.values_mut() {
            confirmed.extend(things.extract_if(.., |thing| chosen(thing)));
        }
        // A machine that stands still must not collect an index for each commit.
        self.confirmed.retain(|_, things| !things.is_empty());
        self.waiting -= unconfirmed.len() + confirmed.len();
        unconfirmed.extend(self.new.extract_if(.., |thing| chosen(thing)));
        Extracted { unconfirmed, confirmed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_what_a_stuck_machine_did_not_reach() {
        let mut things = Confirming::default();
        for number in 1..=5 {
            let id = ReadId(number);
            things.waiting += 1;
            things.asked.insert(id, vec![number]);
            things.confirmed(&[ReadReady { id, index: Index(number) }]);
        }
        assert_eq!(things.extract(|number| *number <= 3).confirmed, [1, 2, 3]);
        assert_eq!((things.len(), things.confirmed.len()), (2, 2));
        assert_eq!(things.take(Index(4)), [4]);
        assert_eq!(things.len(), 1);
    }

    #[test]
    fn what_is_lost_is_asked_anew_and_chosen_wherever_it_stands() {
        let mut things = Confirming::default();
        things.asked.insert(ReadId(1), vec![1, 2]);
        things.waiting = 2;
        things.lost(&[ReadId(1), ReadId(9)]);
        assert_eq!((things.new.len(), things.waiting), (2, 0));
        things.asked.insert(ReadId(2), vec![3]);
        things.waiting = 1;
        assert_eq!(things.extract(|number| *number != 2).unconfirmed, [3, 1]);
        assert_eq!(things.len(), 1);
    }
}

//! The hash chains of recent entries, for replicas to compare.

use std::collections::VecDeque;

use crate::machine::HashChain;
use crate::types::Index;

/// What the chain was at recent entries: at each of the last few, and at one in so many of those before. Replicas that are
/// not at the same entry find one at which both know it.
#[derive(Default)]
pub(super) struct Chains {
    recent: VecDeque<(Index, HashChain)>,
    marks: VecDeque<(Index, HashChain)>,
}

impl Chains {
    const MAX_RECENT: usize = 64;
    /// One entry in so many is a mark.
    const MARK_EVERY: u64 = 64;
    const MAX_MARKS: usize = 256;

    /// The machine goes on from a snapshot.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn push(&mut self, index: Index, chain: HashChain) {
        push_bounded(&mut self.recent, Self::MAX_RECENT, (index, chain));
        if index.0.is_multiple_of(Self::MARK_EVERY) {
            push_bounded(&mut self.marks, Self::MAX_MARKS, (index, chain));
        }
    }

    pub(super) fn last(&self) -> Option<(Index, HashChain)> {
        self.recent.back().copied()
    }

    pub(super) fn last_mark(&self) -> Option<(Index, HashChain)> {
        self.marks.back().copied()
    }

    /// The chain at an entry, if it is remembered.
    pub(super) fn at(&self, index: Index) -> Option<HashChain> {
        let find = |chains: &VecDeque<(Index, HashChain)>| {
            let place = chains.binary_search_by_key(&index, |(index, _)| *index).ok()?;
            chains.get(place).map(|(_, chain)| *chain)
        };
        find(&self.recent).or_else(|| find(&self.marks))
    }
}

fn push_bounded(chains: &mut VecDeque<(Index, HashChain)>, most: usize, chain: (Index, HashChain)) {
    if chains.len() == most {
        chains.pop_front();
    }
    chains.push_back(chain);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    fn chain(index: u64) -> HashChain {
        HashChain(Digest::of(&index.to_le_bytes()))
    }

    #[test]
    fn the_last_few_are_known_and_one_in_so_many_before() {
        let mut chains = Chains::default();
        assert_eq!((chains.last(), chains.at(Index(1))), (None, None));
        let last = 2 * Chains::MARK_EVERY * Chains::MAX_MARKS as u64 + 1;
        (1..=last).for_each(|index| chains.push(Index(index), chain(index)));
        assert_eq!(chains.last(), Some((Index(last), chain(last))));
        assert_eq!(chains.last_mark(), Some((Index(last - 1), chain(last - 1))));
        let known = (1..=last).filter(|index| chains.at(Index(*index)) == Some(chain(*index)));
        assert_eq!(known.count(), Chains::MAX_RECENT + Chains::MAX_MARKS - 1, "the last mark is recent as well");
    }
}

//! How much of each round is still needed: an entry that is in its peer's log, or the latest record that holds a peer's
//! whole state. In memory, rebuilt on open, and the writer's own.

use std::collections::{BTreeMap, VecDeque};

use super::format::Location;
use crate::types::Incarnation;

/// A round's size and how much of that is needed, in bytes. There may be millions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RoundBytes {
    size: u32,
    live: u32,
}

/// The same of many rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SumBytes {
    size: u64,
    live: u64,
}

/// The accounts of the rounds in the database, which are without gaps too: purging takes the oldest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    first: u64,
    rounds: VecDeque<RoundBytes>,
    /// Where the latest whole state of each peer is, and how long it is.
    headers: BTreeMap<Incarnation, (u64, u32)>,
    total: SumBytes,
}

/// When a purge is considered, and how much one may do.
#[derive(Clone, Copy, Debug)]
pub struct PurgeLimits {
    /// Considered after this many rounds.
    pub every_rounds: u64,
    /// Considered after this many bytes: no more than one purge moves, so that purging keeps up with writing.
    pub every_bytes: u64,
    /// The most that is moved, in bytes of entries and states. The first round may alone exceed it.
    pub max_moved_bytes: u64,
    /// The most rounds that are deleted.
    pub max_rounds: usize,
    /// The most bytes of rounds that are deleted, since the database reads what it deletes while writes wait: some times as many as
    /// [`PurgeLimits::every_bytes`], so that many dead rounds go soon. The first round may alone exceed it.
    pub max_deleted_bytes: u64,
}

impl Default for PurgeLimits {
    fn default() -> Self {
        Self {
            every_rounds: 128,
            every_bytes: 1 << 20,
            max_moved_bytes: 1 << 20,
            max_rounds: 1024,
            max_deleted_bytes: 4 << 20,
        }
    }
}

impl Ledger {
    /// Accounts that begin with round `first`.
    pub(super) fn new(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    /// The key of the next round.
    pub(super) fn next_seq(&self) -> u64 {
        self.first + self.rounds.len() as u64
    }

    pub(super) fn add_round(&mut self, size: u32) {
        self.rounds.push_back(RoundBytes { size, live: 0 });
        self.total.size += u64::from(size);
    }

    pub(super) fn add_entry(&mut self, at: Location) {
        self.add_live(at.seq, at.size_bytes);
    }

    pub(super) fn remove_entry(&mut self, at: Location) {
        self.remove_live(at.seq, at.size_bytes);
    }

    /// The peer's whole state is now in round `seq`.
    pub(super) fn set_header(&mut self, peer: Incarnation, seq: u64, size: u32) {
        self.remove_header(peer);
        self.headers.insert(peer, (seq, size));
        self.add_live(seq, size);
    }

    pub(super) fn remove_header(&mut self, peer: Incarnation) {
        if let Some((seq, size)) = self.headers.remove(&peer) {
            self.remove_live(seq, size);
        }
    }

    /// Whether the peer's whole state is in round `seq`.
    pub(super) fn has_header(&self, peer: Incarnation, seq: u64) -> bool {
        self.headers.get(&peer).is_some_and(|(at, _)| *at == seq)
    }

    /// The oldest rounds that are worth deleting now: the last of them and the live bytes in all of them.
    ///
    /// What is freed must outweigh what is moved, in the rounds chosen or in the whole log. So moving costs at most
    /// as much as was written, and the log stays within about three times what is live in it. The second condition
    /// gets a purge past a long stretch that is still live.
    pub(super) fn purgeable(&self, limits: PurgeLimits) -> Option<(u64, u64)> {
        let mut sum = SumBytes::default();
        let mut best = (0, None);
        let mut longest = None;
        for (round, seq) in self.rounds.iter().zip(self.first..).take(limits.max_rounds) {
            sum = SumBytes { size: sum.size + u64::from(round.size), live: sum.live + u64::from(round.live) };
            let moves_too_much = round.live > 0 && sum.live > limits.max_moved_bytes;
            if (moves_too_much || sum.size > limits.max_deleted_bytes) && longest.is_some() {
                break;
            }
            longest = Some((seq, sum.live));
            let freed = sum.size.saturating_sub(2 * sum.live);
            if freed > best.0 {
                best = (freed, longest);
            }
        }
        let mostly_dead = self.total.size > 2 * self.total.live;
        best.1.or(longest.filter(|_| mostly_dead))
    }

    /// The rounds up to `through` that have something live in them.
    pub(super) fn live_rounds(&self, through: u64) -> impl Iterator<Item = u64> + '_ {
        let rounds = self.rounds.iter().zip(self.first..=through);
        rounds.filter(|(round, _)| round.live > 0).map(|(_, seq)| seq)
    }

    /// Forgets the rounds up to `through`.
    pub(super) fn purge(&mut self, through: u64) {
        while self.first <= through {
            let Some(round) = self.rounds.pop_front() else { break };
            assert_eq!(round.live, 0, "round {} is purged with live data in it", self.first);
            self.total.size -= u64::from(round.size);
            self.first += 1;
        }
    }

    fn add_live(&mut self, seq: u64, size: u32) {
        self.round_mut(seq).live += size;
        self.total.live += u64::from(size);
    }

    fn remove_live(&mut self, seq: u64, size: u32) {
        self.round_mut(seq).live -= size;
        self.total.live -= u64::from(size);
    }

    fn round_mut(&mut self, seq: u64) -> &mut RoundBytes {
        let slot = seq.checked_sub(self.first).and_then(|slot| self.rounds.get_mut(slot as usize));
        slot.expect("every live byte is in a round that is accounted for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64, size_bytes: u32) -> Location {
        Location { seq, offset: 0, size_bytes }
    }

    fn ledger(rounds: &[(u32, u32)]) -> Ledger {
        let mut ledger = Ledger::new(5);
        for (size, live) in rounds {
            ledger.add_round(*size);
            ledger.add_entry(at(ledger.next_seq() - 1, *live));
        }
        ledger
    }

    #[test]
    fn the_prefix_that_frees_most_for_what_it_moves_is_purged() {
        // The fresh rounds at the end are not moved along with the dead ones.
        assert_eq!(
            ledger(&[(100, 20), (100, 0), (100, 90), (100, 100)]).purgeable(PurgeLimits::default()),
            Some((6, 20))
        );
        assert_eq!(ledger(&[(100, 60), (100, 60)]).purgeable(PurgeLimits::default()), None);
        assert_eq!(ledger(&[]).purgeable(PurgeLimits::default()), None);
    }

    #[test]
    fn a_long_live_stretch_is_moved_once_most_of_the_log_behind_it_is_dead() {
        let size = PurgeLimits::default().max_moved_bytes as u32 + 1;
        let whole = u64::from(size);
        assert_eq!(ledger(&[(size, size), (size / 2, 0)]).purgeable(PurgeLimits::default()), None);
        assert_eq!(
            ledger(&[(size, size), (size / 2, 0), (size, 0)]).purgeable(PurgeLimits::default()),
            Some((7, whole))
        );
        // The first round alone exceeds the bound and is taken; a second live one is not.
        assert_eq!(
            ledger(&[(size, size), (size, size), (5 * size, 0)]).purgeable(PurgeLimits::default()),
            Some((5, whole))
        );
    }

    #[test]
    fn of_many_dead_rounds_few_bytes_go_at_a_time() {
        let limits = PurgeLimits::default();
        let quarter = (limits.max_deleted_bytes / 4) as u32;
        assert_eq!(ledger(&[(quarter, 0); 10]).purgeable(limits), Some((8, 0)));
        assert_eq!(ledger(&[(9 * quarter, 0), (1, 0)]).purgeable(limits), Some((5, 0)));
    }

    #[test]
    #[should_panic(expected = "with live data")]
    fn live_data_is_never_purged() {
        ledger(&[(100, 1)]).purge(5);
    }

    #[test]
    fn a_state_counts_once_wherever_it_goes() {
        let mut ledger = ledger(&[(100, 10), (100, 0)]);
        ledger.set_header(Incarnation(1), 5, 30);
        assert!(ledger.has_header(Incarnation(1), 5));
        assert_eq!(ledger.live_rounds(6).collect::<Vec<_>>(), [5]);
        ledger.set_header(Incarnation(1), 6, 30);
        ledger.remove_entry(at(5, 10));
        assert_eq!(ledger.live_rounds(6).collect::<Vec<_>>(), [6]);
        ledger.purge(5);
        ledger.remove_header(Incarnation(1));
        assert_eq!(ledger.total, SumBytes { size: 100, live: 0 });
    }
}

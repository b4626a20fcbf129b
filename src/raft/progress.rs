//! What a leader knows of one follower's log.

use crate::raft::LogRead;
use crate::raft::inflights::Inflights;
use crate::types::Index;

/// How a leader sends to a follower.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Looks for the place where the logs part, one append at a time.
    Probe {
        /// An append is out. Its answer, or that of a heartbeat, ends the wait.
        waiting: bool,
    },
    /// Sends ahead of the answers (thesis section 10.2.1).
    Replicate(Inflights),
    /// Waits until the follower has a snapshot.
    Snapshot(Index),
}

/// A follower as its leader sees it.
///
/// Invariants: `matched < next`; `matched` never shrinks, because it counts only what is durable there.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The last entry known to be durable and equal on the follower.
    pub(super) matched: Index,
    /// The next entry to send.
    pub(super) next: Index,
    pub(super) state: State,
    /// Whether anything was heard since the last check of the quorum.
    pub(super) heard: bool,
    /// Whether anything had been heard by that check since the one before.
    pub(super) was_heard: bool,
    /// The latest heartbeat round that the follower has answered.
    pub(super) round: u64,
    /// The latest commit index sent.
    pub(super) told_commit: Index,
    /// The read of entries for this follower that is on its way.
    pub(super) reading: Option<LogRead>,
}

impl Progress {
    /// Of a follower of which nothing is known: the probing begins at `next`.
    pub(super) fn new(next: Index) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            state: State::Probe { waiting: false },
            heard: true,
            was_heard: true,
            round: 0,
            told_commit: Index::ZERO,
            reading: None,
        }
    }

    /// What is on its way, where it may be more than one append.
    pub(super) fn inflights(&self) -> Option<&Inflights> {
        match &self.state {
            State::Replicate(inflights) => Some(inflights),
            State::Probe { .. } | State::Snapshot(_) => None,
        }
    }

    /// Whether an append may leave now.
    pub(super) fn may_send(&self, max_messages: usize, max_bytes: usize) -> bool {
        match &self.state {
            State::Probe { waiting } => !waiting,
            State::Replicate(inflights) => {
                self.reading.is_none() && inflights.count() < max_messages && inflights.bytes() < max_bytes
            }
            State::Snapshot(_) => false,
        }
    }

    /// An append with entries up to `last` has left; without entries, `bytes` is 0.
    pub(super) fn sent(&mut self, last: Index, bytes: usize) {
        match &mut self.state {
            State::Probe { waiting } => *waiting = true,
            State::Replicate(inflights) if bytes > 0 => {
                inflights.add(last, bytes);
                self.next = last.next();
            }
            State::Replicate(_) | State::Snapshot(_) => {}
        }
    }

    /// The follower has everything up to `matched`, while the leader's log begins after `base`.
    pub(super) fn accepted(&mut self, matched: Index, base: Index) {
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        match &mut self.state {
            State::Probe { .. } => self.replicate(),
            State::Replicate(inflights) => inflights.release_through(matched),
            State::Snapshot(_) if self.matched >= base => self.replicate(),
            State::Snapshot(_) => {}
        }
    }

    fn replicate(&mut self) {
        self.next = self.matched.next();
        self.state = State::Replicate(Inflights::default());
    }

    /// The follower does not hold the entry at `prev`; at `guess` the logs may agree. Answers to older appends are
    /// ignored.
    pub(super) fn rejected(&mut self, prev: Index, guess: Index) {
        match self.state {
            State::Probe { .. } if prev == self.next.prev() => {
                let next = prev.min(guess.next()).max(self.matched.next());
                self.probe(next, false);
            }
            State::Replicate(_) if prev > self.matched => self.probe(self.matched.next(), false),
            _ => {}
        }
    }

    /// Begins anew behind what is matched: what was sent may be lost, and is too old to tell.
    pub(super) fn restart(&mut self) {
        self.probe(self.matched.next(), false);
    }

    fn probe(&mut self, next: Index, waiting: bool) {
        self.next = next;
        self.reading = None;
        self.state = State::Probe { waiting };
    }

    /// The follower is there: a lost probe may be repeated.
    pub(super) fn resume(&mut self) {
        if let State::Probe { waiting } = &mut self.state {
            *waiting = false;
        }
    }

    /// The last entry that the follower will not have to be sent: the log behind it may be needed. None of one that is
    /// silent, and is sent nothing.
    pub(super) fn has_no_need_of(&self) -> Option<Index> {
        match &self.state {
            // The end of the transfer is reported, also if the follower dies meanwhile.
            State::Snapshot(index) => Some(*index),
            _ if !(self.heard || self.was_heard) => None,
            State::Probe { .. } => Some(self.next.prev()),
            State::Replicate(_) => Some(self.matched),
        }
    }

    pub(super) fn snapshot_started(&mut self, index: Index) {
        self.reading = None;
        self.state = State::Snapshot(index);
    }

    /// The transfer is over. What comes next waits for a sign of life, so that a dead follower gets no snapshot
    /// after snapshot.
    pub(super) fn snapshot_ended(&mut self, ok: bool) {
        if let State::Snapshot(index) = self.state {
            let known = if ok { index.max(self.matched) } else { self.matched };
            self.probe(known.next(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_goes_back_and_then_replicates_ahead_of_the_answers() {
        let mut progress = Progress::new(Index(10));
        assert!(progress.may_send(2, 100));
        progress.sent(Index(12), 30);
        assert!(!progress.may_send(2, 100), "one probe at a time");
        progress.rejected(Index(8), Index(3));
        assert_eq!(progress.next, Index(10), "the answer to an older probe");
        progress.rejected(Index(9), Index(3));
        assert_eq!(progress.next, Index(4));
        progress.accepted(Index(3), Index(0));
        progress.sent(Index(5), 10);
        assert!(progress.may_send(2, 100));
        progress.sent(Index(6), 10);
        assert!(!progress.may_send(2, 100), "two messages");
        progress.accepted(Index(5), Index(0));
        assert!(progress.may_send(2, 100));
        progress.sent(Index(9), 90);
        assert!(!progress.may_send(9, 100), "100 bytes");
        assert_eq!((progress.matched, progress.next), (Index(5), Index(10)));
    }

    #[test]
    fn a_rejection_while_replicating_goes_back_to_what_is_known() {
        let mut progress = Progress::new(Index(4));
        progress.accepted(Index(3), Index(0));
        progress.sent(Index(9), 10);
        progress.rejected(Index(3), Index(0));
        assert_eq!(progress.next, Index(10), "3 is matched: the answer is old");
        progress.rejected(Index(9), Index(7));
        assert_eq!(progress.next, Index(4));
        assert!(matches!(progress.state, State::Probe { waiting: false }));
    }

    #[test]
    fn a_snapshot_ends_by_acceptance_or_by_report() {
        let mut progress = Progress::new(Index(4));
        progress.snapshot_started(Index(20));
        progress.accepted(Index(10), Index(15));
        assert!(matches!(progress.state, State::Snapshot(Index(20))), "the log begins at 16");
        progress.accepted(Index(20), Index(15));
        assert!(matches!(progress.state, State::Replicate(_)));
        assert_eq!(progress.next, Index(21));

        let mut progress = Progress::new(Index(4));
        progress.snapshot_started(Index(20));
        progress.snapshot_ended(false);
        assert_eq!(progress.next, Index(1));
        assert!(!progress.may_send(1, 1));
        progress.resume();
        assert!(progress.may_send(1, 1));
    }
}

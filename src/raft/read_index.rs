//! Linearizable reads without log entries (thesis section 6.4).

use std::collections::{BTreeMap, VecDeque};

use crate::planted::{self, Bug};
use crate::raft::quorum;
use crate::raft::role::Role;
use crate::raft::{Envelope, Message, Raft, ReadError, ReadId, ReadReady};
use crate::types::{Incarnation, Index};

/// The most reads that wait at a leader, and that a follower has asked its leader for.
pub const MAX_WAITING_READS: usize = 16_384;

/// Reads at a leader. They wait for a round of heartbeats that began after them: a quorum that answers it proves that
/// no later leader had committed anything when they came. All reads that come while one round runs share the next.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadRounds {
    started: u64,
    waiting: VecDeque<WaitingRead>,
}

/// A read that waits for its round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitingRead {
    /// The follower that asked; none for an own read.
    pub(super) asker: Option<Incarnation>,
    pub(super) id: ReadId,
    /// The index that the state must have reached.
    pub(super) index: Index,
    round: u64,
}

impl ReadRounds {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING_READS
    }

    /// Whether reads wait.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets a read wait for the next round.
    pub(super) fn add(&mut self, asker: Option<Incarnation>, id: ReadId, index: Index) {
        self.waiting.push_back(WaitingRead { asker, id, index, round: self.started + 1 });
    }

    /// Whether reads wait and none of them for a round that runs.
    pub(super) fn is_round_due(&self) -> bool {
        self.waiting.front().is_some_and(|read| read.round > self.started)
    }

    /// Begins a round and returns its number.
    pub(super) fn start_round(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// The latest round begun.
    pub(super) fn started(&self) -> u64 {
        self.started
    }

    /// The next read whose round a quorum has answered.
    pub(super) fn pop_confirmed(&mut self, round: u64) -> Option<WaitingRead> {
        self.waiting.pop_front_if(|read| read.round <= round)
    }

    /// The own reads that wait.
    pub(super) fn own(&self) -> impl Iterator<Item = ReadId> {
        self.waiting.iter().filter(|read| read.asker.is_none()).map(|read| read.id)
    }
}

/// Reads that a follower has asked its leader for, with the ticks that each has waited.
#[derive(Clone, Debug, Default)]
pub(super) struct ForwardedReads {
    waited: BTreeMap<ReadId, u32>,
}

impl ForwardedReads {
    pub(super) fn is_empty(&self) -> bool {
        self.waited.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waited.len() >= MAX_WAITING_READS
    }

    pub(super) fn add(&mut self, id: ReadId) {
        self.waited.insert(id, 0);
    }

    /// Whether the read was waited for.
    pub(super) fn remove(&mut self, id: ReadId) -> bool {
        self.waited.remove(&id).is_some()
    }

    /// A tick has passed: gives up on reads that have waited `max_ticks`.
    pub(super) fn tick(&mut self, max_ticks: u32) -> Vec<ReadId> {
        self.waited.values_mut().for_each(|ticks| *ticks += 1);
        let late: Vec<_> = self.waited.iter().filter(|(_, ticks)| **ticks >= max_ticks).map(|(id, _)| *id).collect();
        self.waited.retain(|_, ticks| *ticks < max_ticks);
        late
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ReadId> {
        self.waited.keys().copied()
    }
}

impl Raft {
    /// A read at the leader, its own or a follower's.
    pub(super) fn read_at_leader(&mut self, asker: Option<Incarnation>, id: ReadId) -> Result<(), ReadError> {
        self.stir();
        let Role::Leader(leader) = &mut self.role else { return Err(ReadError::NoLeader) };
        if leader.reads.is_full() {
            return Err(ReadError::TooManyReads);
        }
        // Until an entry of its term is committed, the leader does not know what is.
        leader.reads.add(asker, id, self.log.commit().max(leader.term_start));
        leader.flush = true;
        if self.holds_lease() || planted::has(Bug::ReadWithoutReadIndex) {
            self.answer_reads(u64::MAX);
        }
        Ok(())
    }

    fn holds_lease(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        self.config.lease_ticks > 0 && leader.lease.holds(self.confirmed_round())
    }

    pub(super) fn on_read_index(&mut self, from: Incarnation, id: ReadId) {
        if let Err(error) = self.read_at_leader(Some(from), id) {
            tracing::debug!(me = %self.id, %from, %error, "a follower's read is dropped; it will ask again");
        }
    }

    /// The latest round of heartbeats that a quorum has answered.
    fn confirmed_round(&self) -> u64 {
        let Role::Leader(leader) = &self.role else { return 0 };
        let answered = |voter| match leader.progress.get(&voter) {
            _ if voter == self.id => u64::MAX,
            Some(progress) => progress.round,
            None => 0,
        };
        quorum::reached(self.log.configuration(), answered).unwrap_or(0)
    }

    /// Answers the reads that wait for no later round than this one, if the leader knows what is committed.
    fn answer_reads(&mut self, confirmed: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        let knows_commit = self.log.commit() >= leader.term_start;
        while knows_commit && let Some(read) = leader.reads.pop_confirmed(confirmed) {
            let (id, index) = (read.id, read.index);
            let (from, term, message) = (self.id, self.log.term(), Message::ReadIndexReply { id, index });
            match read.asker {
                Some(to) => self.out.messages.push(Envelope { from, to, term, message }),
                None => self.out.reads.push(ReadReady { id, index }),
            }
        }
    }

    /// Answers the reads whose round a quorum has answered, and begins the next round if reads wait for it.
    pub(super) fn serve_reads(&mut self) {
        self.answer_reads(self.confirmed_round());
        if let Role::Leader(leader) = &self.role
            && leader.reads.is_round_due()
        {
            self.broadcast_heartbeat();
        }
    }

    /// Asks the leader on behalf of a read here.
    pub(super) fn forward_read(&mut self, id: ReadId) -> Result<(), ReadError> {
        self.stir();
        let Role::Follower(follower) = &mut self.role else { return Err(ReadError::NoLeader) };
        let leader = follower.leader.ok_or(ReadError::NoLeader)?;
        if follower.reads.is_full() {
            return Err(ReadError::TooManyReads);
        }
        follower.reads.add(id);
        self.send(leader, Message::ReadIndex { id });
        Ok(())
    }

    pub(super) fn on_read_index_reply(&mut self, from: Incarnation, id: ReadId, index: Index) {
        if let Role::Follower(follower) = &mut self.role
            && follower.leader == Some(from)
            && follower.reads.remove(id)
        {
            self.out.reads.push(ReadReady { id, index });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_the_round_after_the_running_one() {
        let mut reads = ReadRounds::default();
        assert!(!reads.is_round_due());
        reads.add(None, ReadId(1), Index(5));
        assert!(reads.is_round_due());
        assert_eq!(reads.start_round(), 1);
        reads.add(Some(Incarnation(2)), ReadId(2), Index(5));
        reads.add(None, ReadId(3), Index(6));
        assert!(!reads.is_round_due(), "the first read waits for round 1");
        assert_eq!(reads.pop_confirmed(1).map(|read| read.id), Some(ReadId(1)));
        assert_eq!(reads.pop_confirmed(1), None, "round 1 began before these came");
        assert!(reads.is_round_due());
        assert_eq!(reads.start_round(), 2);
        assert_eq!(reads.own().collect::<Vec<_>>(), [ReadId(3)]);
        assert_eq!(reads.pop_confirmed(7).map(|read| read.id), Some(ReadId(2)));
        assert_eq!(reads.pop_confirmed(7).map(|read| read.index), Some(Index(6)));
    }

    #[test]
    fn a_forwarded_read_is_given_up_in_the_end() {
        let mut reads = ForwardedReads::default();
        reads.add(ReadId(1));
        assert_eq!(reads.tick(2), []);
        reads.add(ReadId(2));
        assert_eq!(reads.tick(2), [ReadId(1)]);
        assert!(!reads.remove(ReadId(1)) && reads.remove(ReadId(2)));
    }
}

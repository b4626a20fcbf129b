//! Quiescence: a cluster that nobody uses falls asleep. Its peers then send nothing and count no time.
//!
//! - A leader that was asked for nothing for [`ConfigValues::quiesce_ticks`](crate::raft::ConfigValues::quiesce_ticks), and
//!   whose followers all have everything and know that it is committed, asks them to fall asleep in place of its heartbeats.
//!   Each that has the same last entry does, and says so. Once all have, so does the leader.
//! - Whatever is wanted of a peer wakes it, and so does every message. Who is woken by another than its leader wakes its leader,
//!   whose heartbeats wake the rest.
//! - Who sleeps notices nothing. That its leader is still there is for the driver to know, for all peers on a node at once: it
//!   reports who may have lost its leader ([`Raft::suspect_leader`]).
//!
//! No promise depends on any of it. Who sleeps has a term, a vote and a log like everybody else; a leader that sleeps asks a
//! majority before it answers a read, as one that is awake does. A peer that wrongly sleeps does not help to elect a leader
//! until it is woken, which every request and every candidate does.

use std::collections::BTreeSet;

use crate::raft::progress::State;
use crate::raft::role::{Leader, Role};
use crate::raft::{Envelope, Message, Raft};
use crate::types::{Incarnation, LogPosition};

/// How far a leader has come with falling asleep.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    /// Ticks since anything was wanted of this leader.
    idle_ticks: u32,
    /// The round in which it first asked its followers to fall asleep.
    asked_round: Option<u64>,
    /// Who has fallen asleep since.
    agreed: BTreeSet<Incarnation>,
    is_asleep: bool,
}

impl Raft {
    /// Whether this peer sleeps: it then needs no ticks, and says nothing of its own accord.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.is_asleep,
            Role::PreCandidate(_) | Role::Candidate(_) => false,
            Role::Leader(leader) => leader.rest.is_asleep,
        }
    }

    /// Something is wanted of this peer, or will be: it wakes, and its leader with it. A leader begins anew to count how long
    /// nothing was wanted.
    pub fn stir(&mut self) {
        match &mut self.role {
            Role::Follower(follower) if follower.is_asleep => {
                let leader = follower.leader;
                self.wake_follower();
                // Round 0 stands for none: it answers nothing.
                leader.into_iter().for_each(|to| self.send(to, Message::HeartbeatReply { round: 0 }));
            }
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {}
            Role::Leader(leader) => {
                if std::mem::take(&mut leader.rest).is_asleep {
                    leader.quorum_ticks = 0;
                    // The next tick brings a heartbeat.
                    leader.heartbeat_ticks = self.config.heartbeat_ticks;
                }
            }
        }
    }

    /// The leader of this peer may be gone, for all that its driver knows. One that sleeps wakes, and is as if it had just not
    /// heard its leader for as long as elections need at least. So many that lose a leader at once do not all run at once.
    pub fn suspect_leader(&mut self) {
        if !matches!(&self.role, Role::Follower(follower) if follower.is_asleep) {
            return;
        }
        self.stir();
        let timeout_ticks = self.election_timeout();
        if let Role::Follower(follower) = &mut self.role {
            (follower.silent_ticks, follower.timeout_ticks) = (self.config.election_ticks, timeout_ticks);
        }
    }

    fn wake_follower(&mut self) {
        if let Role::Follower(follower) = &mut self.role {
            follower.is_asleep = false;
            follower.silent_ticks = 0;
        }
    }

    /// A message is about to be looked at: it wakes this peer, unless it is part of falling asleep.
    pub(super) fn wake_by(&mut self, envelope: &Envelope) {
        match (&self.role, &envelope.message) {
            _ if !self.is_asleep() => {}
            (Role::Leader(_), Message::QuiesceReply { .. }) | (Role::Follower(_), Message::Quiesce { .. }) => {}
            // The leader is awake itself.
            (Role::Follower(follower), _) if follower.leader == Some(envelope.from) => self.wake_follower(),
            _ => self.stir(),
        }
    }

    /// A tick of a leader has passed. Tells whether heartbeats are to ask the followers to fall asleep.
    pub(super) fn tick_rest(&mut self) -> bool {
        if self.config.quiesce_ticks == 0 || self.config.lease_ticks > 0 {
            return false;
        }
        let may_rest = self.may_rest();
        let Role::Leader(leader) = &mut self.role else { return false };
        if !may_rest {
            leader.rest = Rest::default();
            return false;
        }
        leader.rest.idle_ticks = leader.rest.idle_ticks.saturating_add(1);
        leader.rest.idle_ticks >= self.config.quiesce_ticks
    }

    /// Whether all that this leader was given has come to its end, everywhere.
    fn may_rest(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let (last, configuration) = (self.log.last(), self.log.configuration());
        let is_done = self.log.commit() == last && leader.term_start <= last && self.has_done_all();
        let is_stable = leader.transfer.is_none() && configuration.is_settled() && configuration.is_voter(self.id);
        is_done
            && is_stable
            && !leader.reads.is_waiting()
            && leader.progress.values().all(|progress| {
                let has_all = matches!(progress.state, State::Replicate(_)) && progress.matched == last;
                has_all && progress.reading.is_none()
            })
    }

    /// Whether disk and machine have done all that there is in the log.
    fn has_done_all(&self) -> bool {
        let last = self.log.last();
        !self.log.has_write() && !self.log.is_writing() && self.log.stable() == last && self.delivery.applied() == last
    }

    /// Asks the followers to fall asleep. It is a heartbeat besides.
    pub(super) fn broadcast_quiesce(&mut self) {
        let (from, term, last) = (self.id, self.log.term(), self.log.last_position());
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_ticks = 0;
        let round = leader.reads.start_round();
        leader.rest.asked_round.get_or_insert(round);
        let ask = |to: &Incarnation| Envelope { from, to: *to, term, message: Message::Quiesce { last, round } };
        self.out.messages.extend(leader.progress.keys().map(ask));
        fall_asleep_with_all(leader);
    }

    pub(super) fn on_quiesce(&mut self, leader: Incarnation, last: LogPosition, round: u64) {
        let is_equal = last == self.log.last_position();
        if is_equal {
            self.log.commit_to(last.index);
        }
        let may_sleep = is_equal && self.config.quiesce_ticks > 0 && self.has_done_all() && !self.is_quarantined;
        let Role::Follower(follower) = &mut self.role else { return };
        follower.is_asleep = may_sleep && follower.reads.is_empty();
        let is_asleep = follower.is_asleep;
        let answer = if is_asleep { Message::QuiesceReply { round } } else { Message::HeartbeatReply { round } };
        self.send(leader, answer);
    }

    pub(super) fn on_quiesce_reply(&mut self, from: Incarnation, round: u64) {
        self.on_heartbeat_reply(from, round);
        let may_rest = self.may_rest();
        let Role::Leader(leader) = &mut self.role else { return };
        // An answer from before the last stir says nothing: who gave it may have been woken since.
        if may_rest && leader.rest.asked_round.is_some_and(|asked| (asked..=leader.reads.started()).contains(&round)) {
            leader.rest.agreed.insert(from);
            fall_asleep_with_all(leader);
        }
    }
}

/// A leader falls asleep once all its followers have.
fn fall_asleep_with_all(leader: &mut Leader) {
    if leader.progress.keys().all(|follower| leader.rest.agreed.contains(follower)) {
        leader.rest.is_asleep = true;
    }
}

//! Where a message goes: first by its term (thesis section 3.3), then by what it says.

use std::cmp::Ordering;

use crate::raft::nonsense::Nonsense;
use crate::raft::role::Role;
use crate::raft::{Envelope, Message, Raft};
use crate::types::{Incarnation, Term};

impl Raft {
    /// A message that could be true.
    pub(super) fn step_checked(&mut self, envelope: Envelope) {
        match envelope.term.cmp(&self.term()) {
            Ordering::Less => return self.answer_old_term(envelope.from, &envelope.message),
            _ if self.breaks_promise(&envelope.message) => return,
            Ordering::Greater if self.is_disruption(&envelope.message) => return,
            Ordering::Greater if is_about_a_real_term(&envelope.message) => self.follow(envelope.term, None),
            Ordering::Greater | Ordering::Equal => {}
        }
        let Envelope { from, term, message, .. } = envelope;
        match message {
            Message::PreVote { last } => self.on_pre_vote(from, term, last),
            Message::PreVoteReply { granted } => self.on_pre_vote_reply(from, term, granted),
            Message::Vote { last, .. } => self.on_vote(from, last),
            Message::VoteReply { granted } => self.on_vote_reply(from, granted),
            Message::Append { .. }
            | Message::Heartbeat { .. }
            | Message::Quiesce { .. }
            | Message::TimeoutNow
            | Message::Snapshot { .. } => {
                self.step_from_leader(from, term, message);
            }
            Message::AppendReply(reply) => self.on_append_reply(from, reply),
            Message::HeartbeatReply { round } => self.on_heartbeat_reply(from, round),
            Message::QuiesceReply { round } => self.on_quiesce_reply(from, round),
            Message::ReadIndex { id } => self.on_read_index(from, id),
            Message::ReadIndexReply { id, index } => self.on_read_index_reply(from, id, index),
        }
    }

    fn step_from_leader(&mut self, from: Incarnation, term: Term, message: Message) {
        match self.leader() {
            Some(leader) if leader != from => return self.refuse(from, Nonsense::SecondLeader(leader)),
            Some(_) => self.leader_heard(),
            None => self.follow(term, Some(from)),
        }
        self.leader_silent_ticks = 0;
        match message {
            Message::Append { prev, entries, commit } => self.on_append(from, prev, entries, commit),
            Message::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Message::Quiesce { last, round } => self.on_quiesce(from, last, round),
            Message::TimeoutNow => self.on_timeout_now(),
            Message::Snapshot { meta } => self.on_snapshot(from, meta),
            _ => {}
        }
    }

    /// A peer that hears its leader does not help to depose it (thesis sections 4.2.3 and 6.2), unless the leader
    /// itself wants that.
    fn is_disruption(&self, message: &Message) -> bool {
        let leader_is_alive = match &self.role {
            Role::Follower(follower) => follower.leader.is_some() && follower.silent_ticks < self.config.election_ticks,
            Role::PreCandidate(_) | Role::Candidate(_) => false,
            Role::Leader(_) => true,
        };
        leader_is_alive && asks_for_a_vote(message)
    }

    /// Where leaders serve reads by lease, whoever has heard one has promised not to help another for a while. Neither
    /// a restart nor a later term ends that.
    fn breaks_promise(&self, message: &Message) -> bool {
        let has_promised = self.config.lease_ticks > 0 && self.leader_silent_ticks < self.config.election_ticks;
        has_promised && asks_for_a_vote(message)
    }

    /// The sender is behind and has to learn the term. A leader that was deposed unawares learns it from any answer;
    /// without one, a candidate ahead of it could neither win nor follow.
    fn answer_old_term(&mut self, from: Incarnation, message: &Message) {
        match message {
            Message::PreVote { .. } => self.send(from, Message::PreVoteReply { granted: false }),
            Message::Vote { .. } => self.send(from, Message::VoteReply { granted: false }),
            Message::Append { .. } | Message::Heartbeat { .. } | Message::Quiesce { .. } | Message::Snapshot { .. } => {
                self.send(from, Message::HeartbeatReply { round: 0 });
            }
            _ => {}
        }
    }
}

/// Whether a peer wants to lead without the leader's consent.
fn asks_for_a_vote(message: &Message) -> bool {
    matches!(message, Message::PreVote { .. } | Message::Vote { appointed: false, .. })
}

/// A pre-vote and its grant carry a term that nobody has entered yet.
fn is_about_a_real_term(message: &Message) -> bool {
    !matches!(message, Message::PreVote { .. } | Message::PreVoteReply { granted: true })
}

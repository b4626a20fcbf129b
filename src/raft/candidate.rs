//! Elections (thesis section 3.4) with a pre-vote round (section 9.6).

use crate::raft::quorum::{self, Tally};
use crate::raft::role::{Candidacy, Role};
use crate::raft::{Envelope, Message, Raft};
use crate::types::{Incarnation, LogPosition, Term};

/// Election timeouts without a leader after which a learner runs.
const LEARNERS_PATIENCE: u32 = 10;

impl Raft {
    pub(super) fn tick_candidate(&mut self) {
        let (Role::PreCandidate(candidacy) | Role::Candidate(candidacy)) = &mut self.role else { return };
        candidacy.elapsed_ticks += 1;
        if candidacy.elapsed_ticks >= candidacy.timeout_ticks {
            self.pre_campaign();
        }
    }

    /// Runs at once, if no leader is known, instead of when the election timeout has passed. A new cluster need not wait for
    /// its first leader.
    pub fn hasten_election(&mut self) {
        if matches!(&self.role, Role::Follower(_)) && self.leader().is_none() {
            self.pre_campaign();
        }
    }

    /// Asks the others whether an election would succeed. Nobody's term changes by that, so a peer that was cut off
    /// does not depose a healthy leader when it comes back. Who may not run, or whose disk stands still, only gives the
    /// leader up.
    pub(super) fn pre_campaign(&mut self) {
        if !self.may_run() || self.is_disk_stalled() || self.is_quarantined {
            return self.follow(self.term(), None);
        }
        let mut candidacy = self.candidacy();
        candidacy.note(self.id, true);
        self.change_role(Role::PreCandidate(candidacy));
        let last = self.log.last_position();
        for to in self.log.configuration().all_voters().into_iter().filter(|voter| *voter != self.id) {
            let term = self.term().next();
            self.out.messages.push(Envelope { from: self.id, to, term, message: Message::PreVote { last } });
        }
        self.count_votes();
    }

    /// Voters may run. So may a peer that leaves, as long as it does not know that this is committed: it may be the only
    /// one left whose log the others can vote for (thesis section 4.2.2). It does not count itself.
    ///
    /// Nor does a learner, who may run for the same reason, but late: a voter that holds a joint configuration needs its vote,
    /// and does not get it where a later leader, which is gone, has given entries to learners alone.
    fn may_run(&self) -> bool {
        let (configuration, index) = (self.log.configuration(), self.log.configuration_index());
        let is_leaving = || index > self.log.commit() && self.log.configuration_at(index.prev()).is_voter(self.id);
        let is_last_resort = || {
            let patience_ticks = self.config.election_ticks.saturating_mul(LEARNERS_PATIENCE);
            configuration.contains(self.id) && self.leader_silent_ticks >= patience_ticks
        };
        configuration.is_voter(self.id) || is_leaving() || is_last_resort()
    }

    /// Runs in an election. The vote for itself is a message like the others: it counts once it is durable.
    pub(super) fn campaign(&mut self, appointed: bool) {
        self.enter_term(self.term().next(), Some(self.id));
        let candidacy = self.candidacy();
        self.change_role(Role::Candidate(candidacy));
        let last = self.log.last_position();
        for voter in self.log.configuration().all_voters() {
            let is_self = voter == self.id;
            let message =
                if is_self { Message::VoteReply { granted: true } } else { Message::Vote { last, appointed } };
            self.send_durable(voter, message);
        }
    }

    fn candidacy(&mut self) -> Candidacy {
        Candidacy { timeout_ticks: self.election_timeout(), ..Candidacy::default() }
    }

    pub(super) fn on_pre_vote(&mut self, from: Incarnation, term: Term, last: LogPosition) {
        let granted = (term > self.term() || self.may_vote_for(from)) && last >= self.log.last_position();
        let term = if granted { term } else { self.term() };
        let message = Message::PreVoteReply { granted };
        self.out.messages.push(Envelope { from: self.id, to: from, term, message });
    }

    /// One vote a term, and only for a log that holds everything committed (thesis section 3.6.1).
    pub(super) fn on_vote(&mut self, from: Incarnation, last: LogPosition) {
        if !self.may_vote_for(from) || last < self.log.last_position() {
            return self.send(from, Message::VoteReply { granted: false });
        }
        self.log.set_term(self.term(), Some(from));
        self.follow(self.term(), None);
        self.send_durable(from, Message::VoteReply { granted: true });
    }

    fn may_vote_for(&self, candidate: Incarnation) -> bool {
        self.leader().is_none() && self.log.vote().is_none_or(|vote| vote == candidate)
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: Incarnation, term: Term, granted: bool) {
        let about = if granted { self.term().next() } else { self.term() };
        if let Role::PreCandidate(candidacy) = &mut self.role
            && term == about
        {
            candidacy.note(from, granted);
            self.count_votes();
        }
    }

    pub(super) fn on_vote_reply(&mut self, from: Incarnation, granted: bool) {
        if let Role::Candidate(candidacy) = &mut self.role {
            candidacy.note(from, granted);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let (Role::PreCandidate(candidacy) | Role::Candidate(candidacy)) = &self.role else { return };
        let tally = quorum::tally(self.log.configuration(), |voter| candidacy.vote(voter));
        match (tally, &self.role) {
            (Tally::Won, Role::PreCandidate(_)) => self.campaign(false),
            (Tally::Won, _) => self.lead(),
            (Tally::Lost, _) => self.follow(self.term(), None),
            (Tally::Open, _) => {}
        }
    }
}

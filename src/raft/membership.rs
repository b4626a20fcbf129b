//! What a leader does to change the set of peers (thesis chapter 4): one change at a time, through learners and a
//! joint configuration, entered and left without anybody asking. The steps themselves are [`Configuration`]'s.

use std::collections::BTreeMap;

use crate::raft::progress::Progress;
use crate::raft::role::Role;
use crate::raft::{Configuration, Payload, Raft};
use crate::types::{Incarnation, Index, PeerId};

/// Why a change of the set was not begun. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only a leader changes the set.
    #[error("this peer is not the leader: ask the leader instead")]
    NotLeader {
        /// The leader, if known.
        leader: Option<Incarnation>,
    },
    /// A change is under way. While it waits for its learners, proposing the present voters withdraws it.
    #[error("another change of the peers is under way: wait for its end")]
    InProgress,
    /// A new leader does not know yet what is committed.
    #[error("the leader is new and has committed nothing yet: try again later")]
    NotReady,
    /// Leadership is being handed over.
    #[error("leadership is being handed over: ask the next leader")]
    Transferring,
    /// The peers are these already.
    #[error("the cluster consists of these peers already")]
    Same,
    /// Entries with more peers would be larger than what they are good for.
    #[error("{0} peers are too many: give at most {max}", max = Configuration::MAX_VOTERS)]
    TooMany(usize),
    /// So many of these have a state that is not the majority's, or is behind an upgrade, that the rest is no majority of them.
    #[error("too many of these peers have yet to come to the majority's state: wait until they have")]
    Diverged,
    /// Nobody would be left.
    #[error("a cluster needs at least one peer: delete the cluster instead")]
    Empty,
}

impl Raft {
    /// Begins to change the voters to exactly these, and returns the index of the change's first entry. The rest
    /// follows by itself, also under the leaders to come; the change is complete when the configuration is settled
    /// ([`Configuration::is_settled`]) and the entry at [`Raft::configuration_index`] committed.
    ///
    /// While the change waits for new peers to catch up, proposing the present voters withdraws it.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn propose_membership(
        &mut self,
        voters: BTreeMap<Incarnation, PeerId>,
        now_ms: u64,
    ) -> Result<Index, MembershipError> {
        self.clock_ms = now_ms;
        let next = self.first_step_to(&voters)?;
        Ok(self.append_configuration(next))
    }

    fn first_step_to(&self, voters: &BTreeMap<Incarnation, PeerId>) -> Result<Configuration, MembershipError> {
        let Role::Leader(leader) = &self.role else {
            return Err(MembershipError::NotLeader { leader: self.leader() });
        };
        let now = self.log.configuration();
        if voters.is_empty() {
            return Err(MembershipError::Empty);
        }
        if voters.len() > Configuration::MAX_VOTERS {
            return Err(MembershipError::TooMany(voters.len()));
        }
        // Else two leaders could each change the set without knowing of the other's change, and decide by majorities
        // that do not intersect (the error of 2015 in the thesis' single-server changes).
        if self.log.commit() < leader.term_start {
            return Err(MembershipError::NotReady);
        }
        if now.is_joint() || self.log.commit() < self.log.configuration_index() {
            return Err(MembershipError::InProgress);
        }
        if leader.transfer.is_some() {
            return Err(MembershipError::Transferring);
        }
        match (now.is_waiting(), *voters == now.voters) {
            (true, true) => Ok(now.settled()),
            (true, false) => Err(MembershipError::InProgress),
            (false, true) => Err(MembershipError::Same),
            (false, false) => Ok(now.begin(voters)),
        }
    }

    /// Takes the next step of a change that is under way, once the last one is committed. A leader about to hand over
    /// leaves it to the next.
    pub(super) fn continue_membership(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let is_too_early = self.log.commit() < self.log.configuration_index().max(leader.term_start);
        if is_too_early || leader.transfer.is_some() {
            return;
        }
        let now = self.log.configuration();
        if now.is_joint() {
            self.append_configuration(now.settled());
        } else if now.is_waiting() && now.learners.keys().all(|learner| self.has_caught_up(*learner)) {
            self.append_configuration(now.joined());
        }
    }

    /// A learner that knows of its cluster and is little behind, so that commitment will not wait for it.
    fn has_caught_up(&self, learner: Incarnation) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.progress.get(&learner).is_some_and(|progress| {
            let lag = self.log.commit().0.saturating_sub(progress.matched.0);
            progress.matched >= self.log.configuration_index() && lag <= self.config.max_promotion_lag
        })
    }

    /// In effect from now on (thesis section 4.1).
    fn append_configuration(&mut self, configuration: Configuration) -> Index {
        let members = configuration.members();
        self.append_own(Payload::Membership(configuration));
        let index = self.log.last();
        if let Role::Leader(leader) = &mut self.role {
            for member in members.into_iter().filter(|member| *member != self.id) {
                leader.progress.entry(member).or_insert_with(|| Progress::new(index));
            }
            leader.flush = true;
        }
        index
    }

    /// Lets go who has left, once that is committed: until then they get the log, and so learn that they have left.
    /// A leader among them steps down (thesis section 4.2.2), as does a learner who leads, once the voters have what it had
    /// to give.
    pub(super) fn finish_membership(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let configuration = self.log.configuration();
        if self.log.commit() < self.log.configuration_index().max(leader.term_start) {
            return;
        }
        leader.progress.retain(|peer, _| configuration.contains(*peer));
        if !configuration.is_voter(self.id) {
            tracing::info!(me = %self.id, "stepped down: no longer a voter");
            self.appoint_successor();
            self.follow(self.term(), None);
        }
    }
}

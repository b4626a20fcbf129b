//! Handing leadership over (thesis section 3.10): the leader takes no more proposals, waits until the other's log is
//! as long as its own, and asks it to run at once.

use crate::raft::role::Role;
use crate::raft::{Message, Raft};
use crate::types::{Incarnation, Index};

/// Why leadership is not handed over. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Only a leader can hand leadership over.
    #[error("this peer is not the leader: ask the leader instead")]
    NotLeader {
        /// The leader, if known.
        leader: Option<Incarnation>,
    },
    /// A learner, a peer that is about to leave for good, or a stranger.
    #[error("{0} cannot lead: name a peer that votes")]
    NotAVoter(Incarnation),
    /// Leadership is being handed to somebody else.
    #[error("leadership is being handed to {0}: wait for the end, or withdraw it by naming the leader itself")]
    InProgress(Incarnation),
}

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    to: Incarnation,
    elapsed_ticks: u32,
    /// The receiver was asked to run since the last heartbeat.
    asked: bool,
}

impl Raft {
    /// Begins to hand leadership to a voter. It is over when this peer no longer leads, or after an election timeout;
    /// until then proposals are refused. Repeating it changes nothing; naming this peer withdraws it, though a receiver
    /// that was asked may still run.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn transfer(&mut self, to: Incarnation) -> Result<(), TransferError> {
        let unknown = self.leader();
        self.stir();
        let Role::Leader(leader) = &mut self.role else { return Err(TransferError::NotLeader { leader: unknown }) };
        leader.flush = true;
        if to == self.id {
            leader.transfer = None;
            return Ok(());
        }
        if !self.log.configuration().voters.contains_key(&to) {
            return Err(TransferError::NotAVoter(to));
        }
        match leader.transfer {
            Some(running) if running.to != to => Err(TransferError::InProgress(running.to)),
            Some(_) => Ok(()),
            None => {
                leader.transfer = Some(Transfer { to, elapsed_ticks: 0, asked: false });
                Ok(())
            }
        }
    }

    /// Whether leadership is being handed over, and to whom.
    #[must_use]
    pub fn transferring_to(&self) -> Option<Incarnation> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.transfer.map(|transfer| transfer.to)
    }

    /// A transfer that takes too long is given up, so that a receiver which is down blocks no proposals for longer
    /// than its absence would.
    pub(super) fn tick_transfer(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.elapsed_ticks += 1;
        // The request may be lost: it is repeated with the heartbeats.
        transfer.asked &= leader.heartbeat_ticks > 0;
        leader.flush = true;
        if transfer.elapsed_ticks >= self.config.election_ticks {
            tracing::info!(me = %self.id, to = %transfer.to, "leadership was not taken over: leading on");
            leader.transfer = None;
        }
    }

    /// Asks the receiver to run, once it has everything.
    pub(super) fn continue_transfer(&mut self) {
        let last = self.log.last();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let matched = leader.progress.get(&transfer.to).map_or(Index::ZERO, |progress| progress.matched);
        if matched == last && !std::mem::replace(&mut transfer.asked, true) {
            let to = transfer.to;
            leader.lease.give_up();
            self.send(to, Message::TimeoutNow);
        }
    }

    /// A leader that leaves the cluster asks the voter that has most of its log to run at once.
    pub(super) fn appoint_successor(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let voters = self.log.configuration().voters.keys();
        let progress = voters.filter_map(|voter| leader.progress.get(voter).map(|progress| (progress.matched, *voter)));
        if let Some((_, successor)) = progress.max() {
            self.send(successor, Message::TimeoutNow);
        }
    }

    /// The leader wants this peer to lead: it runs without asking whether it would win (thesis section 9.6 would
    /// have the others refuse).
    pub(super) fn on_timeout_now(&mut self) {
        if self.log.configuration().is_voter(self.id) && !self.is_quarantined {
            self.campaign(true);
        }
    }
}

//! Leadership that is handed to another peer because somebody asked for it.

use tokio::sync::oneshot;

use crate::node::driver::Driver;
use crate::protocol::RequestError;
use crate::raft::{Raft, TransferError};
use crate::types::{Incarnation, NodeAddr, PeerId};

/// Who waits for leadership to be handed over.
pub(super) struct WaitingTransfer {
    to: PeerId,
    deadline_ms: u64,
    reply: oneshot::Sender<Result<PeerId, RequestError>>,
}

/// The voters that live elsewhere than on a node, those that have most of the leader's log first.
pub(super) fn heirs(raft: &Raft, node: &NodeAddr) -> Vec<Incarnation> {
    let voters = &raft.configuration().voters;
    let mut followers = raft.status().followers;
    followers.retain(|follower| voters.get(&follower.id).is_some_and(|peer| peer.node() != node));
    followers.sort_by_key(|follower| std::cmp::Reverse(follower.matched));
    followers.into_iter().map(|follower| follower.id).collect()
}

impl Driver {
    /// Has a leader hand leadership to another voter, or to the one that has most of its log. The answer comes once somebody
    /// leads, or does not.
    pub(super) fn transfer(
        &mut self,
        name: &str,
        to: Option<PeerId>,
        timeout_ms: u64,
        reply: oneshot::Sender<Result<PeerId, RequestError>>,
    ) {
        match self.begin_transfer(name, to) {
            Ok((leader, to)) => {
                let deadline_ms = self.now().monotonic_ms.saturating_add(timeout_ms);
                let peer = self.peers.get_mut(&leader).expect("it has just begun");
                let before = peer.transfer.replace(WaitingTransfer { to, deadline_ms, reply });
                if let Some(WaitingTransfer { to, reply, .. }) = before {
                    let _ = reply.send(Err(RequestError::NotTransferred { to, reason: "somebody asked anew".into() }));
                }
                self.touched.insert(leader);
            }
            Err(error) => drop(reply.send(error)),
        }
    }

    /// Returns who hands over, and to whom; or the answer.
    fn begin_transfer(
        &mut self,
        name: &str,
        to: Option<PeerId>,
    ) -> Result<(Incarnation, PeerId), Result<PeerId, RequestError>> {
        let node = self.parts.node.clone();
        let (leader, peer) = self.leader_named(name).map_err(Err)?;
        let raft = peer.replica.raft();
        let invalid = |reason: &str| Err(RequestError::Invalid { reason: reason.to_owned() });
        let voters = &raft.configuration().voters;
        let heir = match &to {
            Some(to) if *to == peer.record.peer => return Err(Ok(to.clone())),
            Some(to) => voters.iter().find(|(_, voter)| *voter == to).map(|(life, _)| *life),
            None => heirs(raft, &node).first().copied(),
        };
        let Some(heir) = heir else {
            return Err(invalid(match to {
                Some(_) => "only a peer that votes can lead: `zraft members` shows them",
                None => "there is no other peer that could lead",
            }));
        };
        let to = voters[&heir].clone();
        match peer.replica.transfer(heir) {
            Ok(()) => Ok((leader, to)),
            Err(TransferError::InProgress(_)) => Err(Err(RequestError::NotTransferred {
                to,
                reason: "it is being handed to another; try again in a moment".to_owned(),
            })),
            Err(error) => Err(invalid(&error.to_string())),
        }
    }

    /// Tells who waits for leadership to be handed over how that went, once it is known.
    pub(super) fn settle_transfer(&mut self, incarnation: Incarnation) {
        let now_ms = self.now().monotonic_ms;
        let Some(peer) = self.peers.get_mut(&incarnation) else { return };
        let Some(WaitingTransfer { to, deadline_ms, reply }) = peer.transfer.take() else { return };
        let raft = peer.replica.raft();
        let not_transferred =
            |reason: &str| Err(RequestError::NotTransferred { to: to.clone(), reason: reason.into() });
        let result = match peer.replica.leader() {
            Some(leader) if leader == to => Ok(leader),
            Some(leader) if leader != peer.record.peer => not_transferred(&format!("{leader} leads now")),
            Some(_) if raft.is_leader() && raft.transferring_to().is_none() => {
                not_transferred("it did not take over in time: is it running, and near the end of the log?")
            }
            _ if now_ms >= deadline_ms => not_transferred("it is not known yet who leads"),
            _ => {
                peer.transfer = Some(WaitingTransfer { to, deadline_ms, reply });
                return;
            }
        };
        let _ = reply.send(result);
    }
}

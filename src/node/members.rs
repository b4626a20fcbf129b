//! The loop's part in changing the peers of a cluster: what may be changed, the first step, and the end of it. What lies
//! between, the making of new peers, is [`change`](super::change)'s; the steps are taken by the core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use crate::machine::Genesis;
use crate::node::driver::Driver;
use crate::node::hosting::HostedPeer;
use crate::protocol::{ChangeMembers, ChangeRefusal, Membership, RequestError};
use crate::raft::{Configuration, MembershipError};
use crate::types::{Digest, Incarnation, Index, PeerId, Term};

/// A change that may be made, as its coordinator gets it.
pub(super) struct Plan {
    /// The leader that is to make it.
    pub(super) leader: Incarnation,
    /// The leader's term.
    pub(super) term: Term,
    /// The present set of peers.
    pub(super) before: Configuration,
    /// What the cluster was created with.
    pub(super) genesis: Genesis,
    /// The component that it runs now.
    pub(super) component: Digest,
    /// The present voters.
    pub(super) voters: BTreeMap<Incarnation, PeerId>,
    /// The new peers of a change under way that this one withdraws.
    pub(super) withdrawn: Vec<(Incarnation, PeerId)>,
    /// Whether the peers are as they are to be.
    pub(super) is_done: bool,
    /// Keeps others from planning a change with this leader.
    pub(super) permit: Arc<()>,
}

/// A change whose new peers are there.
pub(super) struct PlannedChange {
    pub(super) leader: Incarnation,
    pub(super) term: Term,
    /// The set of peers that there must still be.
    pub(super) before: Configuration,
    /// The voters that there are to be.
    pub(super) voters: BTreeMap<Incarnation, PeerId>,
    pub(super) timeout_ms: u64,
}

/// The change of a cluster's peers that one of its peers was asked for: one at a time.
#[derive(Default)]
pub(super) struct ChangeUnderWay {
    /// Whose permit lives as long as somebody coordinates a change.
    permit: Weak<()>,
    waiting: Option<WaitingChange>,
}

/// A change that has begun, and who waits for its end.
struct WaitingChange {
    first_step: Index,
    target: BTreeSet<Incarnation>,
    deadline_ms: u64,
    reply: oneshot::Sender<Result<(), RequestError>>,
}

impl ChangeUnderWay {
    /// Whether somebody waits for the end of a change.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether somebody coordinates a change.
    pub(super) fn is_wanted(&self) -> bool {
        self.permit.strong_count() > 0
    }
}

impl HostedPeer {
    pub(super) fn membership(&self) -> Membership {
        let raft = self.replica.raft();
        let Configuration { voters, outgoing, learners, leaving } = raft.configuration();
        let without = |all: &BTreeMap<Incarnation, PeerId>, others: &BTreeMap<Incarnation, PeerId>| -> Vec<PeerId> {
            let kept = all.iter().filter(|(life, _)| !others.contains_key(life));
            kept.map(|(_, peer)| peer.clone()).collect()
        };
        let (mut joining, mut going) = (without(learners, voters), Vec::new());
        if raft.configuration().is_joint() {
            joining = without(voters, outgoing);
            going = without(outgoing, voters);
        }
        going.extend(leaving.iter().filter_map(|life| voters.get(life).cloned()));
        Membership {
            leader: self.record.peer.clone(),
            index: raft.configuration_index(),
            peers: sorted(voters.values().cloned().collect()),
            joining: sorted(joining),
            leaving: sorted(going),
        }
    }

    fn plan(&mut self, leader: Incarnation, change: &ChangeMembers) -> Result<Plan, ChangeRefusal> {
        let raft = self.replica.raft();
        let configuration = raft.configuration();
        if raft.committed().term < raft.term() {
            return Err(ChangeRefusal::NotStable);
        }
        let now = self.membership().peers;
        let is_withdrawn = configuration.is_waiting() && is_same(&change.new, &now);
        let is_in_progress = configuration.is_joint() || configuration.is_waiting() && !is_withdrawn;
        let is_uncertain = raft.committed().index < raft.configuration_index();
        if self.change.is_wanted() && !is_withdrawn || is_in_progress || is_uncertain {
            return Err(ChangeRefusal::InProgress);
        }
        let is_done = is_same(&change.new, &now) && !is_withdrawn;
        if !is_done && !is_same(&change.old, &now) {
            return Err(ChangeRefusal::PeersChanged { now });
        }
        let plan = Plan {
            leader,
            term: raft.term(),
            before: configuration.clone(),
            genesis: self.record.genesis.clone(),
            component: self.component(),
            voters: configuration.voters.clone(),
            withdrawn: configuration.learners.iter().map(|(life, peer)| (*life, peer.clone())).collect(),
            is_done,
            permit: Arc::new(()),
        };
        // Who withdraws a change needs no permit: it makes no peers.
        if !is_withdrawn && !is_done {
            self.change.permit = Arc::downgrade(&plan.permit);
        }
        Ok(plan)
    }

    /// What came of the change that somebody waits for, if that can be told.
    fn outcome(&self, change: &WaitingChange) -> Option<Result<(), ChangeRefusal>> {
        let raft = self.replica.raft();
        let (configuration, committed) = (raft.configuration(), raft.committed().index);
        // A first step that is not committed may still be replaced by another leader's entry, and that by it again.
        let is_over = configuration.is_settled() && committed >= change.first_step.max(raft.configuration_index());
        let is_done = || configuration.voters.keys().eq(&change.target);
        let overtaken = || ChangeRefusal::Overtaken { now: sorted(configuration.voters.values().cloned().collect()) };
        is_over.then(|| if is_done() { Ok(()) } else { Err(overtaken()) })
    }
}

impl Driver {
    /// The peers of a cluster, as its leader has them.
    pub(super) fn membership(&mut self, name: &str) -> Result<Membership, RequestError> {
        self.leader_named(name).map(|(_, peer)| peer.membership())
    }

    /// Whether the peers of a cluster may be changed, and what is needed for it.
    pub(super) fn plan_change(&mut self, name: &str, change: &ChangeMembers) -> Result<Plan, RequestError> {
        let (leader, peer) = self.leader_named(name)?;
        peer.plan(leader, change).map_err(RequestError::NotChanged)
    }

    pub(super) fn peer_named(&mut self, name: &str) -> Result<(Incarnation, &mut HostedPeer), RequestError> {
        let no_such_peer = || RequestError::NoSuchPeer { name: name.to_owned(), node: self.parts.node.clone() };
        let incarnation = *self.names.get(name).ok_or_else(no_such_peer)?;
        Ok((incarnation, self.peers.get_mut(&incarnation).ok_or_else(no_such_peer)?))
    }

    pub(super) fn leader_named(&mut self, name: &str) -> Result<(Incarnation, &mut HostedPeer), RequestError> {
        let (incarnation, peer) = self.peer_named(name)?;
        if let Some(reason) = &peer.stopped {
            return Err(RequestError::PeerStopped { reason: reason.clone() });
        }
        if !peer.replica.raft().is_leader() {
            return Err(RequestError::NotLeader { leader: peer.replica.leader() });
        }
        Ok((incarnation, peer))
    }

    /// Takes the first step of a change, if all is still as it was when it was planned. The answer comes at the end.
    pub(super) fn begin_change(&mut self, change: PlannedChange, reply: oneshot::Sender<Result<(), RequestError>>) {
        let PlannedChange { leader, term, before, voters, timeout_ms } = change;
        let now = self.now();
        let target = voters.keys().copied().collect();
        let begun = match self.running(leader) {
            None => Err(ChangeRefusal::LeaderChanged),
            Some(peer) if peer.replica.raft().term() != term => Err(ChangeRefusal::LeaderChanged),
            // Not by its place in the log, which moves when a snapshot takes the place of its entry.
            Some(peer) if *peer.replica.raft().configuration() != before => Err(ChangeRefusal::NewerExists),
            Some(peer) => peer.replica.change_members(voters, now).map_err(refusal),
        };
        match (begun, self.peers.get_mut(&leader)) {
            (Ok(first_step), Some(peer)) => {
                let deadline_ms = now.monotonic_ms.saturating_add(timeout_ms);
                // One that was withdrawn by this one is told so.
                let before = peer.change.waiting.replace(WaitingChange { first_step, target, deadline_ms, reply });
                if let Some(before) = before {
                    let overtaken = ChangeRefusal::Overtaken { now: peer.membership().peers };
                    let _ = before.reply.send(Err(RequestError::NotChanged(overtaken)));
                }
            }
            (Ok(_), None) => {}
            (Err(refusal), _) => drop(reply.send(Err(RequestError::NotChanged(refusal)))),
        }
    }

    /// Tells who waits for a change that it is over.
    pub(super) fn settle_change(&mut self, incarnation: Incarnation) {
        let Some(peer) = self.peers.get_mut(&incarnation) else { return };
        let Some(waiting) = peer.change.waiting.take() else { return };
        match peer.outcome(&waiting) {
            Some(outcome) => drop(waiting.reply.send(outcome.map_err(RequestError::NotChanged))),
            None => peer.change.waiting = Some(waiting),
        }
    }

    /// Tells those whose time is up.
    pub(super) fn tick_changes(&mut self, now_ms: u64) {
        for incarnation in &self.quiet.awake {
            let Some(peer) = self.peers.get_mut(incarnation) else { continue };
            let is_late = |waiting: &mut WaitingChange| waiting.deadline_ms <= now_ms;
            if let Some(waiting) = peer.change.waiting.take_if(is_late) {
                let _ = waiting.reply.send(Err(RequestError::NotChanged(ChangeRefusal::Unfinished)));
            }
        }
    }
}

fn refusal(error: MembershipError) -> ChangeRefusal {
    match error {
        MembershipError::NotLeader { .. } | MembershipError::Transferring => ChangeRefusal::LeaderChanged,
        MembershipError::InProgress => ChangeRefusal::InProgress,
        MembershipError::NotReady => ChangeRefusal::NotStable,
        MembershipError::Diverged => ChangeRefusal::Diverged,
        // The coordinator has seen to it that the change is one, and not too large.
        MembershipError::Same | MembershipError::TooMany(_) | MembershipError::Empty => ChangeRefusal::NewerExists,
    }
}

fn is_same(some: &[PeerId], sorted_others: &[PeerId]) -> bool {
    sorted(some.to_vec()) == sorted_others
}

fn sorted(mut peers: Vec<PeerId>) -> Vec<PeerId> {
    peers.sort();
    peers
}

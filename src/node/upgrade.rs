//! How a cluster is moved to another backend, and how a node gets a component that it lacks.
//!
//! The leader's node coordinates. It has the node of every member take in the component, compile it and try it, as for a new
//! cluster. Who answers must be able to run it; who cannot be reached may get it later. Only if a quorum has it does the leader
//! propose the entry that moves all replicas (`replica/upgrades.rs`).
//!
//! A node that meets such an entry without the component asks the other members for it, as does one that has been sent a
//! snapshot of a backend that it does not have. Whoever has it hands it over in the way in which it got it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::feature_level::FeatureLevel;
use crate::machine::Genesis;
use crate::node::driver::{Driver, Event};
use crate::node::frames::{BulkRequest, PeerFrame};
use crate::node::host::{HostJob, Lack};
use crate::node::hosting::HostedPeer;
use crate::node::lifecycle::{Lifecycle, check_announced, shorten_reason};
use crate::node::network::{CallError, call};
use crate::node::waiting::Asked;
use crate::protocol::{PeerFailure, Reply, RequestError, UpgradeCluster, UpgradeRefusal};
use crate::raft::Upgrade;
use crate::replica::Answer;
use crate::types::{Digest, Incarnation, LogPosition, NodeAddr, PeerId};

/// How long a node waits before it asks all others again for a component that none could give.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a leader may take to hear what its peers support.
const LEVEL_IS_KNOWN_AFTER: Duration = Duration::from_secs(2);
/// How often a leader is asked that has yet to learn what an upgrade begins with.
const ASK_LEADER_EVERY: Duration = Duration::from_millis(50);

/// Components that are looked for at a time: where many peers lack the same one, most find it here when it is their turn.
pub(super) const MAX_SOUGHT: usize = 4;

/// What the loop hears of upgrades and components.
pub(super) enum UpgradeEvent {
    /// May a cluster be moved to another backend?
    Plan { peer: String, reply: oneshot::Sender<Result<UpgradePlan, RequestError>> },
    /// Move a cluster to another backend.
    Begin { begin: BeginUpgrade, reply: oneshot::Sender<Reply> },
    /// A component is coming: it is to be kept for a while, though no peer runs it.
    Keep { component: Digest, reply: oneshot::Sender<()> },
    /// A component is here, compiled.
    Ready { component: Digest },
    /// A component that a peer waits for could not be had.
    NotFound { incarnation: Incarnation, component: Digest },
    /// The backend of a snapshot that was received is here.
    SnapshotUsable { from: NodeAddr, frame: PeerFrame, component: Digest },
}

/// What the coordinator of an upgrade must know.
pub(super) struct UpgradePlan {
    /// What the cluster was created with, and the component that it runs now.
    pub(super) genesis: Genesis,
    /// The leader.
    leader: PeerId,
    /// All members, the leader among them.
    members: Vec<(Incarnation, PeerId)>,
}

/// An upgrade whose component is where it could be brought.
pub(super) struct BeginUpgrade {
    peer: String,
    upgrade: Upgrade,
    /// The members that have it.
    ready: BTreeSet<Incarnation>,
    /// Why the others do not.
    failures: Vec<PeerFailure>,
    timeout_ms: u64,
}

impl Lifecycle {
    /// Asks the loop what an upgrade needs to know; an error tells that nothing else need be asked. A cluster that is new, or
    /// whose leader is, may be about to hear that all its peers support upgrades, or what the cluster runs.
    pub(super) async fn plan_upgrade(&self, peer: &str, timeout_ms: u64) -> Result<UpgradePlan, RequestError> {
        let (begun, timeout) = (Instant::now(), Duration::from_millis(timeout_ms));
        loop {
            let peer = peer.to_owned();
            let planned = self.ask(|reply| Event::Upgrade(UpgradeEvent::Plan { peer, reply })).await;
            let planned = planned.map_err(|_| RequestError::Stopping)?;
            let patience = match &planned {
                Err(RequestError::NotUpgraded(UpgradeRefusal::NotYet { .. })) => LEVEL_IS_KNOWN_AFTER.min(timeout),
                Err(RequestError::Overloaded) => timeout,
                _ => return planned,
            };
            if begun.elapsed() >= patience {
                return planned;
            }
            tokio::time::sleep(ASK_LEADER_EVERY).await;
        }
    }

    /// Moves the cluster of a peer on this node to another backend.
    pub(super) async fn upgrade(
        &self,
        plan: UpgradePlan,
        to: UpgradeCluster,
        component: Bytes,
        timeout_ms: u64,
    ) -> Result<Reply, RequestError> {
        check_announced(&component, to.component)?;
        let (peer, from) = (plan.leader.name().to_owned(), plan.genesis.component);
        if from == to.component {
            return self.confirm_leads(peer, timeout_ms).await.map(|()| Reply::Upgraded { index: None });
        }
        tracing::info!(peer = %plan.leader, component = %to.component, "brings a component to the nodes of a cluster");
        let (ready, failures) = self.distribute(&plan, to.component, component).await?;
        let upgrade = Upgrade { from, to: to.component, migration: to.migration };
        let begin = BeginUpgrade { peer, upgrade, ready, failures, timeout_ms };
        let begun = self.ask(|reply| Event::Upgrade(UpgradeEvent::Begin { begin, reply })).await;
        // Where the loop has gone, nobody knows how far it came.
        Ok(match begun.unwrap_or(Reply::Failed(RequestError::Unknown)) {
            // Somebody else has moved it there meanwhile, or he who asks, before he lost his answer.
            Reply::Failed(RequestError::NotUpgraded(UpgradeRefusal::Changed { now })) if now == to.component => {
                Reply::Upgraded { index: None }
            }
            reply => reply,
        })
    }

    /// Waits until it is known that a peer led its cluster when this was asked: what it knew of it then was true.
    async fn confirm_leads(&self, peer: String, timeout_ms: u64) -> Result<(), RequestError> {
        let asked = self.ask(|reply| Event::Access { peer, client: None, timeout_ms, reply }).await;
        match asked.map_err(|_| RequestError::Stopping)? {
            Reply::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Brings a component to the nodes of all members. Returns who has it, and who cannot be reached; somebody who cannot run it
    /// is an error.
    async fn distribute(
        &self,
        plan: &UpgradePlan,
        to: Digest,
        component: Bytes,
    ) -> Result<(BTreeSet<Incarnation>, Vec<PeerFailure>), RequestError> {
        let genesis = Genesis { component: to, ..plan.genesis.clone() };
        let refused = |failures| Err(RequestError::NotUpgraded(UpgradeRefusal::NotDistributed(failures)));
        // What this node cannot run need not travel.
        if let Err(error) = self.take_component(genesis.clone(), component.clone()).await {
            return refused(vec![failure(&plan.leader, &error)]);
        }
        let mut calls = JoinSet::new();
        for node in plan.members.iter().map(|(_, peer)| peer.node().clone()).collect::<BTreeSet<_>>() {
            let (this, genesis, component) = (self.clone(), genesis.clone(), component.clone());
            calls.spawn(async move {
                let is_here = node == this.node;
                let taken = if is_here { Ok(()) } else { this.hand_over(&node, genesis, component).await };
                (node, taken)
            });
        }
        let (mut ready, mut unreachable, mut unable) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (node, taken) in calls.join_all().await {
            for (life, peer) in plan.members.iter().filter(|(_, peer)| *peer.node() == node) {
                match &taken {
                    Ok(()) => drop(ready.insert(*life)),
                    Err(error @ (CallError::Connect(_) | CallError::Bulk(_))) => unreachable.push(failure(peer, error)),
                    Err(error) => unable.push(failure(peer, error)),
                }
            }
        }
        if unable.is_empty() { Ok((ready, unreachable)) } else { refused(unable) }
    }

    async fn hand_over(&self, node: &NodeAddr, genesis: Genesis, component: Bytes) -> Result<(), CallError> {
        call(&self.endpoint, node, &BulkRequest::Component(genesis), component).await
    }

    /// Takes in a component that a cluster is to move to, or has moved to.
    pub(super) async fn take_component(&self, genesis: Genesis, bytes: Bytes) -> Result<(), CallError> {
        let component = genesis.component;
        self.ask(|reply| Event::Upgrade(UpgradeEvent::Keep { component, reply })).await?;
        self.prepare_backend(genesis, bytes).await.map_err(CallError::Refused)?;
        self.tell(UpgradeEvent::Ready { component }).await;
        Ok(())
    }

    /// Hands a component to a node that asks for it, if it is here.
    pub(super) async fn give_component(&self, genesis: Genesis, to: &NodeAddr) -> Result<(), CallError> {
        let (backends, component) = (Arc::clone(&self.backends), genesis.component);
        let read = tokio::task::spawn_blocking(move || backends.bytes(component)).await;
        let bytes = read.map_err(|_| CallError::Refused("the node failed at its files".to_owned()))??;
        self.hand_over(to, genesis, bytes).await
    }

    /// Gets a component from the node's own files, or from one of the others. Tells whether it is here then, compiled.
    async fn obtain(&self, genesis: &Genesis, others: &[NodeAddr]) -> bool {
        if self.backends.is_loaded(genesis.component) {
            return true;
        }
        let _turn = self.seeking.acquire().await.expect("the semaphore is never closed");
        if self.load(genesis).await {
            return true;
        }
        for node in others.iter().filter(|node| **node != self.node) {
            tracing::info!(%node, component = %genesis.component, "asks for a component that is missing here");
            match call(&self.endpoint, node, &BulkRequest::WantComponent(genesis.clone()), Bytes::new()).await {
                // Whatever it says: what counts is what is here.
                Ok(()) if self.load(genesis).await => return true,
                Ok(()) => {
                    tracing::warn!(%node, component = %genesis.component, "a component was said to be sent, and is not here")
                }
                Err(error) => tracing::warn!(%node, component = %genesis.component, %error, "did not get a component"),
            }
        }
        false
    }

    /// Loads a component that is kept here. It may have to be compiled again.
    async fn load(&self, genesis: &Genesis) -> bool {
        let (backends, genesis) = (Arc::clone(&self.backends), genesis.clone());
        tokio::task::spawn_blocking(move || backends.load(&genesis).is_ok()).await.unwrap_or(false)
    }

    async fn tell(&self, event: UpgradeEvent) {
        // The loop has ended if it takes no more events.
        let _ = self.events.send(Event::Upgrade(event)).await;
    }
}

pub(super) fn failure(peer: &PeerId, error: &CallError) -> PeerFailure {
    PeerFailure { peer: peer.clone(), reason: shorten_reason(&error.to_string()) }
}

impl HostedPeer {
    /// The component that the peer's machine runs.
    pub(super) fn component(&self) -> Digest {
        self.replica.moved_to().unwrap_or(self.base)
    }

    /// The components that the peer's files need, or may need: what it was created with, what its machine has run since the
    /// node was started, and what its log moves to.
    pub(super) fn components(&self) -> impl Iterator<Item = Digest> + '_ {
        let moved_to = self.replica.raft().upgrades().iter().map(|(_, component)| *component);
        [self.record.genesis.component, self.base].into_iter().chain(self.kept.iter().copied()).chain(moved_to)
    }

    /// Whether the peer has no machine for want of this component.
    fn is_lacking(&self, component: Digest) -> bool {
        self.lacking.as_ref().is_some_and(|lack| lack.component == component)
    }

    /// What a backend of this cluster with that component is made from.
    pub(super) fn genesis_with(&self, component: Digest) -> Genesis {
        Genesis { component, ..self.record.genesis.clone() }
    }

    /// The nodes of all others.
    fn other_nodes(&self) -> Vec<NodeAddr> {
        let members = self.replica.raft().configuration().members();
        let nodes: BTreeSet<_> = members.iter().filter_map(|life| self.node_of(*life)).collect();
        nodes.into_iter().cloned().collect()
    }
}

impl Driver {
    pub(super) fn upgrade_event(&mut self, event: UpgradeEvent) {
        match event {
            UpgradeEvent::Plan { peer, reply } => drop(reply.send(self.plan_upgrade(&peer))),
            UpgradeEvent::Begin { begin, reply } => self.begin_upgrade(begin, reply),
            UpgradeEvent::Keep { component, reply } => {
                let now_ms = self.now().monotonic_ms;
                self.reservations.keep(component, now_ms);
                let _ = reply.send(());
            }
            UpgradeEvent::Ready { component } => {
                for (incarnation, peer) in &mut self.peers {
                    peer.replica.component_ready(component);
                    self.touched.insert(*incarnation);
                    if peer.is_lacking(component) {
                        self.parts.guests.give(*incarnation, HostJob::TryAgain);
                    }
                }
            }
            UpgradeEvent::NotFound { incarnation, component } => self.component_not_found(incarnation, component),
            UpgradeEvent::SnapshotUsable { from, frame, component } => {
                if let Some(peer) = self.peers.get_mut(&frame.message.envelope.to) {
                    peer.kept.insert(component);
                }
                self.step(&from, frame);
            }
        }
    }

    fn plan_upgrade(&mut self, name: &str) -> Result<UpgradePlan, RequestError> {
        let (_, peer) = self.leader_named(name)?;
        if !peer.replica.knows_component() {
            return Err(RequestError::Overloaded);
        }
        peer.replica.check_level(FeatureLevel::UPGRADES).map_err(RequestError::NotUpgraded)?;
        let raft = peer.replica.raft();
        let members = raft.configuration().members().into_iter();
        let members = members.filter_map(|life| Some((life, raft.address(life)?.clone()))).collect();
        let genesis = peer.genesis_with(peer.component());
        Ok(UpgradePlan { genesis, leader: peer.record.peer.clone(), members })
    }

    fn begin_upgrade(&mut self, begin: BeginUpgrade, reply: oneshot::Sender<Reply>) {
        let BeginUpgrade { peer, upgrade, ready, failures, timeout_ms } = begin;
        let now = self.now();
        let Some((ticket, peer)) = self.admit(&peer, Asked::Upgrade, reply) else { return };
        let configuration = peer.replica.raft().configuration();
        if configuration.has_quorum(|voter| ready.contains(&voter)) {
            let component = upgrade.to;
            peer.replica.upgrade(ticket, upgrade, now.monotonic_ms.saturating_add(timeout_ms), now);
            if let Some(entry) = peer.replica.place_of_write(ticket) {
                tracing::info!(peer = %peer.record.peer, %entry, %component, "proposed to go on with another backend");
            }
            return;
        }
        let error = RequestError::NotUpgraded(UpgradeRefusal::NotDistributed(failures));
        self.answer(Answer { ticket, result: Err(error) });
    }

    /// The machine of a peer cannot be made, since the file of its component is missing here, or damaged. Others may have it.
    pub(super) fn lacks(&mut self, incarnation: Incarnation, lack: Lack) {
        let Some(peer) = self.running(incarnation) else { return };
        let component = lack.component;
        tracing::error!(peer = %peer.record.peer, %component, reason = lack.reason,
            "the machine of the peer waits for a component; the other nodes are asked for it");
        let is_first = peer.lacking.replace(lack).is_none();
        self.seek(incarnation, component, if is_first { Duration::ZERO } else { ASK_AGAIN_AFTER });
    }

    fn component_not_found(&mut self, incarnation: Incarnation, component: Digest) {
        let Some(peer) = self.running(incarnation) else { return };
        let is_lacking = peer.is_lacking(component);
        if !is_lacking && !peer.replica.raft().upgrades().iter().any(|(_, needed)| *needed == component) {
            return;
        }
        tracing::error!(peer = %peer.record.peer, %component,
            "the peer cannot go on without a component that no other node could give; it asks again");
        if is_lacking {
            peer.replica.machine_missing(component);
        } else {
            peer.replica.component_missing(component);
        }
        self.seek(incarnation, component, ASK_AGAIN_AFTER);
    }

    /// Gets a component that a peer waits for. How that went is heard as an event.
    pub(super) fn seek(&self, incarnation: Incarnation, component: Digest, after: Duration) {
        let Some(peer) = self.peers.get(&incarnation) else { return };
        let (lifecycle, genesis) = (self.parts.lifecycle.clone(), peer.genesis_with(component));
        let others = peer.other_nodes();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let event = match lifecycle.obtain(&genesis, &others).await {
                true => UpgradeEvent::Ready { component },
                false => UpgradeEvent::NotFound { incarnation, component },
            };
            lifecycle.tell(event).await;
        });
    }

    /// A snapshot has come whose backend may be missing here: its message waits for that.
    pub(super) fn receive_snapshot(&self, from: NodeAddr, frame: PeerFrame, position: LogPosition) {
        let incarnation = frame.message.envelope.to;
        let Some(peer) = self.peers.get(&incarnation) else { return };
        let (lifecycle, genesis, snapshots) =
            (self.parts.lifecycle.clone(), peer.record.genesis.clone(), self.parts.store.snapshots());
        let others: Vec<_> = std::iter::once(from.clone()).chain(peer.other_nodes()).collect();
        tokio::spawn(async move {
            let open = move || snapshots.open(incarnation, position).map(|reader| reader.header().backend);
            let Ok(Ok(component)) = tokio::task::spawn_blocking(open).await else {
                tracing::error!(peer = %incarnation, %position, "a snapshot that was received cannot be opened");
                return;
            };
            let genesis = Genesis { component, ..genesis };
            if lifecycle.obtain(&genesis, &others).await {
                lifecycle.tell(UpgradeEvent::SnapshotUsable { from, frame, component }).await;
            } else {
                tracing::error!(peer = %incarnation, %position, %component,
                    "a snapshot was received and its backend is nowhere to be had; another will be sent");
            }
        });
    }
}

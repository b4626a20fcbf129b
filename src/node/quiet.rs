//! Clusters that nobody uses: which peers of this node sleep, and which other nodes must be there so that they may.
//!
//! A replica that sleeps notices nothing (`raft::quiesce`), so this node and those that share such a cluster with it tell each
//! other that they are there: one small frame now and then for each pair of nodes, however many clusters sleep. From a node of
//! which nothing is heard for [`LOST_TICKS`], and from one whose process is another than before, the replicas that it leads may
//! be gone: theirs wake here, and run after a random time as they would without a heartbeat.
//!
//! A machine whose replica has slept for long is dropped, and made again when it is needed.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::driver::Driver;
use crate::node::frames::NodeFrame;
use crate::node::host::HostJob;
use crate::node::hosting::HostedPeer;
use crate::types::{Incarnation, NodeAddr, PeerId};

/// Ticks between two frames that say no more than that this node is there: half an election timeout.
const ALIVE_TICKS: u32 = super::ELECTION_TICKS / 2;
/// Ticks after which a node of which nothing was heard counts as lost. Two such frames may be late.
const LOST_TICKS: u32 = 3 * ALIVE_TICKS;
/// Ticks between two looks at who has slept for long, and whom this node has to do with.
const TIDY_TICKS: u32 = 2 * super::ELECTION_TICKS;
/// Machines that are dropped at a time, so that snapshots which are made first do not come all at once.
const MAX_DROPPED_AT_ONCE: usize = 64;

/// Who sleeps here.
pub(super) struct Quiet {
    /// Peers that need ticks: all but those that sleep.
    pub(super) awake: BTreeSet<Incarnation>,
    /// Since when the others sleep, in milliseconds.
    asleep: BTreeMap<Incarnation, u64>,
    /// The nodes that share a cluster with one that sleeps.
    neighbours: BTreeMap<NodeAddr, Neighbour>,
    /// Names this process.
    life: u64,
    /// How long a peer sleeps before its machine is dropped; none if that is never.
    drop_after_ms: Option<u64>,
    ticks: u32,
}

/// What is known of another node.
#[derive(Default)]
struct Neighbour {
    silent_ticks: u32,
    is_lost: bool,
    life: Option<u64>,
}

impl Quiet {
    pub(super) fn new(life: u64, drop_after_ms: Option<u64>) -> Self {
        let (awake, asleep, neighbours) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { awake, asleep, neighbours, life, drop_after_ms, ticks: 0 }
    }

    /// A peer has come. It is awake.
    pub(super) fn add(&mut self, incarnation: Incarnation) {
        self.awake.insert(incarnation);
    }

    /// A peer has gone.
    pub(super) fn remove(&mut self, incarnation: Incarnation) {
        self.awake.remove(&incarnation);
        self.asleep.remove(&incarnation);
    }

    /// Something was heard of a node.
    pub(super) fn heard(&mut self, node: &NodeAddr) {
        if let Some(neighbour) = self.neighbours.get_mut(node) {
            (neighbour.silent_ticks, neighbour.is_lost) = (0, false);
        }
    }

    fn is_here(&self, node: &NodeAddr) -> bool {
        self.neighbours.get(node).is_none_or(|neighbour| !neighbour.is_lost)
    }

    /// A tick has passed. Returns the nodes that are lost since.
    fn tick(&mut self) -> Vec<NodeAddr> {
        self.ticks = self.ticks.wrapping_add(1);
        let mut lost = Vec::new();
        for (node, neighbour) in &mut self.neighbours {
            neighbour.silent_ticks = neighbour.silent_ticks.saturating_add(1);
            if neighbour.silent_ticks >= LOST_TICKS && !std::mem::replace(&mut neighbour.is_lost, true) {
                lost.push(node.clone());
            }
        }
        lost
    }
}

impl HostedPeer {
    /// The nodes of the others.
    fn neighbours<'a>(&'a self, node: &'a NodeAddr) -> impl Iterator<Item = &'a NodeAddr> {
        let configuration = self.replica.raft().configuration();
        let all = configuration.voters.values().chain(configuration.learners.values()).map(PeerId::node);
        all.filter(move |other| *other != node)
    }

    fn is_asleep(&self) -> bool {
        self.stopped.is_none() && self.transfer.is_none() && self.replica.is_asleep() && !self.change.is_waited_for()
    }
}

impl Driver {
    /// Takes note of whether a peer sleeps, after something has happened to it.
    pub(super) fn note_sleep(&mut self, incarnation: Incarnation) {
        let Some(peer) = self.peers.get(&incarnation) else { return };
        let is_asleep = peer.is_asleep();
        if is_asleep == self.quiet.asleep.contains_key(&incarnation) {
            return;
        }
        if !is_asleep {
            self.quiet.asleep.remove(&incarnation);
            self.quiet.awake.insert(incarnation);
            return;
        }
        for node in peer.neighbours(&self.parts.node) {
            if !self.quiet.neighbours.contains_key(node) {
                self.quiet.neighbours.insert(node.clone(), Neighbour::default());
            }
        }
        let now_ms = self.now().monotonic_ms;
        self.quiet.awake.remove(&incarnation);
        self.quiet.asleep.insert(incarnation, now_ms);
    }

    /// Time passes for those that sleep.
    pub(super) fn tick_quiet(&mut self) {
        for node in self.quiet.tick() {
            tracing::warn!(%node, "nothing is heard of the node: clusters that sleep and may have lost their leader are woken");
            self.lose_node(&node);
        }
        if self.quiet.ticks.is_multiple_of(ALIVE_TICKS) {
            let is_disk_full = self.full_disks.contains(&self.parts.node);
            let frame = NodeFrame::Alive { life: self.quiet.life, is_disk_full };
            for node in self.quiet.neighbours.keys() {
                self.parts.network.send(node, true, &frame);
            }
        }
        if self.quiet.ticks.is_multiple_of(TIDY_TICKS) {
            self.forget_strange_neighbours();
            self.drop_machines();
        }
    }

    /// Another node says that it is there.
    pub(super) fn alive(&mut self, from: &NodeAddr, life: u64, is_disk_full: bool) {
        let Some(neighbour) = self.quiet.neighbours.get_mut(from) else { return };
        let before = neighbour.life.replace(life);
        self.quiet.heard(from);
        self.full_disks.told(from, is_disk_full);
        if before.is_some_and(|before| before != life) {
            tracing::info!(node = %from, "the node was restarted: clusters that sleep and that it led are woken");
            self.lose_node(from);
        }
    }

    /// Wakes those that may have lost their leader with a node, and those whose leader is here and may have lost its quorum.
    fn lose_node(&mut self, node: &NodeAddr) {
        for incarnation in self.quiet.asleep.keys() {
            let Some(peer) = self.peers.get_mut(incarnation) else { continue };
            let raft = peer.replica.raft();
            let is_here = |voter| raft.address(voter).is_none_or(|peer| self.quiet.is_here(peer.node()));
            if raft.is_leader() {
                if raft.configuration().has_quorum(is_here) {
                    continue;
                }
                peer.replica.stir();
            } else if raft.leader().and_then(|leader| raft.address(leader)).is_none_or(|leader| leader.node() == node) {
                peer.replica.suspect_leader();
            } else {
                continue;
            }
            self.touched.insert(*incarnation);
        }
    }

    /// Wakes those that lead here and sleep.
    pub(super) fn stir_leaders(&mut self) {
        for incarnation in self.quiet.asleep.keys() {
            if let Some(peer) = self.peers.get_mut(incarnation).filter(|peer| peer.replica.raft().is_leader()) {
                peer.replica.stir();
                self.touched.insert(*incarnation);
            }
        }
    }

    fn forget_strange_neighbours(&mut self) {
        let sleeping = self.quiet.asleep.keys().filter_map(|incarnation| self.peers.get(incarnation));
        let shared: BTreeSet<&NodeAddr> = sleeping.flat_map(|peer| peer.neighbours(&self.parts.node)).collect();
        self.quiet.neighbours.retain(|node, _| shared.contains(node));
    }

    /// Drops machines that nobody has needed for long.
    fn drop_machines(&mut self) {
        let Some(drop_after_ms) = self.quiet.drop_after_ms else { return };
        let now_ms = self.now().monotonic_ms;
        let is_long = |since_ms: u64| now_ms.saturating_sub(since_ms) >= drop_after_ms;
        let long = self.quiet.asleep.iter().filter(|(_, since_ms)| is_long(**since_ms)).map(|(peer, _)| *peer);
        let mut left = MAX_DROPPED_AT_ONCE;
        for incarnation in long {
            let Some(peer) = self.peers.get_mut(&incarnation).filter(|peer| peer.has_machine) else { continue };
            if left == 0 {
                return;
            }
            left -= 1;
            if peer.replica.may_machine_rest() {
                peer.has_machine = false;
                self.parts.guests.give(incarnation, HostJob::Rest);
            } else {
                // It may want a snapshot first.
                self.touched.insert(incarnation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeAddr {
        format!("h{number}:7400").parse().unwrap()
    }

    #[test]
    fn a_node_is_lost_once_when_nothing_is_heard_of_it_for_long() {
        let mut quiet = Quiet::new(1, None);
        quiet.neighbours = [node(1), node(2)].map(|node| (node, Neighbour::default())).into();
        for _ in 1..LOST_TICKS {
            assert_eq!(quiet.tick(), []);
            quiet.heard(&node(2));
        }
        assert_eq!(quiet.tick(), [node(1)]);
        assert_eq!([quiet.is_here(&node(1)), quiet.is_here(&node(2)), quiet.is_here(&node(3))], [false, true, true]);
        assert_eq!(quiet.tick(), [], "it is known");
        quiet.heard(&node(1));
        assert!(quiet.is_here(&node(1)));
        let lost: Vec<_> = (0..LOST_TICKS).flat_map(|_| quiet.tick()).collect();
        assert_eq!(lost, [node(2), node(1)], "and it may be lost again");
    }
}

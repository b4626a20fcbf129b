//! Room on the disks: when writes are refused, and who leads then.
//!
//! A disk counts as full while some room is left on it, so that what was already taken, votes and changes of the set of
//! peers still fit: the cluster keeps a leader and serves reads. Every message between nodes tells whether the sender's
//! disk is full. A leader thus knows whether a quorum could keep a write; if not, the write is refused before anything
//! is changed. If a quorum could, but the leader's own disk is full, a voter with room is to lead.
//!
//! Should a disk run out of room all the same, the store waits for some, and consensus sees a slow disk.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::node::driver::Event;
use crate::raft::{Configuration, Raft};
use crate::store::{DiskSpace, Store};
use crate::types::{Incarnation, NodeAddr, PeerId};

/// How often the room on the disk is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Tells the loop when the disk becomes full, and when it has room again, until the loop has ended.
///
/// It is full with less than `min_free_bytes` left, or with less left than a write needs. It has room again with a
/// quarter more than that: what is refused and what is not should not change with every write.
pub(super) async fn watch(store: Store, min_free_bytes: u64, events: mpsc::Sender<Event>) {
    let mut checks = tokio::time::interval(CHECK_INTERVAL);
    let mut was_full = false;
    loop {
        checks.tick().await;
        let looking = store.clone();
        let is_full = match tokio::task::spawn_blocking(move || looking.space()).await {
            Ok(Ok(space)) => is_full(space, min_free_bytes, was_full),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot tell how much room is left");
                continue;
            }
            Err(_) => return,
        };
        if is_full != was_full && events.send(Event::DiskFull(is_full)).await.is_err() {
            return;
        }
        was_full = is_full;
    }
}

fn is_full(space: DiskSpace, min_free_bytes: u64, was_full: bool) -> bool {
    let wanted_bytes = if was_full { min_free_bytes.saturating_add(min_free_bytes / 4) } else { min_free_bytes };
    space.is_exhausted || space.free_bytes < wanted_bytes
}

/// Which nodes have said that their disk is full, this one included.
#[derive(Debug, Default)]
pub(super) struct FullDisks {
    nodes: BTreeSet<NodeAddr>,
}

impl FullDisks {
    /// Takes in what a node says of its disk. Only nodes that are known to share a cluster with this one are listened
    /// to, which bounds the set.
    pub(super) fn told(&mut self, node: &NodeAddr, is_full: bool) {
        if !is_full {
            self.nodes.remove(node);
        } else if !self.nodes.contains(node) {
            self.nodes.insert(node.clone());
        }
    }

    /// Whether every disk has room, as far as known.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the disk of a node is full, as far as known.
    pub(super) fn contains(&self, node: &NodeAddr) -> bool {
        self.nodes.contains(node)
    }

    /// Where no quorum has room: the voters' nodes that have none.
    pub(super) fn shortage(&self, configuration: &Configuration) -> Option<Vec<NodeAddr>> {
        let has_room = |voter| configuration.address(voter).is_none_or(|peer| !self.contains(peer.node()));
        if configuration.has_quorum(has_room) {
            return None;
        }
        let voters = configuration.all_voters();
        let nodes = voters.iter().filter_map(|voter| configuration.address(*voter)).map(PeerId::node);
        let full: BTreeSet<_> = nodes.filter(|node| self.contains(node)).cloned().collect();
        Some(full.into_iter().collect())
    }

    /// The voter with room that has most of the log of this leader, if writes could go on there and not here.
    pub(super) fn successor(&self, node: &NodeAddr, raft: &Raft) -> Option<Incarnation> {
        let configuration = raft.configuration();
        if !raft.is_leader() || !self.contains(node) || self.shortage(configuration).is_some() {
            return None;
        }
        let has_room = |peer: &Incarnation| configuration.voters.get(peer).is_some_and(|it| !self.contains(it.node()));
        let followers = raft.status().followers;
        let fit = followers.iter().filter(|follower| has_room(&follower.id));
        fit.max_by_key(|follower| follower.matched).map(|follower| follower.id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn node(number: u64) -> NodeAddr {
        format!("h{number}:7400").parse().unwrap()
    }

    fn voters(numbers: impl IntoIterator<Item = u64>) -> BTreeMap<Incarnation, PeerId> {
        let peer = |number| (Incarnation(number), format!("kv@h{number}:7400").parse().unwrap());
        numbers.into_iter().map(peer).collect()
    }

    fn full(numbers: impl IntoIterator<Item = u64>) -> FullDisks {
        FullDisks { nodes: numbers.into_iter().map(node).collect() }
    }

    #[test]
    fn a_disk_is_full_early_and_has_room_again_late() {
        let left = |free_bytes| DiskSpace { free_bytes, is_exhausted: false };
        assert_eq!([is_full(left(99), 100, false), is_full(left(100), 100, false)], [true, false]);
        assert_eq!([is_full(left(124), 100, true), is_full(left(125), 100, true)], [true, false]);
        assert!(is_full(DiskSpace { free_bytes: 1000, is_exhausted: true }, 100, false));
    }

    #[test]
    fn writes_are_refused_where_no_quorum_has_room() {
        let configuration = Configuration::of(voters(1..=3));
        assert_eq!(full([]).shortage(&configuration), None);
        assert_eq!(full([2]).shortage(&configuration), None);
        assert_eq!(full([1, 3, 9]).shortage(&configuration), Some(vec![node(1), node(3)]));
        let joint = Configuration { outgoing: voters([3, 4, 5]), ..configuration };
        assert_eq!(full([3]).shortage(&joint), None);
        assert_eq!(full([4, 5]).shortage(&joint), Some(vec![node(4), node(5)]), "each set needs a majority");
    }

    #[test]
    fn what_a_node_says_last_counts() {
        let mut disks = full([1]);
        disks.told(&node(2), true);
        disks.told(&node(1), false);
        assert_eq!([disks.contains(&node(1)), disks.contains(&node(2))], [false, true]);
    }
}

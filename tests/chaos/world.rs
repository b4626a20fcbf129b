//! All that a fault can be done to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use rand::Rng as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::admin::Admin;
use crate::net::Network;
use crate::nodes::Nodes;
use crate::scratch::Scratch;

/// A cluster that the workloads use.
pub struct Cluster {
    /// The name of its peers.
    pub name: String,
    /// The builds of its backend that it may be moved to and fro between.
    pub builds: Vec<Bytes>,
}

/// The nodes, their network and what runs on them.
pub struct World {
    /// Before the network, since they are in it: fields go in this order.
    pub nodes: Nodes,
    pub network: Network,
    pub admin: Admin,
    pub clusters: Vec<Cluster>,
    /// The nodes that a fault has for itself.
    claims: Rc<RefCell<BTreeSet<usize>>>,
    /// The nodes whose files were damaged: their peers may find themselves in quarantine.
    damaged: RefCell<BTreeSet<usize>>,
    /// Holds the nodes' disks, so it goes last.
    _scratch: Scratch,
}

/// A node that a fault has for itself, until this is dropped.
pub struct Claim {
    claims: Rc<RefCell<BTreeSet<usize>>>,
    /// The node.
    pub node: usize,
}

impl World {
    /// Brings all together.
    pub fn new(nodes: Nodes, network: Network, admin: Admin, clusters: Vec<Cluster>, scratch: Scratch) -> Self {
        Self { nodes, network, admin, clusters, claims: Rc::default(), damaged: RefCell::default(), _scratch: scratch }
    }

    /// One of the clusters.
    pub fn some_cluster(&self, random: &mut ChaCha8Rng) -> &Cluster {
        self.clusters.choose(random).expect("there is a cluster")
    }

    /// The one whose log has grown most, so that its next snapshot is likely to come first.
    pub async fn busiest_cluster(&self) -> &str {
        let (mut busiest, mut most) = (self.clusters[0].name.as_str(), 0);
        for cluster in &self.clusters {
            let leader = self.admin.leader(&cluster.name).await.map_or(0, |(node, _)| node);
            let last = self.admin.peer(&cluster.name, leader).await.map_or(0, |peer| peer.last.0);
            if last > most {
                (busiest, most) = (&cluster.name, last);
            }
        }
        busiest
    }

    /// Takes a node for a fault, unless another has it.
    pub fn claim(&self, node: usize) -> Option<Claim> {
        self.claims.borrow_mut().insert(node).then(|| Claim { claims: Rc::clone(&self.claims), node })
    }

    /// Takes some node that no fault has.
    pub fn claim_any(&self, random: &mut ChaCha8Rng) -> Option<Claim> {
        let first = random.random_range(0..self.nodes.count());
        (0..self.nodes.count()).find_map(|step| self.claim((first + step) % self.nodes.count()))
    }

    /// Takes some node that a cluster has a peer on.
    pub async fn claim_member(&self, random: &mut ChaCha8Rng) -> Result<Option<Claim>, String> {
        let mut members = self.admin.members(&self.some_cluster(random).name).await?;
        members.shuffle(random);
        Ok(members.into_iter().find_map(|node| self.claim(node)))
    }

    /// Takes the leader of some cluster, or some node if another fault has that: three times of four, and else any.
    pub async fn claim_leader_or_any(&self, random: &mut ChaCha8Rng) -> Option<Claim> {
        if random.random_bool(0.75)
            && let Some((node, _)) = self.admin.leader(&self.some_cluster(random).name).await
            && let Some(claim) = self.claim(node)
        {
            return Some(claim);
        }
        self.claim_any(random)
    }

    /// Notes that a node's files were damaged.
    pub fn was_damaged(&self, node: usize) {
        self.damaged.borrow_mut().insert(node);
    }

    /// The nodes whose files were damaged.
    pub fn damaged(&self) -> BTreeSet<usize> {
        self.damaged.borrow().clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.borrow_mut().remove(&self.node);
    }
}

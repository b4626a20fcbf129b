//! What the harness asks of the nodes as their operator, and has them do.

use std::time::Duration;

use zraft::client::{Client, MembershipError};
use zraft::protocol::{NodeStatus, PeerStatus};
use zraft::transport::{Credentials, TlsFiles};
use zraft::types::{NodeAddr, PeerId, RoleName};

/// How long anything may take before it is taken for broken; faults beside it may hold it up.
pub const PATIENCE: Duration = Duration::from_secs(90);
const STATUS_TIMEOUT: Duration = Duration::from_millis(1500);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(100);

/// An operator of all nodes.
pub struct Admin {
    client: Client,
    nodes: Vec<NodeAddr>,
}

impl Admin {
    /// One with this certificate.
    pub fn new(tls: &TlsFiles, nodes: Vec<NodeAddr>) -> Result<Self, String> {
        let credentials = Credentials::load(tls).map_err(|error| error.to_string())?;
        Ok(Self { client: Client::new(credentials).map_err(|error| error.to_string())?, nodes })
    }

    /// How a node is; none while it does not answer.
    pub async fn status(&self, node: usize) -> Option<NodeStatus> {
        tokio::time::timeout(STATUS_TIMEOUT, self.client.status(&self.nodes[node])).await.ok()?.ok()
    }

    /// How a cluster's peer on a node is, if there is one.
    pub async fn peer(&self, cluster: &str, node: usize) -> Option<PeerStatus> {
        let status = self.status(node).await?;
        status.peers.into_iter().find(|peer| peer.peer.name() == cluster)
    }

    /// The node whose peer leads a cluster, in the latest term that any node tells of, and that term.
    pub async fn leader(&self, cluster: &str) -> Option<(usize, u64)> {
        let mut leader = None;
        for node in 0..self.nodes.len() {
            let Some(peer) = self.peer(cluster, node).await.filter(|peer| peer.role == RoleName::Leader) else {
                continue;
            };
            if leader.is_none_or(|(_, term)| term < peer.term.0) {
                leader = Some((node, peer.term.0));
            }
        }
        leader
    }

    /// The same, once there is one.
    pub async fn until_leader(&self, cluster: &str) -> Result<(usize, u64), String> {
        until_some(&format!("cluster {cluster} has a leader"), async || self.leader(cluster).await).await
    }

    /// Waits until a node answers.
    pub async fn until_answers(&self, node: usize) -> Result<(), String> {
        until_some(&format!("node {node} answers"), async || self.status(node).await.map(drop)).await
    }

    /// The name of a cluster's peer on a node.
    pub fn peer_on(&self, cluster: &str, node: usize) -> PeerId {
        PeerId::new(cluster, self.nodes[node].clone()).expect("the names of clusters are names of peers")
    }

    /// The nodes that have a peer of a cluster, as its leader knows them, once no change is under way.
    pub async fn members(&self, cluster: &str) -> Result<Vec<usize>, String> {
        let what = format!("cluster {cluster} tells its peers");
        until_some(&what, async || {
            for node in 0..self.nodes.len() {
                let asked = self.client.get_conf(&self.peer_on(cluster, node), STATUS_TIMEOUT).await;
                if let Some(membership) = asked.ok().filter(zraft::protocol::Membership::is_stable) {
                    let number = |peer: &PeerId| self.nodes.iter().position(|node| node == peer.node());
                    return Some(membership.peers.iter().filter_map(number).collect());
                }
            }
            None
        })
        .await
    }

    /// Makes the peers of a cluster those on exactly these nodes, whatever is in the way meanwhile.
    pub async fn set_members(&self, cluster: &str, new: &[usize]) -> Result<(), String> {
        let mut last = String::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let old = self.members(cluster).await?;
            if is_same(&old, new) {
                return Ok(());
            }
            let peers = |nodes: &[usize]| nodes.iter().map(|node| self.peer_on(cluster, *node)).collect::<Vec<_>>();
            // Whoever stays can tell who leads.
            for node in old.iter().filter(|node| new.contains(node)) {
                let asked = self.peer_on(cluster, *node);
                match self.client.set_new_conf(&asked, &peers(new), &peers(&old), CHANGE_TIMEOUT).await {
                    Ok(()) => return Ok(()),
                    Err(error) => last = error.to_string(),
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("the peers of {cluster} could not be made those on nodes {new:?}: {last}"))
    }

    /// Hands leadership of a cluster to its peer on a node.
    pub async fn transfer(&self, cluster: &str, from: usize, to: usize) -> Result<PeerId, MembershipError> {
        self.client.transfer(&self.peer_on(cluster, from), Some(&self.peer_on(cluster, to)), CHANGE_TIMEOUT).await
    }

    /// Moves a cluster to another backend. Returns the entry, or none if it ran that already.
    pub async fn upgrade(&self, cluster: &str, component: &bytes::Bytes) -> Result<Option<u64>, String> {
        let mut last = String::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            for node in 0..self.nodes.len() {
                let asked = self.peer_on(cluster, node);
                match self.client.upgrade(&asked, component.clone(), None, PATIENCE).await {
                    Ok(index) => return Ok(index.map(|index| index.0)),
                    Err(error) => last = error.to_string(),
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("cluster {cluster} could not be upgraded: {last}"))
    }

    /// Waits until all peers of a cluster have applied the same, up to the last entry of each.
    pub async fn until_equal(&self, cluster: &str) -> Result<(), String> {
        let mut seen = String::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let mut peers = Vec::new();
            for node in self.members(cluster).await? {
                peers.push((node, self.peer(cluster, node).await));
            }
            if let Some(all) = peers.iter().map(|(_, peer)| peer.as_ref()).collect::<Option<Vec<_>>>()
                && all.iter().all(|peer| is_level(peer, all[0]))
            {
                return Ok(());
            }
            seen = peers.iter().map(|(node, peer)| describe(*node, peer.as_ref())).collect::<Vec<_>>().join("; ");
            tokio::time::sleep(POLL).await;
        }
        Err(format!("the replicas of {cluster} do not become equal: {seen}"))
    }
}

fn is_same(left: &[usize], right: &[usize]) -> bool {
    left.len() == right.len() && left.iter().all(|node| right.contains(node))
}

fn is_level(peer: &PeerStatus, first: &PeerStatus) -> bool {
    let is_well = peer.quarantine.is_none() && peer.stopped.is_none();
    is_well && peer.applied == first.applied && peer.chain == first.chain && peer.applied == peer.last
}

fn describe(node: usize, peer: Option<&PeerStatus>) -> String {
    let Some(peer) = peer else { return format!("node {node} does not answer or has no peer") };
    let PeerStatus { role, term, last, applied, chain, quarantine, stopped, .. } = peer;
    format!(
        "node {node}: {role} in term {term}, last {last}, applied {applied}, chain {chain}, quarantine {quarantine:?}, stopped {stopped:?}"
    )
}

/// Waits until there is something; an error names what was waited for.
pub async fn until_some<T>(what: &str, find: impl AsyncFn() -> Option<T>) -> Result<T, String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find().await {
            return Ok(found);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(format!("gave up waiting until {what}"));
        }
        tokio::time::sleep(POLL).await;
    }
}

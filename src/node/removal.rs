//! How a cluster is deleted: the leader's node asks the nodes of all its peers whether they are there, and then has them forget
//! what they have of it. Where one is missing nothing is deleted, unless it is forced.

use bytes::Bytes;

use crate::access::AccessList;
use crate::node::driver::{Driver, Event};
use crate::node::frames::{BulkRequest, ClusterSpec};
use crate::node::lifecycle::Lifecycle;
use crate::protocol::{ChangeRefusal, RequestError};
use crate::raft::Configuration;
use crate::types::PeerId;

impl Lifecycle {
    /// Deletes the cluster of a peer on this node.
    pub(super) async fn delete(&self, peer: String, is_forced: bool) -> Result<(), RequestError> {
        let planned = self.ask(|reply| Event::PlanRemoval { peer, is_forced, reply }).await;
        let spec = planned.map_err(|_| RequestError::Stopping)??;
        if !is_forced {
            // To forget nobody changes nothing.
            let failures = self.on_all_nodes(&spec, &BulkRequest::Discard(Vec::new()), Bytes::new()).await;
            if !failures.is_empty() {
                return Err(RequestError::NotDeleted { failures });
            }
        }
        let failures = self.discard_peers(&spec).await;
        if failures.is_empty() {
            tracing::info!(cluster = %spec.cluster, "deleted a cluster");
            Ok(())
        } else {
            Err(RequestError::PartlyDeleted { failures })
        }
    }
}

impl Driver {
    /// All peers of a cluster that is to be deleted: as its leader has them, or if it is forced as the named one does.
    pub(super) fn plan_removal(&mut self, name: &str, is_forced: bool) -> Result<ClusterSpec, RequestError> {
        let (this, peer) = if is_forced { self.peer_named(name)? } else { self.leader_named(name)? };
        let raft = peer.replica.raft();
        let configuration = raft.configuration();
        let is_uncertain = raft.committed().index < raft.configuration_index() || peer.change.is_wanted();
        if !is_forced && (is_uncertain || !configuration.is_settled()) {
            return Err(RequestError::NotChanged(ChangeRefusal::InProgress));
        }
        let Configuration { voters, outgoing, learners, .. } = configuration;
        let mut peers: Vec<_> = voters.iter().chain(outgoing).chain(learners).collect();
        peers.sort_unstable();
        peers.dedup();
        let mut peers: Vec<_> = peers.into_iter().map(|(life, peer)| (*life, PeerId::clone(peer))).collect();
        // Who has an empty log knows at least itself.
        if peers.iter().all(|(life, _)| *life != this) {
            peers.push((this, peer.record.peer.clone()));
        }
        let genesis = peer.record.genesis.clone();
        Ok(ClusterSpec {
            cluster: genesis.cluster,
            peers,
            component: genesis.component,
            config: genesis.config,
            settings: genesis.settings,
            access: AccessList::default(),
            time_ms: super::wall_clock_ms(),
            introduction: None,
        })
    }
}

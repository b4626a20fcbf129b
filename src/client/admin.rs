//! What operators ask of nodes.

use std::time::Duration;

use bytes::Bytes;

use crate::client::{CallError, Client, SessionError};
use crate::protocol::{CreateCluster, NodeStatus, Reply, Request, RequestError};
use crate::settings::Settings;
use crate::types::{ClusterId, Digest, NodeAddr, PeerId};

/// A cluster to be created.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Its peers. The node of the first one coordinates.
    pub peers: Vec<PeerId>,
    /// The component that becomes its backend.
    pub component: Bytes,
    /// What the backend is initialized with.
    pub config: Bytes,
    /// Its settings.
    pub settings: Settings,
}

impl Client {
    /// How long the nodes may take to create a cluster: they compile the component.
    const CREATE_TIMEOUT: Duration = Duration::from_secs(120);
    const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

    /// Creates a cluster: on all its peers, or not at all. Needs an admin certificate.
    ///
    /// # Errors
    /// [`SessionError::Failed`] with [`NotCreated`](crate::protocol::RequestError::NotCreated) names every peer that
    /// could not start. [`SessionError::Unknown`] when the coordinating node was lost: ask for its status.
    pub async fn create(&self, cluster: NewCluster) -> Result<ClusterId, SessionError> {
        let first = cluster.peers.first().ok_or(SessionError::NoPeers)?;
        let node = first.node().clone();
        let request = Request::Create(CreateCluster {
            peers: cluster.peers,
            component: Digest::of(&cluster.component),
            component_size_bytes: cluster.component.len() as u64,
            config: cluster.config,
            settings: cluster.settings,
        });
        match self.call_with_body(&node, &request, &cluster.component, Self::CREATE_TIMEOUT).await {
            Ok(Reply::Created { cluster }) => Ok(cluster),
            Ok(Reply::Failed(error)) => Err(SessionError::Failed(error)),
            Ok(_) => Err(SessionError::Call(CallError::Mismatched { node })),
            Err(error) if error.may_have_arrived() => Err(SessionError::Unknown(error.to_string())),
            Err(error) => Err(SessionError::Call(error)),
        }
    }

    /// How a node and its peers are.
    ///
    /// # Errors
    /// [`CallError`] when the node gives no answer.
    pub async fn status(&self, node: &NodeAddr) -> Result<NodeStatus, CallError> {
        match self.call(node, &Request::Status, Self::STATUS_TIMEOUT).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(CallError::Mismatched { node: node.clone() }),
        }
    }

    /// The peers of a cluster, as one of them knows them.
    ///
    /// # Errors
    /// [`SessionError::Call`] when its node gives no answer, [`SessionError::Failed`] when there is no such peer on it.
    pub async fn members(&self, peer: &PeerId) -> Result<Vec<PeerId>, SessionError> {
        let status = self.status(peer.node()).await.map_err(SessionError::Call)?;
        let found = status.peers.into_iter().find(|status| status.peer.name() == peer.name());
        let no_such_peer = || RequestError::NoSuchPeer { name: peer.name().to_owned(), node: peer.node().clone() };
        Ok(found.ok_or_else(|| SessionError::Failed(no_such_peer()))?.members)
    }
}

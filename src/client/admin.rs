//! What operators ask of nodes.

use std::time::Duration;

use crate::client::{CallError, Client, SessionError};
use crate::protocol::{NodeStatus, Reply, Request, RequestError};
use crate::types::{NodeAddr, PeerId};

impl Client {
    const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

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

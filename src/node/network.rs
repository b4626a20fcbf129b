//! The way from this node to others: one link to each, and bulk transfers beside it. Snapshots go by the `courier`.

use std::collections::HashMap;

use bytes::Bytes;

use crate::codec;
use crate::node::frames::{BulkReply, BulkRequest, NodeFrame};
use crate::protocol::PeerFailure;
use crate::store::StoreError;
use crate::transport::{BulkError, CloseCode, ConnectError, Endpoint, PeerLink, Protocol, send_bulk};
use crate::types::NodeAddr;

/// The links of a node, made when first needed.
pub(super) struct Network {
    endpoint: Endpoint,
    links: HashMap<NodeAddr, PeerLink>,
}

/// Why another node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Bulk(#[from] BulkError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the node's answer makes no sense: {0}")]
    Answer(#[from] codec::DecodeError),
    #[error("{0}")]
    Refused(String),
    #[error("some of its peers cannot start")]
    Peers(Vec<PeerFailure>),
}

impl Network {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, links: HashMap::new() }
    }

    /// Sends a message, or loses it: Raft repeats what matters.
    pub(super) fn send(&mut self, to: &NodeAddr, is_urgent: bool, frame: &NodeFrame) {
        let link = match self.links.get(to) {
            Some(link) => link,
            None => self.links.entry(to.clone()).or_insert(PeerLink::spawn(self.endpoint.clone(), to.clone())),
        };
        link.send(is_urgent, codec::encode(frame).into());
    }

    /// A node has dialed this one.
    pub(super) fn came(&self, node: &NodeAddr) {
        self.links.get(node).into_iter().for_each(PeerLink::came);
    }

    /// Closes all connections, telling the other sides.
    pub(super) async fn close(self) {
        self.endpoint.close("the node is stopping").await;
    }
}

/// Asks another node to do something that may come with bytes.
pub(super) async fn call(
    endpoint: &Endpoint,
    to: &NodeAddr,
    request: &BulkRequest,
    body: Bytes,
) -> Result<(), CallError> {
    match ask(endpoint, to, request, body).await? {
        BulkReply::Done => Ok(()),
        BulkReply::Failed(failures) => Err(CallError::Peers(failures)),
        BulkReply::Refused(reason) => Err(CallError::Refused(reason)),
        BulkReply::SnapshotsAt(_) => Err(CallError::Refused("it answers what was not asked".to_owned())),
    }
}

/// Asks another node for something that may come with bytes.
pub(super) async fn ask(
    endpoint: &Endpoint,
    to: &NodeAddr,
    request: &BulkRequest,
    body: Bytes,
) -> Result<BulkReply, CallError> {
    let size_bytes = body.len() as u64;
    let connection = endpoint.connect(to, Protocol::Bulk).await?;
    let reply = send_bulk(&connection, &codec::encode(request), std::io::Cursor::new(body), size_bytes).await?;
    connection.close(CloseCode::DONE, "done");
    Ok(codec::decode(&reply)?)
}

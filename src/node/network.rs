//! The way from this node to others: one link to each, and bulk transfers beside it.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::codec;
use crate::node::driver::Event;
use crate::node::frames::{BulkReply, BulkRequest, NodeFrame, PeerFrame};
use crate::protocol::PeerFailure;
use crate::raft::Message;
use crate::store::{Snapshots, StoreError};
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

    /// Sends a snapshot's file with its message, in the background, and reports the end of it.
    pub(super) fn send_snapshot(
        &self,
        to: NodeAddr,
        frame: PeerFrame,
        snapshots: Snapshots,
        events: mpsc::Sender<Event>,
    ) {
        let endpoint = self.endpoint.clone();
        tokio::spawn(async move {
            let (from, receiver) = (frame.message.envelope.from, frame.message.envelope.to);
            let result = transfer_snapshot(&endpoint, &to, frame, &snapshots).await;
            if let Err(error) = &result {
                tracing::warn!(node = %to, %error, "could not send a snapshot");
            }
            // The loop has ended if it takes no more events.
            let _ = events.send(Event::SnapshotSent { from, to: receiver, ok: result.is_ok() }).await;
        });
    }

    /// Closes all connections, telling the other sides.
    pub(super) async fn close(self) {
        self.endpoint.close("the node is stopping").await;
    }
}

async fn transfer_snapshot(
    endpoint: &Endpoint,
    to: &NodeAddr,
    frame: PeerFrame,
    snapshots: &Snapshots,
) -> Result<(), CallError> {
    let Message::Snapshot { meta } = &frame.message.envelope.message else {
        return Err(CallError::Refused("only a snapshot's message travels with a snapshot".to_owned()));
    };
    let (file, size_bytes) = snapshots.open_raw(frame.message.envelope.from, meta.position)?;
    transfer(endpoint, to, &BulkRequest::Snapshot(frame), tokio::fs::File::from_std(file), size_bytes).await
}

/// Asks another node for something that may come with bytes.
pub(super) async fn call(
    endpoint: &Endpoint,
    to: &NodeAddr,
    request: &BulkRequest,
    body: Bytes,
) -> Result<(), CallError> {
    let size_bytes = body.len() as u64;
    transfer(endpoint, to, request, std::io::Cursor::new(body), size_bytes).await
}

async fn transfer(
    endpoint: &Endpoint,
    to: &NodeAddr,
    request: &BulkRequest,
    body: impl AsyncRead + Unpin,
    size_bytes: u64,
) -> Result<(), CallError> {
    let connection = endpoint.connect(to, Protocol::Bulk).await?;
    let reply = send_bulk(&connection, &codec::encode(request), body, size_bytes).await?;
    connection.close(CloseCode::DONE, "done");
    match codec::decode(&reply)? {
        BulkReply::Done => Ok(()),
        BulkReply::Failed(failures) => Err(CallError::Peers(failures)),
        BulkReply::Refused(reason) => Err(CallError::Refused(reason)),
    }
}

//! What nodes say to each other, encoded by [`codec`](crate::codec).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::PeerFailure;
use crate::replica::PeerMessage;
use crate::settings::Settings;
use crate::types::{ClusterId, Digest, Incarnation, PeerId};

/// A message of one peer to another, on the connection between their nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PeerFrame {
    pub(super) cluster: ClusterId,
    pub(super) message: PeerMessage,
    /// Whether the disk of the sender's node is full: see [`space`](super::space).
    pub(super) is_disk_full: bool,
}

/// What a bulk transfer is for: its header. The bytes it speaks of are the transfer's body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum BulkRequest {
    /// The body is a snapshot's file, and the message goes to the peer once it is stored.
    Snapshot(PeerFrame),
    /// The body is a component. Can this node's peers of the cluster start? Nothing is promised for longer than
    /// [`PREPARED_MS`](super::lifecycle::PREPARED_MS).
    Prepare(ClusterSpec),
    /// Start this node's peers of a cluster that was prepared. No body.
    Start(ClusterId),
    /// Forget all of the cluster, prepared or started. No body.
    Discard(ClusterId),
}

/// The answer to a bulk transfer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum BulkReply {
    /// Done.
    Done,
    /// Not done, and nothing was changed.
    Failed(Vec<PeerFailure>),
    /// Not done: the request makes no sense here.
    Refused(String),
}

/// A cluster to be created, as its nodes see it: equal on all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterSpec {
    pub(super) cluster: ClusterId,
    pub(super) peers: Vec<(Incarnation, PeerId)>,
    pub(super) component: Digest,
    pub(super) config: Bytes,
    pub(super) settings: Settings,
    /// When it was created, in milliseconds since the Unix epoch: the time of the first entry.
    pub(super) time_ms: u64,
}

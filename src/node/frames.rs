//! What nodes say to each other, encoded by [`codec`](crate::codec).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::AccessList;
use crate::machine::Genesis;
use crate::node::standing::Introduction;
use crate::protocol::PeerFailure;
use crate::replica::PeerMessage;
use crate::settings::Settings;
use crate::store::SnapshotIdentity;
use crate::types::{ClusterId, Digest, Incarnation, LogPosition, NodeAddr, PeerId, Term};

/// What one node tells another on the connection between them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind")]
pub(super) enum NodeFrame {
    /// A message of one peer to another.
    Peer(PeerFrame),
    /// What one peer wants to know of another: see [`standing`](super::standing).
    Standing(StandingFrame),
    /// The sender is there, and shares a cluster with the receiver that sleeps: see [`quiet`](super::quiet).
    Alive {
        /// Names the sender's process.
        life: u64,
        /// As in [`PeerFrame`].
        is_disk_full: bool,
    },
}

/// A message of one peer to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PeerFrame {
    pub(super) cluster: ClusterId,
    pub(super) message: PeerMessage,
    /// Whether the disk of the sender's node is full: see [`space`](super::space).
    pub(super) is_disk_full: bool,
}

impl PeerFrame {
    /// The snapshot that the message is about. Such a message is good only with a file, and so comes with that in a transfer.
    pub(super) fn snapshot(&self) -> Option<LogPosition> {
        match &self.message.envelope.message {
            crate::raft::Message::Snapshot { meta } => Some(meta.position),
            _ => None,
        }
    }
}

/// A question, or an answer, about whether a peer still belongs to its cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StandingFrame {
    pub(super) cluster: ClusterId,
    pub(super) from: Incarnation,
    pub(super) to: Incarnation,
    pub(super) content: Standing,
}

/// What is asked or answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Standing {
    /// Does the sender still belong to the cluster?
    Question,
    /// The receiver does not belong to the cluster of which the sender is the leader in this term.
    Left {
        /// The term.
        term: Term,
    },
}

/// What a bulk transfer is for: its header. The bytes it speaks of are the transfer's body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum BulkRequest {
    /// Where does this node take snapshots? No body.
    WhereSnapshots,
    /// The body is a component. Can this node's peers of the cluster start? Nothing is promised for longer than
    /// [`PREPARED_MS`](super::lifecycle::PREPARED_MS).
    Prepare(ClusterSpec),
    /// Start this node's peers of what was prepared, named by [`ClusterSpec::id`]. No body.
    Start(Incarnation),
    /// Forget these peers, prepared or started. No body.
    Discard(Vec<Incarnation>),
    /// The body is the component named here, to which this cluster is to move, or has moved. Can this node run it? It is kept
    /// for [`PREPARED_MS`](super::lifecycle::PREPARED_MS) and as long as a peer's files need it.
    Component(Genesis),
    /// Send the component named here, by a [`Component`](Self::Component) of your own. No body.
    WantComponent(Genesis),
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
    /// Snapshots are taken there.
    SnapshotsAt(NodeAddr),
}

/// The header of an offer of a snapshot. Its bytes are what is offered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotOffer {
    /// The message that goes to the peer once the file is stored.
    pub(super) frame: PeerFrame,
    /// Which file it is.
    pub(super) identity: SnapshotIdentity,
}

/// Peers to be created, as their nodes see them: equal on all of them. All peers of a new cluster, or those that are to
/// join one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterSpec {
    pub(super) cluster: ClusterId,
    pub(super) peers: Vec<(Incarnation, PeerId)>,
    pub(super) component: Digest,
    pub(super) config: Bytes,
    pub(super) settings: Settings,
    /// Who may do what on a new cluster. Peers that join one get that with its state.
    pub(super) access: AccessList,
    /// When the cluster was created, in milliseconds since the Unix epoch: the time of the first entry.
    pub(super) time_ms: u64,
    /// Set for peers that join a cluster.
    pub(super) introduction: Option<Introduction>,
}

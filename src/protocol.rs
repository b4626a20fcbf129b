//! What clients and nodes say to each other: one [`Request`] and one [`Reply`] a stream, each a length-prefixed frame
//! encoded by [`codec`]. [`Request::Create`] is followed by the component's bytes on the same stream.
//!
//! The version of the protocol is agreed on by ALPN when the connection is made.

mod canary;
mod fault;
mod membership;
mod session;
mod status;
mod upgrade;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use canary::{CanaryDifference, CanaryEnd, CanaryReport, MAX_CANARY_DIFFERENCES, MAX_CANARY_MS, RunCanary};
pub use fault::{BackendFault, CommandError, CommandReply, GuestFault};
pub use membership::{ChangeMembers, ChangeRefusal, Membership};
pub use session::{
    MAX_SESSION_TIMEOUT_MS, MAX_TRIGGERS, MAX_WATCHED_BYTES, MIN_SESSION_TIMEOUT_MS, SessionEnd, SessionEvent,
    SessionRefusal, SessionRequest, SessionSecret, SessionStart, TriggerId, TriggerReason,
};
pub use status::{FollowerStatus, MachineStatus, Sending};
pub use upgrade::{MAX_MIGRATION_BYTES, UpgradeCluster, UpgradeRefusal, UpgradeStatus};

use crate::access::{AccessControl, AccessDenied, AccessList, AccessRefusal};
use crate::codec;
use crate::feature_level::FeatureLevel;
use crate::settings::Settings;
use crate::types::{ClusterId, Digest, Incarnation, Index, NodeAddr, PeerId, RoleName, Term};

/// Most bytes of a command or a query.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// Most bytes of a backend's reply that reach a client.
pub const MAX_REPLY_BYTES: usize = 16 << 20;
/// Most bytes of a request's or a reply's frame: data and what surrounds it.
pub const MAX_FRAME_BYTES: usize = MAX_REPLY_BYTES + (64 << 10);
/// Most bytes of a component.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;
/// Most bytes of the config that a backend is initialized with: it travels in the header of bulk transfers.
pub const MAX_CONFIG_BYTES: usize = 32 << 10;
/// Most peers of a cluster.
pub const MAX_PEERS: usize = 15;
/// Longest time a node lets a request wait, in milliseconds.
pub const MAX_REQUEST_TIMEOUT_MS: u64 = 60_000;

/// What a client asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Replicate and apply a command. Only the leader can; another peer answers [`RequestError::NotLeader`].
    Write {
        /// The peer's name on the node.
        peer: String,
        /// What the backend gets.
        data: Bytes,
        /// How long the node lets the request wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Read linearizably. Every peer can.
    Query {
        /// The peer's name on the node.
        peer: String,
        /// What the backend gets.
        request: Bytes,
        /// How long the node lets the request wait, in milliseconds.
        timeout_ms: u64,
    },
    /// How is the node, and how are its peers?
    Status,
    /// Use a session: the stream carries [`SessionRequest`]s and [`SessionEvent`]s from here on. Only the leader can.
    Session {
        /// The peer's name on the node.
        peer: String,
        /// Which session.
        start: SessionStart,
    },
    /// Create a cluster. The component's bytes follow on the stream.
    Create(CreateCluster),
    /// Who are the cluster's peers? Only the leader tells; another peer answers [`RequestError::NotLeader`].
    Members {
        /// The peer's name on the node.
        peer: String,
    },
    /// Change the cluster's peers. Only the leader does; another peer answers [`RequestError::NotLeader`].
    ChangeMembers {
        /// The peer's name on the node.
        peer: String,
        /// From which to which.
        change: ChangeMembers,
        /// How long the node lets the request wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Who may do what on the cluster? Only the leader tells; another peer answers [`RequestError::NotLeader`].
    Access {
        /// The peer's name on the node.
        peer: String,
        /// How long the node lets the request wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Set who may do what on the cluster. Only the leader does; another peer answers [`RequestError::NotLeader`].
    SetAccess {
        /// The peer's name on the node.
        peer: String,
        /// The entry that has set the present list, zero if none has: else nothing is changed.
        expected: Index,
        /// The list that there is to be.
        list: AccessList,
        /// How long the node lets the request wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Delete the cluster with all its data. Only the leader does, unless it is forced; another peer answers
    /// [`RequestError::NotLeader`].
    Delete {
        /// The peer's name on the node.
        peer: String,
        /// Any peer does, with what it knows of the others, and though some cannot be told.
        is_forced: bool,
    },
    /// Hand leadership over. Only the leader does; another peer answers [`RequestError::NotLeader`].
    Transfer {
        /// The peer's name on the node.
        peer: String,
        /// To whom; without a name, to the voter on another node that has most of the log.
        to: Option<PeerId>,
        /// How long the node lets the request wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Move the cluster to another backend. The component's bytes follow on the stream. Only the leader does; another peer
    /// answers [`RequestError::NotLeader`].
    Upgrade {
        /// The peer's name on the node.
        peer: String,
        /// To which.
        upgrade: UpgradeCluster,
        /// How long the node waits for the replicas, once they have the component, in milliseconds.
        timeout_ms: u64,
    },
    /// Run another backend beside that of this peer, which must not lead unless it is alone, and compare what they do. The
    /// component's bytes follow on the stream. It ends early if the client goes away.
    Canary {
        /// The peer's name on the node.
        peer: String,
        /// Which backend, and for how long.
        canary: RunCanary,
    },
}

impl Request {
    /// Whether the node goes on reading requests from the stream on which this one came. Else it ends it behind the reply.
    #[must_use]
    pub fn may_be_followed(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Query { .. })
    }
}

/// A cluster to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateCluster {
    /// Its peers. The first one lives on the node that is asked.
    pub peers: Vec<PeerId>,
    /// The digest of the component that follows.
    pub component: Digest,
    /// The component's size.
    pub component_size_bytes: u64,
    /// What the backend is initialized with.
    pub config: Bytes,
    /// The cluster's settings.
    pub settings: Settings,
    /// Who may do what on it, from the beginning.
    pub access: AccessList,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The command was applied at this index, and this is what the backend said: a reply or a refusal.
    Written {
        /// The command's place in the log.
        index: Index,
        /// The backend's answer.
        reply: Result<Bytes, String>,
    },
    /// What the backend said to the query.
    Answered {
        /// The backend's answer.
        reply: Result<Bytes, String>,
    },
    /// The node and its peers.
    Status(NodeStatus),
    /// The cluster exists on all its peers.
    Created {
        /// The new cluster.
        cluster: ClusterId,
    },
    /// The cluster's peers.
    Members(Membership),
    /// The cluster's peers are those that were asked for.
    MembersChanged,
    /// Who may do what on the cluster.
    Access(AccessControl),
    /// The access list is the one that was asked for.
    AccessSet {
        /// The entry that has set it.
        set_at: Index,
    },
    /// The cluster is no more.
    Deleted,
    /// Leadership was handed over.
    Transferred {
        /// Who leads now.
        leader: PeerId,
    },
    /// The request failed.
    Failed(RequestError),
    /// The cluster runs the backend that was asked for.
    Upgraded {
        /// The entry that has moved it; none if it ran that already.
        index: Option<Index>,
    },
    /// What a canary has seen.
    Canary(CanaryReport),
}

impl Reply {
    /// Its encoding, in two parts of which the second is a backend's answer, or empty: a large one need not be copied.
    #[must_use]
    pub fn into_parts(mut self) -> [Bytes; 2] {
        let answer = match &mut self {
            Self::Written { reply: Ok(answer), .. } | Self::Answered { reply: Ok(answer) } => std::mem::take(answer),
            _ => return [codec::encode(&self).into(), Bytes::new()],
        };
        [codec::encode_up_to_bytes(&self, answer.len()).into(), answer]
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RequestError {
    /// Only the leader can do it. Nothing was changed.
    #[error("this peer is not the leader{}", match leader { Some(leader) => format!("; {leader} is"), None => String::new() })]
    NotLeader {
        /// The leader, as far as this peer knows.
        leader: Option<PeerId>,
    },
    /// No leader could be asked in time. Nothing was changed.
    #[error("the cluster has no leader that this peer can reach; are most of its peers running?")]
    NoLeader,
    /// The peer has too much to do. Nothing was changed.
    #[error("the peer has too many requests waiting; try again in a moment")]
    Overloaded,
    /// The leader changed and another entry took the write's place. Nothing was changed.
    #[error("the leader changed before the write was replicated; it was not applied")]
    NotApplied,
    /// So many disks are full that no majority could keep the write. Nothing was changed, and reads are still served.
    #[error("the disk of {} is full: the write was refused; make room there, or try again later", format_nodes(nodes))]
    DiskFull {
        /// The nodes whose disks are full.
        nodes: Vec<NodeAddr>,
    },
    /// The write may have been applied, or may yet be.
    #[error("it is not known whether the write was applied")]
    Unknown,
    /// There is no such peer on the node.
    #[error("there is no peer '{name}' on node {node}")]
    NoSuchPeer {
        /// The name that was asked for.
        name: String,
        /// The node that was asked.
        node: NodeAddr,
    },
    /// The peer has stopped and serves nothing until its operator has acted.
    #[error("the peer has stopped: {reason}")]
    PeerStopped {
        /// Why.
        reason: String,
    },
    /// The peer's state is another than the majority's, or cannot go on, and is being replaced.
    #[error(
        "the peer's state is not the majority's, or cannot go on; it is being replaced, and answers nothing meanwhile"
    )]
    Quarantined,
    /// The backend died of the query.
    #[error("the backend died of this query ({message}); the state is not affected")]
    BackendFault {
        /// What it died of.
        message: String,
    },
    /// The backend died of the command, and every replica has skipped it. Nothing was changed.
    #[error("the backend died of this command ({fault}); it was skipped and changed nothing")]
    Skipped {
        /// The command's place in the log.
        index: Index,
        /// What the backend died of.
        fault: BackendFault,
    },
    /// The certificate's role does not allow it, and no access list can.
    #[error("this needs an admin certificate; yours is for {identity}")]
    PermissionDenied {
        /// Who asked.
        identity: String,
    },
    /// The cluster's access list does not allow it. Nothing was changed.
    #[error(transparent)]
    AccessDenied(AccessDenied),
    /// The access list of a cluster was not set. Nothing was changed.
    #[error(transparent)]
    AccessNotSet(AccessRefusal),
    /// The request is not one a node can carry out.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// A cluster could not be created. Nothing of it is left behind.
    #[error("the cluster was not created: {}", format_failures(failures))]
    NotCreated {
        /// Every peer that could not start, with the reason.
        failures: Vec<PeerFailure>,
    },
    /// The peers of a cluster were not changed, or are not known to be.
    #[error(transparent)]
    NotChanged(ChangeRefusal),
    /// A cluster was not deleted, because some of its peers could not be told. Nothing was changed.
    #[error("the cluster was not deleted, nothing of it was: {}", format_failures(failures))]
    NotDeleted {
        /// Every peer that could not be told, with the reason.
        failures: Vec<PeerFailure>,
    },
    /// A cluster was deleted but for some of its peers. They may be deleted by force once their nodes are back.
    #[error("the cluster was deleted but for some of its peers: {}", format_failures(failures))]
    PartlyDeleted {
        /// Every peer that is left, with the reason.
        failures: Vec<PeerFailure>,
    },
    /// Leadership was not handed over, or not to the one that was to have it.
    #[error("leadership was not handed to {to}: {reason}")]
    NotTransferred {
        /// Who was to have it.
        to: PeerId,
        /// Why it has it not.
        reason: String,
    },
    /// A session can be used only by the client that opened it.
    #[error("the session was opened by another client, or with another secret")]
    NotYourSession,
    /// The session is served on another stream now.
    #[error("the session goes on on another stream")]
    Superseded,
    /// No session was opened.
    #[error("no session was opened: {0}")]
    NotOpened(SessionRefusal),
    /// The client sent more than it may before it was answered, or did not read its answers.
    #[error("the client sends more than it takes answers for, or more than a session may ask")]
    TooMuch,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// A cluster was not moved to another backend: its own goes on, on all replicas.
    #[error(transparent)]
    NotUpgraded(UpgradeRefusal),
}

/// Why a peer could not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFailure {
    /// The peer.
    pub peer: PeerId,
    /// Why.
    pub reason: String,
}

pub(crate) fn format_failures(failures: &[PeerFailure]) -> String {
    let lines: Vec<_> = failures.iter().map(|failure| format!("{}: {}", failure.peer, failure.reason)).collect();
    lines.join("; ")
}

fn format_nodes(nodes: &[NodeAddr]) -> String {
    let names: Vec<_> = nodes.iter().map(NodeAddr::as_str).collect();
    names.join(" and of ")
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its advertised address.
    pub node: NodeAddr,
    /// The version of zraft it runs.
    pub version: String,
    /// The engine that runs components. Replicas of one cluster should run the same.
    pub engine: String,
    /// Whether it refuses writes because its disk is full.
    pub is_disk_full: bool,
    /// How many of the peers that were here when it was started have no machine yet.
    pub starting: u64,
    /// Its peers, by name.
    pub peers: Vec<PeerStatus>,
}

/// How far a snapshot is that one peer sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// The last entry that it covers.
    pub index: Index,
    /// How much of it had arrived in earlier transfers, which broke off.
    pub began_at_bytes: u64,
    /// How much has arrived, or was sent, in all.
    pub done_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
}

/// How a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer.
    pub peer: PeerId,
    /// Its life's number.
    pub incarnation: Incarnation,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The component that its machine runs.
    pub component: Digest,
    /// How the latest upgrade has ended; none if the machine was made anew since.
    pub upgrade: Option<UpgradeStatus>,
    /// What entries the log may hold, as of the last entry applied.
    pub level: FeatureLevel,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader it follows.
    pub leader: Option<PeerId>,
    /// The cluster's peers, as it knows them.
    pub members: Vec<PeerId>,
    /// The peers that a change under way brings: those that still learn, or vote for the first time.
    pub joining: Vec<PeerId>,
    /// The peers that a change under way lets go.
    pub leaving: Vec<PeerId>,
    /// All others, as a leader sees them; empty on who does not lead.
    pub followers: Vec<FollowerStatus>,
    /// The last entry of its log.
    pub last: Index,
    /// The first entry its log still holds.
    pub first: Index,
    /// The last entry it knows to be committed.
    pub commit: Index,
    /// The last entry its machine has applied.
    pub applied: Index,
    /// The hash chain at `applied`: equal on two peers that applied the same.
    pub chain: Digest,
    /// The last entry its snapshot covers; zero without one.
    pub snapshot: Index,
    /// The time of that entry, in milliseconds since the Unix epoch: the snapshot's state is as old as this.
    pub snapshot_time_ms: Option<u64>,
    /// What the snapshot takes, in bytes; none without one, and while the machine is being restored from one.
    pub snapshot_bytes: Option<u64>,
    /// The triggers that are armed here; only a leader has any.
    pub triggers: u64,
    /// The sessions that are open.
    pub sessions: u64,
    /// Whether it sleeps: nobody uses its cluster, and it sends nothing.
    pub is_asleep: bool,
    /// Whether its machine is in memory. One that nobody has needed for long is made again when it is.
    pub has_machine: bool,
    /// The snapshot that it is being sent.
    pub receiving: Option<SnapshotProgress>,
    /// The snapshots that it sends, and to whom.
    pub sending: Vec<(PeerId, SnapshotProgress)>,
    /// Messages that have come since the node was started and that no correct peer sends; its log tells which.
    pub refused: u64,
    /// Set while the peer's state is not the majority's and is being replaced: the entry where that was found.
    pub quarantine: Option<Index>,
    /// Set when the peer has stopped, or its machine waits for a component: why.
    pub stopped: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_in_parts_is_the_same_reply() {
        for size in [0, 1, 250, 251, 1 << 20] {
            let answer = Ok(Bytes::from(vec![7; size]));
            let written = Reply::Written { index: Index(300), reply: answer.clone() };
            for reply in [written, Reply::Answered { reply: answer }, Reply::Answered { reply: Err("x".repeat(size)) }]
            {
                let parts = reply.clone().into_parts();
                assert_eq!(parts.concat(), codec::encode(&reply));
            }
        }
    }
}

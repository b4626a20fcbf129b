//! Creating a cluster, and what can come of it.

use std::time::Duration;

use bytes::Bytes;

use crate::access::AccessList;
use crate::client::{CallError, Client};
use crate::protocol::{CreateCluster, PeerFailure, Reply, Request, RequestError};
use crate::settings::Settings;
use crate::types::{ClusterId, Digest, PeerId};

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
    /// Who may do what on it, from the beginning.
    pub access: AccessList,
    /// How long to wait for its first leader.
    pub leader_timeout: Duration,
}

impl NewCluster {
    /// How long a new cluster usually gets to elect its first leader.
    pub const DEFAULT_LEADER_TIMEOUT: Duration = Duration::from_secs(10);

    /// A cluster of these peers with this component, an empty config and the usual settings, which every client may read and
    /// write.
    #[must_use]
    pub fn new(peers: Vec<PeerId>, component: Bytes) -> Self {
        Self {
            peers,
            component,
            config: Bytes::new(),
            settings: Settings::default(),
            access: AccessList::default(),
            leader_timeout: Self::DEFAULT_LEADER_TIMEOUT,
        }
    }
}

/// A cluster that exists on all its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its first leader; none if there was none in time. Nothing needs to be created again then: it serves as soon as most
    /// of its peers reach each other.
    pub leader: Option<PeerId>,
}

/// Why a cluster was not created, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Some peers could not start. Nothing is left of the others.
    #[error("the cluster was not created: {}", crate::protocol::format_failures(.0))]
    Peers(Vec<PeerFailure>),
    /// The first peer's node refuses the whole request. Nothing was changed.
    #[error("the cluster was not created: {0}")]
    Refused(RequestError),
    /// The first peer's node cannot be reached. Nothing was changed.
    #[error("the cluster was not created: {0}")]
    Unreachable(CallError),
    /// The first peer's node was lost while it had the request: the cluster may exist, or may yet. Ask the nodes for their
    /// status.
    #[error("it is not known whether the cluster was created: {0}")]
    Unknown(CallError),
    /// No peers were given.
    #[error("a cluster needs at least one peer")]
    NoPeers,
}

impl Client {
    /// How long the nodes may take to create a cluster: they compile the component.
    const CREATE_TIMEOUT: Duration = Duration::from_secs(360);

    /// Creates a cluster: on all its peers, or not at all. Returns once it has a leader, or that took too long. Needs an admin
    /// certificate.
    ///
    /// # Errors
    /// [`CreateError`] tells what is known; only with [`CreateError::Unknown`] may the cluster exist.
    pub async fn create(&self, new: NewCluster) -> Result<Created, CreateError> {
        let first = new.peers.first().ok_or(CreateError::NoPeers)?.clone();
        let request = Request::Create(CreateCluster {
            peers: new.peers,
            component: Digest::of(&new.component),
            component_size_bytes: new.component.len() as u64,
            config: new.config,
            settings: new.settings,
            access: new.access,
        });
        let node = first.node();
        let cluster = match self.call_with_body(node, &request, &new.component, Self::CREATE_TIMEOUT).await {
            Ok(Reply::Created { cluster }) => cluster,
            Ok(Reply::Failed(RequestError::NotCreated { failures })) => return Err(CreateError::Peers(failures)),
            Ok(Reply::Failed(error)) => return Err(CreateError::Refused(error)),
            Ok(_) => return Err(CreateError::Unknown(CallError::Mismatched { node: node.clone() })),
            Err(error) if error.may_have_arrived() => return Err(CreateError::Unknown(error)),
            Err(error) => return Err(CreateError::Unreachable(error)),
        };
        let led = self.get_conf(&first, new.leader_timeout).await;
        Ok(Created { cluster, leader: led.ok().map(|membership| membership.leader) })
    }
}

//! Upgrades: moving a cluster to another backend.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::feature_level::FeatureLevel;
use crate::protocol::membership::format_peers;
use crate::protocol::{BackendFault, PeerFailure, format_failures};
use crate::types::{Digest, Index, PeerId};

/// Most bytes of what an operator can say to a backend that a cluster moves to.
pub const MAX_MIGRATION_BYTES: usize = 256 << 10;

/// The backend that a cluster is to move to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeCluster {
    /// The digest of the component that follows.
    pub component: Digest,
    /// The component's size.
    pub component_size_bytes: u64,
    /// What the operator has to say to it.
    pub migration: Option<Bytes>,
}

impl UpgradeCluster {
    /// To this component.
    #[must_use]
    pub fn to(component: &[u8], migration: Option<Bytes>) -> Self {
        Self { component: Digest::of(component), component_size_bytes: component.len() as u64, migration }
    }
}

/// How an upgrade has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// Its place in the log.
    pub index: Index,
    /// The backend's name for the format of its state; or why the cluster has kept its backend.
    pub result: Result<String, UpgradeRefusal>,
}

/// Why a cluster has kept its backend. All its replicas have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UpgradeRefusal {
    /// Somebody else has moved it meanwhile.
    #[error("the cluster runs {now} meanwhile; look at its status before you try again")]
    Changed {
        /// The component that it runs.
        now: Digest,
    },
    /// The new backend does not take the state.
    #[error("the new backend refuses the state of the old one, which goes on: {0}")]
    Refused(String),
    /// The old backend has died writing its state, or the new one reading it.
    #[error("a backend died of handing over the state, and the old one goes on: {0}")]
    Fault(BackendFault),
    /// Too few of the peers have the new component, or one cannot run it. Nothing was proposed.
    #[error("the new backend is not where it is needed, nothing was changed: {}", format_failures(.0))]
    NotDistributed(Vec<PeerFailure>),
    /// Not all peers of the cluster support upgrades. Nothing was proposed.
    #[error(
        "this needs feature level {needs}, and the cluster has {has}: not all of its peers have told that they support it, since their \
         nodes are down, run an older zraft, or are told to stay there (setting feature_level): {}", format_peers(.by)
    )]
    NotYet {
        /// What it needs.
        needs: FeatureLevel,
        /// What the cluster has.
        has: FeatureLevel,
        /// Who has not told.
        by: Vec<PeerId>,
    },
}

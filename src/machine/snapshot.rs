//! What a snapshot says before the backend's chunks: everything of the machine's state that is not the backend's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::AccessControl;
use crate::codec::{self, DecodeError};
use crate::feature_level::FeatureLevel;
use crate::machine::session::Sessions;
use crate::machine::{Genesis, HashChain, Origin};
use crate::raft::SnapshotMeta;
use crate::settings::Settings;
use crate::types::{ClusterId, Digest};

/// What a snapshot begins with. All but the host's part is for everybody to see: who keeps the snapshot can tell what
/// it is without knowing the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Where in the log it stands.
    pub meta: SnapshotMeta,
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The digest of the backend that wrote it.
    pub backend: Digest,
    /// The hash chain at the snapshot's index.
    pub chain: HashChain,
    /// What else the host keeps.
    pub host: HostPart,
}

impl SnapshotHead {
    /// What the cluster was created with.
    #[must_use]
    pub fn genesis(&self) -> Genesis {
        Genesis {
            cluster: self.cluster,
            component: self.backend,
            config: self.host.config.clone(),
            settings: self.host.settings,
        }
    }

    /// Where the state comes from, for a backend that is to go on with it.
    pub(super) fn origin(&self) -> Origin {
        Origin { version: self.host.backend_version.clone(), config: self.host.config.clone(), migration: None }
    }
}

/// What of the machine's state is neither the backend's nor named by the head itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPart {
    /// What the backend was initialized with.
    pub config: Bytes,
    /// The replicated settings.
    pub settings: Settings,
    /// The backend's name for the format of its state.
    pub backend_version: String,
    /// The open sessions with their remembered replies.
    pub(super) sessions: Sessions,
    /// Who may do what.
    pub(super) access: AccessControl,
    /// What entries there may be behind it.
    pub(super) level: FeatureLevel,
}

impl HostPart {
    /// The bytes for the snapshot's header.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// Reads the bytes of a snapshot's header.
    ///
    /// # Errors
    /// [`DecodeError`] when they are not a host part.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let part: Self = codec::decode(bytes)?;
        Ok(Self { sessions: part.sessions.counted(), ..part })
    }
}

//! The host's part of a snapshot: everything of the machine's state that is not the backend's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::machine::session::Sessions;
use crate::machine::{Genesis, HashChain, Origin};
use crate::raft::SnapshotMeta;

/// What a snapshot's header holds for the machine. The backend's chunks follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPart {
    /// What the cluster was created with.
    pub genesis: Genesis,
    /// The backend's name for the format of its state.
    pub backend_version: String,
    /// The hash chain at the snapshot's index.
    pub chain: HashChain,
    /// The open sessions with their remembered replies.
    pub(super) sessions: Sessions,
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
        codec::decode(bytes)
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { version: self.backend_version.clone(), config: self.genesis.config.clone(), migration: None }
    }
}

/// A snapshot about to be restored: its place in the log and the host's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Where in the log it stands.
    pub meta: SnapshotMeta,
    /// The host's part.
    pub host: HostPart,
}

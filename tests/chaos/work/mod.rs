//! Clients, and the clusters that they use.

use std::path::PathBuf;
use std::time::Instant;

use zraft::transport::TlsFiles;
use zraft::types::{NodeAddr, PeerId};

use crate::history::{History, Recorder};

/// The nodes, and who their clients are.
#[derive(Clone)]
pub struct Target {
    /// All nodes. Clusters are created on the first three; the others may become members.
    pub addresses: Vec<NodeAddr>,
    /// A client's certificate.
    pub tls: TlsFiles,
    /// An admin's certificate.
    pub admin: TlsFiles,
}

/// A cluster that clients use.
#[derive(Clone, Debug)]
pub struct ClusterInfo {
    /// The name of its peers.
    pub name: String,
    /// The peers that it was created with.
    pub peers: Vec<PeerId>,
    /// The component that it was created with.
    pub backend: PathBuf,
    /// Another build, to and from which it may be upgraded at any time.
    pub other_backend: Option<PathBuf>,
}

/// All clients.
pub struct Workloads {
    recorder: Recorder,
    clusters: Vec<ClusterInfo>,
}

impl Workloads {
    /// Creates the clusters and starts the clients.
    ///
    /// # Errors
    /// What could not be created.
    pub async fn start(target: Target, seed: u64, start: Instant) -> Result<Self, String> {
        let _ = (target, seed);
        Ok(Self { recorder: Recorder::new(start), clusters: Vec::new() })
    }

    #[must_use]
    pub fn clusters(&self) -> Vec<ClusterInfo> {
        self.clusters.clone()
    }

    /// Ends all clients, reads everything once more, and returns what was recorded. All faults must be over.
    pub async fn finish(self) -> History {
        self.recorder.take()
    }
}

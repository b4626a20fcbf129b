//! A node's configuration. A [`Config`] that exists is valid.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::feature_level::FeatureLevel;
use crate::machine::BackendFactory;
use crate::store::StoreOptions;
use crate::transport::{Credentials, TlsError};
use crate::types::{Digest, NodeAddr};
use crate::wasm::{CompileLimits, Compiler};

/// What a node is started with.
pub struct Config {
    /// The address that others dial: the node's identity. Its certificate must be for it.
    pub node: NodeAddr,
    /// The UDP socket it listens on.
    pub listen: Listen,
    /// The UDP socket on which it takes snapshots from other nodes.
    pub snapshot_listener: Listen,
    /// Where other nodes find that. If none, on the host of `node`, at the socket's port.
    pub snapshot_advertised_addr: Option<NodeAddr>,
    /// Where the log of its peers, and their components, are kept.
    pub log_dir: PathBuf,
    /// Where the snapshots of its peers are kept.
    pub snapshot_dir: PathBuf,
    /// Its certificate and key, and whom it trusts.
    pub credentials: Credentials,
    /// Timing and sizes.
    pub tuning: Tuning,
    /// Who compiles the components that it is sent.
    pub compiler: Compiler,
    /// Backends of the embedding program, by the components in whose place they run. Nothing bounds what they do, and all nodes
    /// of a cluster must have the same. They show what a component costs.
    pub native: BTreeMap<Digest, Arc<dyn BackendFactory>>,
}

/// Where a node listens.
pub enum Listen {
    /// On this address.
    Address(SocketAddr),
    /// On a socket that is already bound.
    Socket(UdpSocket),
}

/// What of a node can be tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a follower waits for a sign of its leader before it may ask for an election, at least, in
    /// milliseconds; each wait is up to twice as long, at random. Heartbeats are sent five times as often.
    pub election_timeout_ms: u64,
    /// How many threads run guests. A few more stand in for those that a job holds for long.
    pub guest_threads: usize,
    /// Whether queries and snapshots have instances of the backend of their own.
    pub isolation: Isolation,
    /// What entries of the log its peers tell that they support.
    pub feature_level: FeatureLevel,
    /// Whether clusters that nobody uses fall asleep. All nodes of a cluster must agree, or it stays awake.
    pub quiesce: bool,
    /// How long a cluster sleeps before its backend's instances are dropped, in milliseconds; 0 for never. They come back when
    /// they are needed.
    pub drop_idle_after_ms: u64,
    /// Memory for the database's cache, in bytes.
    pub cache_bytes: usize,
    /// Most bytes of one round of the log: appends that become durable together.
    pub max_segment_size: usize,
    /// With less room than this on the disk of the log, in bytes, writes are refused; the node goes on with what it has.
    pub min_free_bytes: u64,
    /// How many bytes of snapshots it sends to other nodes a second at most, over all its peers; 0 for no limit.
    pub snapshot_bytes_per_second: u64,
    /// Whether each snapshot is also copied to `archive` in the snapshot folder.
    pub snapshot_backup: bool,
    /// How many snapshots of each peer the archive holds: the newest.
    pub snapshot_backup_count: usize,
    /// Most address space of a child process that compiles a component, in bytes.
    pub compile_memory_bytes: u64,
    /// How long it may take, in milliseconds.
    pub compile_deadline_ms: u64,
}

/// How far queries and snapshots are kept from the machine that commands are applied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Queries have an instance of their own, made when the first one comes: whatever they do to it, commands and snapshots are
    /// not touched. Snapshots are made by another, in the background.
    #[default]
    Separate,
    /// One instance does all. Takes less memory, for backends that are trusted: a query that changes what it should only
    /// read parts the replica from the others. Commands wait while a snapshot is written.
    Shared,
}

impl Tuning {
    const MIN_ELECTION_TIMEOUT_MS: u64 = 50;
    const MAX_ELECTION_TIMEOUT_MS: u64 = 60_000;
}

impl Default for Tuning {
    fn default() -> Self {
        let CompileLimits { memory_bytes: compile_memory_bytes, deadline_ms: compile_deadline_ms } =
            CompileLimits::default();
        Self {
            election_timeout_ms: 500,
            guest_threads: std::thread::available_parallelism().map_or(2, usize::from),
            isolation: Isolation::default(),
            feature_level: FeatureLevel::NEWEST,
            quiesce: true,
            drop_idle_after_ms: 600_000,
            cache_bytes: 64 << 20,
            max_segment_size: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
            min_free_bytes: 64 << 20,
            snapshot_bytes_per_second: 32 << 20,
            snapshot_backup: false,
            snapshot_backup_count: 10,
            compile_memory_bytes,
            compile_deadline_ms,
        }
    }
}

/// What can be wrong with a configuration. The operator is to blame.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{path} is not a configuration: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The file has a key that is no setting.
    #[error(
        "{path} has a key '{key}', which is no setting{}", match suggestion {
            Some(suggestion) => format!(": is '{suggestion}' meant?"),
            None => "; `zraft config example` shows all".to_owned(),
        }
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The setting that is most like it, if one is.
        suggestion: Option<String>,
    },
    /// A setting is neither in the file nor among the flags.
    #[error("'{0}' is not set: give it in the configuration file, as --{flag}, or as {env}", flag = .0.replace('_', "-"), env = format_args!("ZRAFT_{}", .0.to_uppercase()))]
    Missing(&'static str),
    /// A setting cannot be what it is.
    #[error("'{setting}' cannot be {value}: {reason}")]
    Invalid {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Tuning {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let election_timeouts = Self::MIN_ELECTION_TIMEOUT_MS..=Self::MAX_ELECTION_TIMEOUT_MS;
        for (setting, value, allowed) in [
            ("election_timeout_ms", self.election_timeout_ms, election_timeouts),
            ("compile_deadline_ms", self.compile_deadline_ms, 1..=CompileLimits::MAX_DEADLINE_MS),
        ] {
            if !allowed.contains(&value) {
                let reason = format!("it must be between {} and {} milliseconds", allowed.start(), allowed.end());
                return Err(ConfigError::Invalid { setting, value: value.to_string(), reason });
            }
        }
        let levels = FeatureLevel::FIRST..=FeatureLevel::NEWEST;
        if !levels.contains(&self.feature_level) {
            let reason = format!("this version of zraft supports levels {} to {}", levels.start(), levels.end());
            return Err(ConfigError::Invalid {
                setting: "feature_level",
                value: self.feature_level.to_string(),
                reason,
            });
        }
        if self.compile_memory_bytes < CompileLimits::MIN_MEMORY_BYTES {
            let (value, least) = (self.compile_memory_bytes.to_string(), CompileLimits::MIN_MEMORY_BYTES);
            let reason = format!("it must be at least {least} bytes");
            return Err(ConfigError::Invalid { setting: "compile_memory_bytes", value, reason });
        }
        for (setting, value) in [
            ("guest_threads", self.guest_threads),
            ("max_segment_size", self.max_segment_size),
            ("snapshot_backup_count", self.snapshot_backup_count),
        ] {
            if value == 0 {
                let reason = "it must be at least 1".to_owned();
                return Err(ConfigError::Invalid { setting, value: "0".to_owned(), reason });
            }
        }
        Ok(())
    }
}

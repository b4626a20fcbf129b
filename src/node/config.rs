//! A node's configuration: a TOML file, with flags over it. A [`Config`] that exists is valid.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::node::inspect::default_snapshot_dir;
use crate::store::StoreOptions;
use crate::transport::{Credentials, TlsError, TlsFiles};
use crate::types::NodeAddr;
use crate::wasm::{CompileLimits, Compiler};

/// What a node is started with.
pub struct Config {
    /// The address that others dial: the node's identity. Its certificate must be for it.
    pub node: NodeAddr,
    /// The UDP socket it listens on.
    pub listen: Listen,
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
    /// Memory for the database's cache, in bytes.
    pub cache_bytes: usize,
    /// Most bytes of one round of the log: appends that become durable together.
    pub max_segment_size: usize,
    /// With less room than this on the disk of the log, in bytes, writes are refused; the node goes on with what it has.
    pub min_free_bytes: u64,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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
            cache_bytes: 64 << 20,
            max_segment_size: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
            min_free_bytes: 64 << 20,
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
    /// A setting is neither in the file nor among the flags.
    #[error("'{0}' is not set: give it in the configuration file or as --{flag}", flag = .0.replace('_', "-"))]
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

/// The settings as written: all optional, so that flags can fill or override them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The advertised address, `host:port`.
    pub node: Option<NodeAddr>,
    /// The address to listen on, `ip:port`; the advertised one if not set.
    pub listen: Option<String>,
    /// The folder of log and components.
    pub log_dir: Option<PathBuf>,
    /// The folder of snapshots; `snapshots` in `log_dir` if not set.
    pub snapshot_dir: Option<PathBuf>,
    /// The PEM file with the certificates of the CA that nodes and clients are checked against.
    pub ca: Option<PathBuf>,
    /// The PEM file with the node's certificate.
    pub cert: Option<PathBuf>,
    /// The PEM file with its private key.
    pub key: Option<PathBuf>,
    /// The PEM file with the certificates that the CA has revoked.
    pub crl: Option<PathBuf>,
    /// See [`Tuning::election_timeout_ms`].
    pub election_timeout_ms: Option<u64>,
    /// See [`Tuning::guest_threads`].
    pub guest_threads: Option<usize>,
    /// See [`Tuning::isolation`]: `"separate"` or `"shared"`.
    pub isolation: Option<Isolation>,
    /// See [`Tuning::cache_bytes`].
    pub cache_bytes: Option<usize>,
    /// See [`Tuning::max_segment_size`].
    pub max_segment_size: Option<usize>,
    /// See [`Tuning::min_free_bytes`].
    pub min_free_bytes: Option<u64>,
    /// See [`Tuning::snapshot_backup`].
    pub snapshot_backup: Option<bool>,
    /// See [`Tuning::snapshot_backup_count`].
    pub snapshot_backup_count: Option<usize>,
    /// See [`Tuning::compile_memory_bytes`].
    pub compile_memory_bytes: Option<u64>,
    /// See [`Tuning::compile_deadline_ms`].
    pub compile_deadline_ms: Option<u64>,
}

impl Settings {
    /// Reads a TOML file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, is no TOML, or has keys that are no settings.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read_error)?;
        let parse_error =
            |error: toml::de::Error| ConfigError::Parse { path: path.to_owned(), reason: error.to_string() };
        let mut settings: Self = toml::from_str(&text).map_err(parse_error)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let paths = [
            &mut settings.log_dir,
            &mut settings.snapshot_dir,
            &mut settings.ca,
            &mut settings.cert,
            &mut settings.key,
            &mut settings.crl,
        ];
        for path in paths.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        Ok(settings)
    }

    /// These settings, and `fallback`'s where these have none.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        Self {
            node: self.node.or(fallback.node),
            listen: self.listen.or(fallback.listen),
            log_dir: self.log_dir.or(fallback.log_dir),
            snapshot_dir: self.snapshot_dir.or(fallback.snapshot_dir),
            ca: self.ca.or(fallback.ca),
            cert: self.cert.or(fallback.cert),
            key: self.key.or(fallback.key),
            crl: self.crl.or(fallback.crl),
            election_timeout_ms: self.election_timeout_ms.or(fallback.election_timeout_ms),
            guest_threads: self.guest_threads.or(fallback.guest_threads),
            isolation: self.isolation.or(fallback.isolation),
            cache_bytes: self.cache_bytes.or(fallback.cache_bytes),
            max_segment_size: self.max_segment_size.or(fallback.max_segment_size),
            min_free_bytes: self.min_free_bytes.or(fallback.min_free_bytes),
            snapshot_backup: self.snapshot_backup.or(fallback.snapshot_backup),
            snapshot_backup_count: self.snapshot_backup_count.or(fallback.snapshot_backup_count),
            compile_memory_bytes: self.compile_memory_bytes.or(fallback.compile_memory_bytes),
            compile_deadline_ms: self.compile_deadline_ms.or(fallback.compile_deadline_ms),
        }
    }

    /// Makes a configuration of them, of a node that has `compiler` compile its components.
    ///
    /// # Errors
    /// [`ConfigError`] naming the setting that is missing or wrong.
    pub fn into_config(self, compiler: Compiler) -> Result<Config, ConfigError> {
        let node = self.node.ok_or(ConfigError::Missing("node"))?;
        let listen = resolve(self.listen.as_deref().unwrap_or(node.as_str()))?;
        let log_dir = self.log_dir.ok_or(ConfigError::Missing("log_dir"))?;
        let files = TlsFiles {
            ca: self.ca.ok_or(ConfigError::Missing("ca"))?,
            cert: self.cert.ok_or(ConfigError::Missing("cert"))?,
            key: self.key.ok_or(ConfigError::Missing("key"))?,
            crl: self.crl,
        };
        let default = Tuning::default();
        let tuning = Tuning {
            election_timeout_ms: self.election_timeout_ms.unwrap_or(default.election_timeout_ms),
            guest_threads: self.guest_threads.unwrap_or(default.guest_threads),
            isolation: self.isolation.unwrap_or(default.isolation),
            cache_bytes: self.cache_bytes.unwrap_or(default.cache_bytes),
            max_segment_size: self.max_segment_size.unwrap_or(default.max_segment_size),
            min_free_bytes: self.min_free_bytes.unwrap_or(default.min_free_bytes),
            snapshot_backup: self.snapshot_backup.unwrap_or(default.snapshot_backup),
            snapshot_backup_count: self.snapshot_backup_count.unwrap_or(default.snapshot_backup_count),
            compile_memory_bytes: self.compile_memory_bytes.unwrap_or(default.compile_memory_bytes),
            compile_deadline_ms: self.compile_deadline_ms.unwrap_or(default.compile_deadline_ms),
        };
        tuning.check()?;
        Ok(Config {
            node,
            listen: Listen::Address(listen),
            snapshot_dir: self.snapshot_dir.unwrap_or_else(|| default_snapshot_dir(&log_dir)),
            log_dir,
            credentials: Credentials::load(&files)?,
            tuning,
            compiler,
        })
    }
}

impl Tuning {
    fn check(&self) -> Result<(), ConfigError> {
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

fn resolve(listen: &str) -> Result<SocketAddr, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid { setting: "listen", value: format!("'{listen}'"), reason };
    let mut addresses = listen.to_socket_addrs().map_err(|error| invalid(error.to_string()))?;
    addresses.next().ok_or_else(|| invalid("the name has no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zraft.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(&path).map(|mut settings| {
            settings.log_dir = settings.log_dir.map(|dir| dir.strip_prefix(folder.path()).unwrap().to_owned());
            settings
        })
    }

    #[test]
    fn flags_come_before_the_file_and_paths_are_relative_to_it() {
        let text = "node = \"h:7400\"\nlog_dir = \"data\"\nelection_timeout_ms = 100\nsnapshot_backup = true\n\
                    snapshot_backup_count = 2\nisolation = \"shared\"";
        let file = load(text).unwrap();
        let flags = Settings { election_timeout_ms: Some(200), snapshot_backup_count: Some(3), ..Settings::default() };
        let merged = flags.or(file);
        assert_eq!((merged.snapshot_backup, merged.snapshot_backup_count), (Some(true), Some(3)));
        assert_eq!((merged.election_timeout_ms, merged.isolation), (Some(200), Some(Isolation::Shared)));
        assert_eq!(merged.node.unwrap().as_str(), "h:7400");
        assert_eq!(merged.log_dir.unwrap(), Path::new("data"));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = load("elction_timeout_ms = 100").unwrap_err().to_string();
        assert!(error.contains("elction_timeout_ms") && error.contains("election_timeout_ms"), "{error}");
    }

    #[test]
    fn what_is_missing_or_out_of_bounds_is_named() {
        let error = |settings: Settings| settings.into_config(Compiler::InProcess).err().unwrap().to_string();
        assert!(error(Settings::default()).contains("--node"));
        let node = Settings { node: Some("127.0.0.1:7400".parse().unwrap()), ..Settings::default() };
        assert!(error(node.clone()).contains("--log-dir"));
        let files = |name: &str| Some(PathBuf::from(name));
        let (ca, cert, key) = (files("ca"), files("cert"), files("key"));
        let whole = Settings { log_dir: files("d"), ca, cert, key, ..node };
        let hasty = Settings { election_timeout_ms: Some(1), ..whole.clone() };
        assert!(error(hasty).contains("'election_timeout_ms' cannot be 1"));
        let forgetful = Settings { snapshot_backup: Some(true), snapshot_backup_count: Some(0), ..whole.clone() };
        assert!(error(forgetful).contains("'snapshot_backup_count' cannot be 0"));
        let impatient = Settings { compile_deadline_ms: Some(0), ..whole.clone() };
        assert!(error(impatient).contains("'compile_deadline_ms' cannot be 0"));
        let stingy = Settings { compile_memory_bytes: Some(1), ..whole };
        assert!(error(stingy).contains("'compile_memory_bytes' cannot be 1: it must be at least"));
    }
}

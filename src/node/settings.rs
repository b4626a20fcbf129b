//! The settings of a node, as written: in a TOML file, in the environment, as flags. Flags come before the environment, and that
//! before the file.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::Args as _;
use serde::Deserialize;

use crate::feature_level::FeatureLevel;
use crate::node::config::{Config, ConfigError, Isolation, Listen, Tuning};
use crate::node::inspect::default_snapshot_dir;
use crate::transport::{Credentials, TlsFiles};
use crate::types::NodeAddr;
use crate::wasm::Compiler;

/// How like a setting a key must be to be taken for it: from 0 to 1.
const MIN_LIKENESS: f64 = 0.6;

/// The settings of a node, each optional here. What they mean, with units and defaults, is in `docs/settings.md`. The name of a
/// field is the key in the file; the flag and the variable of the environment (`ZRAFT_`) follow from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The advertised address: others dial it, and the certificate is for it.
    #[arg(long, env = "ZRAFT_NODE", value_name = "HOST:PORT")]
    pub node: Option<NodeAddr>,
    /// The address to listen on, if not the advertised one.
    #[arg(long, env = "ZRAFT_LISTEN", value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// The folder for log and components.
    #[arg(long, env = "ZRAFT_LOG_DIR", value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The folder for snapshots; `snapshots` in the log's if not set.
    #[arg(long, env = "ZRAFT_SNAPSHOT_DIR", value_name = "DIR")]
    pub snapshot_dir: Option<PathBuf>,
    /// The address to take snapshots from other nodes on, if not that of `listen` with any port.
    #[arg(long, env = "ZRAFT_SNAPSHOT_LISTENER_ADDR", value_name = "IP:PORT")]
    pub snapshot_listener_addr: Option<String>,
    /// Where other nodes find that, if not on the advertised host.
    #[arg(long, env = "ZRAFT_SNAPSHOT_ADVERTISED_ADDR", value_name = "HOST:PORT")]
    pub snapshot_advertised_addr: Option<NodeAddr>,
    /// The PEM file with the certificates of the CAs that nodes and clients are checked against.
    #[arg(long, env = "ZRAFT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The PEM file with the node's certificate.
    #[arg(long, env = "ZRAFT_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The PEM file with its private key.
    #[arg(long, env = "ZRAFT_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The PEM file with the certificates that the CAs have revoked, if there are any.
    #[arg(long, env = "ZRAFT_CRL", value_name = "FILE")]
    pub crl: Option<PathBuf>,
    /// How long to wait for a sign of the leader before an election, at least [default: 500].
    #[arg(long, env = "ZRAFT_ELECTION_TIMEOUT_MS", value_name = "MS")]
    pub election_timeout_ms: Option<u64>,
    /// Whether clusters that nobody uses fall asleep [default: true].
    #[arg(long, env = "ZRAFT_QUIESCE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub quiesce: Option<bool>,
    /// How long a cluster sleeps before its backend's instances are dropped, 0 for never [default: 600000].
    #[arg(long, env = "ZRAFT_DROP_IDLE_AFTER_MS", value_name = "MS")]
    pub drop_idle_after_ms: Option<u64>,
    /// How many threads run components [default: as many as processors].
    #[arg(long, env = "ZRAFT_GUEST_THREADS", value_name = "N")]
    pub guest_threads: Option<usize>,
    /// Whether queries and snapshots have instances of their own [default: separate].
    #[arg(long, env = "ZRAFT_ISOLATION", value_name = "HOW")]
    pub isolation: Option<Isolation>,
    /// The highest feature level that this node supports: lower, while it is to be possible to go back to the version of zraft
    /// before [default: the newest of this version].
    #[arg(long, env = "ZRAFT_FEATURE_LEVEL", value_name = "LEVEL")]
    pub feature_level: Option<u16>,
    /// Memory for the database's cache, in bytes [default: 67108864].
    #[arg(long, env = "ZRAFT_CACHE_BYTES", value_name = "BYTES")]
    pub cache_bytes: Option<usize>,
    /// Most bytes of the log that become durable together [default: 4190208].
    #[arg(long, env = "ZRAFT_MAX_SEGMENT_SIZE", value_name = "BYTES")]
    pub max_segment_size: Option<usize>,
    /// With less room than this on the log's disk, in bytes, writes are refused [default: 67108864].
    #[arg(long, env = "ZRAFT_MIN_FREE_BYTES", value_name = "BYTES")]
    pub min_free_bytes: Option<u64>,
    /// Most bytes of snapshots that are sent to other nodes a second, 0 for no limit [default: 33554432].
    #[arg(long, env = "ZRAFT_SNAPSHOT_BYTES_PER_SECOND", value_name = "BYTES")]
    pub snapshot_bytes_per_second: Option<u64>,
    /// Copy each snapshot to `archive` in the snapshots' folder as well [default: false].
    #[arg(long, env = "ZRAFT_SNAPSHOT_BACKUP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub snapshot_backup: Option<bool>,
    /// How many snapshots of each peer the archive holds [default: 10].
    #[arg(long, env = "ZRAFT_SNAPSHOT_BACKUP_COUNT", value_name = "N")]
    pub snapshot_backup_count: Option<usize>,
    /// Most address space of a process that compiles a component, in bytes [default: 2147483648].
    #[arg(long, env = "ZRAFT_COMPILE_MEMORY_BYTES", value_name = "BYTES")]
    pub compile_memory_bytes: Option<u64>,
    /// How long compiling a component may take, in milliseconds [default: 120000].
    #[arg(long, env = "ZRAFT_COMPILE_DEADLINE_MS", value_name = "MS")]
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
        let table: toml::Table = toml::from_str(&text).map_err(parse_error)?;
        let known = Self::keys();
        if let Some(key) = table.keys().find(|key| !known.contains(key)) {
            let (path, key) = (path.to_owned(), key.clone());
            return Err(ConfigError::UnknownKey { path, suggestion: most_like(&key, known), key });
        }
        // From the text again: its errors tell the line.
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

    /// The keys of all settings, in the order of their declaration.
    #[must_use]
    pub fn keys() -> Vec<String> {
        let flags = Self::augment_args(clap::Command::new("settings"));
        flags.get_arguments().map(|flag| flag.get_id().to_string()).collect()
    }

    /// These settings, and `fallback`'s where these have none.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        Self {
            node: self.node.or(fallback.node),
            listen: self.listen.or(fallback.listen),
            log_dir: self.log_dir.or(fallback.log_dir),
            snapshot_dir: self.snapshot_dir.or(fallback.snapshot_dir),
            snapshot_listener_addr: self.snapshot_listener_addr.or(fallback.snapshot_listener_addr),
            snapshot_advertised_addr: self.snapshot_advertised_addr.or(fallback.snapshot_advertised_addr),
            ca: self.ca.or(fallback.ca),
            cert: self.cert.or(fallback.cert),
            key: self.key.or(fallback.key),
            crl: self.crl.or(fallback.crl),
            election_timeout_ms: self.election_timeout_ms.or(fallback.election_timeout_ms),
            quiesce: self.quiesce.or(fallback.quiesce),
            drop_idle_after_ms: self.drop_idle_after_ms.or(fallback.drop_idle_after_ms),
            guest_threads: self.guest_threads.or(fallback.guest_threads),
            isolation: self.isolation.or(fallback.isolation),
            feature_level: self.feature_level.or(fallback.feature_level),
            cache_bytes: self.cache_bytes.or(fallback.cache_bytes),
            max_segment_size: self.max_segment_size.or(fallback.max_segment_size),
            min_free_bytes: self.min_free_bytes.or(fallback.min_free_bytes),
            snapshot_bytes_per_second: self.snapshot_bytes_per_second.or(fallback.snapshot_bytes_per_second),
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
        let listen = resolve("listen", self.listen.as_deref().unwrap_or(node.as_str()))?;
        let snapshot_listener = match self.snapshot_listener_addr.as_deref() {
            Some(address) => resolve("snapshot_listener_addr", address)?,
            None => SocketAddr::new(listen.ip(), 0),
        };
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
            quiesce: self.quiesce.unwrap_or(default.quiesce),
            drop_idle_after_ms: self.drop_idle_after_ms.unwrap_or(default.drop_idle_after_ms),
            guest_threads: self.guest_threads.unwrap_or(default.guest_threads),
            isolation: self.isolation.unwrap_or(default.isolation),
            feature_level: self.feature_level.map_or(default.feature_level, FeatureLevel),
            cache_bytes: self.cache_bytes.unwrap_or(default.cache_bytes),
            max_segment_size: self.max_segment_size.unwrap_or(default.max_segment_size),
            min_free_bytes: self.min_free_bytes.unwrap_or(default.min_free_bytes),
            snapshot_bytes_per_second: self.snapshot_bytes_per_second.unwrap_or(default.snapshot_bytes_per_second),
            snapshot_backup: self.snapshot_backup.unwrap_or(default.snapshot_backup),
            snapshot_backup_count: self.snapshot_backup_count.unwrap_or(default.snapshot_backup_count),
            compile_memory_bytes: self.compile_memory_bytes.unwrap_or(default.compile_memory_bytes),
            compile_deadline_ms: self.compile_deadline_ms.unwrap_or(default.compile_deadline_ms),
        };
        tuning.check()?;
        Ok(Config {
            node,
            listen: Listen::Address(listen),
            snapshot_listener: Listen::Address(snapshot_listener),
            snapshot_advertised_addr: self.snapshot_advertised_addr,
            snapshot_dir: self.snapshot_dir.unwrap_or_else(|| default_snapshot_dir(&log_dir)),
            log_dir,
            credentials: Credentials::load(&files)?,
            tuning,
            compiler,
            native: BTreeMap::new(),
        })
    }
}

/// The key that is most like one that is none.
fn most_like(key: &str, known: Vec<String>) -> Option<String> {
    let likeness = |other: &String| strsim::normalized_damerau_levenshtein(key, other);
    let best = known.into_iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(&best) >= MIN_LIKENESS).then_some(best)
}

fn resolve(setting: &'static str, address: &str) -> Result<SocketAddr, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid { setting, value: format!("'{address}'"), reason };
    let mut addresses = address.to_socket_addrs().map_err(|error| invalid(error.to_string()))?;
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
    fn an_unknown_key_is_an_error_with_the_one_that_is_meant() {
        let error = load("elction_timeout = 100").unwrap_err().to_string();
        assert!(error.contains("'elction_timeout', which is no setting: is 'election_timeout_ms' meant?"), "{error}");
        let error = load("color = 100").unwrap_err().to_string();
        assert!(error.contains("'color'") && error.contains("zraft config example"), "{error}");
        let error = load("guest_threads = \"many\"").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn every_setting_is_in_the_documentation_and_in_the_example() {
        let (documented, example) = (include_str!("../../docs/settings.md"), include_str!("../../docs/zraft.toml"));
        for key in Settings::keys() {
            assert!(documented.contains(&format!("| `{key}` |")), "{key} is not documented");
            let is_shown = example.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(is_shown, "{key} is not in the example");
        }
        let settings: Settings = toml::from_str(example).unwrap();
        assert_eq!(settings.node.unwrap().as_str(), "10.0.0.1:7400");
        // What is commented out is the default.
        let commented: String = example
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = "))
            .fold(String::new(), |all, line| all + line + "\n");
        let settings: Settings = toml::from_str(&commented).unwrap();
        let default = Tuning::default();
        assert_eq!(settings.election_timeout_ms, Some(default.election_timeout_ms));
        assert_eq!(
            (settings.cache_bytes, settings.min_free_bytes),
            (Some(default.cache_bytes), Some(default.min_free_bytes))
        );
        assert_eq!(settings.max_segment_size, Some(default.max_segment_size));
        assert_eq!((settings.quiesce, settings.drop_idle_after_ms), (Some(true), Some(default.drop_idle_after_ms)));
        assert_eq!(settings.isolation, Some(default.isolation));
        assert_eq!(settings.feature_level, Some(default.feature_level.0));
        assert_eq!(settings.snapshot_bytes_per_second, Some(default.snapshot_bytes_per_second));
        assert_eq!(settings.snapshot_backup, Some(default.snapshot_backup));
        assert_eq!(settings.snapshot_backup_count, Some(default.snapshot_backup_count));
        assert_eq!(settings.compile_memory_bytes, Some(default.compile_memory_bytes));
        assert_eq!(settings.compile_deadline_ms, Some(default.compile_deadline_ms));
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

//! `zraft create` and `zraft status`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use crate::access::AccessList;
use crate::cli::access::{DefaultAccess, Grant};
use crate::cli::connect::Identity;
use crate::cli::output::{Failure, Output};
use crate::cli::{block_on, units};
use crate::client::{Created, NewCluster};
use crate::feature_level::FeatureLevel;
use crate::protocol::{FollowerStatus, NodeStatus, PeerStatus, SnapshotProgress, UpgradeStatus};
use crate::settings::Settings;
use crate::types::{Digest, Index, NodeAddr, ParseError, PeerId};

/// The key-value backend that comes with zraft: `--backend kv`.
pub(super) const BUNDLED_KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");
/// The counter that comes with zraft: `--backend counter`.
pub(super) const BUNDLED_COUNTER: &[u8] = include_bytes!("../../guests/dist/counter.wasm");

/// The backends that come with zraft, by name.
const BUNDLED: &[(&str, &[u8])] = &[
    ("kv", BUNDLED_KV),
    ("counter", BUNDLED_COUNTER),
    ("lock", include_bytes!("../../guests/dist/lock.wasm")),
    ("queue", include_bytes!("../../guests/dist/queue.wasm")),
];

/// Reads a component: a file, or one that comes with zraft.
pub(super) fn read_component(path: &Path) -> Result<Bytes, Failure> {
    let bundled = BUNDLED.iter().find(|(name, _)| path.to_str() == Some(name) && !path.exists());
    if let Some((_, bytes)) = bundled {
        return Ok(Bytes::from_static(bytes));
    }
    let read = std::fs::read(path).map(Bytes::from);
    read.map_err(|error| Failure::usage(format!("cannot read the component {}: {error}", path.display())))
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The peers, name@host:port each. The first one's node coordinates.
    #[arg(required = true)]
    peers: Vec<PeerId>,
    /// What becomes the backend: a component or core module in a file, or one that comes with zraft: `kv` (a key-value
    /// store), `lock`, `queue` or `counter`.
    #[arg(long, value_name = "FILE")]
    backend: PathBuf,
    /// What the backend is initialized with: text.
    #[arg(long, default_value = "")]
    config: String,
    /// Take a snapshot after this many entries.
    #[arg(long, value_name = "N", default_value_t = Settings::default().max_log_count)]
    max_log_count: u64,
    /// But not before the log since the last snapshot has this share of its size, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = Settings::default().min_log_percent)]
    min_log_percent: u64,
    /// Keep this many entries behind a snapshot, for peers that are a little behind.
    #[arg(long, value_name = "N", default_value_t = Settings::default().kept_log_count)]
    kept_log_count: u64,
    /// What a client may do, by the name in its certificate: NAME=read, NAME=write or NAME=admin. For several, say it again.
    #[arg(long, value_name = "NAME=ACCESS")]
    grant: Vec<Grant>,
    /// What clients may do that are not named: none, read or write.
    #[arg(long, value_name = "ACCESS", default_value_t = DefaultAccess(AccessList::default().default))]
    default_access: DefaultAccess,
    #[command(flatten)]
    identity: Identity,
}

impl Create {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let component = read_component(&self.backend)?;
        let settings = Settings {
            max_log_count: self.max_log_count,
            min_log_percent: self.min_log_percent,
            kept_log_count: self.kept_log_count,
            ..Settings::default()
        };
        let named = self.grant.into_iter().map(|Grant(name, access)| (name, access)).collect();
        let access = AccessList { default: self.default_access.0, named };
        access.check().map_err(|error| Failure::usage(error.to_string()))?;
        block_on(async {
            let client = self.identity.client()?;
            let (peers, config) = (self.peers, Bytes::from(self.config));
            let count = peers.len();
            let new = NewCluster { config, settings, access, ..NewCluster::new(peers, component) };
            let Created { cluster, leader } = client.create(new).await?;
            let leader = leader.map(|leader| leader.to_string());
            let led = leader.as_ref().map_or("has no leader yet".to_owned(), |leader| format!("is led by {leader}"));
            let text = format!("created cluster {cluster} with {count} peers; it {led}");
            output.result(text, &json!({ "cluster": cluster.to_string(), "leader": leader }));
            Ok(())
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Nodes (host:port), or peers (name@host:port) to see only those.
    #[arg(required = true)]
    targets: Vec<Target>,
    #[command(flatten)]
    identity: Identity,
}

/// A node, or one peer on it.
#[derive(Clone, Debug)]
struct Target {
    node: NodeAddr,
    name: Option<String>,
}

impl std::str::FromStr for Target {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if !text.contains('@') {
            return Ok(Self { node: text.parse()?, name: None });
        }
        let peer: PeerId = text.parse()?;
        Ok(Self { node: peer.node().clone(), name: Some(peer.name().to_owned()) })
    }
}

impl Status {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        block_on(async {
            let client = self.identity.client()?;
            let mut unreachable = None;
            for target in &self.targets {
                match client.status(&target.node).await {
                    Ok(mut status) => {
                        if let Some(name) = &target.name {
                            status.peers.retain(|peer| peer.peer.name() == name);
                            if status.peers.is_empty() {
                                return Err(Failure::absent(format!("there is no peer '{name}' on {}", target.node)));
                            }
                        }
                        output.result(as_text(&status, SystemTime::now()), &as_json(&status));
                    }
                    Err(error) => {
                        output.say(format_args!("node {}: {error}", target.node));
                        unreachable = Some(error);
                    }
                }
            }
            unreachable.map_or(Ok(()), |error| Err(error.into()))
        })
    }
}

fn as_text(status: &NodeStatus, now: SystemTime) -> String {
    let mut text = format!("node {}, zraft {}, engine {}", status.node, status.version, status.engine);
    if status.is_disk_full {
        text.push_str("\n  DISK FULL: writes are refused until there is room");
    }
    if status.starting > 0 {
        text.push_str(&format!("\n  STARTING: {} of its peers have no machine yet", status.starting));
    }
    if status.peers.is_empty() {
        text.push_str("\n  no peers");
    }
    for peer in &status.peers {
        text.push_str(&peer_as_text(peer, now));
    }
    text
}

fn peer_as_text(peer: &PeerStatus, now: SystemTime) -> String {
    let leader = peer.leader.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let mut text = format!(
        "\n  {}  {}  term {}  leader {leader}\n    log {}..{}  committed {}  applied {}  chain {}\n    {}\n    \
         sessions {}  triggers {}\n    cluster {}  members{}",
        peer.peer,
        peer.role,
        peer.term,
        peer.first,
        peer.last,
        peer.commit,
        peer.applied,
        shortened(peer.chain),
        snapshot_as_text(peer, now),
        peer.sessions,
        peer.triggers,
        peer.cluster,
        names(&peer.members),
    );
    if peer.is_asleep {
        let machine = if peer.has_machine { "" } else { ", and its machine is not in memory" };
        text.push_str(&format!("\n    asleep: nobody uses the cluster{machine}"));
    }
    for (what, peers) in [("joining", &peer.joining), ("leaving", &peer.leaving)] {
        if !peers.is_empty() {
            text.push_str(&format!("  {what}{}", names(peers)));
        }
    }
    text.push_str(&format!("\n    feature level {}  backend {}", peer.level, peer.component));
    match &peer.upgrade {
        Some(UpgradeStatus { index, result: Ok(version) }) => {
            text.push_str(&format!("  {version}, since entry {index}"))
        }
        Some(UpgradeStatus { index, result: Err(refusal) }) => {
            text.push_str(&format!("\n    NOT UPGRADED by entry {index}: {refusal}"));
        }
        None => {}
    }
    for follower in &peer.followers {
        text.push_str(&follower_as_text(follower));
    }
    if let Some(progress) = &peer.receiving {
        text.push_str(&format!("\n    receives {}", progress_as_text(progress)));
    }
    for (to, progress) in &peer.sending {
        text.push_str(&format!("\n    sends {to} {}", progress_as_text(progress)));
    }
    if peer.refused > 0 {
        text.push_str(&format!(
            "\n    has REFUSED {} messages that no correct peer sends; see the node's log",
            peer.refused
        ));
    }
    if let Some(at) = peer.quarantine {
        text.push_str(&format!(
            "\n    IN QUARANTINE: its state differs from the majority's at entry {at}, or cannot go on there, and is being replaced"
        ));
    }
    if let Some(reason) = &peer.stopped {
        text.push_str("\n    STOPPED: ");
        text.push_str(reason);
    }
    text
}

fn progress_as_text(progress: &SnapshotProgress) -> String {
    let SnapshotProgress { index, began_at_bytes, done_bytes, total_bytes } = progress;
    let mut text = format!("snapshot {index}: {done_bytes} of {total_bytes} bytes");
    if *began_at_bytes > 0 {
        text.push_str(&format!(", going on from {began_at_bytes}"));
    }
    text
}

/// The first bytes of a hash chain: enough to see by eye whether two are equal.
fn shortened(chain: Digest) -> String {
    format!("{}…", &chain.to_string()[..16])
}

fn names(peers: &[PeerId]) -> String {
    peers.iter().map(|peer| format!(" {peer}")).collect()
}

fn snapshot_as_text(peer: &PeerStatus, now: SystemTime) -> String {
    if peer.snapshot == Index::ZERO {
        return "no snapshot".to_owned();
    }
    let size = peer.snapshot_bytes.map_or_else(|| "being restored".to_owned(), units::size);
    let since = peer.snapshot_time_ms.map(|ms| units::age(UNIX_EPOCH + Duration::from_millis(ms), now));
    format!("snapshot at {}, {size}, {}", peer.snapshot, since.unwrap_or_default())
}

fn follower_as_text(follower: &FollowerStatus) -> String {
    let FollowerStatus { peer, matched, behind, sending, machine, level } = follower;
    let mut text = format!("\n    follower {peer}  has {matched}, {behind} behind  {sending}");
    match machine {
        None => text.push_str("  not heard of its machine"),
        Some(machine) => {
            text.push_str(&format!("  applied {}", machine.applied));
            match machine.differs {
                None => text.push_str(&format!(", agrees at {}", machine.agrees)),
                Some(at) => text.push_str(&format!(", DIFFERS from entry {at} on")),
            }
        }
    }
    if let Some(level) = level.filter(|level| *level < FeatureLevel::NEWEST) {
        text.push_str(&format!(", supports only feature level {level}"));
    }
    text
}

fn progress_as_json(progress: &SnapshotProgress) -> Value {
    let SnapshotProgress { index, began_at_bytes, done_bytes, total_bytes } = progress;
    json!({
        "snapshot": index.0,
        "began_at_bytes": began_at_bytes,
        "done_bytes": done_bytes,
        "total_bytes": total_bytes,
    })
}

fn follower_as_json(follower: &FollowerStatus) -> Value {
    let FollowerStatus { peer, matched, behind, sending, machine, level } = follower;
    json!({
        "feature_level": level.map(|level| level.0),
        "peer": peer.to_string(),
        "matched": matched.0,
        "behind": behind,
        "sending": sending.to_string(),
        "applied": machine.map(|machine| machine.applied.0),
        "agrees": machine.map(|machine| machine.agrees.0),
        "differs": machine.and_then(|machine| machine.differs).map(|index| index.0),
    })
}

fn as_json(status: &NodeStatus) -> Value {
    let peers: Vec<_> = status
        .peers
        .iter()
        .map(|peer| {
            json!({
                "peer": peer.peer.to_string(),
                "incarnation": peer.incarnation.to_string(),
                "cluster": peer.cluster.to_string(),
                "backend": peer.component.to_string(),
                "upgrade": peer.upgrade.as_ref().map(|UpgradeStatus { index, result }| json!({
                    "index": index.0,
                    "version": result.as_ref().ok(),
                    "failed": result.as_ref().err().map(ToString::to_string),
                })),
                "feature_level": peer.level.0,
                "role": peer.role.to_string(),
                "term": peer.term.0,
                "leader": peer.leader.as_ref().map(ToString::to_string),
                "members": peer.members.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "joining": peer.joining.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "leaving": peer.leaving.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "followers": peer.followers.iter().map(follower_as_json).collect::<Vec<_>>(),
                "first": peer.first.0,
                "last": peer.last.0,
                "committed": peer.commit.0,
                "applied": peer.applied.0,
                "snapshot": peer.snapshot.0,
                "snapshot_time_ms": peer.snapshot_time_ms,
                "snapshot_bytes": peer.snapshot_bytes,
                "triggers": peer.triggers,
                "sessions": peer.sessions,
                "asleep": peer.is_asleep,
                "has_machine": peer.has_machine,
                "chain": peer.chain.to_string(),
                "receiving": peer.receiving.as_ref().map(progress_as_json),
                "sending": peer
                    .sending
                    .iter()
                    .map(|(to, progress)| json!({ "to": to.to_string(), "progress": progress_as_json(progress) }))
                    .collect::<Vec<_>>(),
                "refused": peer.refused,
                "quarantine": peer.quarantine.map(|index| index.0),
                "stopped": peer.stopped,
            })
        })
        .collect();
    json!({
        "node": status.node.to_string(),
        "version": status.version,
        "engine": status.engine,
        "disk_full": status.is_disk_full,
        "starting": status.starting,
        "peers": peers,
    })
}

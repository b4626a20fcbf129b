//! `zraft store check`.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::output::{Failure, Output};
use crate::cli::units::{age, size};
use crate::node::{NodeCheck, PeerRecord, default_snapshot_dir};
use crate::store::{CheckedLog, CheckedPeer, CheckedSnapshot, SnapshotRole, StoredPeer};

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// The node's log_dir.
    #[arg(value_name = "DIR")]
    log_dir: PathBuf,
    /// The node's snapshot_dir [default: `snapshots` in the log's].
    #[arg(long, value_name = "DIR")]
    snapshots: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let snapshot_dir = self.snapshots.unwrap_or_else(|| default_snapshot_dir(&self.log_dir));
        let check = NodeCheck::run(&self.log_dir, &snapshot_dir)?;
        let now = SystemTime::now();
        output.result(check_as_text(&check, now), &check_as_json(&check));
        match check.store.damage.len() {
            0 => Ok(()),
            1 => Err(Failure::failed("1 file is damaged")),
            count => Err(Failure::failed(format!("{count} files or parts of files are damaged"))),
        }
    }
}

fn check_as_text(check: &NodeCheck, now: SystemTime) -> String {
    let store = &check.store;
    let mut lines: Vec<String> = store.log.iter().map(log_as_text).collect();
    for peer in &store.peers {
        peer_as_text(check, peer, now, &mut lines);
    }
    for snapshot in store.snapshots.iter().filter(|snapshot| snapshot.role != SnapshotRole::Current) {
        lines.push(other_snapshot_as_text(snapshot, now));
    }
    for (digest, size_bytes) in &store.components {
        lines.push(format!("  component {digest}, {}", size(*size_bytes)));
    }
    for path in &store.leftovers {
        lines.push(format!("  unfinished {}: removed at the next start", path.display()));
    }
    for damaged in &store.damage {
        lines.push(format!("DAMAGED {}", damaged.error));
    }
    if store.damage.is_empty() {
        lines.push("all files are whole".to_owned());
    }
    lines.join("\n")
}

fn log_as_text(log: &CheckedLog) -> String {
    let (node, path, size, rounds) = (&log.node, log.path.display(), size(log.size_bytes), log.rounds);
    let closed = if log.was_closed { "closed" } else { "not closed (the next start repairs it)" };
    format!("node {node}, log {path}: {size}, {rounds} rounds, {closed}")
}

fn peer_as_text(check: &NodeCheck, peer: &CheckedPeer, now: SystemTime, lines: &mut Vec<String>) {
    let CheckedPeer { stored: StoredPeer { incarnation, restored, .. }, log_bytes } = peer;
    let record = check.records.get(incarnation);
    let name = record.map_or_else(|| "a peer without a name".to_owned(), |record| record.peer.to_string());
    let hard = &restored.hard_state;
    let vote = hard.vote.map_or_else(|| "nobody".to_owned(), |vote| vote.to_string());
    lines.push(format!("  {name}  incarnation {incarnation}"));
    lines.push(format!("    term {}  vote {vote}  committed {}", hard.term, hard.commit));
    lines.push(match restored.last > restored.base.index {
        true => format!("    log {}..{}  {}", restored.base.index.next(), restored.last, size(*log_bytes)),
        false => format!("    log empty after {}", restored.base.index),
    });
    lines.push(match check.store.current_snapshot(*incarnation) {
        Some(snapshot) => format!("    snapshot {}", snapshot_as_text(snapshot, now)),
        None => "    no snapshot".to_owned(),
    });
    if let Some(PeerRecord { genesis, .. }) = record {
        lines.push(format!("    cluster {}  members {}", genesis.cluster, members(&peer.stored).join(" ")));
        lines.push(format!("    backend {}", genesis.component));
    }
}

fn other_snapshot_as_text(snapshot: &CheckedSnapshot, now: SystemTime) -> String {
    let role = if snapshot.role == SnapshotRole::Archived { "archived" } else { "unused" };
    format!("  {role} snapshot of {}: {}", snapshot.incarnation, snapshot_as_text(snapshot, now))
}

fn snapshot_as_text(snapshot: &CheckedSnapshot, now: SystemTime) -> String {
    let written = snapshot.written.map_or_else(String::new, |written| format!(", written {}", age(written, now)));
    format!("{}, {}{written}", snapshot.header.meta.position, size(snapshot.size_bytes))
}

/// The peers of the latest configuration that the peer knows.
fn members(peer: &StoredPeer) -> Vec<String> {
    let configuration = peer.restored.configuration_at(peer.restored.last);
    let voters = configuration.into_iter().flat_map(|configuration| configuration.voters.values());
    voters.map(ToString::to_string).collect()
}

fn check_as_json(check: &NodeCheck) -> Value {
    let store = &check.store;
    let log = store.log.as_ref().map(|log| {
        json!({
            "path": log.path,
            "size_bytes": log.size_bytes,
            "rounds": log.rounds,
            "closed": log.was_closed,
        })
    });
    let node = store.log.as_ref().map(|log| log.node.to_string());
    let damage: Vec<_> = store
        .damage
        .iter()
        .map(|damaged| json!({ "path": damaged.path, "reason": damaged.error.to_string() }))
        .collect();
    let components: Vec<_> = store
        .components
        .iter()
        .map(|(digest, size_bytes)| json!({ "digest": digest.to_string(), "size_bytes": size_bytes }))
        .collect();
    json!({
        "node": node,
        "log": log,
        "peers": store.peers.iter().map(|peer| peer_as_json(check, peer)).collect::<Vec<_>>(),
        "snapshots": store.snapshots.iter().map(snapshot_as_json).collect::<Vec<_>>(),
        "components": components,
        "unfinished": store.leftovers,
        "damage": damage,
    })
}

fn peer_as_json(check: &NodeCheck, peer: &CheckedPeer) -> Value {
    let CheckedPeer { stored: StoredPeer { incarnation, restored, .. }, log_bytes } = peer;
    let record = check.records.get(incarnation);
    json!({
        "peer": record.map(|record| record.peer.to_string()),
        "incarnation": incarnation.to_string(),
        "cluster": record.map(|record| record.genesis.cluster.to_string()),
        "backend": record.map(|record| record.genesis.component.to_string()),
        "term": restored.hard_state.term.0,
        "vote": restored.hard_state.vote.map(|vote| vote.to_string()),
        "committed": restored.hard_state.commit.0,
        "first": restored.base.index.next().0,
        "last": restored.last.0,
        "log_bytes": log_bytes,
        "snapshot": restored.snapshot.as_ref().map(|meta| meta.position.index.0),
        "members": members(&peer.stored),
    })
}

fn snapshot_as_json(snapshot: &CheckedSnapshot) -> Value {
    let since_1970 = snapshot.written.and_then(|written| written.duration_since(SystemTime::UNIX_EPOCH).ok());
    let position = snapshot.header.meta.position;
    json!({
        "path": snapshot.path,
        "role": match snapshot.role {
            SnapshotRole::Current => "current",
            SnapshotRole::Archived => "archived",
            SnapshotRole::Unused => "unused",
        },
        "incarnation": snapshot.incarnation.to_string(),
        "cluster": snapshot.header.cluster.to_string(),
        "backend": snapshot.header.backend.to_string(),
        "chain": snapshot.header.chain.to_string(),
        "index": position.index.0,
        "term": position.term.0,
        "size_bytes": snapshot.size_bytes,
        "written_ms": since_1970.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
    })
}

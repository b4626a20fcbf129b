//! `zraft store dump`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::output::{Failure, Output, bytes_as_json};
use crate::cli::units::utc;
use crate::machine::{Command, Ruling};
use crate::node::{NodeLog, PeerRecord};
use crate::raft::{Configuration, Entry, LogRead, LogReadPurpose, Payload, Upgrade};
use crate::store::StoredPeer;
use crate::types::{Index, PeerId};

/// How much of the log is read at a time, in bytes.
const READ_BYTES: usize = 4 << 20;
/// As many bytes of a command's data are shown in a line.
const SHOWN_BYTES: usize = 60;

#[derive(Debug, Args)]
pub(in crate::cli) struct Dump {
    /// The node's log_dir.
    #[arg(value_name = "DIR")]
    log_dir: PathBuf,
    /// Only this peer: its name, or its incarnation.
    #[arg(long, value_name = "NAME|INCARNATION")]
    peer: Option<String>,
    /// The first entry [default: the first in the log].
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// The last entry [default: the last in the log].
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
}

impl Dump {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let mut node = NodeLog::open(&self.log_dir)?;
        if let Some(wanted) = &self.peer {
            let is_wanted = |peer: &StoredPeer, record: &PeerRecord| {
                record.peer.name() == wanted
                    || record.peer.to_string() == *wanted
                    || peer.incarnation.to_string() == *wanted
            };
            node.peers.retain(|(peer, record)| is_wanted(peer, record));
            if node.peers.is_empty() {
                let dir = self.log_dir.display();
                return Err(Failure::absent(format!(
                    "there is no peer '{wanted}' in {dir}; zraft store check lists them"
                )));
            }
        }
        for (peer, record) in &node.peers {
            let restored = &peer.restored;
            let (first, last) = (restored.base.index.next(), restored.last);
            output.say(format_args!("{}  incarnation {}  log {first}..{last}", record.peer, peer.incarnation));
            self.peer(&node, peer, record, output)?;
        }
        Ok(())
    }

    fn peer(&self, node: &NodeLog, peer: &StoredPeer, record: &PeerRecord, output: Output) -> Result<(), Failure> {
        let (first, last) = (peer.restored.base.index.next(), peer.restored.last);
        let mut from = self.from.map_or(first, |from| first.max(Index(from)));
        let to = self.to.map_or(last, |to| last.min(Index(to)));
        while from <= to {
            let read = LogRead { purpose: LogReadPurpose::Apply, from, to, max_bytes: READ_BYTES };
            for entry in node.log.read(peer.incarnation, &read)? {
                from = entry.index.next();
                output.result(as_text(&entry), &as_json(&record.peer, &entry));
            }
        }
        Ok(())
    }
}

/// An entry in one line.
fn as_text(entry: &Entry) -> String {
    let what = match &entry.payload {
        Payload::Noop => "noop".to_owned(),
        Payload::Membership(configuration) => format!("membership {}", configuration_as_text(configuration)),
        Payload::Data(data) => match Command::decode(data) {
            Ok(command) => command_as_text(&command),
            Err(error) => format!("unknown command, {} ({error})", data_as_text(data)),
        },
        Payload::Verdict(verdict) => match Ruling::decode(&verdict.ruling) {
            Ok(Ruling::Skip(fault)) => format!("verdict: skip entry {} ({fault})", verdict.on),
            Ok(Ruling::Keep) => format!("verdict: keep entry {}", verdict.on),
            Err(error) => format!("unknown verdict on entry {} ({error})", verdict.on),
        },
        Payload::Upgrade(Upgrade { from, to, migration }) => {
            let migration = migration.as_deref().map(|migration| format!(" migrate {}", data_as_text(migration)));
            format!("upgrade from backend {from} to {to}{}", migration.unwrap_or_default())
        }
    };
    format!("  {}@{}  {}  {what}", entry.index, entry.term, utc(entry.time_ms))
}

fn command_as_text(command: &Command) -> String {
    match command {
        Command::Write { data } => format!("write {}", data_as_text(data)),
        Command::OpenSession(terms) => format!("open session of {} for {} ms", terms.identity, terms.timeout_ms),
        Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data } => {
            let kind = if *is_ephemeral { "ephemeral " } else { "" };
            format!("session {session} {kind}write {seq} acked {acked_up_to} {}", data_as_text(data))
        }
        Command::CloseSession { session } => format!("close session {session}"),
        Command::ExpireSession { session } => format!("expire session {session}"),
        Command::WriteBy { client, data } => format!("write of {client} {}", data_as_text(data)),
        Command::SetAccess { by, expected, list } => {
            let by = by.as_deref().unwrap_or("an admin");
            let named = list.named.iter().map(|(name, access)| format!("{name}={access}")).collect::<Vec<_>>();
            let default = list.default.map_or("none".to_owned(), |access| access.to_string());
            format!("access list by {by} in place of that of {expected}: default {default} {}", named.join(" "))
        }
        Command::RaiseLevel { level } => format!("feature level {level}"),
    }
}

fn command_as_json(command: &Command, json: &mut Value) {
    let (kind, session) = match command {
        Command::Write { data } => {
            json["data"] = bytes_as_json(data);
            ("write", None)
        }
        Command::OpenSession(terms) => {
            json["identity"] = json!(terms.identity);
            json["timeout_ms"] = json!(terms.timeout_ms);
            ("open_session", None)
        }
        Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data } => {
            json["seq"] = json!(seq);
            json["acked_up_to"] = json!(acked_up_to);
            json["ephemeral"] = json!(is_ephemeral);
            json["data"] = bytes_as_json(data);
            ("session_write", Some(session))
        }
        Command::RaiseLevel { level } => {
            json["level"] = json!(level.0);
            ("raise_level", None)
        }
        Command::CloseSession { session } => ("close_session", Some(session)),
        Command::ExpireSession { session } => ("expire_session", Some(session)),
        Command::WriteBy { client, data } => {
            json["client"] = json!(client);
            json["data"] = bytes_as_json(data);
            ("write", None)
        }
        Command::SetAccess { by, expected, list } => {
            json["client"] = json!(by);
            json["expected"] = json!(expected.0);
            json["default"] = json!(list.default.map(|access| access.to_string()));
            json["named"] = list.named.iter().map(|(name, access)| (name.clone(), json!(access.to_string()))).collect();
            ("set_access", None)
        }
    };
    json["kind"] = json!(kind);
    if let Some(session) = session {
        json["session"] = json!(session.0);
    }
}

fn configuration_as_text(configuration: &Configuration) -> String {
    let names = |peers: Vec<&PeerId>| peers.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut text = names(configuration.voters.values().collect());
    if configuration.is_joint() {
        text.push_str(&format!(" (from {})", names(configuration.outgoing.values().collect())));
    }
    if configuration.is_waiting() {
        text.push_str(&format!(" (learning {})", names(configuration.learners.values().collect())));
    }
    text
}

/// The size and the beginning, with what cannot be printed as escapes.
fn data_as_text(data: &[u8]) -> String {
    let shown = &data[..data.len().min(SHOWN_BYTES)];
    let rest = if shown.len() < data.len() { "…" } else { "" };
    format!("{} bytes \"{}\"{rest}", data.len(), shown.escape_ascii())
}

fn as_json(peer: &PeerId, entry: &Entry) -> Value {
    let mut json = json!({
        "peer": peer.to_string(),
        "index": entry.index.0,
        "term": entry.term.0,
        "time_ms": entry.time_ms,
        "time": utc(entry.time_ms),
    });
    match &entry.payload {
        Payload::Noop => json["kind"] = json!("noop"),
        Payload::Membership(configuration) => {
            json["kind"] = json!("membership");
            let members = [
                ("voters", &configuration.voters),
                ("outgoing", &configuration.outgoing),
                ("learners", &configuration.learners),
            ];
            for (role, peers) in members {
                json[role] = peers.values().map(ToString::to_string).collect();
            }
        }
        Payload::Data(data) => match Command::decode(data) {
            Ok(command) => command_as_json(&command, &mut json),
            Err(_) => {
                json["kind"] = json!("unknown");
                json["data"] = bytes_as_json(data);
            }
        },
        Payload::Verdict(verdict) => {
            json["kind"] = json!("verdict");
            json["on"] = json!(verdict.on.0);
            match Ruling::decode(&verdict.ruling) {
                Ok(Ruling::Skip(fault)) => {
                    json["ruling"] = json!("skip");
                    json["fault"] = json!(fault.to_string());
                }
                Ok(Ruling::Keep) => json["ruling"] = json!("keep"),
                Err(_) => json["ruling"] = json!("unknown"),
            }
        }
        Payload::Upgrade(Upgrade { from, to, migration }) => {
            json["kind"] = json!("upgrade");
            json["from"] = json!(from.to_string());
            json["to"] = json!(to.to_string());
            if let Some(migration) = migration {
                json["migration"] = bytes_as_json(migration);
            }
        }
    }
    json
}

//! What peers say and write, in words.

use zraft::raft::{AppendReply, Configuration, Entry, Envelope, HardState, Message, Payload, Write};
use zraft::types::{Incarnation, LogPosition};

/// Entries in words.
pub fn listed(entries: &[Entry]) -> String {
    let show = |entry: &Entry| match &entry.payload {
        Payload::Noop => format!("{} noop", entry.position()),
        Payload::Membership(configuration) => format!("{} {}", entry.position(), members(configuration)),
        Payload::Data(data) => format!("{} {}", entry.position(), String::from_utf8_lossy(data)),
        Payload::Verdict(verdict) => format!("{} verdict on {}", entry.position(), verdict.on),
        Payload::Upgrade(_) => format!("{} upgrade", entry.position()),
    };
    format!("[{}]", entries.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn members(configuration: &Configuration) -> String {
    let ids = |ids: Vec<&Incarnation>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let part = |title: &str, part: Vec<&Incarnation>| {
        if part.is_empty() { String::new() } else { format!(" {title} {}", ids(part)) }
    };
    let Configuration { voters, outgoing, learners, leaving } = configuration;
    let (voters, outgoing) = (part("members", voters.keys().collect()), part("and", outgoing.keys().collect()));
    let (learners, leaving) = (part("learners", learners.keys().collect()), part("leaving", leaving.iter().collect()));
    format!("{voters}{outgoing}{learners}{leaving}").trim_start().to_owned()
}

/// A write in words.
pub fn written(write: &Write) -> String {
    let position = |position: LogPosition| position.to_string();
    let hard_state = |state: HardState| {
        let vote = state.vote.map_or(String::new(), |vote| format!(" vote {vote}"));
        format!("term {}{vote} commit {}", state.term, state.commit)
    };
    let parts = [
        write.hard_state.map(hard_state),
        write.snapshot.as_ref().map(|meta| format!("snapshot {}", meta.position)),
        write.discard_through.map(|base| format!("discard through {}", position(base))),
        write.truncate_from.map(|from| format!("truncate from {from}")),
        (!write.entries.is_empty()).then(|| listed(&write.entries)),
    ];
    format!("#{}: {}", write.token.0, parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// A message in words.
pub fn said(envelope: &Envelope) -> String {
    let what = match &envelope.message {
        Message::PreVote { last } => format!("PreVote last {last}"),
        Message::PreVoteReply { granted } => format!("PreVoteReply {}", if *granted { "yes" } else { "no" }),
        Message::Vote { last, appointed: false } => format!("Vote last {last}"),
        Message::Vote { last, appointed: true } => format!("Vote last {last}, appointed"),
        Message::TimeoutNow => "TimeoutNow".to_owned(),
        Message::VoteReply { granted } => format!("VoteReply {}", if *granted { "yes" } else { "no" }),
        Message::Append { prev, entries, commit } => format!("Append after {prev} {} commit {commit}", listed(entries)),
        Message::AppendReply(AppendReply::Accepted { matched }) => format!("Accepted {matched}"),
        Message::AppendReply(AppendReply::Rejected { prev, hint }) => format!("Rejected {prev} hint {hint}"),
        Message::Heartbeat { commit, round } => format!("Heartbeat commit {commit} round {round}"),
        Message::HeartbeatReply { round } => format!("HeartbeatReply round {round}"),
        Message::Quiesce { last, round } => format!("Quiesce last {last} round {round}"),
        Message::QuiesceReply { round } => format!("QuiesceReply round {round}"),
        Message::ReadIndex { .. } => "ReadIndex".to_owned(),
        Message::ReadIndexReply { index, .. } => format!("ReadIndexReply {index}"),
        Message::Snapshot { meta } => format!("Snapshot {}", meta.position),
    };
    format!("{} -> {} (term {}): {what}", envelope.from, envelope.to, envelope.term)
}

//! What tells two states of a peer apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use zraft::types::{Digest, Incarnation};

use crate::exhaustive::local::{self, Input, PATIENCE_TICKS};
use crate::peer::Peer;

/// Counters of time and chance. What they decide is an [`Input`] here, so they do not tell states apart.
const IGNORED: [&str; 8] =
    ["timeout_ticks", "heartbeat_ticks", "quorum_ticks", "leader_silent_ticks", "heard", "next_read", "now", "starts"];
/// Counters of which only matters whether an election timeout is over.
const THRESHOLDS: [&str; 3] = ["silent_ticks", "elapsed_ticks", "disk_silent_ticks"];

/// What tells two states of a peer apart, and whether its patience is over.
pub fn of(peer: &Peer) -> (Digest, bool) {
    let text = format!("{:?} {:?} {:?} {:?}", peer.raft, peer.disk, peer.writes, peer.machine);
    let text = between(&text, "rng: ChaCha8Rng", ", log: Log", |_| String::new());
    let text = between(&text, "held: [", "], clock_ms", held_set);
    let (text, is_patient) = without_time(&text);
    (Digest::of(without_token_base(&text).as_bytes()), is_patient)
}

/// Drops what is [`IGNORED`], and cuts [`THRESHOLDS`] down to whether they are reached.
fn without_time(text: &str) -> (String, bool) {
    let (mut out, mut rest, mut is_patient) = (String::with_capacity(text.len()), text, true);
    while let Some(at) = rest.find(": ") {
        let (head, tail) = rest.split_at(at + 2);
        out.push_str(head);
        let name = head[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let word = tail.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tail.len());
        rest = if THRESHOLDS.contains(&name) {
            let is_over = tail[..word].parse::<u32>().expect("ticks are a number") >= PATIENCE_TICKS;
            is_patient &= !is_over || name == "disk_silent_ticks";
            out.push(if is_over { '>' } else { '<' });
            &tail[word..]
        } else if IGNORED.contains(&name) {
            let list = tail.starts_with('[').then(|| tail.find(']').expect("a list ends"));
            &tail[list.unwrap_or(word)..]
        } else {
            tail
        };
    }
    out.push_str(rest);
    (out, is_patient)
}

/// Counts the names of writes from the next one back: how many there were before plays no role.
fn without_token_base(text: &str) -> String {
    let number = |part: &str| -> u64 {
        let end = part.find(')').expect("a token ends");
        part[..end].parse().expect("a token is a number")
    };
    let next = text.split_once("next_token: WriteToken(").map_or(0, |(_, part)| number(part));
    let mut parts = text.split("WriteToken(");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let _ = write!(out, "back {}", next - number(part));
        out.push_str(&part[part.find(')').expect("a token ends")..]);
    }
    out
}

/// Replaces what stands between two marks, which both occur.
fn between(text: &str, from: &str, to: &str, with: impl Fn(&str) -> String) -> String {
    let (head, tail) = text.split_once(from).expect("the first mark");
    let (part, tail) = tail.split_once(to).expect("the second mark");
    format!("{head}{from}{}{to}{tail}", with(part))
}

/// The messages that wait for writes, as a set: the network is one, so their order and their number play no role. One
/// that waits for two writes leaves after the first.
fn held_set(list: &str) -> String {
    let parts = list.split("(WriteToken(").skip(1).filter_map(|part| part.trim_end_matches(", ").split_once("), "));
    let mut first = BTreeMap::new();
    for (token, envelope) in parts {
        let token: u64 = token.parse().expect("a token is a number");
        let earliest = first.entry(envelope).or_insert(token);
        *earliest = token.min(*earliest);
    }
    first.iter().map(|(envelope, token)| format!("(WriteToken({token}), {envelope}")).collect()
}

#[test]
fn only_time_and_chance_do_not_tell_states_apart() {
    let configuration = crate::peer::configuration(3);
    let peer = local::start(Incarnation(1), Some(configuration.clone()));
    let (identity, is_patient) = of(&peer);
    assert!(is_patient);
    let mut older = peer.clone();
    older.raft.tick(0);
    assert_eq!(of(&older), (identity, true), "a tick is nothing by itself");
    (1..PATIENCE_TICKS).for_each(|_| older.raft.tick(0));
    let (impatient, is_patient) = of(&older);
    assert!(!is_patient && impatient != identity, "an election timeout is something");
    let asking = local::step(&peer, Input::Timeout, &configuration).expect("it asks for an election").peer;
    assert_ne!(of(&asking).0, identity);
    let again = local::step(&asking, Input::Crash, &configuration).expect("it starts again").peer;
    assert_eq!(of(&again), (identity, true), "nothing is left of asking, and the timeout is another");
}

//! Peers that were away for longer than the log is kept: what they are sent, and that they catch up.

use std::time::{Duration, Instant};

use serde_json::Value;
use zraft::types::PeerId;

use crate::harness::{Nodes, PATIENCE, bulky, runtime, until, until_some};
use crate::load::Load;

const NAME: &str = "bulky";
/// The size of a snapshot.
const MEGABYTES: usize = 64;
/// Sending one takes eight seconds so.
const SLOWLY: &str = "snapshot_bytes_per_second = 8000000";
const EVERY: u64 = 20;
const MAX_ROUNDS: usize = 20;

/// A cluster whose last peer was down for longer than the log is kept. A snapshot is there for it.
fn nodes_with_one_behind() -> Nodes {
    let mut nodes = Nodes::prepare(3);
    (0..3).for_each(|number| nodes.start_node_with(number, SLOWLY));
    let component = nodes.folder().join("bulky.wasm");
    std::fs::write(&component, bulky(MEGABYTES)).unwrap();
    let every = EVERY.to_string();
    let options = ["--max-log-count", &every, "--min-log-percent", "0", "--kept-log-count", "0"];
    nodes.create(NAME, component.to_str().unwrap(), &options);
    // Who is to be behind does not lead.
    if nodes.leader(NAME) == 2 {
        nodes.run_ok(&["transfer", &nodes.peers(NAME)[2].to_string()]);
    }
    until("another leads", || nodes.leader(NAME) != 2);
    nodes.kill(2);
    until_same_snapshots(&nodes);
    nodes
}

/// Writes until the log behind what the last peer has is gone on both others, which have the very same snapshot. For who is
/// silent the log is kept no longer than an election timeout or two.
fn until_same_snapshots(nodes: &Nodes) {
    let peers = nodes.peers(NAME);
    let snapshots = || [0, 1].map(|number| snapshot_of(nodes, &peers[number]));
    for _ in 0..MAX_ROUNDS {
        let before = snapshots();
        (0..EVERY).for_each(|_| drop(nodes.run_ok(&["write", &peers[0].to_string(), "x"])));
        until("there are new snapshots", || snapshots().iter().zip(before).all(|(now, before)| *now > before));
        let [one, other] = snapshots();
        if one == other && peers[..2].iter().all(|peer| number_of(nodes, peer, "first") >= EVERY) {
            return;
        }
    }
    panic!("in {MAX_ROUNDS} rounds the snapshots were never the same");
}

fn number_of(nodes: &Nodes, peer: &PeerId, key: &str) -> u64 {
    nodes.status(peer).and_then(|status| status[key].as_u64()).unwrap_or_default()
}

fn snapshot_of(nodes: &Nodes, peer: &PeerId) -> u64 {
    number_of(nodes, peer, "snapshot")
}

/// Waits until the last peer has received so many bytes of a snapshot, and returns what its status tells of that.
fn until_received(nodes: &Nodes, bytes: u64) -> Value {
    let peer = &nodes.peers(NAME)[2];
    until_some("it has received so much", || {
        let receiving = nodes.status(peer)?["receiving"].clone();
        (receiving["done_bytes"].as_u64()? >= bytes).then_some(receiving)
    })
}

fn bytes_in(progress: &Value, key: &str) -> u64 {
    progress[key].as_u64().unwrap_or_else(|| panic!("no {key} in {progress}"))
}

/// Waits until the last peer has a snapshot and all are equal.
fn until_caught_up(nodes: &Nodes) {
    let peer = &nodes.peers(NAME)[2];
    until("it has the snapshot", || snapshot_of(nodes, peer) >= EVERY);
    nodes.until_equal(NAME);
    let folder = nodes.data(2).join("snapshots");
    let files = std::fs::read_dir(folder).unwrap().flat_map(|peer| std::fs::read_dir(peer.unwrap().path()));
    let names: Vec<_> = files.flatten().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.ends_with(".part")), "nothing in part is left: {names:?}");
}

#[test]
fn a_snapshot_goes_on_where_it_broke_off_when_its_receiver_is_killed() {
    let mut nodes = nodes_with_one_behind();
    nodes.start_node_with(2, SLOWLY);
    let receiving = until_received(&nodes, 16_000_000);
    assert_eq!(bytes_in(&receiving, "began_at_bytes"), 0);
    assert!(bytes_in(&receiving, "total_bytes") > MEGABYTES as u64 * 1_000_000);
    let text = nodes.run_ok(&["status", nodes.address(2).as_str()]);
    assert!(text.contains("receives snapshot"), "{text}");
    let leader = nodes.leader(NAME);
    let text = nodes.run_ok(&["status", nodes.address(leader).as_str()]);
    assert!(text.contains(&format!("sends {} snapshot", nodes.peers(NAME)[2])), "{text}");
    nodes.kill(2);
    nodes.start_node_with(2, SLOWLY);
    let receiving = until_received(&nodes, 1);
    assert!(bytes_in(&receiving, "began_at_bytes") >= 15_000_000, "{receiving}");
    until_caught_up(&nodes);
    assert!(nodes.log(2).contains("going on with a snapshot that was received in part"));
}

#[test]
fn a_snapshot_goes_on_where_it_broke_off_when_its_sender_is_killed() {
    let mut nodes = nodes_with_one_behind();
    nodes.start_node_with(2, SLOWLY);
    until_received(&nodes, 16_000_000);
    let leader = nodes.leader(NAME);
    nodes.kill(leader);
    // The next leader's snapshot is the very same: both were made of the same entries.
    let peer = nodes.peers(NAME)[2].clone();
    until("it goes on with what another sends", || {
        let receiving = nodes.status(&peer).map(|status| status["receiving"].clone());
        receiving.is_some_and(|receiving| receiving["began_at_bytes"].as_u64() >= Some(15_000_000))
    });
    nodes.start_node_with(leader, SLOWLY);
    until_caught_up(&nodes);
}

/// A follower that needs a snapshot gets there also where a dozen others are due while it is sent that one.
#[test]
fn a_follower_catches_up_while_writes_go_on() {
    const LAGGING: usize = 2;
    let mut nodes = Nodes::prepare(3);
    let slowly = "snapshot_bytes_per_second = 1000000";
    (0..3).for_each(|number| nodes.start_node_with(number, slowly));
    nodes.create("kv", "kv", &["--max-log-count", "100", "--min-log-percent", "0", "--kept-log-count", "10"]);
    runtime().block_on(async {
        let kv = nodes.kv("kv");
        for number in 0..32 {
            kv.put(format!("large {number}"), vec![7; 128 << 10]).await.unwrap();
        }
    });
    nodes.kill(LAGGING);
    let load = Load::start(&nodes);
    let peers = nodes.peers("kv");
    let applied = |number: usize| number_of(&nodes, &peers[number], "applied");
    let leader_of = |nodes: &Nodes| nodes.leader("kv");
    let last = applied(leader_of(&nodes));
    until("the log that it would need is gone", || number_of(&nodes, &peers[leader_of(&nodes)], "first") > last + 10);
    nodes.start_node_with(LAGGING, slowly);
    let start = Instant::now();
    let peer = |number: usize| &peers[number];
    let snapshot_at_start = snapshot_of(&nodes, peer(leader_of(&nodes)));
    // The tail moves on: it is to be reached where it is at the time.
    until("it has caught up", || {
        let tail = number_of(&nodes, peer(leader_of(&nodes)), "applied");
        tail > 0 && number_of(&nodes, peer(LAGGING), "applied") >= tail
    });
    assert!(start.elapsed() > Duration::from_secs(3), "sending took a while");
    let others = (snapshot_of(&nodes, peer(leader_of(&nodes))) - snapshot_at_start) / 100;
    load.end(&nodes);
    assert!(others >= 5, "{others} others were due meanwhile");
    let received = nodes.log(LAGGING).matches("a snapshot was received").count();
    assert!((1..=2).contains(&received), "{received} were needed");
    let caught_up_in = start.elapsed();
    assert!(caught_up_in < PATIENCE, "{caught_up_in:?}");
    nodes.until_equal("kv");
}

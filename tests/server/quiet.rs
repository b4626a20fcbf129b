//! Clusters that nobody uses: they fall asleep, send nothing, and wake when somebody wants something or their leader is gone.

use std::time::{Duration, Instant};

use serde_json::Value;
use zraft::types::PeerId;

use crate::harness::{Nodes, until};

/// Falls asleep within a second, and drops machines as soon as it looks at who sleeps.
const SETTINGS: &str = "election_timeout_ms = 100\ndrop_idle_after_ms = 1";
/// The same without dropping machines.
const KEEPING: &str = "election_timeout_ms = 100\ndrop_idle_after_ms = 0";

fn start(settings: &str) -> Nodes {
    let mut nodes = Nodes::prepare(3);
    (0..3).for_each(|number| nodes.start_node_with(number, settings));
    nodes
}

fn statuses(nodes: &Nodes, name: &str) -> Vec<Value> {
    nodes.peers(name).iter().map(|peer| nodes.status(peer).expect("it answers")).collect()
}

fn until_asleep(nodes: &Nodes, name: &str) {
    until("all peers sleep", || statuses(nodes, name).iter().all(|status| status["asleep"] == true));
}

fn put(nodes: &Nodes, peers: &[PeerId], value: &str) {
    nodes.run_ok(&["kv", "put", &listed(peers), "key", value]);
}

fn get(nodes: &Nodes, peer: &PeerId) -> String {
    nodes.run_ok(&["kv", "get", &peer.to_string(), "key"])
}

fn listed(peers: &[PeerId]) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What a peer's rounds of heartbeats have come to cannot be seen; that it stays asleep says that no message has come.
#[test]
fn a_cluster_falls_asleep_and_wakes_for_each_request() {
    let nodes = start(KEEPING);
    nodes.create("kv", "kv", &[]);
    put(&nodes, &nodes.peers("kv"), "one");
    until_asleep(&nodes, "kv");
    let terms = |nodes: &Nodes| statuses(nodes, "kv").iter().map(|status| status["term"].clone()).collect::<Vec<_>>();
    let before = terms(&nodes);
    // Many election timeouts: nobody misses a heartbeat.
    std::thread::sleep(Duration::from_secs(2));
    assert!(statuses(&nodes, "kv").iter().all(|status| status["asleep"] == true), "nothing has woken them");
    let leader = nodes.leader("kv");
    let peers = nodes.peers("kv");
    let follower = &peers[(leader + 1) % 3];
    assert_eq!(get(&nodes, follower), "one", "a query at a follower");
    until_asleep(&nodes, "kv");
    put(&nodes, std::slice::from_ref(&peers[leader]), "two");
    assert!(statuses(&nodes, "kv").iter().any(|status| status["asleep"] == false), "a write at the leader wakes");
    assert_eq!(get(&nodes, follower), "two");
    until_asleep(&nodes, "kv");
    assert_eq!(terms(&nodes), before, "it was one leader all the time");
}

#[test]
fn a_cluster_that_sleeps_has_another_leader_soon_after_its_leader_was_killed() {
    let mut nodes = start(KEEPING);
    for name in ["a", "b", "c", "d", "e", "f"] {
        nodes.create(name, "kv", &[]);
        put(&nodes, &nodes.peers(name), name);
    }
    ["a", "b", "c", "d", "e", "f"].iter().for_each(|name| until_asleep(&nodes, name));
    let killed = nodes.leader("a");
    let led: Vec<&str> =
        ["a", "b", "c", "d", "e", "f"].into_iter().filter(|name| nodes.leader(name) == killed).collect();
    nodes.kill(killed);
    let begun = Instant::now();
    for name in &led {
        let peers = nodes.peers(name);
        let others = || (0..3).filter(|number| *number != killed);
        let leads = |number: usize| nodes.status(&peers[number]).is_some_and(|status| status["role"] == "leader");
        until("another leads, though nobody asks for anything", || others().any(leads));
        let left: Vec<PeerId> = others().map(|number| peers[number].clone()).collect();
        assert_eq!(get(&nodes, &left[0]), *name);
    }
    // Noticed after one and a half election timeouts, and then one at most until somebody runs; the rest is patience.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    nodes.start_node_with(killed, KEEPING);
    for name in &led {
        until_asleep(&nodes, name);
    }
}

/// Restarted sooner than anybody notices its silence.
#[test]
fn a_leader_that_is_restarted_at_once_leaves_nobody_asleep_without_a_leader() {
    let mut nodes = start(KEEPING);
    nodes.create("kv", "kv", &[]);
    put(&nodes, &nodes.peers("kv"), "one");
    until_asleep(&nodes, "kv");
    let leader = nodes.leader("kv");
    let term = statuses(&nodes, "kv")[leader]["term"].as_u64();
    nodes.kill(leader);
    nodes.start_node_with(leader, KEEPING);
    until("there is a leader of a later term", || {
        statuses(&nodes, "kv").iter().any(|status| status["role"] == "leader" && status["term"].as_u64() > term)
    });
    until_asleep(&nodes, "kv");
    assert_eq!(get(&nodes, &nodes.peers("kv")[0]), "one");
}

#[test]
fn machines_that_nobody_needs_are_dropped_and_come_back_as_they_were() {
    let mut nodes = start(SETTINGS);
    nodes.create("kv", "kv", &[]);
    // More log than is applied again in no time: a snapshot is made before.
    nodes.run_ok(&["bench", &listed(&nodes.peers("kv")), "--duration", "1", "--warm-up", "0", "--clients", "8"]);
    put(&nodes, &nodes.peers("kv"), "one");
    let before = nodes.until_equal("kv");
    let are_dropped = |nodes: &Nodes| statuses(nodes, "kv").iter().all(|status| status["has_machine"] == false);
    until("all machines are dropped", || are_dropped(&nodes));
    for status in statuses(&nodes, "kv") {
        let (snapshot, applied) = (status["snapshot"].as_u64().unwrap(), status["applied"].as_u64().unwrap());
        assert!(snapshot + 100 >= applied, "a snapshot at {snapshot} of {applied}");
    }
    for peer in nodes.peers("kv") {
        assert_eq!(get(&nodes, &peer), "one");
    }
    until("all machines are dropped again", || are_dropped(&nodes));
    put(&nodes, &nodes.peers("kv"), "two");
    let after = nodes.until_equal("kv");
    assert_ne!(before[0]["chain"], after[0]["chain"]);
    // One that was dropped and one that was made from its files come to the same.
    until("all machines are dropped once more", || are_dropped(&nodes));
    let follower = (nodes.leader("kv") + 1) % 3;
    nodes.kill(follower);
    nodes.start_node_with(follower, SETTINGS);
    put(&nodes, &nodes.peers("kv"), "three");
    nodes.until_equal("kv");
    for peer in nodes.peers("kv") {
        assert_eq!(get(&nodes, &peer), "three");
    }
}

#[test]
fn a_node_tells_how_far_its_start_is() {
    let mut nodes = start(KEEPING);
    for name in ["a", "b", "c"] {
        nodes.create(name, "kv", &[]);
    }
    nodes.kill(0);
    nodes.start_node_with(0, KEEPING);
    let starting = || {
        let output = nodes.zraft(&["status", "--json", nodes.address(0).as_str()]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["starting"].clone()
    };
    until("all machines are started", || starting() == 0);
    assert!(nodes.log(0).contains("all machines are started"), "{}", nodes.log(0));
}

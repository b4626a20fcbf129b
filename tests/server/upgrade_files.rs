//! Nodes of clusters that were upgraded, started again: without the files of components, and with what they know of upgrades.

use std::fs;
use std::path::PathBuf;

use zraft::types::{Digest, PeerId};

use crate::harness::{Nodes, runtime, until};
use crate::upgrade::{KV, kv_with, until_behind_is_on, until_on, write_component};

/// A snapshot soon.
const BUSY: [&str; 4] = ["--max-log-count", "60", "--min-log-percent", "1"];

fn component_file(nodes: &Nodes, number: usize, component: Digest) -> PathBuf {
    nodes.data(number).join("components").join(format!("{component}.wasm"))
}

fn is_whole(nodes: &Nodes, number: usize, component: Digest) -> bool {
    fs::read(component_file(nodes, number, component)).is_ok_and(|bytes| Digest::of(&bytes) == component)
}

fn upgrade(nodes: &Nodes, peer: &PeerId, note: u8) -> Digest {
    let file = write_component(nodes, &format!("{note}.wasm"), &kv_with(note));
    nodes.run_ok(&["upgrade", &peer.to_string(), "--backend", &file]);
    Digest::of(&kv_with(note))
}

fn put_many(nodes: &Nodes, name: &str, prefix: &str) {
    runtime().block_on(async {
        let kv = nodes.kv(name);
        for number in 0..150 {
            kv.put(format!("{prefix} {number}"), "x").await.unwrap();
        }
    });
}

/// Waits until these peers have a snapshot of what stands behind an entry.
fn until_snapshots_behind(nodes: &Nodes, peers: &[PeerId], entry: u64) {
    let snapshot = |peer: &PeerId| nodes.status(peer).and_then(|status| status["snapshot"].as_u64());
    until("there are snapshots", || peers.iter().all(|peer| snapshot(peer).is_some_and(|at| at > entry)));
}

fn last(nodes: &Nodes, peer: &PeerId) -> u64 {
    nodes.status(peer).unwrap()["last"].as_u64().unwrap()
}

#[test]
fn a_node_whose_component_is_missing_or_damaged_gets_it_from_another_and_serves_its_other_clusters_meanwhile() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &BUSY);
    nodes.create("other", "kv", &[]);
    let (peers, others) = (nodes.peers("kv"), nodes.peers("other"));
    nodes.run_ok(&["kv", "put", &others[0].to_string(), "a", "1"]);
    let second = upgrade(&nodes, &peers[0], 2);
    let away = (nodes.leader("kv") + 1) % 3;

    // Its snapshot needs none: it is an entry of its log that does.
    nodes.kill(away);
    fs::remove_file(component_file(&nodes, away, second)).unwrap();
    nodes.start_node(away);
    until_on(&nodes, &peers, second);
    assert!(is_whole(&nodes, away, second));

    let upgraded_at = last(&nodes, &peers[0]);
    put_many(&nodes, "kv", "first");
    until_snapshots_behind(&nodes, &peers, upgraded_at);
    for (away, is_missing) in [(away, true), (away, false), (nodes.leader("kv"), true)] {
        nodes.kill(away);
        let file = component_file(&nodes, away, second);
        if is_missing {
            fs::remove_file(&file).unwrap()
        } else {
            fs::write(&file, b"damaged").unwrap()
        }
        let asked_before = nodes.log(away).matches("waits for a component").count();
        nodes.start_node(away);
        assert_eq!(nodes.run_ok(&["kv", "get", &others[away].to_string(), "a"]), "1");
        until_on(&nodes, &peers, second);
        assert!(is_whole(&nodes, away, second));
        assert!(nodes.log(away).matches("waits for a component").count() > asked_before, "it had no other way");
        assert_eq!(nodes.run_ok(&["kv", "get", &peers[away].to_string(), "first 0"]), "x");
        assert_eq!(nodes.status(&peers[away]).unwrap()["stopped"], serde_json::Value::Null);
    }

    // All that it has.
    nodes.kill(away);
    fs::remove_dir_all(nodes.data(away).join("components")).unwrap();
    nodes.start_node(away);
    until_on(&nodes, &peers, second);
    until_on(&nodes, &others, Digest::of(KV));
    assert!(is_whole(&nodes, away, Digest::of(KV)));
}

#[test]
fn a_component_that_nobody_has_is_named_and_taken_as_soon_as_it_is_put_back() {
    let mut nodes = Nodes::start(1);
    nodes.create("kv", "kv", &BUSY);
    nodes.create("other", "kv", &[]);
    let (peer, other) = (nodes.peers("kv")[0].clone(), nodes.peers("other")[0].to_string());
    nodes.run_ok(&["kv", "put", &other, "a", "1"]);
    let second = upgrade(&nodes, &peer, 2);
    let upgraded_at = last(&nodes, &peer);
    put_many(&nodes, "kv", "first");
    until_snapshots_behind(&nodes, std::slice::from_ref(&peer), upgraded_at);
    nodes.kill(0);
    let (file, aside) = (component_file(&nodes, 0, second), nodes.folder().join("aside.wasm"));
    fs::rename(&file, &aside).unwrap();
    nodes.start_node(0);
    let name = peer.to_string();
    until("it says what is wrong", || {
        let status = nodes.run_ok(&["status", &name]);
        status.contains(&format!("waits for component {second}")) && status.contains(&file.display().to_string())
    });
    assert_eq!(nodes.run_ok(&["kv", "get", &other, "a"]), "1");

    // What is asked for meanwhile is done then.
    until("it leads", || nodes.status(&peer).is_some_and(|status| status["role"] == "leader"));
    let before = last(&nodes, &peer);
    std::thread::scope(|scope| {
        let put = scope.spawn(|| nodes.run_ok(&["kv", "put", &name, "meanwhile", "1"]));
        until("the write is in the log", || last(&nodes, &peer) > before);
        fs::rename(&aside, &file).unwrap();
        put.join().unwrap();
    });
    assert_eq!(nodes.run_ok(&["kv", "get", &name, "first 149"]), "x");
    assert_eq!(nodes.run_ok(&["kv", "get", &name, "meanwhile"]), "1");
    assert_eq!(nodes.status(&peer).unwrap()["stopped"], serde_json::Value::Null);
}

#[test]
fn a_node_whose_component_the_others_have_moved_on_from_takes_their_state() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[&BUSY[..], &["--kept-log-count", "200"]].concat());
    let peers = nodes.peers("kv");
    let second = upgrade(&nodes, &peers[0], 2);
    let moved_at = last(&nodes, &peers[0]);
    put_many(&nodes, "kv", "first");
    until_snapshots_behind(&nodes, &peers, moved_at + 60);
    let away = (nodes.leader("kv") + 1) % 3;
    nodes.kill(away);
    let rest: Vec<_> = (0..3).filter(|number| *number != away).collect();
    let third = upgrade(&nodes, &peers[rest[0]], 3);
    // The first step that takes the log of the others beyond the entry that needs the second leaves what is behind the snapshot
    // of who is away.
    until("the logs do not name the second any more", || {
        nodes.run_ok(&["kv", "put", &peers[rest[0]].to_string(), "second", "x"]);
        let first = |number: &usize| nodes.status(&peers[*number]).and_then(|status| status["first"].as_u64());
        rest.iter().all(|number| first(number).is_some_and(|first| first > moved_at))
    });
    for number in rest {
        assert!(nodes.terminate(number));
        nodes.start_node(number);
        until_behind_is_on(&nodes, &peers[number], third);
        assert!(!component_file(&nodes, number, second).exists(), "nobody needs it any more");
    }
    fs::remove_file(component_file(&nodes, away, second)).unwrap();
    nodes.start_node(away);
    until_on(&nodes, &peers, third);
    assert!(nodes.log(away).contains("in quarantine"), "the log behind its snapshot was there");
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[away].to_string(), "second"]), "x");
}

/// What an upgrade has come to is known again where its entry is behind the snapshot that the machine is made from.
#[test]
fn a_peer_tells_of_its_latest_upgrade_until_it_is_made_from_a_snapshot_of_later() {
    let mut nodes = Nodes::start(1);
    nodes.create("kv", "kv", &BUSY);
    let peer = nodes.peers("kv")[0].clone();
    let told = |nodes: &Nodes| nodes.status(&peer).unwrap()["upgrade"]["failed"].as_str().map(str::to_owned);
    nodes.run_ok(&["kv", "put", &peer.to_string(), "a", "1"]);
    nodes.run_err(1, &["upgrade", &peer.to_string(), "--backend", "counter"]);
    let before = told(&nodes).unwrap();
    nodes.kill(0);
    nodes.start_node(0);
    until("it is known again", || told(&nodes).as_ref() == Some(&before));

    let refused_at = last(&nodes, &peer);
    put_many(&nodes, "kv", "first");
    until_snapshots_behind(&nodes, std::slice::from_ref(&peer), refused_at);
    assert_eq!(told(&nodes), Some(before.clone()));
    nodes.kill(0);
    nodes.start_node(0);
    until("the machine is made", || nodes.status(&peer).is_some_and(|status| status["applied"] == status["last"]));
    assert_eq!(told(&nodes), None);
    assert_eq!(nodes.status(&peer).unwrap()["backend"], Digest::of(KV).to_string());
    // Who asks again hears it again.
    assert!(nodes.run_err(1, &["upgrade", &peer.to_string(), "--backend", "counter"]).contains(&before));
}

//! Nothing acknowledged is lost, whoever is killed.

use std::collections::BTreeMap;

use crate::harness::{Nodes, runtime, until};
use serde_json::Value;
use zraft::client::{KvError, SessionError};
use zraft::feature_level::FeatureLevel;

#[test]
fn a_cluster_survives_the_kill_of_its_leader_and_of_all() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peer = |number: usize| nodes.peers("kv")[number].to_string();
    let all = [peer(0), peer(1), peer(2)];
    nodes.run_ok(&["kv", "put", &all[0], "first", "1"]);

    let leader = nodes.leader("kv");
    nodes.kill(leader);
    for survivor in (0..3).filter(|number| *number != leader) {
        assert_eq!(nodes.run_ok(&["kv", "get", &all[survivor], "first"]), "1");
    }
    nodes.run_ok(&["kv", "put", &all.join(","), "second", "2"]);

    nodes.start_node(leader);
    assert_eq!(nodes.run_ok(&["kv", "get", &all[leader], "second"]), "2");
    nodes.until_equal("kv");

    (0..3).for_each(|number| nodes.kill(number));
    (0..3).for_each(|number| nodes.start_node(number));
    for peer in &all {
        assert_eq!(nodes.run_ok(&["kv", "list", peer]), "first\t1\nsecond\t2");
    }
    nodes.until_equal("kv");
}

#[test]
fn every_acknowledged_write_of_many_survives_repeated_kills_of_everyone() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &["--max-log-count", "60", "--kept-log-count", "5"]);
    let runtime = runtime();
    let mut acknowledged = BTreeMap::new();
    for round in 0..3 {
        runtime.block_on(async {
            let kv = nodes.kv("kv");
            for number in 0..100 {
                let (key, value) = (format!("{number:02}"), format!("{round}-{number}"));
                match kv.put(key.clone(), value.clone()).await {
                    Ok(_) => drop(acknowledged.insert(key, value)),
                    // It may count or not: what was there before is no longer certain either.
                    Err(KvError::Session(SessionError::Unknown(_))) => drop(acknowledged.remove(&key)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        (0..3).for_each(|number| nodes.kill(number));
        (0..3).for_each(|number| nodes.start_node(number));
        runtime.block_on(async {
            let kv = nodes.kv("kv");
            for (key, value) in &acknowledged {
                let entry = kv.get(key.clone()).await.unwrap().unwrap();
                assert_eq!(String::from_utf8(entry.value).unwrap(), *value);
            }
        });
    }
    assert!(acknowledged.len() > 90, "too few writes were acknowledged to say anything: {}", acknowledged.len());
    // They are made while there is nothing better to do.
    until("all have taken snapshots, and the log behind them is gone", || {
        let all = nodes.until_equal("kv");
        let at = |status: &Value, what: &str| status[what].as_u64().unwrap();
        all.iter().all(|status| at(status, "snapshot") > 200 && at(status, "first") > 150)
    });
}

#[test]
fn a_peer_that_is_too_far_behind_gets_a_snapshot() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &["--max-log-count", "50", "--kept-log-count", "10"]);
    let runtime = runtime();
    let behind = (nodes.leader("kv") + 1) % 3;
    // Then nothing is written by itself any more.
    until("the log has its feature level", || {
        nodes.until_equal("kv").iter().all(|status| status["feature_level"] == FeatureLevel::NEWEST.0)
    });
    let before = nodes.status(&nodes.peers("kv")[behind]).unwrap()["last"].as_u64().unwrap();
    nodes.kill(behind);
    let leader = &nodes.peers("kv")[nodes.leader("kv")];
    // While it is taken for one that is only slow, the log is kept for it.
    until("the log that it needs is gone", || {
        runtime.block_on(async {
            let kv = nodes.kv("kv");
            for number in 0..100 {
                kv.put(format!("key {number}"), "x".repeat(number)).await.unwrap();
            }
        });
        nodes.status(leader).unwrap()["first"].as_u64().unwrap() > before + 1
    });
    nodes.start_node(behind);
    let all = nodes.until_equal("kv");
    let first = all[behind]["first"].as_u64().unwrap();
    assert!(first > before + 1, "its log begins at {first}, so entries after {before} came as a snapshot");

    // What came as a snapshot is durable like the rest.
    nodes.kill(behind);
    nodes.start_node(behind);
    let peer = nodes.peers("kv")[behind].to_string();
    assert_eq!(nodes.run_ok(&["kv", "get", &peer, "key 7"]), "xxxxxxx");
    nodes.until_equal("kv");
}

#[test]
fn a_node_stops_at_a_signal_and_goes_on_where_it_was() {
    let mut nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    nodes.run_ok(&["kv", "put", &peer, "a", "1"]);
    assert!(nodes.terminate(0), "{}", nodes.log(0));
    nodes.start_node(0);
    assert_eq!(nodes.run_ok(&["kv", "get", &peer, "a"]), "1");
}

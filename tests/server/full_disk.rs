//! Nodes whose disk is full: more room is demanded than any disk has. `tests/disk` fills a real one.

use crate::harness::{Nodes, until};

/// More room than there is.
const FULL: &str = "min_free_bytes = 4_611_686_018_427_387_904";
/// Elections of which the peer that runs first should win one.
const MOST_ELECTIONS: usize = 20;

fn restart(nodes: &mut Nodes, number: usize, settings: &str) {
    assert!(nodes.terminate(number));
    nodes.start_node_with(number, settings);
}

fn says_full(nodes: &Nodes, number: usize) -> bool {
    let status = nodes.run_ok(&["status", "--json", nodes.address(number).as_str()]);
    serde_json::from_str::<serde_json::Value>(&status).unwrap()["disk_full"] == true
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads_until_there_is_room() {
    let mut nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    nodes.run_ok(&["kv", "put", &peer, "a", "1"]);
    restart(&mut nodes, 0, FULL);
    until("the node says that its disk is full", || says_full(&nodes, 0));

    let refused = nodes.run_err(1, &["kv", "put", &peer, "a", "2"]);
    let node = nodes.address(0);
    assert!(refused.contains(&format!("the disk of {node} is full")) && refused.contains("make room"), "{refused}");
    assert_eq!(nodes.run_ok(&["kv", "get", &peer, "a"]), "1");
    let other = nodes.peers("other")[0].to_string();
    let refused = nodes.run_err(1, &["create", "--backend", "kv", &other]);
    assert!(refused.contains("is full"), "{refused}");
    assert!(nodes.log(0).contains("the disk is full"), "{}", nodes.log(0));

    restart(&mut nodes, 0, "");
    assert!(!says_full(&nodes, 0));
    nodes.run_ok(&["kv", "put", &peer, "a", "3"]);
    assert_eq!(nodes.run_ok(&["kv", "get", &peer, "a"]), "3");
}

#[test]
fn writes_go_on_while_a_majority_has_room_and_a_leader_without_room_steps_aside() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
    // The one without room is the first to run for election.
    restart(&mut nodes, 0, &format!("{FULL}\nelection_timeout_ms = 150"));
    until("the node says that its disk is full", || says_full(&nodes, 0));
    let leads = |nodes: &Nodes| nodes.log(0).matches("role=leader").count();
    let before = leads(&nodes);
    let mut elections = 0;
    while leads(&nodes) == before {
        elections += 1;
        assert!(elections <= MOST_ELECTIONS, "the first to run is never elected");
        until("another leads", || nodes.leader("kv") != 0);
        let leader = nodes.leader("kv");
        nodes.kill(leader);
        until("there is another leader", || nodes.leader("kv") != leader);
        nodes.start_node(leader);
    }
    until("the leader without room has stepped aside", || nodes.leader("kv") != 0);
    nodes.run_ok(&["kv", "put", &peers[1], "a", "1"]);

    restart(&mut nodes, 1, FULL);
    until("both say that their disks are full", || says_full(&nodes, 1));
    let full = [nodes.address(0).as_str(), nodes.address(1).as_str()];
    until("no majority has room", || {
        let output = nodes.zraft(&["kv", "put", &peers[2], "a", "2"]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.code() == Some(1) && full.iter().all(|node| complaint.contains(node))
    });
    for peer in &peers {
        assert!(["1", "2"].contains(&nodes.run_ok(&["kv", "get", peer, "a"]).as_str()));
    }
    restart(&mut nodes, 1, "");
    until("the others know that there is room", || nodes.zraft(&["kv", "put", &peers[2], "a", "3"]).status.success());
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[2], "a"]), "3");
}

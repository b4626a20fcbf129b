//! A cluster is created on all its peers, or nothing of it is left.

use std::time::Duration;

use tokio::time::timeout;
use zraft::client::{CreateError, NewCluster};
use zraft::protocol::RequestError;
use zraft::types::Digest;

use crate::harness::{Nodes, PATIENCE, runtime, until};

/// Everything a node keeps of clusters beside its log.
fn traces(nodes: &Nodes, number: usize) -> Vec<String> {
    let names = |folder: &str| match nodes.data(number).join(folder).read_dir() {
        Ok(entries) => entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display())).collect(),
        Err(_) => Vec::new(),
    };
    let folders = [names("components"), names("compiled"), names("snapshots")];
    // The folder of snapshots says whose it is.
    folders.into_iter().flatten().filter(|name| name != "snapshots/node").collect()
}

fn create(nodes: &Nodes, backend: &str) -> String {
    let peers: Vec<_> = nodes.peers("kv").iter().map(ToString::to_string).collect();
    let mut arguments = vec!["create", "--backend", backend];
    arguments.extend(peers.iter().map(String::as_str));
    nodes.run_err(1, &arguments)
}

fn assert_nothing_is_left(nodes: &Nodes) {
    for number in 0..3 {
        let status = nodes.run_ok(&["status", nodes.address(number).as_str()]);
        assert!(status.contains("no peers"), "{status}");
        until("nothing is left", || traces(nodes, number).is_empty());
    }
}

#[test]
fn what_is_no_backend_is_refused_by_name_and_leaves_nothing() {
    let nodes = Nodes::start(3);
    let import = r#"(component (import "wasi:http/types@0.2.0" (instance)))"#;
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("text.wasm", b"hello".to_vec(), "not WebAssembly"),
        ("core.wasm", wat::parse_str("(module)").unwrap(), "core module, and no component can be made of it"),
        ("exports-nothing.wasm", wat::parse_str("(component)").unwrap(), "zraft:backend/machine"),
        ("imports.wasm", wat::parse_str(import).unwrap(), "wasi:http/types@0.2.0"),
        ("cut.wasm", include_bytes!("../../guests/dist/kv.wasm")[..5000].to_vec(), "the engine refuses it"),
    ];
    for (name, bytes, expected) in cases {
        let path = nodes.folder().join(name);
        std::fs::write(&path, bytes).unwrap();
        let complaint = create(&nodes, path.to_str().unwrap());
        assert!(complaint.contains(expected), "{name}: {complaint}");
        for peer in nodes.peers("kv") {
            assert!(complaint.contains(&peer.to_string()), "{name}: {complaint}");
        }
        assert_nothing_is_left(&nodes);
    }
    // The nodes are as good as new.
    nodes.create("kv", "kv", &[]);
    nodes.run_ok(&["kv", "put", &nodes.peers("kv")[1].to_string(), "a", "1"]);
}

#[test]
fn a_core_module_becomes_the_backend_of_a_cluster_and_goes_by_its_own_digest() {
    let mut nodes = Nodes::start(3);
    let module = wat::parse_str(include_str!("../components/core.wat")).unwrap();
    let path = nodes.folder().join("core.wasm");
    std::fs::write(&path, &module).unwrap();
    nodes.create("core", path.to_str().unwrap(), &[]);
    let peers = nodes.peers("core");
    nodes.run_ok(&["write", &peers[0].to_string(), "anything"]);
    nodes.kill(2);
    nodes.start_node(2);
    for status in nodes.until_equal("core") {
        assert_eq!(status["backend"], Digest::of(&module).to_string());
        assert_eq!(status["stopped"], serde_json::Value::Null);
    }
}

#[test]
fn a_config_that_the_backend_refuses_is_refused() {
    let nodes = Nodes::start(1);
    let peer = nodes.peers("kv")[0].to_string();
    let complaint = nodes.run_err(1, &["create", "--backend", "kv", "--config", "fast=yes", &peer]);
    assert!(complaint.contains("kv backend takes no config"), "{complaint}");
    assert!(nodes.run_ok(&["status", nodes.address(0).as_str()]).contains("no peers"));
}

#[test]
fn every_peer_in_the_way_is_named_and_nothing_is_left_on_the_others() {
    let mut nodes = Nodes::start(3);
    let peers = nodes.peers("kv");
    // One node has such a peer already, another is down.
    nodes.run_ok(&["create", "--backend", "kv", &peers[1].to_string()]);
    nodes.kill(2);
    let complaint = create(&nodes, "kv");
    assert!(complaint.contains(&format!("{}: a peer named 'kv' is already present", peers[1])), "{complaint}");
    assert!(complaint.contains(&format!("{}: ", peers[2])), "{complaint}");
    assert!(!complaint.contains(&format!("{}: ", peers[0])), "{complaint}");
    assert!(nodes.run_ok(&["status", nodes.address(0).as_str()]).contains("no peers"));
    until("nothing is left on the first node", || traces(&nodes, 0).is_empty());
    // The peer that was in the way is not harmed.
    nodes.run_ok(&["kv", "put", &peers[1].to_string(), "a", "1"]);
}

#[test]
fn several_peers_of_one_cluster_may_live_on_one_node() {
    let nodes = Nodes::start(1);
    let peers: Vec<_> = ["a", "b", "c"].iter().map(|name| nodes.peers(name)[0].to_string()).collect();
    let mut arguments = vec!["create", "--backend", "kv"];
    arguments.extend(peers.iter().map(String::as_str));
    nodes.run_ok(&arguments);
    nodes.run_ok(&["kv", "put", &peers[0], "x", "1"]);
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[2], "x"]), "1");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let nodes = Nodes::start(1);
    let peer = nodes.peers("kv")[0].to_string();
    let twice = nodes.run_err(1, &["create", "--backend", "kv", &peer, &peer]);
    assert!(twice.contains("named twice"), "{twice}");
    let zero = nodes.run_err(1, &["create", "--backend", "kv", "--max-log-count", "0", &peer]);
    assert!(zero.contains("max_log_count"), "{zero}");
    let missing = nodes.run_err(2, &["create", "--backend", "/no/such/file.wasm", &peer]);
    assert!(missing.contains("/no/such/file.wasm"), "{missing}");
    let unknown = nodes.run_err(1, &["kv", "get", &peer, "a"]);
    assert!(unknown.contains("no peer 'kv'"), "{unknown}");
}

/// zraft_lib's four: created, one peer or several failed, created without a leader yet, not known.
#[test]
fn what_comes_of_a_creation_is_told_apart() {
    const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");
    let mut nodes = Nodes::prepare(3);
    (0..2).for_each(|number| nodes.start_node(number));
    runtime().block_on(async {
        let client = nodes.client();
        let cluster = |name: &str| NewCluster::new(nodes.peers(name), KV.into());

        let failure = client.create(cluster("a")).await.unwrap_err();
        let CreateError::Peers(failures) = &failure else { panic!("{failure}") };
        assert_eq!(failures.iter().map(|failure| &failure.peer).collect::<Vec<_>>(), [&nodes.peers("a")[2]]);

        let mut first_is_down = cluster("a");
        first_is_down.peers.reverse();
        let failure = client.create(first_is_down).await.unwrap_err();
        assert!(matches!(failure, CreateError::Unreachable(_)), "{failure}");

        let failure = client.create(NewCluster { config: vec![0; 1 << 20].into(), ..cluster("a") }).await.unwrap_err();
        assert!(matches!(failure, CreateError::Refused(RequestError::Invalid { .. })), "{failure}");
        let failure = client.create(NewCluster::new(Vec::new(), KV.into())).await.unwrap_err();
        assert!(matches!(failure, CreateError::NoPeers), "{failure}");
    });
    for number in 0..2 {
        assert!(nodes.run_ok(&["status", nodes.address(number).as_str()]).contains("no peers"));
    }

    nodes.start_node(2);
    runtime().block_on(async {
        // Nobody is asked.
        let new = NewCluster { leader_timeout: Duration::ZERO, ..NewCluster::new(nodes.peers("b"), KV.into()) };
        let created = nodes.client().create(new).await.unwrap();
        assert_eq!(created.leader, None);
        let status = nodes.status(&nodes.peers("b")[2]).unwrap();
        assert_eq!(status["cluster"], created.cluster.to_string(), "it exists all the same");
    });
    nodes.run_ok(&["kv", "put", &nodes.peers("b")[0].to_string(), "a", "1"]);

    // The node that coordinates dies while it has the request.
    runtime().block_on(async {
        let client = nodes.client();
        client.status(nodes.address(0)).await.unwrap();
        nodes.pause(0);
        let (creating, new) = (client.clone(), NewCluster::new(nodes.peers("c"), KV.into()));
        let creation = tokio::spawn(async move { creating.create(new).await });
        // The request is sent while nobody takes it.
        tokio::task::yield_now().await;
        nodes.kill(0);
        nodes.start_node(0);
        let failure = timeout(PATIENCE, creation).await.expect("the loss is noticed").unwrap().unwrap_err();
        assert!(matches!(failure, CreateError::Unknown(_)), "{failure}");
        let created = client.create(NewCluster::new(nodes.peers("d"), KV.into())).await.unwrap();
        assert!(nodes.peers("d").contains(&created.leader.unwrap()));
    });
}

#[test]
fn a_new_cluster_does_not_wait_for_an_election_timeout() {
    let mut nodes = Nodes::prepare(3);
    // Twice as long as anything may take here.
    (0..3).for_each(|number| nodes.start_node_with(number, "election_timeout_ms = 60_000"));
    nodes.create("kv", "kv", &[]);
    assert_eq!(nodes.leader("kv"), 0, "the first peer runs");
    let write = async { timeout(PATIENCE, nodes.kv("kv").put("key", "value")).await };
    runtime().block_on(write).unwrap().unwrap();
}

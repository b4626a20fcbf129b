//! The commands of operators for whole clusters: list, transfer, delete.

use serde_json::Value;

use crate::harness::{Nodes, until};

fn list(nodes: &Nodes) -> Vec<Value> {
    let all = [nodes.address(0).as_str(), nodes.address(1).as_str(), nodes.address(2).as_str()];
    let listed = nodes.run_ok(&[&["list", "--json"], &all[..]].concat());
    serde_json::from_str::<Value>(&listed).unwrap()["clusters"].as_array().unwrap().clone()
}

#[test]
fn clusters_are_listed_and_leadership_goes_where_it_is_told() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    nodes.create("other", "counter", &[]);
    let peers: Vec<String> = nodes.peers("kv").iter().map(ToString::to_string).collect();
    nodes.run_ok(&["kv", "put", &peers[0], "a", "1"]);
    for to in &peers {
        // Also where it is already.
        for _ in 0..2 {
            assert_eq!(nodes.run_ok(&["transfer", &peers[1], "--to", to]), format!("{to} leads"));
        }
    }
    let led = nodes.run_ok(&["transfer", &peers[0]]);
    assert!(peers[..2].iter().any(|peer| led == format!("{peer} leads")), "{led}");
    let stranger = format!("kv@{}", "127.0.0.1:1");
    let refused = nodes.run_err(1, &["transfer", &peers[0], "--to", &stranger]);
    assert!(refused.contains("only a peer that votes can lead"), "{refused}");
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[2], "a"]), "1");
    let clusters = list(&nodes);
    assert_eq!(clusters.len(), 2);
    let kv = clusters.iter().find(|cluster| cluster["peers"][0].as_str().unwrap().starts_with("kv@")).unwrap();
    assert_eq!(format!("{} leads", kv["leader"].as_str().unwrap()), led);
    assert_eq!(kv["peers"].as_array().unwrap().len(), 3);
}

#[test]
fn leadership_stays_where_the_other_does_not_take_it() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let leader = nodes.leader("kv");
    let peers: Vec<String> = nodes.peers("kv").iter().map(ToString::to_string).collect();
    let down = (leader + 1) % 3;
    nodes.kill(down);
    let refused = nodes.run_err(1, &["transfer", &peers[leader], "--to", &peers[down]]);
    assert!(refused.contains(&format!("leadership was not handed to {}", peers[down])), "{refused}");
    nodes.run_ok(&["kv", "put", &peers[leader], "a", "1"]);
}

#[test]
fn a_cluster_is_deleted_from_all_its_nodes_and_leaves_nothing_and_others_stay() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &["--max-log-count", "5", "--kept-log-count", "0"]);
    nodes.create("other", "counter", &[]);
    let peers: Vec<String> = nodes.peers("kv").iter().map(ToString::to_string).collect();
    (0..20).for_each(|count| drop(nodes.run_ok(&["kv", "put", &peers[0], "a", &count.to_string()])));
    let asked = nodes.run_err(2, &["delete", &peers[0]]);
    assert!(asked.contains("--yes"), "{asked}");
    let denied = nodes.run_err(1, &["delete", "--yes", "--as", "alice", &peers[0]]);
    assert!(denied.contains("admin"), "{denied}");
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[0], "a"]), "19");
    let follower = (nodes.leader("kv") + 1) % 3;
    nodes.run_ok(&["delete", "--yes", &peers[follower]]);
    nodes.run_err(5, &["status", &peers[0]]);
    let clusters = list(&nodes);
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    for number in 0..3 {
        let found = |folder: &str| std::fs::read_dir(nodes.data(number).join(folder)).unwrap().map(Result::unwrap);
        let snapshots = || found("snapshots").filter(|entry| entry.file_type().unwrap().is_dir()).count();
        until("the files are gone", || (found("components").count(), snapshots()) == (1, 0));
    }
    // The name is free again.
    nodes.create("kv", "kv", &[]);
    nodes.run_err(5, &["kv", "get", &peers[0], "a"]);
}

#[test]
fn a_cluster_with_a_node_that_is_down_is_deleted_only_by_force() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers: Vec<String> = nodes.peers("kv").iter().map(ToString::to_string).collect();
    nodes.run_ok(&["kv", "put", &peers[0], "a", "1"]);
    let down = (nodes.leader("kv") + 1) % 3;
    nodes.kill(down);
    let (up, other) = ((down + 1) % 3, (down + 2) % 3);
    let refused = nodes.run_err(1, &["delete", "--yes", &peers[up]]);
    assert!(refused.contains("nothing of it was") && refused.contains(&peers[down]), "{refused}");
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[other], "a"]), "1");
    let left = nodes.run_err(3, &["delete", "--yes", "--force", &peers[up]]);
    assert!(left.contains(&peers[down]) && !left.contains(&peers[other]), "{left}");
    nodes.run_err(5, &["status", &peers[other]]);
    nodes.start_node(down);
    assert!(nodes.status(&nodes.peers("kv")[down]).is_some(), "nobody has told it");
    nodes.run_ok(&["delete", "--yes", "--force", &peers[down]]);
    nodes.run_err(5, &["status", &peers[down]]);
}

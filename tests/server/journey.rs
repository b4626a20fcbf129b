//! A write can be followed through the log of its node, if that is asked for.

use std::time::Duration;

use zraft::client::{KvSession, Session};

use crate::harness::{Nodes, runtime, until, until_some};

/// The id of the request that a line is about.
fn id_of(line: &str) -> Option<&str> {
    line.split_once("request{id=")?.1.split_once('}').map(|(id, _)| id)
}

/// The lines about the latest request that was received and is as described, once it is answered.
fn steps(nodes: &Nodes, described: &[&str]) -> Vec<String> {
    until_some("the request is answered", || {
        let log = nodes.log(0);
        let received = log.lines().rfind(|line| described.iter().all(|word| line.contains(word)))?;
        let lines: Vec<_> = log.lines().filter(|line| id_of(line) == id_of(received)).map(str::to_owned).collect();
        lines.last()?.contains("answered").then_some(lines)
    })
}

#[test]
fn each_step_of_a_write_is_a_line_with_its_id_if_the_log_is_to_tell() {
    let mut nodes = Nodes::prepare(1);
    nodes.start_node_under(&["env", "ZRAFT_LOG=zraft::request=debug"], 0, "");
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    nodes.run_ok(&["kv", "put", &peer, "a", "1", "--as", "alice"]);
    let of_client = steps(&nodes, &["received", "client/alice", "to=kv"]);
    runtime().block_on(async {
        let (session, _notices) =
            Session::connect(nodes.client(), nodes.peers("kv"), Duration::from_secs(20)).await.unwrap();
        KvSession::new(session).put("a", "2").await.unwrap();
    });
    let of_session = steps(&nodes, &["received", "admin/admin", "write 1 of the session"]);
    assert_ne!(id_of(&of_client[0]), id_of(&of_session[0]));
    for lines in [of_client, of_session] {
        let expected: [&[&str]; 4] = [
            &["received", "size_bytes="],
            &["proposed", "index=", "term="],
            &["committed"],
            &["applied and answered", "index=", "latency_us="],
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, words) in lines.iter().zip(expected) {
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }
    // One that is refused is told as such.
    nodes.run_ok(&["access", &peer, "--default", "none"]);
    nodes.run_err(1, &["kv", "put", &peer, "a", "3", "--as", "alice"]);
    until("the refusal is told", || {
        let log = nodes.log(0);
        let refused = log.lines().rfind(|line| line.contains("refused or given up"));
        refused
            .is_some_and(|line| log.lines().any(|other| other.contains("client/alice") && id_of(other) == id_of(line)))
    });

    // Without being asked, the log tells nothing of the kind.
    assert!(nodes.terminate(0));
    let before = nodes.log(0).len();
    nodes.start_node(0);
    nodes.run_ok(&["kv", "put", &peer, "a", "4"]);
    assert!(!nodes.log(0)[before..].contains("request{"));
}

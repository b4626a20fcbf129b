//! What `zraft status` shows of a cluster in use.

use std::time::Duration;

use serde_json::{Value, json};
use zraft::client::{KvSession, Session};

use crate::harness::{Nodes, runtime, until, until_some};

#[test]
fn a_leader_shows_who_lags_its_sessions_triggers_and_snapshot() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &["--max-log-count", "20", "--kept-log-count", "2"]);
    let leader = nodes.leader("kv");
    let peers = nodes.peers("kv");
    let (leads, away) = (&peers[leader], &peers[(leader + 1) % 3]);
    runtime().block_on(async {
        let (session, _notices) =
            Session::connect(nodes.client(), peers.clone(), Duration::from_secs(60)).await.unwrap();
        let kv = KvSession::new(session);
        kv.watch("watched").await.unwrap();
        let before = nodes.status(leads).unwrap();
        assert_eq!((&before["sessions"], &before["triggers"]), (&json!(1), &json!(1)), "{before}");
        assert_eq!((&before["joining"], &before["leaving"], &before["refused"]), (&json!([]), &json!([]), &json!(0)));

        nodes.kill((leader + 1) % 3);
        for number in 0..30 {
            nodes.run_ok(&["kv", "put", &leads.to_string(), "a", &number.to_string()]);
        }
        let status = until_some("a snapshot is taken and who lives is up to date", || {
            let status = nodes.status(leads)?;
            let is_equal = |follower: &Value| follower["peer"] == away.to_string() || follower["behind"] == 0;
            let are_equal = status["followers"].as_array()?.iter().all(is_equal);
            (are_equal && status["snapshot"].as_u64()? > 0 && !status["snapshot_bytes"].is_null()).then_some(status)
        });
        let (last, size) = (status["last"].as_u64().unwrap(), status["snapshot_bytes"].as_u64().unwrap());
        assert!(size > 0 && status["snapshot_time_ms"].as_u64().unwrap() > 1_700_000_000_000, "{status}");
        let followers = status["followers"].as_array().unwrap();
        assert_eq!(followers.len(), 2, "{status}");
        for follower in followers {
            let (matched, behind) = (follower["matched"].as_u64().unwrap(), follower["behind"].as_u64().unwrap());
            assert_eq!(matched + behind, last, "{status}");
            assert_eq!(behind >= 30, follower["peer"] == away.to_string(), "{status}");
            assert!(follower["differs"].is_null(), "{status}");
        }
        let (chain, applied) = (status["chain"].as_str().unwrap(), &status["applied"]);
        let text = nodes.run_ok(&["status", &leads.to_string()]);
        for expected in [
            format!("applied {applied}  chain {}…", &chain[..16]),
            format!("snapshot at {}, ", status["snapshot"]),
            "sessions 1  triggers 1".to_owned(),
            format!("follower {away}  has "),
            " s ago".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected}: {text}");
        }
        let other = nodes.status(&peers[(leader + 2) % 3]).unwrap();
        assert_eq!((&other["followers"], &other["triggers"]), (&json!([]), &json!(0)), "it does not lead");
    });
    nodes.start_node((leader + 1) % 3);
    until("who was away has caught up", || {
        let Some(status) = nodes.status(&peers[nodes.leader("kv")]) else { return false };
        let followers = status["followers"].as_array().unwrap();
        let agrees = |follower: &Value| follower["behind"] == 0 && follower["agrees"] == status["last"];
        followers.len() == 2 && followers.iter().all(agrees)
    });
}

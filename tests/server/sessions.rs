//! Sessions: the shell, and a leader that dies in the middle of one.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use zraft::client::{KvCommand, KvEntry, KvExpected, KvReply, KvSession, Notice, Session, SessionOptions};
use zraft::codec;
use zraft::protocol::TriggerReason;

use crate::harness::{Nodes, runtime};

/// Runs `zraft session` with these lines; returns what it printed, and its exit code.
fn shell(nodes: &Nodes, options: &[&str], lines: &str) -> (Vec<Value>, Option<i32>) {
    let mut shell = Command::new(env!("CARGO_BIN_EXE_zraft"))
        .args(["session", "--json", &nodes.peers("kv")[0].to_string()])
        .args(options)
        .env("ZRAFT_CERTS", nodes.certs())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (lines.map(|line| serde_json::from_slice(line).unwrap()).collect(), output.status.code())
}

#[test]
fn a_script_sees_its_triggers_and_its_ephemeral_data_goes_with_it() {
    let nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    let script = "put a 1\nput -e lock me\nwatch get a\nput a 2\nwait\nget lock\nclose\n";
    let (lines, code) = shell(&nodes, &[], script);
    assert_eq!(code, Some(0), "{lines:?}");
    let trigger = lines[3]["trigger"].clone();
    assert_eq!(lines[3]["value"], "1");
    let fired = json!({ "trigger": trigger, "fired": "data-changed" });
    assert_eq!(lines.iter().filter(|line| **line == fired).count(), 1, "{lines:?}");
    let lock = lines.iter().find(|line| line["key"] == "lock").unwrap();
    assert_eq!((&lock["value"], &lock["session"]), (&json!("me"), &lines[0]["session"]));
    assert_eq!(lines.last().unwrap()["ended"], "was closed");
    assert_eq!(nodes.run_ok(&["kv", "get", &peer, "a"]), "2");
    nodes.run_err(5, &["kv", "get", &peer, "lock"]);

    // A session that is kept outlives its client, until its timeout.
    let (lines, code) = shell(&nodes, &["--keep", "--timeout-ms", "1000"], "put -e lock me\nget none\nshout\n");
    assert_eq!(code, Some(5), "the first line that failed decides: {lines:?}");
    nodes.run_ok(&["kv", "get", &peer, "lock"]);
    crate::harness::until("the lock is gone", || nodes.zraft(&["kv", "get", &peer, "lock"]).status.code() == Some(5));
}

/// Each write is done only if exactly those before it were, once each and in order.
#[test]
fn every_write_of_a_session_runs_once_though_its_leader_dies() {
    const WRITES: usize = 1000;
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let leader = nodes.leader("kv");
    let runtime = runtime();
    let (client, peers) = runtime.block_on(async { (nodes.client(), nodes.peers("kv")) });
    let options = SessionOptions { request_timeout: Duration::from_secs(30), ..SessionOptions::default() };
    let connect = Session::connect_with(client, peers, Duration::from_secs(20), options);
    let (session, mut notices) = runtime.block_on(connect).unwrap();
    let number = |number: usize| number.to_string().into_bytes();
    runtime.block_on(async {
        let mut pending = Vec::new();
        for next in 0..WRITES {
            let expected = if next == 0 { KvExpected::Absent } else { KvExpected::Value(number(next - 1)) };
            let command = KvCommand::CompareAndSet { key: b"count".to_vec(), expected, new: Some(number(next)) };
            pending.push(session.submit(codec::encode(&command)).await.unwrap());
            if next == WRITES / 2 {
                nodes.kill(leader);
            }
        }
        for (next, written) in pending.into_iter().enumerate() {
            let reply: KvReply = codec::decode(&written.await.unwrap().reply).unwrap();
            assert!(matches!(reply, KvReply::Written { .. }), "write {next}: {reply:?}");
        }
        let kv = KvSession::new(session);
        let watched = kv.watch("count").await.unwrap();
        let Some(KvEntry { value, .. }) = watched.entry else { panic!("nothing is there") };
        assert_eq!(value, number(WRITES - 1));
        kv.put("count", "done").await.unwrap();
        let fired = Notice::Fired { trigger: watched.trigger, reason: TriggerReason::DataChanged };
        assert_eq!(notices.next().await, Some(fired));
        kv.session().close().await.unwrap();
    });
}

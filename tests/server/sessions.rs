//! Sessions: the shell, leaders that die in the middle of one, ephemeral data, triggers, many idle clients.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use zraft::client::{
    Ending, Kv, KvCommand, KvEntry, KvExpected, KvReply, KvSession, LightSession, Notice, Notices, Session,
    SessionOptions,
};
use zraft::codec;
use zraft::protocol::TriggerReason;

use tokio::time::timeout;

use crate::harness::{Nodes, PATIENCE, runtime, until};

/// Long enough for an election.
const LONG: Duration = Duration::from_secs(20);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(1000);

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

async fn connect(nodes: &Nodes, lives: Duration) -> (KvSession, Notices) {
    let (session, notices) = Session::connect(nodes.client(), nodes.peers("kv"), lives).await.unwrap();
    (KvSession::new(session), notices)
}

async fn next(notices: &mut Notices) -> Notice {
    timeout(PATIENCE, notices.next()).await.expect("a notice comes in time").expect("the session is not over")
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
    until("the lock is gone", || nodes.zraft(&["kv", "get", &peer, "lock"]).status.code() == Some(5));
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
    let connect = Session::connect_with(client.clone(), peers.clone(), Duration::from_secs(20), options);
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
        // One peer is enough to find the others.
        let light = LightSession::connect(client, &peers[(leader + 1) % 3]).await.unwrap();
        assert_eq!(Kv::new(light).get("count").await.unwrap().unwrap().value, b"done");
    });
}

/// The counter's replies and its sum tell how often each write was run.
#[test]
fn a_counter_counts_each_write_of_a_session_once_though_its_leader_is_killed() {
    const WRITES: usize = 1000;
    let mut nodes = Nodes::start(3);
    nodes.create("counter", "counter", &[]);
    let leader = nodes.leader("counter");
    runtime().block_on(async {
        let options = SessionOptions { request_timeout: Duration::from_secs(30), ..SessionOptions::default() };
        let (client, peers) = (nodes.client(), nodes.peers("counter"));
        let (session, _notices) = Session::connect_with(client, peers, LONG, options).await.unwrap();
        let mut pending = Vec::new();
        for next in 0..WRITES {
            pending.push(session.submit("1").await.unwrap());
            if next == WRITES / 2 {
                nodes.kill(leader);
            }
        }
        for (before, written) in pending.into_iter().enumerate() {
            assert_eq!(written.await.unwrap().reply, (before + 1).to_string());
        }
        session.close().await.unwrap();
    });
    let others = nodes.peers("counter").into_iter().enumerate().filter(|(number, _)| *number != leader);
    for (_, peer) in others {
        assert_eq!(nodes.run_ok(&["query", &peer.to_string(), "null"]), WRITES.to_string());
    }
}

#[test]
fn ephemeral_data_outlives_a_connection_and_goes_with_its_session() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let reader = nodes.peers("kv")[0].to_string();
    runtime().block_on(async {
        let (owner, mut notices) = connect(&nodes, LONG).await;
        owner.put_ephemeral("lock", "mine").await.unwrap();
        let leader = nodes.leader("kv");
        nodes.kill(leader);
        assert_eq!(owner.get("lock").await.unwrap().unwrap().value, b"mine", "the session goes on elsewhere");
        nodes.start_node(leader);
        assert_eq!(nodes.run_ok(&["kv", "get", &reader, "lock"]), "mine");
        owner.session().close().await.unwrap();
        assert_eq!(next(&mut notices).await, Notice::Ended(Ending::Closed));
        nodes.run_err(5, &["kv", "get", &reader, "lock"]);

        // Who is not heard of any more loses it at the timeout, and not before.
        let (silent, _notices) = connect(&nodes, SHORT).await;
        silent.put_ephemeral("lock", "mine").await.unwrap();
        let (other, mut others) = connect(&nodes, LONG).await;
        let watched = other.watch("lock").await.unwrap();
        assert_eq!(watched.entry.unwrap().value, b"mine");
        drop(silent);
        let Notice::Fired { trigger, reason } = next(&mut others).await else { panic!("no trigger") };
        assert_eq!((trigger, reason), (watched.trigger, TriggerReason::DataChanged));
        assert_eq!(other.get("lock").await.unwrap(), None);
    });
}

#[test]
fn a_trigger_fires_once_for_what_changes_after_it_also_under_another_leader() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let writer = nodes.peers("kv")[0].to_string();
    runtime().block_on(async {
        let (kv, mut notices) = connect(&nodes, LONG).await;
        kv.put("a", "1").await.unwrap();
        let (first, quiet) = (kv.watch("a").await.unwrap(), kv.watch("quiet").await.unwrap());
        kv.put("b", "1").await.unwrap();
        kv.put("a", "2").await.unwrap();
        kv.put("a", "3").await.unwrap();
        let reason = TriggerReason::DataChanged;
        assert_eq!(next(&mut notices).await, Notice::Fired { trigger: first.trigger, reason });

        let second = kv.watch("a").await.unwrap();
        let leader = nodes.leader("kv");
        nodes.kill(leader);
        kv.put("b", "2").await.unwrap();
        nodes.start_node(leader);
        nodes.run_ok(&["kv", "put", &writer, "a", "4"]);
        // The quiet one was armed again elsewhere in silence: nothing of it has changed.
        assert_eq!(next(&mut notices).await, Notice::Fired { trigger: second.trigger, reason });
        nodes.run_ok(&["kv", "put", &writer, "quiet", "no more"]);
        assert_eq!(next(&mut notices).await, Notice::Fired { trigger: quiet.trigger, reason });
    });
}

#[test]
fn a_session_that_is_asked_for_while_one_peer_of_three_runs_opens_with_the_second() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    nodes.run_ok(&["kv", "put", &nodes.peers("kv")[0].to_string(), "a", "old"]);
    (0..3).for_each(|number| nodes.kill(number));
    nodes.start_node(1);
    runtime().block_on(async {
        let options = SessionOptions { request_timeout: Duration::from_secs(30), ..SessionOptions::default() };
        let (client, one) = (nodes.client(), vec![nodes.peers("kv")[1].clone()]);
        let mut opening = Box::pin(Session::connect_with(client, one, LONG, options));
        assert!(timeout(SHORT, &mut opening).await.is_err(), "one of three serves nobody");
        nodes.start_node(2);
        let (session, _notices) = opening.await.unwrap();
        assert_eq!(KvSession::new(session).get("a").await.unwrap().unwrap().value, b"old");
    });
}

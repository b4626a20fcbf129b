//! A cluster moves to another backend: under load, with nodes that miss it, and to backends that do not take the state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use zraft::client::{KvCommand, KvExpected, KvReply, MembershipError, Session, SessionOptions};
use zraft::codec;
use zraft::protocol::{MAX_MIGRATION_BYTES, RequestError, UpgradeRefusal};
use zraft::types::{Digest, PeerId};

use crate::harness::{Nodes, PATIENCE, runtime, until};

pub const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");
const COUNTER: &[u8] = include_bytes!("../../guests/dist/counter.wasm");
const MINIMAL: &str = include_str!("../components/minimal.wat");
const FINISH: &str = r#"(func (export "finish") (param i32) (result i32) (i32.const 1024))"#;

/// The kv backend with a note that nobody reads: another component that does the same.
pub fn kv_with(note: u8) -> Vec<u8> {
    // A custom section: its size, then its name behind that of its own, then what it holds.
    [KV, &[0, 3, 1, b'n', note]].concat()
}

/// A session that counts, each write only if exactly those before it were done, and notes how long it waits.
pub struct Count {
    ends: Arc<AtomicBool>,
    longest_ms: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    counting: JoinHandle<u64>,
}

impl Count {
    pub fn start(nodes: &Nodes, peers: &[PeerId]) -> Self {
        let (ends, longest_ms, done) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (has_ended, longest, counted) = (Arc::clone(&ends), Arc::clone(&longest_ms), Arc::clone(&done));
        let (runtime, peers) = (runtime(), peers.to_vec());
        let client = {
            let _inside = runtime.enter();
            nodes.client()
        };
        // On a thread of its own: what the test does meanwhile must not show in how long it waits.
        let counting = std::thread::spawn(move || {
            runtime.block_on(async move {
                let options = SessionOptions { request_timeout: PATIENCE, ..SessionOptions::default() };
                let connecting = Session::connect_with(client, peers, PATIENCE, options);
                let (session, _notices) = connecting.await.unwrap();
                let mut count = 0_u64;
                while !has_ended.load(Ordering::Relaxed) {
                    let digits = |number: u64| number.to_string().into_bytes();
                    let expected = if count == 0 { KvExpected::Absent } else { KvExpected::Value(digits(count)) };
                    let new = Some(digits(count + 1));
                    let command = KvCommand::CompareAndSet { key: b"count".to_vec(), expected, new };
                    let asked = Instant::now();
                    let reply = session.write(codec::encode(&command)).await.unwrap().reply;
                    longest.fetch_max(asked.elapsed().as_millis().try_into().unwrap(), Ordering::Relaxed);
                    assert!(matches!(codec::decode(&reply).unwrap(), KvReply::Written { .. }), "write {count}");
                    count += 1;
                    counted.store(count, Ordering::Relaxed);
                }
                session.close().await.unwrap();
                count
            })
        });
        Self { ends, longest_ms, done, counting }
    }

    /// The longest that a write has waited since this was last asked.
    pub fn take_longest(&self) -> u64 {
        self.longest_ms.swap(0, Ordering::Relaxed)
    }

    pub fn more(&self, writes: u64) {
        let enough = self.done.load(Ordering::Relaxed) + writes;
        until("it counts on", || self.done.load(Ordering::Relaxed) >= enough);
    }

    pub fn end(self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        self.counting.join().unwrap()
    }
}

/// Waits until these peers run a component and have applied the same.
pub fn until_on(nodes: &Nodes, peers: &[PeerId], component: Digest) {
    until("all replicas run the component and are equal", || {
        let all: Option<Vec<_>> = peers.iter().map(|peer| nodes.status(peer)).collect();
        all.is_some_and(|all| {
            let is_on = |status: &serde_json::Value| {
                let place = (&status["applied"], &status["chain"]) == (&all[0]["applied"], &all[0]["chain"]);
                status["backend"] == component.to_string() && place && status["applied"] == status["last"]
            };
            all.iter().all(is_on)
        })
    });
}

pub fn write_component(nodes: &Nodes, name: &str, bytes: &[u8]) -> String {
    let path = nodes.folder().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_upgrade_under_load_loses_and_doubles_nothing_and_reaches_who_was_away() {
    let mut nodes = Nodes::start(4);
    let peers = nodes.peers("kv");
    let words: Vec<_> = peers[..3].iter().map(ToString::to_string).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    nodes.run_ok(&[&["create", "--backend", "kv", "--max-log-count", "200"], &words[..]].concat());
    let [second, third] = [kv_with(2), kv_with(3)];
    let files = [write_component(&nodes, "2.wasm", &second), write_component(&nodes, "3.wasm", &third)];
    let count = Count::start(&nodes, &peers[..3]);
    count.more(300);
    let usual_ms = count.take_longest();
    let upgraded = nodes.run_ok(&["upgrade", words[1], "--backend", &files[0]]);
    assert!(upgraded.contains(&Digest::of(&second).to_string()), "{upgraded}");
    count.more(100);
    println!("longest wait for a write: {usual_ms} ms before, {} ms across the upgrade", count.take_longest());
    assert!(nodes.run_ok(&["upgrade", words[1], "--backend", &files[0]]).contains("already"));

    // One node misses the next.
    let away = (nodes.leader("kv") + 1) % 3;
    nodes.kill(away);
    nodes.run_ok(&["upgrade", words[(away + 1) % 3], "--backend", &files[1]]);
    count.more(100);
    nodes.start_node(away);
    until_behind_is_on(&nodes, &peers[away], Digest::of(&third));
    assert!(nodes.log(away).contains("asks for a component that is missing here"), "it had no other way to get it");
    // Snapshots are of the new backend from now on.
    count.more(500);
    println!("longest wait for a write: {} ms, with a node killed and an upgrade", count.take_longest());
    let count = count.end();
    until_on(&nodes, &peers[..3], Digest::of(&third));

    // A newcomer gets what it needs, and so does everybody from his own files.
    let all = peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    nodes.run_ok(&["members", words[0], "--from", &words.join(","), "--set", &all]);
    until_on(&nodes, &peers, Digest::of(&third));
    (0..4).for_each(|number| nodes.kill(number));
    (0..4).for_each(|number| nodes.start_node(number));
    until_on(&nodes, &peers, Digest::of(&third));
    for peer in &peers {
        assert_eq!(nodes.run_ok(&["kv", "get", &peer.to_string(), "count"]), count.to_string());
    }
}

/// Waits until a peer runs a component; it may be busy.
pub fn until_behind_is_on(nodes: &Nodes, peer: &PeerId, component: Digest) {
    until("who was away runs the component", || {
        nodes.status(peer).is_some_and(|status| status["backend"] == component.to_string())
    });
}

#[test]
fn a_backend_that_does_not_take_the_state_leaves_the_old_one_running_on_all_replicas() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let peer = peers[0].to_string();
    nodes.run_ok(&["kv", "put", &peer, "a", "1"]);
    let dies = wat::parse_str(MINIMAL.replace(FINISH, &FINISH.replace("(i32.const 1024)", "unreachable"))).unwrap();
    let file = write_component(&nodes, "dies.wasm", &dies);
    let said = nodes.run_err(1, &["upgrade", &peer, "--backend", &file]);
    assert!(said.contains("trap") && said.contains("the old one goes on"), "{said}");
    let all_say = |what: &str| {
        until("all replicas say so", || {
            let says = |peer: &PeerId| nodes.run_ok(&["status", &peer.to_string()]).contains(what);
            peers.iter().all(says)
        });
    };
    all_say("NOT UPGRADED");
    until_on(&nodes, &peers, Digest::of(KV));

    // A refusal is an answer like any other.
    let refused = runtime().block_on(async { nodes.client().upgrade(&peers[1], COUNTER.into(), None, PATIENCE).await });
    let is_refusal = |error: &MembershipError| {
        matches!(error, MembershipError::Failed(RequestError::NotUpgraded(UpgradeRefusal::Refused(_))))
    };
    assert!(refused.as_ref().is_err_and(is_refusal), "{refused:?}");
    until_on(&nodes, &peers, Digest::of(KV));
    nodes.run_ok(&["kv", "put", &peer, "b", "2"]);
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[2].to_string(), "a"]), "1");
    // And one that takes it is taken.
    let takes = write_component(&nodes, "takes.wasm", &kv_with(2));
    nodes.run_ok(&["upgrade", &peer, "--backend", &takes]);
    until_on(&nodes, &peers, Digest::of(&kv_with(2)));
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[2].to_string(), "b"]), "2");
    all_say("since entry");
}

#[test]
fn what_cannot_be_an_upgrade_changes_nothing() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let peer = peers[0].to_string();
    let not = write_component(&nodes, "not.wasm", b"nothing");
    let said = nodes.run_err(1, &["upgrade", &peer, "--backend", &not]);
    assert!(said.contains("it is not WebAssembly") && said.contains("nothing was changed"), "{said}");
    let large = write_component(&nodes, "large.wasm", &[KV, &vec![0; 64 << 20]].concat());
    assert!(nodes.run_err(1, &["upgrade", &peer, "--backend", &large]).contains("at most 67108864 bytes"));
    nodes.run_err(2, &["upgrade", &peer, "--backend", "/nowhere.wasm"]);
    let next = write_component(&nodes, "2.wasm", &kv_with(2));
    let much = vec![b'm'; MAX_MIGRATION_BYTES + 1];
    let too_much =
        runtime().block_on(async { nodes.client().upgrade(&peers[0], KV.into(), Some(much.into()), PATIENCE).await });
    assert!(too_much.is_err_and(|error| error.to_string().contains("262144 bytes")));
    let absent = format!("other@{}", nodes.address(0));
    assert!(nodes.run_err(5, &["upgrade", &absent, "--backend", &next]).contains("there is no peer"));
    let alice = ["upgrade", &peer, "--backend", &next, "--as", "alice"];
    assert!(nodes.run_err(1, &alice).contains("admin certificate"));

    // Without a quorum to hold it nothing begins.
    let leader = nodes.leader("kv");
    let others: Vec<_> = (0..3).filter(|number| *number != leader).collect();
    others.iter().for_each(|number| nodes.pause(*number));
    let late = ["upgrade", &peers[leader].to_string(), "--backend", &next, "--timeout-ms", "8000"];
    let failed = nodes.zraft(&late);
    assert!(matches!(failed.status.code(), Some(1 | 3 | 4)), "{failed:?}");
    others.iter().for_each(|number| nodes.resume(*number));
    until_on(&nodes, &peers, Digest::of(KV));
    let status = nodes.status(&peers[0]).unwrap();
    assert_eq!(status["upgrade"], serde_json::Value::Null);
}

/// The same, of nodes that go over to a newer zraft, and for a while back, one by one.
#[test]
fn what_needs_a_newer_zraft_waits_until_the_last_node_runs_it() {
    const OLD: &str = "feature_level = 1";
    let mut nodes = Nodes::prepare(3);
    (0..3).for_each(|number| nodes.start_node_with(number, OLD));
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let level = |nodes: &Nodes, peer: &PeerId| nodes.status(peer).map(|status| status["feature_level"].clone());
    let count = Count::start(&nodes, &peers);
    let restart = |nodes: &mut Nodes, number: usize, settings: &str| {
        count.more(50);
        assert!(nodes.terminate(number));
        nodes.start_node_with(number, settings);
        count.more(50);
        until("the node has caught up", || {
            let leads = nodes.status(&peers[nodes.leader("kv")]);
            leads.is_some_and(|leads| {
                leads["followers"].as_array().unwrap().iter().all(|follower| !follower["feature_level"].is_null())
            })
        });
    };
    restart(&mut nodes, 0, "");
    restart(&mut nodes, 0, OLD);
    restart(&mut nodes, 0, "");
    restart(&mut nodes, 1, "");
    let second = kv_with(2);
    let file = write_component(&nodes, "2.wasm", &second);
    let leader = peers[nodes.leader("kv")].to_string();
    let complaint = nodes.run_err(1, &["upgrade", &leader, "--backend", &file]);
    assert!(complaint.contains("feature level 2") && complaint.contains(&peers[2].to_string()), "{complaint}");
    assert!(peers.iter().all(|peer| level(&nodes, peer) == Some(1.into())));

    restart(&mut nodes, 2, "");
    until("all have the new level", || peers.iter().all(|peer| level(&nodes, peer) == Some(2.into())));
    nodes.run_ok(&["upgrade", &leader, "--backend", &file]);
    let longest = count.take_longest();
    let counted = count.end();
    until_on(&nodes, &peers, Digest::of(&second));
    println!("{counted} writes, the longest of which waited {longest} ms");
}

//! Upgrades whose leader is killed on the way, or stands still; and some that are asked for twice.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use zraft::types::{Digest, PeerId};

use crate::harness::{Nodes, PATIENCE, until};
use crate::upgrade::{Count, KV, kv_with, until_behind_is_on, until_on, write_component};

/// When a leader is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// It is about to hand the component on, and the others to compile it.
    HandsOn,
    /// Another has the component.
    AnotherHasIt,
    /// The entry is in its log, and maybe in others.
    Proposed,
    /// Its machine has gone over; whether who asked has heard of it is another matter.
    HandedOver,
}

impl Moment {
    const ALL: [Self; 4] = [Self::HandsOn, Self::AnotherHasIt, Self::Proposed, Self::HandedOver];

    fn has_come(self, nodes: &Nodes, leader: usize, other: usize, component: Digest) -> bool {
        match self {
            Self::HandsOn => has_component(nodes, leader, component),
            Self::AnotherHasIt => has_component(nodes, other, component),
            Self::Proposed => has_logged(nodes, leader, "proposed to go on with another backend", component),
            Self::HandedOver => has_logged(nodes, leader, "the backend is another now", component),
        }
    }

    /// Whether nothing can have been proposed by then.
    fn is_before_the_entry(self) -> bool {
        matches!(self, Self::HandsOn)
    }
}

fn has_component(nodes: &Nodes, number: usize, component: Digest) -> bool {
    nodes.data(number).join("components").join(format!("{component}.wasm")).exists()
}

fn has_logged(nodes: &Nodes, number: usize, what: &str, component: Digest) -> bool {
    let component = component.to_string();
    nodes.log(number).lines().any(|line| line.contains(what) && line.contains(&component))
}

/// Waits for something that does not last.
fn as_soon_as(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Begins an upgrade, as somebody who waits for its end.
fn begin_upgrade(nodes: &Nodes, peer: &PeerId, file: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_zraft"))
        .args(["upgrade", &peer.to_string(), "--backend", file, "--timeout-ms", "30000"])
        .env("ZRAFT_CERTS", nodes.certs())
        .env_remove("ZRAFT_IDENTITY")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_upgrade_whose_leader_is_killed_says_what_is_known_and_may_be_said_again() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &["--max-log-count", "200"]);
    let peers = nodes.peers("kv");
    let count = Count::start(&nodes, &peers);
    let mut ended = Vec::new();
    for (moment, note) in Moment::ALL.into_iter().zip(2..) {
        count.more(50);
        let component = kv_with(note);
        let (file, digest) = (write_component(&nodes, &format!("{note}.wasm"), &component), Digest::of(&component));
        let leader = nodes.leader("kv");
        let [other, third] = [(leader + 1) % 3, (leader + 2) % 3];
        let upgrading = begin_upgrade(&nodes, &peers[other], &file);
        as_soon_as("the moment has come", || moment.has_come(&nodes, leader, third, digest));
        nodes.kill(leader);

        let said = nodes.run_ok(&["upgrade", &peers[other].to_string(), "--backend", &file]);
        println!("killed when {moment:?}; said again: {said}");
        assert!(said.contains(&digest.to_string()), "{said}");
        until_behind_is_on(&nodes, &peers[other], digest);
        until_behind_is_on(&nodes, &peers[third], digest);
        count.more(50);
        nodes.start_node(leader);
        until_behind_is_on(&nodes, &peers[leader], digest);
        ended.push((moment, upgrading));
    }
    count.more(50);
    println!("longest wait for a write: {} ms", count.take_longest());
    let counted = count.end();
    until_on(&nodes, &peers, Digest::of(&kv_with(5)));
    for peer in &peers {
        assert_eq!(nodes.run_ok(&["kv", "get", &peer.to_string(), "count"]), counted.to_string());
    }
    for (moment, upgrading) in ended {
        let Output { status, stdout, stderr } = upgrading.wait_with_output().unwrap();
        let (said, complaint) = (text(&stdout), text(&stderr));
        println!("killed when {moment:?}: {status}, {said}{complaint}");
        match status.code() {
            Some(0) => assert!(!moment.is_before_the_entry(), "nobody can have told that: {said}"),
            Some(3) => assert!(complaint.contains("not known whether that was done"), "{complaint}"),
            _ => panic!("killed when {moment:?}: {status}, {complaint}"),
        }
    }
}

#[test]
fn an_upgrade_whose_leader_stands_still_meanwhile_goes_on_with_the_next() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let count = Count::start(&nodes, &peers);
    count.more(50);
    let component = kv_with(2);
    let (file, digest) = (write_component(&nodes, "2.wasm", &component), Digest::of(&component));
    let leader = nodes.leader("kv");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let upgrading = begin_upgrade(&nodes, &peers[others[0]], &file);
    // The others have yet to compile it.
    as_soon_as("it hands the component on", || has_component(&nodes, leader, digest));
    nodes.pause(leader);
    until("another leads", || {
        let leads = |number: &usize| nodes.status(&peers[*number]).is_some_and(|status| status["role"] == "leader");
        others.iter().any(leads)
    });
    nodes.resume(leader);
    let Output { status, stdout, stderr } = upgrading.wait_with_output().unwrap();
    assert!(status.success(), "{status}: {}{}", text(&stdout), text(&stderr));
    count.more(50);
    let counted = count.end();
    until_on(&nodes, &peers, digest);
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[leader].to_string(), "count"]), counted.to_string());
}

#[test]
fn who_asks_for_what_somebody_else_has_done_meanwhile_is_told_so() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let file = write_component(&nodes, "2.wasm", &kv_with(2));
    // It takes the nodes longer to compile it than the other to begin.
    let upgrading = [0, 1].map(|number| begin_upgrade(&nodes, &peers[number], &file));
    let said = upgrading.map(|upgrading| {
        let Output { status, stdout, stderr } = upgrading.wait_with_output().unwrap();
        assert!(status.success(), "{status}: {}", text(&stderr));
        text(&stdout)
    });
    assert_eq!(said.iter().filter(|said| said.contains("from entry")).count(), 1, "{said:?}");
    until_on(&nodes, &peers, Digest::of(&kv_with(2)));
    for peer in &peers {
        let status = nodes.run_ok(&["status", &peer.to_string()]);
        assert!(status.contains("since entry") && !status.contains("NOT UPGRADED"), "{status}");
    }
    // To go back is another upgrade, whose entry names what the cluster runs by then.
    let back = write_component(&nodes, "1.wasm", KV);
    assert!(nodes.run_ok(&["upgrade", &peers[0].to_string(), "--backend", &back]).contains("from entry"));
    until_on(&nodes, &peers, Digest::of(KV));
}

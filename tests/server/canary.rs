//! A canary: a node runs another backend beside a peer's own before the cluster moves to it.

use std::time::Duration;

use zraft::types::Digest;

use crate::harness::{Nodes, runtime, until};
use crate::upgrade::{Count, kv_with, until_on, write_component};

const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");
/// Longer than the test.
const LONG: Duration = Duration::from_secs(3600);
const MINIMAL: &str = include_str!("../components/minimal.wat");

#[test]
fn a_canary_tells_what_an_upgrade_would_change_and_changes_nothing() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peers = nodes.peers("kv");
    let count = Count::start(&nodes, &peers);
    count.more(100);
    let leader = nodes.leader("kv");
    let follower = peers[(leader + 1) % 3].to_string();
    let same = write_component(&nodes, "same.wasm", &kv_with(2));
    let other = write_component(&nodes, "other.wasm", &wat::parse_str(MINIMAL).unwrap());
    let canary = |peer: &str, file: &str, more: &[&str]| {
        nodes.zraft(&[&["upgrade", peer, "--backend", file, "--canary"], more].concat())
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let good = canary(&follower, &same, &["--commands", "50"]);
    assert!(good.status.success(), "{good:?}");
    assert!(text(&good.stdout).contains("ran 50 commands to the same outcomes"), "{good:?}");

    let differs = canary(&follower, &other, &["--commands", "30"]);
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    assert!(text(&differs.stderr).contains("30 of 30 commands came to something else"), "{differs:?}");
    let shown = text(&differs.stdout);
    assert!(shown.contains("changed \"\", \"count\"") && shown.contains("and 10 more"), "{shown}");
    let json = canary(&follower, &other, &["--commands", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["is_good"], &json["differing"]), (&false.into(), &1.into()), "{json}");

    let leads = canary(&peers[leader].to_string(), &same, &[]);
    assert!(text(&leads.stderr).contains("leads") && text(&leads.stderr).contains(&follower), "{leads:?}");
    let alice = canary(&follower, &same, &["--as", "alice"]);
    assert!(text(&alice.stderr).contains("admin certificate"), "{alice:?}");
    let timed = canary(&follower, &same, &["--timeout-ms", "1000"]);
    assert!(text(&timed.stderr).contains("cannot be used with"), "{timed:?}");

    // The counter never stumbled, and all still run what they ran.
    count.more(100);
    let counted = count.end();
    until_on(&nodes, &peers, Digest::of(KV));
    assert_eq!(nodes.run_ok(&["kv", "get", &follower, "count"]), counted.to_string());

    let idle = canary(&follower, &same, &["--canary-ms", "300"]);
    assert!(text(&idle.stderr).contains("no command came"), "{idle:?}");
}

#[test]
fn a_canary_whose_client_goes_away_makes_room_for_the_next() {
    let nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv").remove(0);
    let same = write_component(&nodes, "same.wasm", &kv_with(2));
    let next = ["upgrade", &peer.to_string(), "--backend", &same, "--canary", "--canary-ms", "200"];
    let is_said = |what: &str| String::from_utf8_lossy(&nodes.zraft(&next).stderr).contains(what);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runtime = runtime();
    let client = {
        let _inside = runtime.enter();
        nodes.client()
    };
    let first = std::thread::spawn(move || {
        runtime.block_on(async {
            let run = async {
                // One of those that ask whether it runs may be in its way.
                while client.canary(&peer, kv_with(2).into(), None, u64::MAX, LONG).await.is_err() {}
            };
            tokio::select! {
                () = run => panic!("it ended by itself"),
                _ = stopped => {}
            }
        });
    });
    until("the first one runs", || is_said("another canary runs"));
    drop(stop);
    first.join().unwrap();
    until("the next one runs", || is_said("no command came"));
}

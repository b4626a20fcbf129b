//! Components that are made to hurt, on nodes that others use as well. `docs/hostile.md` lists all cases with their tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use zraft::client::{CreateError, Kv, LightSession, NewCluster, SessionError, SessionOptions};
use zraft::protocol::{GuestFault, RequestError};
use zraft::settings::{Budgets, Settings};

use crate::harness::{Nodes, PATIENCE, runtime, until};

const BROKEN: &[u8] = include_bytes!("../components/broken.wasm");
const MINIMAL: &str = include_str!("../components/minimal.wat");

/// The one command in so many of `broken` that is bad.
const BAD: usize = 10;

/// Soon used up by what never ends.
const SMALL: Budgets =
    Budgets { apply_fuel: 100_000_000, query_fuel: 100_000_000, chunk_fuel: 100_000_000, memory_bytes: 64 << 20 };

fn broken(nodes: &Nodes, name: &str, config: &'static str) -> NewCluster {
    let settings = Settings { budgets: SMALL, max_log_count: 5, kept_log_count: 0, ..Settings::default() };
    let component = Bytes::from_static(BROKEN);
    NewCluster { config: config.into(), settings, ..NewCluster::new(nodes.peers(name), component) }
}

/// A session that waits for its answers as long as anything may take.
fn patient(nodes: &Nodes, name: &str) -> LightSession {
    let options = SessionOptions { request_timeout: PATIENCE, attempt_timeout: PATIENCE, ..SessionOptions::default() };
    LightSession::with_options(nodes.client(), nodes.peers(name), options)
}

/// What a write came to: nothing, or what the component died of.
fn fault(result: Result<(), SessionError>) -> Option<GuestFault> {
    match result {
        Ok(()) => None,
        Err(SessionError::Failed(RequestError::Skipped { fault, .. })) => Some(fault.kind),
        Err(error) => panic!("{error}"),
    }
}

/// Each of these breaks its own cluster's promises on all three nodes, over and over, and another cluster's writes all come
/// through meanwhile.
#[test]
fn one_cluster_serves_while_others_on_its_nodes_do_their_worst() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    runtime().block_on(async {
        let kv = Kv::new(patient(&nodes, "kv"));
        let is_over = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn({
            let is_over = Arc::clone(&is_over);
            async move {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let put = kv.put(format!("key {count}"), "value").await;
                    put.expect("a write of the other cluster comes through in time");
                    count += 1;
                }
                count
            }
        });

        let skipped = [
            ("loops", Some(GuestFault::OutOfFuel)),
            ("hungry", Some(GuestFault::OutOfMemory)),
            ("traps", Some(GuestFault::Trap)),
            ("short", Some(GuestFault::BrokenContract)),
            ("leaks", Some(GuestFault::BrokenContract)),
            ("floods", Some(GuestFault::OutOfMemory)),
            ("snapshot-endless", None),
            ("snapshot-traps", None),
        ];
        for (config, expected) in skipped {
            nodes.client().create(broken(&nodes, config, config)).await.unwrap();
            let session = patient(&nodes, config);
            let mut faults = Vec::new();
            for _ in 0..BAD + 2 {
                faults.extend(fault(session.write("x").await.map(drop)));
            }
            // What is skipped leaves the next in its place.
            assert_eq!(faults, Vec::from_iter([expected; 3].into_iter().flatten()), "{config}");
        }
        for config in ["query-loops", "query-traps"] {
            nodes.client().create(broken(&nodes, config, config)).await.unwrap();
            let session = patient(&nodes, config);
            for _ in 0..3 {
                let error = session.query("x").await.unwrap_err();
                assert!(matches!(error, SessionError::Failed(RequestError::BackendFault { .. })), "{config}: {error}");
            }
            session.write("x").await.unwrap();
        }

        is_over.store(true, Ordering::Relaxed);
        assert!(writing.await.unwrap() > 0);
        nodes.kv("kv").put("last", "value").await.unwrap();
    });
    nodes.until_equal("kv");
}

#[test]
fn what_cannot_start_within_its_budgets_is_refused_with_the_reason_and_leaves_nothing() {
    let nodes = Nodes::start(3);
    let minimal = |part: &str, replacement: &str| {
        assert!(MINIMAL.contains(part), "there is no {part}");
        Bytes::from(wat::parse_str(MINIMAL.replace(part, replacement)).unwrap())
    };
    let cases = [
        (Some(minimal("\"memory\") 2)", "\"memory\") 65536)")), "", "bytes of memory and may have 67108864"),
        (Some(minimal("(table $table 1", "(table $table 5000000")), "", "5000000 table elements"),
        (None, "init-loops", "used up its fuel"),
        (None, "init-traps", "trap"),
        (None, "init-hungry", "bytes of memory"),
    ];
    runtime().block_on(async {
        for (component, config, expected) in cases {
            let new = broken(&nodes, "bad", config);
            let new = NewCluster { component: component.unwrap_or(new.component.clone()), ..new };
            let error = nodes.client().create(new).await.unwrap_err();
            let CreateError::Peers(failures) = &error else { panic!("{config}: {error}") };
            assert_eq!(failures.len(), 3, "{config}: {error}");
            assert!(error.to_string().contains(expected), "{config}: {error}");
        }
    });
    // More than anybody sends.
    let large = nodes.folder().join("large.wasm");
    std::fs::File::create(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    let peer = nodes.peers("bad")[0].to_string();
    let refused = nodes.run_err(1, &["create", "--backend", large.to_str().unwrap(), &peer]);
    assert!(refused.contains("at most 67108864 bytes"), "{refused}");
    for number in 0..3 {
        assert!(nodes.run_ok(&["status", nodes.address(number).as_str()]).contains("no peers"));
    }
}

/// A snapshot that cannot be written, or not be read back, never takes the place of the log.
#[test]
fn a_state_that_no_snapshot_holds_is_kept_by_its_log() {
    const WRITES: usize = 30;
    let mut nodes = Nodes::start(1);
    for config in ["snapshot-traps", "snapshot-endless", "snapshot-empty", "refuses"] {
        runtime().block_on(async {
            nodes.client().create(broken(&nodes, config, config)).await.unwrap();
            let session = patient(&nodes, config);
            for place in 1..=WRITES {
                assert_eq!(session.write("x").await.unwrap().reply, place.to_string(), "{config}");
            }
        });
    }
    nodes.kill(0);
    nodes.start_node(0);
    for config in ["snapshot-traps", "snapshot-endless", "snapshot-empty", "refuses"] {
        let peer = &nodes.peers(config)[0];
        assert_eq!(nodes.run_ok(&["write", &peer.to_string(), "x"]), (WRITES + 1).to_string(), "{config}");
        let status = nodes.status(peer).unwrap();
        assert_eq!((&status["snapshot"], &status["first"]), (&0.into(), &1.into()), "{config}: {status}");
    }
}

/// Its replies tell how many calls there were, and a replica that restarts makes fewer.
#[test]
fn a_replica_whose_state_depends_on_more_than_its_log_is_found_and_replaced() {
    const WRITES: usize = 8;
    let mut nodes = Nodes::start(3);
    runtime().block_on(async {
        let settings = Settings { budgets: SMALL, ..Settings::default() };
        let new = NewCluster { settings, ..broken(&nodes, "bad", "batches") };
        nodes.client().create(new).await.unwrap();
        let session = patient(&nodes, "bad");
        for _ in 0..WRITES {
            session.write("x").await.unwrap();
            // So that all make a call of their own of each. Were all three to differ, there would be no majority.
            nodes.until_equal("bad");
        }
    });
    let follower = (nodes.leader("bad") + 1) % 3;
    nodes.kill(follower);
    nodes.start_node(follower);
    // So few entries call for no snapshot: it is there because the replica was in quarantine, and got the majority's state.
    let peer = nodes.peers("bad")[follower].clone();
    until("it has the majority's state", || {
        nodes
            .status(&peer)
            .is_some_and(|status| status["snapshot"].as_u64() > Some(0) && status["quarantine"].is_null())
    });
    nodes.until_equal("bad");
    let written = nodes.run_ok(&["write", &peer.to_string(), "x"]);
    assert!(written.starts_with(&format!("{} in call", WRITES + 1)), "{written}");
}

/// One replica is asked, and the others are not: what that changes is seen in no reply, and parts nobody.
#[test]
fn what_a_query_changes_is_dropped() {
    let nodes = Nodes::start(3);
    for (config, expected) in [("queries", "2"), ("counted-queries", "2 after 0 queries")] {
        runtime().block_on(async {
            let settings = Settings { budgets: SMALL, ..Settings::default() };
            let new = NewCluster { settings, ..broken(&nodes, config, config) };
            nodes.client().create(new).await.unwrap();
            let session = patient(&nodes, config);
            session.write("x").await.unwrap();
            for peer in [0, 0, 0, 1].map(|number| nodes.peers(config)[number].clone()) {
                LightSession::new(nodes.client(), vec![peer]).query("?").await.unwrap();
            }
            assert_eq!(session.write("x").await.unwrap().reply, expected);
        });
        for status in nodes.until_equal(config) {
            assert_eq!(status["snapshot"], 0, "a replica had to be replaced: {status}");
        }
    }
}

/// A component that takes long to compile holds up neither the other clusters nor itself for ever.
#[test]
fn a_component_that_is_heavy_to_compile_keeps_nobody_from_being_served() {
    let nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let functions = "(func (param i64) (result i64) (i64.mul (local.get 0) (local.get 0)))".repeat(20_000);
    let component = Bytes::from(wat::parse_str(MINIMAL.replace("(;functions;)", &functions)).unwrap());
    runtime().block_on(async {
        let kv = Kv::new(patient(&nodes, "kv"));
        let (client, new) = (nodes.client(), NewCluster::new(nodes.peers("heavy"), component));
        let creating = tokio::spawn(async move { client.create(new).await });
        let mut count = 0;
        while !creating.is_finished() {
            kv.put(format!("key {count}"), "value").await.expect("a write of the other cluster comes through in time");
            count += 1;
        }
        // Created or refused: what matters is that there is an end.
        let created = creating.await.unwrap();
        assert!(matches!(created, Ok(_) | Err(CreateError::Peers(_))), "{created:?}");
        kv.put("last", "value").await.unwrap();
    });
}

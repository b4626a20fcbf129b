//! Commands that the backend dies of, whenever they come; and fuel that runs out on one replica alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use zraft::client::{LightSession, NewCluster, SessionError, SessionOptions};
use zraft::protocol::{GuestFault, RequestError};
use zraft::settings::{Budgets, Settings};

use crate::harness::{Nodes, runtime};

const HOSTILE: &[u8] = include_bytes!("../components/hostile.wasm");
const MINIMAL: &str = include_str!("../components/minimal.wat");
const NAME: &str = "bad";

/// A trap, an endless loop and a memory bomb, and what a client is told of each.
const POISONS: [(&str, GuestFault, &str); 3] = [
    ("panic", GuestFault::Trap, "told to panic"),
    ("loop", GuestFault::OutOfFuel, "fuel"),
    ("bomb", GuestFault::OutOfMemory, "bytes of memory"),
];

/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);

/// Soon used up by what never ends; the memory before the fuel.
const SMALL: Budgets =
    Budgets { apply_fuel: 50_000_000, query_fuel: 50_000_000, chunk_fuel: 100_000_000, memory_bytes: 8 << 20 };

fn create(nodes: &Nodes, component: &[u8]) {
    let settings = Settings { budgets: SMALL, ..Settings::default() };
    let new = NewCluster { settings, ..NewCluster::new(nodes.peers(NAME), component.to_vec().into()) };
    runtime().block_on(async { nodes.client().create(new).await.unwrap() });
}

fn session(nodes: &Nodes) -> LightSession {
    let options = SessionOptions { request_timeout: LONG, attempt_timeout: LONG, ..SessionOptions::default() };
    LightSession::with_options(nodes.client(), nodes.peers(NAME), options)
}

fn write(nodes: &Nodes, word: &'static str) -> Result<String, SessionError> {
    let written = runtime().block_on(async { session(nodes).write(word).await })?;
    Ok(String::from_utf8(written.reply.to_vec()).unwrap())
}

fn assert_skipped(error: SessionError, (word, kind, message): (&str, GuestFault, &str)) {
    let SessionError::Failed(RequestError::Skipped { fault, .. }) = error else { panic!("{word}: {error}") };
    assert_eq!(fault.kind, kind, "{fault}");
    assert!(fault.message.contains(message), "{word}: {fault}");
}

/// Writes many at once, one of which is the poison.
fn write_a_batch(nodes: &Nodes, poison: (&'static str, GuestFault, &str)) {
    runtime().block_on(async {
        let session = Arc::new(session(nodes));
        let mut writes = JoinSet::new();
        for word in ["a", "b", "c", "d", poison.0, "e", "f", "g", "h"] {
            let session = Arc::clone(&session);
            writes.spawn(async move { (word, session.write(word).await) });
        }
        for (word, result) in writes.join_all().await {
            match result {
                Ok(written) => assert_eq!(written.reply, word),
                Err(error) => {
                    assert_eq!(word, poison.0, "{error}");
                    assert_skipped(error, poison);
                }
            }
        }
    });
}

#[test]
fn a_poisoned_command_has_one_verdict_whenever_it_comes() {
    let mut nodes = Nodes::start(3);
    create(&nodes, HOSTILE);
    for poison in POISONS {
        // In the middle of a batch.
        write_a_batch(&nodes, poison);
        nodes.until_equal(NAME);

        // The first that a new leader is asked for.
        let leader = nodes.leader(NAME);
        nodes.kill(leader);
        assert_skipped(write(&nodes, poison.0).unwrap_err(), poison);
        nodes.start_node(leader);
        nodes.until_equal(NAME);

        // Among what a follower has missed, and while it catches up.
        let follower = (nodes.leader(NAME) + 1) % 3;
        nodes.kill(follower);
        (0..2).for_each(|_| write_a_batch(&nodes, poison));
        nodes.start_node(follower);
        write_a_batch(&nodes, poison);
        nodes.until_equal(NAME);

        // After all have come up again, and have met in their logs what came before.
        (0..3).for_each(|number| nodes.kill(number));
        (0..3).for_each(|number| nodes.start_node(number));
        assert_skipped(write(&nodes, poison.0).unwrap_err(), poison);
        assert_eq!(write(&nodes, "after").unwrap(), "after");
        for status in nodes.until_equal(NAME) {
            assert_eq!(status["snapshot"], 0, "a replica had to be replaced: {status}");
        }
    }
}

/// A backend that its queries wear out: after one, a command never ends. So fuel runs out on one replica, where queries are
/// answered by the instance that applies.
fn wearing() -> Vec<u8> {
    let parts = [
        ("(;functions;)", "(global $is_worn (mut i32) (i32.const 0))"),
        ("(;query;)", "(global.set $is_worn (i32.const 1))"),
        ("(;apply;)", "(if (global.get $is_worn) (then (loop (br 0))))"),
    ];
    let worn = parts.iter().fold(MINIMAL.to_owned(), |text, (part, code)| {
        assert!(text.contains(part), "there is no {part}");
        text.replace(part, code)
    });
    wat::parse_str(worn).unwrap()
}

/// Has one replica's instance answer a query.
fn wear(nodes: &Nodes, number: usize) {
    let peer = nodes.peers(NAME)[number].clone();
    runtime().block_on(async { LightSession::new(nodes.client(), vec![peer]).query("?").await.unwrap() });
}

#[test]
fn fuel_that_runs_out_on_one_replica_alone_parts_nobody() {
    let mut nodes = Nodes::prepare(3);
    (0..3).for_each(|number| nodes.start_node_with(number, "isolation = \"shared\""));
    create(&nodes, &wearing());
    write(&nodes, "x").unwrap();
    nodes.until_equal(NAME);
    let leader = nodes.leader(NAME);

    // What the leader could apply is applied, and the follower that could not is given the state.
    let follower = (leader + 1) % 3;
    wear(&nodes, follower);
    write(&nodes, "x").unwrap();
    nodes.until_equal(NAME);
    let log = nodes.log(follower);
    assert!(log.contains("the backend died of an entry") && log.contains("out of fuel"), "{log}");
    write(&nodes, "x").unwrap();
    nodes.until_equal(NAME);

    // What the leader could not is skipped, also by those who could.
    wear(&nodes, leader);
    let error = write(&nodes, "x").unwrap_err();
    assert_skipped(error, ("x", GuestFault::OutOfFuel, "fuel"));
    write(&nodes, "x").unwrap();
    for status in nodes.until_equal(NAME) {
        assert!(status["quarantine"].is_null() && status["stopped"].is_null(), "{status}");
    }
}

//! Backends that misbehave.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Nodes, runtime};
use tokio::task::JoinSet;
use zraft::client::{Kv, LightSession, NewCluster, Session, SessionError, SessionFailure, SessionOptions};
use zraft::protocol::{GuestFault, MAX_DATA_BYTES, RequestError};
use zraft::settings::{Budgets, Settings};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);

const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/components/hostile.wasm");

#[test]
fn a_query_that_kills_the_backend_fails_alone() {
    let nodes = Nodes::start(3);
    nodes.create("bad", HOSTILE, &[]);
    runtime().block_on(async {
        let session = LightSession::new(nodes.client(), nodes.peers("bad"));
        session.write("before").await.unwrap();
        let error = session.query("panic").await.unwrap_err();
        let SessionError::Failed(RequestError::BackendFault { message }) = error else { panic!("{error}") };
        assert!(message.contains("told to panic"), "{message}");
        assert_eq!(session.query("still there").await.unwrap(), "still there");
        session.write("after").await.unwrap();
    });
    nodes.until_equal("bad");
}

#[test]
fn a_command_that_kills_the_backend_is_skipped_everywhere_and_its_client_is_told() {
    let mut nodes = Nodes::start(3);
    nodes.create("bad", HOSTILE, &[]);
    let peer = nodes.peers("bad")[0].to_string();
    nodes.run_ok(&["write", &peer, "before"]);
    let skipped = nodes.run_err(1, &["write", &peer, "panic"]);
    assert!(skipped.contains("told to panic") && skipped.contains("skipped"), "{skipped}");
    runtime().block_on(async {
        // What never ends by itself takes its time.
        let options = SessionOptions { request_timeout: LONG, attempt_timeout: LONG, ..SessionOptions::default() };
        let session = Arc::new(LightSession::with_options(nodes.client(), nodes.peers("bad"), options));
        // They come together, and those to blame are found.
        let mut writes = JoinSet::new();
        for word in ["a", "recurse", "b", "short", "panic", "c"] {
            let session = Arc::clone(&session);
            writes.spawn(async move { (word, session.write(word).await) });
        }
        for (word, result) in writes.join_all().await {
            let kind = match result {
                Ok(_) => None,
                Err(SessionError::Failed(RequestError::Skipped { fault, .. })) => Some(fault.kind),
                Err(error) => panic!("{word}: {error}"),
            };
            let expected = match word {
                "recurse" => Some(GuestFault::StackOverflow),
                "short" => Some(GuestFault::BrokenContract),
                "panic" => Some(GuestFault::Trap),
                _ => None,
            };
            assert_eq!(kind, expected, "{word}");
        }
        let error = session.write("loop").await.unwrap_err();
        let SessionError::Failed(RequestError::Skipped { fault, .. }) = error else { panic!("{error}") };
        assert_eq!(fault.kind, GuestFault::OutOfFuel);
        session.write("after").await.unwrap();
    });
    nodes.until_equal("bad");
    // A restart goes by the verdicts in the log.
    (0..3).for_each(|number| nodes.kill(number));
    (0..3).for_each(|number| nodes.start_node(number));
    nodes.run_ok(&["write", &peer, "again"]);
    nodes.until_equal("bad");
}

#[test]
fn a_session_goes_on_behind_a_command_that_kills_the_backend_and_ends_though_its_end_does() {
    let nodes = Nodes::start(3);
    nodes.create("bad", HOSTILE, &[]);
    runtime().block_on(async {
        let (session, _notices) = Session::connect(nodes.client(), nodes.peers("bad"), LONG).await.unwrap();
        session.write("first").await.unwrap();
        let error = session.write_ephemeral("panic").await.unwrap_err();
        let SessionFailure::Skipped { fault, .. } = error else { panic!("{error}") };
        assert!(fault.message.contains("told to panic"), "{fault}");
        session.write("third").await.unwrap();
        // The component panics at every end of a session.
        session.close().await.unwrap();
    });
    let status = nodes.until_equal("bad");
    assert!(status.iter().all(|peer| peer["sessions"] == 0), "{status:?}");
}

#[test]
fn a_refusal_is_a_normal_answer() {
    let nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    let refused = nodes.run_err(1, &["kv", "put", &peer, "", "a key must not be empty"]);
    assert!(refused.contains("a key has 1 to"), "{refused}");
    let malformed = nodes.run_err(1, &["write", &peer, "\u{7f}not a command"]);
    assert!(malformed.contains("malformed command"), "{malformed}");
    nodes.run_err(5, &["kv", "get", &peer, "nothing here"]);
    nodes.run_err(5, &["kv", "del", &peer, "nothing here"]);
}

#[test]
fn a_large_value_goes_everywhere_and_one_too_large_nowhere() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &["--max-log-count", "4", "--kept-log-count", "0"]);
    let large = vec![b'x'; MAX_DATA_BYTES - 100];
    let runtime = runtime();
    let reads_back = |nodes: &Nodes| {
        runtime.block_on(async {
            for peer in nodes.peers("kv") {
                let kv = Kv::new(LightSession::new(nodes.client(), vec![peer]));
                assert!(kv.get("large 7").await.unwrap().unwrap().value == large);
            }
        });
    };
    runtime.block_on(async {
        let kv = nodes.kv("kv");
        // More than a snapshot's block, an append and a stream's window.
        for number in 0..8 {
            kv.put(format!("large {number}"), large.clone()).await.unwrap();
        }
        let error = kv.put("too large", vec![0; MAX_DATA_BYTES]).await.unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    });
    reads_back(&nodes);
    nodes.kill(1);
    nodes.start_node(1);
    reads_back(&nodes);
    nodes.until_equal("kv");
}

#[test]
fn a_guest_that_computes_for_long_does_not_keep_its_node_from_stopping() {
    let mut nodes = Nodes::start(1);
    runtime().block_on(async {
        // Enough fuel for the queries of one job to take longer than anybody waits, also where that is fast.
        let budgets = Budgets { query_fuel: 20 * Budgets::default().query_fuel, ..Budgets::default() };
        let settings = Settings { budgets, ..Settings::default() };
        let component = std::fs::read(HOSTILE).unwrap().into();
        let new = NewCluster { settings, ..NewCluster::new(nodes.peers("bad"), component) };
        nodes.client().create(new).await.unwrap();
        let session = Arc::new(LightSession::new(nodes.client(), nodes.peers("bad")));
        session.query("up").await.unwrap();
        // Each takes the whole fuel of a query.
        let mut loops = JoinSet::new();
        for _ in 0..500 {
            let session = Arc::clone(&session);
            loops.spawn(async move { session.query("loop").await });
        }
        assert!(loops.join_all().await.iter().any(|result| matches!(result, Err(SessionError::AllFailed(_)))));
    });
    assert!(nodes.terminate(0), "{}", nodes.log(0));
    assert!(nodes.log(0).contains("left behind"), "{}", nodes.log(0));
}

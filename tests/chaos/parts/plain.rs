//! All clients against three nodes, to which nothing happens, or what shows a planted bug.
//!
//! With the feature `planted` each node has a bug, which must be found:
//! `cargo test --features planted --test chaos_parts planted`. Without it, all that is done there must be borne.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use zraft::transport::TlsFiles;

use crate::check::{self, Outcome};
use crate::harness::{Nodes, runtime};
use crate::history::{History, Outcome as Ended, Workload};
use crate::work::{Target, Workloads};

/// How long clients work when nothing happens: long enough for several snapshots of each cluster.
const QUIET: Duration = Duration::from_secs(15);
/// How long they work between two troubles.
const PAUSE: Duration = Duration::from_secs(6);

/// Has clients work while something is done to the nodes; returns what they saw.
fn work(nodes: &mut Nodes, trouble: impl FnOnce(&mut Nodes)) -> History {
    let target = Target {
        addresses: (0..3).map(|number| nodes.address(number).clone()).collect(),
        tls: TlsFiles::in_folder(&nodes.certs(), "alice"),
        admin: TlsFiles::in_folder(&nodes.certs(), "admin"),
    };
    let (started, has_started) = mpsc::channel();
    let (end, is_over) = oneshot::channel::<()>();
    let clients = std::thread::spawn(move || {
        runtime().block_on(async {
            let workloads = Workloads::start(target, 7, Instant::now()).await.unwrap();
            started.send(()).unwrap();
            // Dropped unsent, it is over all the same.
            let _ = is_over.await;
            workloads.finish().await
        })
    });
    has_started.recv().unwrap();
    std::thread::sleep(QUIET);
    trouble(nodes);
    drop(end);
    clients.join().unwrap()
}

fn count(history: &History, workload: Workload) -> (usize, usize) {
    let is_ok = |ended: &Ended| matches!(ended, Ended::Ok(_));
    history.of(workload).fold((0, 0), |(all, ok), operation| (all + 1, ok + usize::from(is_ok(&operation.outcome))))
}

#[cfg(not(feature = "planted"))]
#[test]
fn everything_is_valid_when_nothing_fails() {
    let history = work(&mut Nodes::start(3), |_| {});
    for workload in Workload::ALL {
        let (all, ok) = count(&history, workload);
        assert!(ok > 40 && ok == all, "{}: {ok} of {all} operations went well", workload.name());
    }
    for verdict in check::check(&history) {
        assert!(matches!(verdict.outcome, Outcome::Valid { .. }), "{verdict:?}");
    }
}

type Start<'a> = &'a dyn Fn(&mut Nodes, usize);

fn kill_all(nodes: &mut Nodes, start: Start<'_>) {
    (0..3).for_each(|number| nodes.kill(number));
    (0..3).for_each(|number| start(nodes, number));
}

fn kill_leader(nodes: &mut Nodes, start: Start<'_>) {
    let leader = nodes.leader("kv");
    nodes.kill(leader);
    std::thread::sleep(PAUSE / 2);
    start(nodes, leader);
}

fn stop_leader(nodes: &mut Nodes, _: Start<'_>) {
    let leader = nodes.leader("kv");
    nodes.pause(leader);
    std::thread::sleep(PAUSE);
    nodes.resume(leader);
}

#[cfg(not(feature = "planted"))]
#[test]
fn everything_is_valid_when_nodes_are_killed_and_stopped() {
    let mut nodes = Nodes::start(3);
    let history = work(&mut nodes, |nodes| {
        for trouble in [kill_all, stop_leader, kill_leader, kill_all] {
            trouble(nodes, &Nodes::start_node);
            std::thread::sleep(PAUSE);
        }
    });
    for workload in Workload::ALL {
        let (all, ok) = count(&history, workload);
        assert!(ok > 40, "{}: {ok} of {all} operations went well", workload.name());
    }
    for verdict in check::check(&history) {
        assert!(matches!(verdict.outcome, Outcome::Valid { .. }), "{verdict:?}");
    }
}

#[cfg(feature = "planted")]
mod planted {
    use super::*;

    /// Most troubles that it may take to find a bug.
    const MAX_TROUBLES: usize = 5;

    fn is_found(bug: &str, workload: Workload, trouble: fn(&mut Nodes, Start<'_>)) {
        let variable = format!("ZRAFT_PLANTED={bug}");
        let start = |nodes: &mut Nodes, number| nodes.start_node_under(&["env", &variable], number, "");
        let mut nodes = Nodes::prepare(3);
        (0..3).for_each(|number| start(&mut nodes, number));
        let began = Instant::now();
        let history = work(&mut nodes, |nodes| {
            for _ in 0..MAX_TROUBLES {
                trouble(nodes, &start);
                std::thread::sleep(PAUSE);
            }
        });
        let verdicts = check::check(&history);
        verdicts
            .iter()
            .for_each(|verdict| eprintln!("{bug}, after {:.0} s: {verdict:?}", began.elapsed().as_secs_f64()));
        let found = verdicts.iter().find(|verdict| verdict.workload == workload.name()).unwrap();
        assert!(matches!(found.outcome, Outcome::Violation(_)), "{bug} is not seen by {}", workload.name());
    }

    #[test]
    fn acknowledging_before_fsync_is_found() {
        is_found("ack-before-fsync", Workload::List, kill_all);
    }

    #[test]
    fn reading_without_read_index_is_found() {
        is_found("read-without-read-index", Workload::Register, stop_leader);
    }

    #[test]
    fn sessions_that_are_not_in_the_snapshot_are_found() {
        is_found("sessions-not-in-snapshot", Workload::Ephemeral, kill_all);
    }

    #[test]
    fn a_trigger_lost_at_a_leader_change_is_found() {
        is_found("trigger-lost-at-leader-change", Workload::Trigger, kill_leader);
    }
}

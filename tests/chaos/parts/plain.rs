//! All clients against three nodes, to which nothing happens, or what shows a planted bug.
//!
//! With the feature `planted` each node has a bug, which must be found:
//! `cargo test --features planted --test chaos_parts planted`. Without it, all that is done there must be borne. Each leaves
//! a report in `target/tmp`.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use zraft::transport::TlsFiles;

use crate::check::{self, Outcome, Verdict};
use crate::harness::{Nodes, runtime};
use crate::history::{History, Outcome as Ended, Workload};
use crate::report::{self, RunInfo};
use crate::timeline::FaultRecord;
use crate::work::{Target, Workloads};

const SEED: u64 = 7;
/// How long clients work when nothing happens: long enough for several snapshots of each cluster.
const QUIET: Duration = Duration::from_secs(15);
/// How long they work between two troubles.
const PAUSE: Duration = Duration::from_secs(6);

/// Something that is done to the nodes; it starts those that it kills again.
type Trouble = (&'static str, fn(&mut Nodes, Start<'_>));
type Start<'a> = &'a dyn Fn(&mut Nodes, usize);

/// Has clients work while one trouble comes after the other; returns what they saw, and what the checkers say of it.
fn work(name: &str, nodes: &mut Nodes, troubles: &[Trouble], start: Start<'_>) -> (History, Vec<Verdict>) {
    let target = Target {
        addresses: (0..3).map(|number| nodes.address(number).clone()).collect(),
        tls: TlsFiles::in_folder(&nodes.certs(), "alice"),
        admin: TlsFiles::in_folder(&nodes.certs(), "admin"),
    };
    let (started, has_started) = mpsc::channel();
    let (end, is_over) = oneshot::channel::<()>();
    let began = Instant::now();
    let clients = std::thread::spawn(move || {
        runtime().block_on(async {
            let workloads = Workloads::start(target, SEED, began).await.unwrap();
            started.send(()).unwrap();
            // Dropped unsent, it is over all the same.
            let _ = is_over.await;
            workloads.finish().await
        })
    });
    has_started.recv().unwrap();
    std::thread::sleep(QUIET);
    let mut faults = Vec::new();
    for (kind, trouble) in troubles {
        let from = began.elapsed();
        trouble(nodes, start);
        let to = began.elapsed();
        faults.push(FaultRecord { kind, nodes: vec![], from, to, bite: "it was done".to_owned() });
        std::thread::sleep(PAUSE);
    }
    drop(end);
    let history = clients.join().unwrap();
    let verdicts = check::check(&history);
    let run = RunInfo { seed: SEED, nodes: 3, took: began.elapsed(), facts: vec![], failures: vec![] };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{name}"));
    report::write(&dir, &run, &history, &faults, &verdicts).unwrap();
    (history, verdicts)
}

fn count(history: &History, workload: Workload) -> (usize, usize) {
    let is_ok = |ended: &Ended| matches!(ended, Ended::Ok(_));
    history.of(workload).fold((0, 0), |(all, ok), operation| (all + 1, ok + usize::from(is_ok(&operation.outcome))))
}

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

const KILL_ALL: Trouble = ("all killed", kill_all);
const KILL_LEADER: Trouble = ("leader killed", kill_leader);
const STOP_LEADER: Trouble = ("leader stopped", stop_leader);

#[cfg(not(feature = "planted"))]
mod sound {
    use super::*;

    fn assert_valid(verdicts: &[Verdict]) {
        for verdict in verdicts {
            assert!(matches!(verdict.outcome, Outcome::Valid { .. }), "{verdict:?}");
        }
    }

    #[test]
    fn everything_is_valid_when_nothing_fails() {
        let (history, verdicts) = work("quiet", &mut Nodes::start(3), &[], &Nodes::start_node);
        for workload in Workload::ALL {
            let (all, ok) = count(&history, workload);
            assert!(ok > 40 && ok == all, "{}: {ok} of {all} operations went well", workload.name());
        }
        assert_valid(&verdicts);
    }

    #[test]
    fn everything_is_valid_when_nodes_are_killed_and_stopped() {
        let troubles = [KILL_ALL, STOP_LEADER, KILL_LEADER, KILL_ALL];
        let (history, verdicts) = work("troubles", &mut Nodes::start(3), &troubles, &Nodes::start_node);
        for workload in Workload::ALL {
            let (all, ok) = count(&history, workload);
            assert!(ok > 40, "{}: {ok} of {all} operations went well", workload.name());
        }
        assert_valid(&verdicts);
    }
}

#[cfg(feature = "planted")]
mod planted {
    use super::*;

    /// How often a trouble may have to come until a bug is found.
    const TROUBLES: usize = 5;

    fn is_found(bug: &str, workload: Workload, trouble: Trouble) {
        let variable = format!("ZRAFT_PLANTED={bug}");
        let start = |nodes: &mut Nodes, number| nodes.start_node_under(&["env", &variable], number, "");
        let mut nodes = Nodes::prepare(3);
        (0..3).for_each(|number| start(&mut nodes, number));
        let (_, verdicts) = work(bug, &mut nodes, &[trouble; TROUBLES], &start);
        verdicts.iter().for_each(|verdict| eprintln!("{bug}: {verdict:?}"));
        let found = verdicts.iter().find(|verdict| verdict.workload == workload.name()).unwrap();
        assert!(matches!(found.outcome, Outcome::Violation(_)), "{bug} is not seen by {}", workload.name());
    }

    #[test]
    fn acknowledging_before_fsync_is_found() {
        is_found("ack-before-fsync", Workload::List, KILL_ALL);
    }

    #[test]
    fn reading_without_read_index_is_found() {
        is_found("read-without-read-index", Workload::Register, STOP_LEADER);
    }

    #[test]
    fn sessions_that_are_not_in_the_snapshot_are_found() {
        is_found("sessions-not-in-snapshot", Workload::Ephemeral, KILL_ALL);
    }

    #[test]
    fn a_trigger_lost_at_a_leader_change_is_found() {
        is_found("trigger-lost-at-leader-change", Workload::Trigger, KILL_LEADER);
    }
}

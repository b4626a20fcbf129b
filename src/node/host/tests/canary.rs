//! Canaries beside a host.

use tokio::sync::Semaphore;

use super::*;
use crate::protocol::{CanaryDifference, CanaryReport, UpgradeRefusal};
use crate::raft::Upgrade;

const MINIMAL: &str = include_str!("../../../../tests/components/minimal.wat");
const FINISH: &str = r#"(func (export "finish") (param i32) (result i32) (i32.const 1024))"#;
/// Its memory, which must hold a chunk of the state.
const FEW_PAGES: &str = r#"(memory (export "memory") 2)"#;
const ENOUGH_PAGES: &str = r#"(memory (export "memory") 16)"#;
const LONG: Duration = Duration::from_secs(60);

/// A backend that takes every state and answers nothing, but for what is in another place.
fn minimal(bench: &Bench, place: &str, other: &str) -> Digest {
    let component = wat::parse_str(MINIMAL.replace(place, other).replace(FEW_PAGES, ENOUGH_PAGES)).unwrap();
    let digest = Digest::of(&component);
    bench.store.components().put(digest, &component).unwrap();
    digest
}

fn begin(host: &mut Host, component: Digest, max_commands: u64) -> oneshot::Receiver<CanaryReport> {
    let (reply, report) = oneshot::channel();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let order = CanaryOrder { component, migration: None, max_commands, max_time: LONG, reply, permit };
    assert!(host.run(HostJob::Canary(order)).is_empty());
    report
}

fn apply_one(host: &mut Host, index: u64, word: &'static str) {
    assert!(matches!(host.run(apply(vec![entry(index, word)]))[..], [HostEvent::Applied(_)]));
}

#[test]
fn the_same_backend_comes_to_the_same_and_ends_when_it_has_run_enough() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let report = begin(&mut host, bench.genesis.component, 3);
    apply_one(&mut host, 4, "c");
    host.run(apply(vec![entry(5, "d"), entry(6, "e"), entry(7, "f")]));
    let report = report.blocking_recv().unwrap();
    assert_eq!(report, CanaryReport { commands: 3, ..CanaryReport::without_commands(Index(3), CanaryEnd::Done) });
    // Nobody takes what comes now.
    apply_one(&mut host, 8, "g");
    until_is_gone(&mut host, 9);
}

/// The host notices with what it applies that a canary has ended.
fn until_is_gone(host: &mut Host, from: u64) {
    let deadline = Instant::now() + LONG;
    for index in from.. {
        if host.canary.is_none() {
            return;
        }
        assert!(Instant::now() < deadline, "it is fed for ever");
        apply_one(host, index, "more");
        std::thread::yield_now();
    }
}

#[test]
fn another_backend_is_told_from_the_present_one_by_what_commands_come_to() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Shared);
    let report = begin(&mut host, minimal(&bench, "", ""), 2);
    host.run(apply(vec![entry(4, "c"), entry(5, "d")]));
    let report = report.blocking_recv().unwrap();
    let difference = |index, word| CanaryDifference {
        index: Index(index),
        present: format!("\"{word}\", changed \"{word}\""),
        canary: "\"\"".to_owned(),
    };
    assert_eq!((report.commands, report.differing, report.end), (2, 2, CanaryEnd::Done));
    assert_eq!(report.differences, [difference(4, "c"), difference(5, "d")]);
    assert_eq!(host.at().0, Index(5), "the peer's own goes on as it was");
}

#[test]
fn a_backend_that_dies_is_told_of_with_the_entry() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let report = begin(&mut host, minimal(&bench, "(;apply;)", "unreachable"), 9);
    bench.append(vec![entry(4, "c"), entry(5, "d")]);
    host.run(apply(vec![entry(4, "c"), entry(5, "d")]));
    let end = report.blocking_recv().unwrap().end;
    assert!(matches!(&end, CanaryEnd::Died { on: Index(4), fault } if fault.kind == GuestFault::Trap), "{end:?}");

    let dies = minimal(&bench, FINISH, &FINISH.replace("(i32.const 1024)", "unreachable"));
    let end = begin(&mut host, dies, 9).blocking_recv().unwrap().end;
    assert!(matches!(&end, CanaryEnd::NotUpgraded(UpgradeRefusal::Fault(_))), "{end:?}");
    apply_one(&mut host, 6, "e");
}

#[test]
fn what_happens_to_the_peer_ends_its_canary_with_the_reason() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let why = |report: oneshot::Receiver<CanaryReport>| match report.blocking_recv().unwrap().end {
        CanaryEnd::Interrupted(reason) => reason,
        end => panic!("{end:?}"),
    };
    let component = bench.genesis.component;
    let first = begin(&mut host, component, 9);
    let second = begin(&mut host, component, 9);
    assert!(why(first).contains("another has taken its place"));
    let here = host.at();
    host.run(HostJob::Replica(Job::Rewind(here.0, here.1)));
    assert!(why(second).contains("made anew"));

    let third = begin(&mut host, component, 9);
    let upgrade = Upgrade { from: component, to: minimal(&bench, "", ""), migration: None };
    host.run(apply(vec![Entry { payload: Payload::Upgrade(upgrade), ..entry(4, "") }]));
    assert!(why(third).contains("entry 4 moves the cluster"));
    drop(host);

    let mut host = bench.host(Isolation::Separate);
    let fourth = begin(&mut host, component, 9);
    drop(host);
    assert!(why(fourth).contains("its peer is gone"));
}

#[test]
fn a_canary_that_nobody_waits_for_ends() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let report = begin(&mut host, bench.genesis.component, 9);
    drop(report);
    until_is_gone(&mut host, 4);
}

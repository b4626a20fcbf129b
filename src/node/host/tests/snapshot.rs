//! Snapshots in the background.

use super::*;
use crate::store::StoreError;

fn begin(host: &mut Host, index: u64) -> SnapshotTask {
    assert!(host.run(HostJob::Replica(Job::Snapshot(meta(index)))).is_empty());
    host.take_task().unwrap()
}

fn failure(events: &[HostEvent]) -> &str {
    let [HostEvent::SnapshotFailed(reason)] = events else { panic!("{events:?}") };
    reason
}

#[test]
fn the_machine_goes_on_while_a_snapshot_is_made() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let first = begin(&mut host, 3);
    assert!(matches!(host.run(apply(vec![entry(4, "c")]))[..], [HostEvent::Applied(_)]));
    bench.append(vec![entry(4, "c")]);
    let made = first.run();
    assert!(
        matches!(&host.run(HostJob::SnapshotMade(made))[..], [HostEvent::SnapshotTaken(taken, _)] if *taken == meta(3))
    );

    // The next one begins with it.
    let base = meta(3).position;
    bench.write(Write { snapshot: Some(meta(3)), discard_through: Some(base), ..Write::new(WriteToken(2)) });
    let events = take_snapshot_at(&mut host, 4);
    assert!(matches!(&events[..], [HostEvent::SnapshotTaken(taken, _)] if *taken == meta(4)), "{events:?}");
    let chain = host.at().1;
    let restored = bench.new_host(Isolation::Separate).run(HostJob::Start(Some(meta(4))));
    assert!(
        matches!(&restored[..], [HostEvent::Restored { chain: restored, .. }] if *restored == chain),
        "{restored:?}"
    );
}

#[test]
fn a_snapshot_of_a_state_that_was_replaced_does_not_count() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let made = begin(&mut host, 3).run();
    assert!(matches!(host.run(HostJob::Replica(Job::Restore(meta(3))))[..], [HostEvent::Restored { .. }]));
    assert!(failure(&host.run(HostJob::SnapshotMade(made))).contains("replaced"));
}

#[test]
fn a_snapshot_that_was_received_is_not_written_over() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let task = begin(&mut host, 3);
    assert!(matches!(take_snapshot_at(&mut bench.host(Isolation::Shared), 3)[..], [HostEvent::SnapshotTaken(..)]));
    assert!(failure(&host.run(HostJob::SnapshotMade(task.run()))).contains("another snapshot"));
}

#[test]
fn a_snapshot_whose_machine_comes_to_something_else_is_not_taken() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    // The log does not say what the machine was given.
    host.run(apply(vec![entry(4, "c")]));
    bench.append(vec![entry(4, "another")]);
    assert!(failure(&take_snapshot_at(&mut host, 4)).contains("differs"));
    let found = bench.store.snapshots().open(PEER, meta(4).position);
    assert!(matches!(found, Err(StoreError::SnapshotMissing { .. })), "{found:?}");
    assert!(matches!(host.run(apply(vec![entry(5, "d")]))[..], [HostEvent::Applied(_)]), "the machine goes on");
    // But for a replica that is to get this state, whatever the log says.
    let events = host.run(HostJob::Replica(Job::SnapshotAsIs(meta(5))));
    assert!(matches!(events[..], [HostEvent::SnapshotTaken(..)]), "{events:?}");
    let restored = bench.new_host(Isolation::Separate).run(HostJob::Start(Some(meta(5))));
    assert!(matches!(&restored[..], [HostEvent::Restored { chain, .. }] if *chain == host.at().1), "{restored:?}");
}

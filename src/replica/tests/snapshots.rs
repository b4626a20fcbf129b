//! When snapshots are due, and what a restore changes.

use super::*;
use crate::feature_level::FeatureLevel;

const EVERY: u64 = 5;

fn often() -> Settings {
    Settings { max_log_count: EVERY, kept_log_count: 0, ..Settings::default() }
}

fn snapshots(hands: &Hands) -> Vec<SnapshotMeta> {
    let snapshot = |job: &Job| match job {
        Job::Snapshot(meta) => Some(meta.clone()),
        _ => None,
    };
    hands.jobs.iter().filter_map(snapshot).collect()
}

/// Writes entries up to `last`, one at a time, all applied. Jobs are kept.
fn write_up_to(hands: &mut Hands, last: u64) {
    while hands.last() < Index(last) {
        hands.now_ms += 1;
        hands.write(1000 + hands.last().0, "a");
        hands.settle();
        if let Some(Job::Apply(run)) = hands.jobs.iter().rfind(|job| matches!(job, Job::Apply(_))) {
            let entries = run.entries.clone();
            hands.apply(&entries);
        }
        hands.settle();
    }
}

#[test]
fn a_snapshot_is_due_after_max_log_count_entries_and_not_while_one_is_in_progress() {
    let mut hands = Hands::alone(often());
    write_up_to(&mut hands, EVERY - 1);
    assert_eq!(snapshots(&hands), []);
    write_up_to(&mut hands, 3 * EVERY);
    let [first] = &snapshots(&hands)[..] else { panic!("{:?}", hands.jobs) };
    assert_eq!(first.position, LogPosition::new(Term(hands.term()), Index(EVERY)));
    hands.replica.snapshot_taken(first.clone(), 0);
    hands.settle();
    let [_, second] = &snapshots(&hands)[..] else { panic!("{:?}", hands.jobs) };
    assert_eq!(second.position.index, Index(3 * EVERY), "the state as it is by now");
}

#[test]
fn a_snapshot_names_the_entry_that_the_machine_has_reached_when_it_is_written() {
    let mut hands = Hands::alone(often());
    write_up_to(&mut hands, EVERY);
    let [Job::Apply(run), Job::Snapshot(meta)] = &hands.jobs[hands.jobs.len() - 2..] else {
        panic!("{:?}", hands.jobs)
    };
    let last = run.entries.last().unwrap();
    let expected = SnapshotMeta { position: last.position(), time_ms: last.time_ms, configuration: configuration(1) };
    assert_eq!(*meta, expected);
    assert_ne!(meta.time_ms, 0);
}

#[test]
fn a_snapshot_lets_the_log_go() {
    let mut hands = Hands::alone(often());
    write_up_to(&mut hands, EVERY);
    hands.replica.snapshot_taken(snapshots(&hands)[0].clone(), 0);
    hands.settle();
    let restored = hands.disk.restored();
    assert_eq!(restored.snapshot.map(|meta| meta.position.index), Some(Index(EVERY)));
    assert_eq!(restored.base.index, Index(EVERY));
}

#[test]
fn a_snapshot_that_failed_is_tried_again_after_max_log_count_more_entries() {
    let mut hands = Hands::alone(often());
    write_up_to(&mut hands, EVERY);
    hands.replica.snapshot_failed();
    write_up_to(&mut hands, 2 * EVERY - 1);
    assert_eq!(snapshots(&hands).len(), 1);
    assert_eq!(hands.disk.restored().base, LogPosition::ZERO, "the log is kept");
    write_up_to(&mut hands, 2 * EVERY);
    assert_eq!(snapshots(&hands)[1].position.index, Index(2 * EVERY));
}

#[test]
fn a_restore_moves_the_machine_and_when_the_next_snapshot_is_due() {
    let mut hands = Hands::new(3, often(), values());
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 20) });
    assert_eq!(hands.jobs, [Job::Restore(meta(2, 20))]);
    hands.work();
    assert_eq!(hands.replica.machine(), (Index(20), chain_at(Index(20))));
    let entries = |from: u64, to: u64| (from..=to).map(|index| entry(2, index, Payload::Noop)).collect::<Vec<_>>();
    hands.hear_entries(TWO, 2, (2, 20), entries(21, 24), 24);
    assert_eq!(snapshots(&hands), []);
    hands.hear_entries(TWO, 2, (2, 24), entries(25, 25), 25);
    assert_eq!(snapshots(&hands), [meta(2, 25)]);
}

#[test]
fn a_restore_comes_before_the_entries_behind_it() {
    let mut hands = Hands::follower();
    hands.hear_quietly(TWO, 2, Message::Snapshot { meta: meta(2, 20) });
    hands.hear_entries(TWO, 2, (2, 20), vec![entry(2, 21, Payload::Noop)], 21);
    assert!(matches!(&hands.jobs[..], [Job::Restore(_), Job::Apply(_)]), "{:?}", hands.jobs);
}

#[test]
fn a_snapshot_that_is_done_after_a_newer_one_was_restored_changes_nothing() {
    let mut hands = Hands::new(3, often(), values());
    let entries = (2..=5).map(|index| entry(2, index, Payload::Noop)).collect();
    hands.hear_entries(TWO, 2, (1, 1), entries, 5);
    assert_eq!(snapshots(&hands), [meta(2, 5)]);
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 20) });
    hands.replica.snapshot_taken(meta(2, 5), 0);
    hands.work();
    assert_eq!(hands.disk.restored().snapshot, Some(meta(2, 20)));
    let entries = (21..=25).map(|index| entry(2, index, Payload::Noop)).collect();
    hands.hear_entries(TWO, 2, (2, 20), entries, 25);
    assert_eq!(snapshots(&hands), [meta(2, 25)], "none is in progress");
}

/// A leader of three whose third peer was silent for long, and now needs the snapshot that is there: returns that.
fn leader_with_one_behind() -> (Hands, Index) {
    let mut hands = Hands::new(3, often(), values());
    hands.win();
    for _ in 0..3 * ELECTION_TICKS {
        hands.tick();
        answer_heartbeat(&mut hands, TWO);
    }
    let snapshot = take_snapshot(&mut hands);
    assert_eq!(first(&hands), snapshot.next(), "who is silent is not waited for");
    answer_heartbeat(&mut hands, THREE);
    let sent: Vec<_> = hands.snapshots.iter().map(|envelope| envelope.to).collect();
    assert_eq!(sent, [THREE]);
    (hands, snapshot)
}

fn answer_heartbeat(hands: &mut Hands, from: Incarnation) {
    let Some(round) = hands.heartbeat_rounds().last().copied() else { return };
    hands.hear(from, hands.term(), Message::HeartbeatReply { round });
}

/// Writes until a snapshot is due, which is taken. `TWO` keeps up.
fn take_snapshot(hands: &mut Hands) -> Index {
    while hands.wanted.is_empty() {
        hands.now_ms += 1;
        hands.write(1000 + hands.last().0, "a");
        hands.settle();
        hands.replicate();
        hands.work();
    }
    let meta = hands.wanted.remove(0);
    hands.replica.snapshot_taken(meta.clone(), 0);
    hands.settle();
    meta.position.index
}

fn first(hands: &Hands) -> Index {
    hands.replica.raft().status().first
}

#[test]
fn who_is_sent_a_snapshot_can_go_on_from_it_however_many_are_taken_meanwhile() {
    let (mut hands, sent) = leader_with_one_behind();
    for _ in 0..10 {
        take_snapshot(&mut hands);
        hands.tick();
    }
    assert_eq!(first(&hands), sent.next(), "the log behind what it is being sent");
    hands.replica.snapshot_sent(THREE, true);
    hands.hear(THREE, hands.term(), Message::AppendReply(AppendReply::Accepted { matched: sent }));
    take_snapshot(&mut hands);
    assert_eq!(first(&hands), sent.next(), "it has not caught up yet");
    let matched = hands.last();
    hands.hear(THREE, hands.term(), Message::AppendReply(AppendReply::Accepted { matched }));
    assert_eq!(hands.snapshots.len(), 1, "no other was needed");
    let latest = take_snapshot(&mut hands);
    assert_eq!(first(&hands), matched.next(), "behind what it is known to have, not behind {latest}");
}

#[test]
fn the_log_is_kept_no_longer_for_who_has_gone_silent() {
    let (mut hands, sent) = leader_with_one_behind();
    hands.replica.snapshot_sent(THREE, true);
    hands.hear(THREE, hands.term(), Message::AppendReply(AppendReply::Accepted { matched: sent }));
    take_snapshot(&mut hands);
    assert_eq!(first(&hands).prev(), sent, "it was there just now");
    for _ in 0..3 * ELECTION_TICKS {
        hands.tick();
        answer_heartbeat(&mut hands, TWO);
    }
    let latest = take_snapshot(&mut hands);
    assert_eq!(first(&hands).prev(), latest);
}

#[test]
fn the_log_is_not_kept_behind_a_snapshot_that_could_not_be_sent() {
    let (mut hands, _) = leader_with_one_behind();
    hands.replica.snapshot_sent(THREE, false);
    let latest = take_snapshot(&mut hands);
    assert_eq!(first(&hands).prev(), latest);
    answer_heartbeat(&mut hands, THREE);
    let Some(Message::Snapshot { meta }) = hands.snapshots.last().map(|envelope| &envelope.message) else {
        panic!("{:?}", hands.snapshots)
    };
    assert_eq!(meta.position.index, latest, "it is sent the latest instead");
}

/// How much log the entries behind one take.
fn log_bytes(hands: &Hands, behind: u64) -> u64 {
    let read = LogRead {
        purpose: crate::raft::LogReadPurpose::Apply,
        from: Index(behind + 1),
        to: hands.last(),
        max_bytes: usize::MAX,
    };
    hands.disk.read(&read).iter().map(|entry| entry.size_bytes() as u64).sum()
}

/// Writes until one more snapshot was asked for than now. Returns how much log there was behind an entry.
fn write_until_due(hands: &mut Hands, behind: u64) -> u64 {
    let before = snapshots(hands).len();
    while snapshots(hands).len() == before {
        let next = hands.last().next();
        write_up_to(hands, next.0);
    }
    log_bytes(hands, behind)
}

#[test]
fn a_snapshot_waits_until_the_log_has_a_share_of_the_last_ones_size() {
    let mut hands = Hands::alone(Settings { min_log_percent: 50, ..often() });
    write_until_due(&mut hands, 0);
    assert_eq!(hands.last(), Index(EVERY), "the first waits for entries alone");
    hands.replica.snapshot_taken(snapshots(&hands)[0].clone(), 2000);
    let entry_bytes = Entry::OVERHEAD_BYTES as u64 + 10;
    let share = 1000..1000 + entry_bytes;
    let bytes = write_until_due(&mut hands, EVERY);
    assert!(share.contains(&bytes), "{bytes}");
    // What came while it was written counts for the next.
    let second = hands.last();
    write_up_to(&mut hands, second.0 + 2);
    hands.replica.snapshot_taken(snapshots(&hands)[1].clone(), 2000);
    let bytes = write_until_due(&mut hands, second.0);
    assert!(share.contains(&bytes), "{bytes}");
}

#[test]
fn a_snapshot_that_failed_is_not_put_off_by_its_share() {
    let mut hands = Hands::alone(Settings { min_log_percent: 50, ..often() });
    write_until_due(&mut hands, 0);
    hands.replica.snapshot_taken(snapshots(&hands)[0].clone(), 2000);
    write_until_due(&mut hands, EVERY);
    let failed = hands.last();
    hands.replica.snapshot_failed();
    write_until_due(&mut hands, EVERY);
    assert_eq!(hands.last(), Index(failed.0 + EVERY));
}

#[test]
fn the_size_of_a_restored_snapshot_counts_and_not_that_of_one_it_came_before() {
    let mut hands = Hands::new(3, Settings { min_log_percent: 100, ..often() }, values());
    let noops = |from: u64, to: u64| (from..=to).map(|index| entry(2, index, Payload::Noop)).collect::<Vec<_>>();
    hands.hear_entries(TWO, 2, (1, 1), noops(2, 5), 5);
    hands.hear_quietly(TWO, 2, Message::Snapshot { meta: meta(2, 20) });
    let size_bytes = 7 * Entry::OVERHEAD_BYTES as u64;
    // Nothing is due before it is known how large it is.
    hands.hear_entries(TWO, 2, (2, 20), noops(21, 25), 25);
    assert_eq!(snapshots(&hands), [meta(2, 5)]);
    hands.jobs.clear();
    hands.replica.restored(
        &meta(2, 20),
        size_bytes,
        chain_at(Index(20)),
        vec![],
        AccessControl::default(),
        FeatureLevel::FIRST,
    );
    hands.replica.snapshot_taken(meta(2, 5), 0);
    hands.apply(&noops(21, 25));
    hands.hear_entries(TWO, 2, (2, 25), noops(26, 26), 26);
    assert_eq!(snapshots(&hands), []);
    hands.hear_entries(TWO, 2, (2, 26), noops(27, 27), 27);
    assert_eq!(snapshots(&hands), [meta(2, 27)]);
}

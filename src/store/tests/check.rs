//! Looking at the files of a store that is closed, or was killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use redb::ReadableTable;

use super::super::database::ROUNDS;
use super::damage::{edit, log_path};
use super::*;

const PEER: Incarnation = Incarnation(0xab);
const OTHER: Incarnation = Incarnation(0xcd);

/// An open store with a component and two peers, of which one has a snapshot.
fn sample() -> Bench {
    let bench = Bench::new();
    bench.create(PEER.0);
    bench.create(OTHER.0);
    for index in 2..20 {
        bench.write(PEER, append(index, index, 300));
    }
    make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, 9), 600_000);
    let discard_through = Some(LogPosition::new(Term(1), Index(7)));
    let hard_state = Some(HardState { term: Term(3), vote: Some(OTHER), commit: Index(18) });
    let snapshot = Some(snapshot_meta(1, 9));
    bench.write(PEER, Write { hard_state, snapshot, discard_through, ..append(20, 21, 10) });
    bench.store.components().put(Digest::of(b"component"), b"component").unwrap();
    bench
}

fn closed_sample() -> TempDir {
    sample().closed().0
}

fn check(dir: &TempDir) -> StoreCheck {
    let options = options(dir);
    let before = files_in(dir.path());
    let checked = StoreCheck::run(&options.log_dir, &options.snapshot_dir).unwrap();
    assert!(files_in(dir.path()) == before, "looking changes nothing");
    checked
}

fn files_in(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_in(&path));
        } else {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

fn damaged_paths(check: &StoreCheck) -> Vec<&Path> {
    check.damage.iter().map(|damaged| damaged.path.as_path()).collect()
}

fn snapshot_path(dir: &TempDir) -> PathBuf {
    options(dir).snapshot_dir.join("00000000000000ab/9-1.snap")
}

fn assert_is_sample(check: &StoreCheck) {
    assert!(check.damage.is_empty(), "{:?}", check.damage);
    assert_eq!(check.log.as_ref().unwrap().node, NODE.parse().unwrap());
    assert_eq!(check.log.as_ref().unwrap().rounds, 21);
    let [peer, other] = check.peers.as_slice() else { panic!("{:?}", check.peers) };
    assert_eq!((peer.stored.incarnation, &peer.stored.record), (PEER, &record(PEER)));
    let restored = &peer.stored.restored;
    assert_eq!((restored.hard_state.vote, restored.hard_state.commit), (Some(OTHER), Index(18)));
    assert_eq!((restored.base.index, restored.last), (Index(7), Index(21)));
    assert!((12 * 300..14 * 350).contains(&peer.log_bytes), "{}", peer.log_bytes);
    assert_eq!(other.stored.restored.last, Index(1));
    let snapshot = check.current_snapshot(PEER).unwrap();
    assert_eq!(snapshot.header, header(snapshot_meta(1, 9)));
    assert!(snapshot.size_bytes > 600_000 && snapshot.written.is_some());
    assert!(check.current_snapshot(OTHER).is_none());
    assert_eq!((check.snapshots.len(), check.components.as_slice()), (1, &[(Digest::of(b"component"), 9)][..]));
    assert!(check.leftovers.is_empty());
}

#[test]
fn a_closed_store_is_told_as_it_is() {
    let dir = closed_sample();
    let checked = check(&dir);
    assert_is_sample(&checked);
    assert!(checked.log.unwrap().was_closed);
}

/// Copies a folder as a killed process leaves it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

#[test]
fn a_store_that_was_killed_is_whole_and_is_left_for_the_node_to_repair() {
    let bench = sample();
    let dir = TempDir::new().unwrap();
    copy(bench.dir.path(), dir.path());
    let checked = check(&dir);
    assert_is_sample(&checked);
    assert!(!checked.log.unwrap().was_closed);
    let log = StoredLog::open(&options(&dir).log_dir).unwrap();
    assert_eq!(log.read(PEER, &log_read(20, 21, usize::MAX)).unwrap(), append(20, 21, 10).entries);
    drop(log);
    assert_eq!(Bench::at(dir, PurgeLimits::default()).peers.len(), 2);
}

#[test]
fn who_looks_and_who_writes_keep_each_other_out() {
    let bench = sample();
    let (log_dir, snapshot_dir) = (options(&bench.dir).log_dir, options(&bench.dir).snapshot_dir);
    let in_use = |error: Option<StoreError>| assert!(matches!(error, Some(StoreError::InUse { .. })), "{error:?}");
    in_use(StoreCheck::run(&log_dir, &snapshot_dir).err());
    in_use(StoredLog::open(&log_dir).err());
    let (dir, _) = bench.closed();
    let log = StoredLog::open(&log_dir).unwrap();
    in_use(try_open(options(&dir)).err());
    let again = StoredLog::open(&log_dir).unwrap();
    assert_eq!(log.peers(), again.peers(), "several may look");
    drop((log, again));
    assert_eq!(Bench::at(dir, PurgeLimits::default()).peers.len(), 2);
}

#[test]
fn an_empty_folder_holds_nothing() {
    let dir = TempDir::new().unwrap();
    let is_nothing = |error| matches!(error, Some(StoreError::NothingThere { dir: found }) if found == dir.path());
    assert!(is_nothing(StoreCheck::run(dir.path(), &dir.path().join("snapshots")).err()));
    assert!(is_nothing(StoredLog::open(dir.path()).err()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_entries_of_a_closed_store_are_read() {
    let dir = closed_sample();
    let log = StoredLog::open(&options(&dir).log_dir).unwrap();
    assert_eq!(log.peers().iter().map(|peer| peer.incarnation).collect::<Vec<_>>(), [PEER, OTHER]);
    let entries = log.read(PEER, &log_read(8, 99, usize::MAX)).unwrap();
    assert_eq!(entries[..12], append(8, 19, 300).entries);
    assert_eq!(entries.len(), 14);
    assert!(matches!(log.read(PEER, &log_read(7, 9, 1)), Err(StoreError::NotInLog { first: Index(8), .. })));
}

#[test]
fn every_damaged_round_is_named_and_the_files_are_checked_all_the_same() {
    let dir = closed_sample();
    edit(&dir, ROUNDS, |rounds| {
        for (seq, at) in [(4, 20), (9, 0)] {
            let mut round = rounds.get(seq).unwrap().unwrap().value().to_vec();
            round[at] ^= 0x40;
            rounds.insert(seq, round.as_slice()).unwrap();
        }
    });
    let checked = check(&dir);
    let [one, two] = checked.damage.as_slice() else { panic!("{:?}", checked.damage) };
    assert!(matches!(one.error, StoreError::CorruptRound { seq: 4, .. }), "{}", one.error);
    assert!(matches!(two.error, StoreError::UnknownVersion { .. }), "{}", two.error);
    assert_eq!(damaged_paths(&checked), [log_path(&dir), log_path(&dir)]);
    assert_eq!((checked.log.as_ref().unwrap().rounds, checked.peers.len()), (21, 0));
    assert_eq!((checked.snapshots.len(), checked.components.len()), (1, 1));
}

#[test]
fn rounds_that_do_not_add_up_are_damage() {
    let dir = closed_sample();
    edit(&dir, ROUNDS, |rounds| drop(rounds.remove(9).unwrap()));
    let checked = check(&dir);
    assert_eq!(checked.damage.len(), 1);
    assert!(checked.damage[0].error.to_string().contains("round 10: round 9 before it is missing"));
}

#[test]
fn a_log_with_flipped_bytes_is_damaged_or_says_what_it_always_said() {
    let dir = closed_sample();
    let sound = fs::read(log_path(&dir)).unwrap();
    let expected: Vec<_> = check(&dir).peers.into_iter().map(|peer| peer.stored).collect();
    let mut found = 0;
    for step in 0..120 {
        let mut damaged = sound.clone();
        let at = step * sound.len() / 120;
        damaged[at] ^= 4;
        fs::write(log_path(&dir), damaged).unwrap();
        let checked = check(&dir);
        if checked.damage.is_empty() {
            assert!(checked.peers.iter().map(|peer| &peer.stored).eq(&expected), "byte {at}");
        } else {
            assert_eq!(damaged_paths(&checked), [log_path(&dir)], "byte {at}");
            found += 1;
        }
        assert_eq!((checked.snapshots.len(), checked.components.len()), (1, 1), "byte {at}");
    }
    // The rest fell on pages that are free.
    assert!(found > 0);
    for length in [0, 100, 5_000, sound.len() / 2] {
        fs::write(log_path(&dir), &sound[..length]).unwrap();
        assert!(!check(&dir).damage.is_empty(), "cut to {length} bytes");
    }
}

#[test]
fn damaged_and_missing_files_are_named() {
    let dir = closed_sample();
    let component = Components::path_in(&options(&dir).log_dir, Digest::of(b"component"));
    for path in [snapshot_path(&dir), component.clone()] {
        let sound = fs::read(&path).unwrap();
        for at in [0, sound.len() / 2, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let checked = check(&dir);
            assert_eq!(damaged_paths(&checked), [&path], "byte {at}");
            assert!(matches!(checked.damage[0].error, StoreError::Corrupt { .. }));
            assert_eq!(checked.peers.len(), 2);
        }
        fs::write(&path, sound).unwrap();
    }
    fs::remove_file(snapshot_path(&dir)).unwrap();
    let checked = check(&dir);
    assert_eq!(damaged_paths(&checked), [snapshot_path(&dir)]);
    assert!(matches!(checked.damage[0].error, StoreError::SnapshotMissing { .. }));
}

#[test]
fn a_snapshot_that_differs_from_what_the_log_says_is_damage() {
    let bench = sample();
    let meta = SnapshotMeta { configuration: configuration(3), ..snapshot_meta(1, 9) };
    make_snapshot(&bench.store.snapshots(), PEER, meta, 10);
    let dir = bench.closed().0;
    assert_eq!(damaged_paths(&check(&dir)), [snapshot_path(&dir)]);
}

#[test]
fn a_lost_log_and_the_snapshots_of_another_node_are_damage() {
    let dir = closed_sample();
    let log = fs::read(log_path(&dir)).unwrap();
    fs::remove_file(log_path(&dir)).unwrap();
    let checked = check(&dir);
    assert_eq!(damaged_paths(&checked), [log_path(&dir)]);
    assert!(matches!(checked.damage[0].error, StoreError::LogMissing { .. }));
    assert_eq!(checked.snapshots[0].role, SnapshotRole::Unused);

    fs::write(log_path(&dir), log).unwrap();
    fs::write(options(&dir).snapshot_dir.join("node"), "127.0.0.1:7401\n").unwrap();
    let checked = check(&dir);
    assert_eq!(damaged_paths(&checked), [options(&dir).snapshot_dir]);
    assert!(matches!(&checked.damage[0].error, StoreError::OtherNode { found, .. } if found == "127.0.0.1:7401"));
}

#[test]
fn what_the_next_start_removes_is_told_and_is_no_damage() {
    let bench = sample();
    make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, 12), 10);
    let dir = bench.closed().0;
    let unfinished = [
        Components::path_in(&options(&dir).log_dir, Digest::of(b"x")).with_extension("wasm.7.tmp"),
        snapshot_path(&dir).with_extension("snap.3.tmp"),
    ];
    unfinished.iter().for_each(|path| fs::write(path, b"half").unwrap());
    let checked = check(&dir);
    assert!(checked.damage.is_empty(), "{:?}", checked.damage);
    assert_eq!(checked.leftovers, [&unfinished[1], &unfinished[0]].map(PathBuf::clone));
    let roles: Vec<_> = checked.snapshots.iter().map(|snapshot| snapshot.role).collect();
    assert_eq!(roles, [SnapshotRole::Current, SnapshotRole::Unused]);
    Bench::at(dir, PurgeLimits::default());
    assert!(!unfinished.iter().any(|path| path.exists()));
}

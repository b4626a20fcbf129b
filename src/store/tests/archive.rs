//! The archive of snapshots.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const PEER: Incarnation = Incarnation(0xab);

fn with_archive(dir: &TempDir, count: usize) -> Store {
    try_open(StoreOptions { snapshot_backup_count: count, ..options(dir) }).unwrap()
}

fn folder(dir: &TempDir) -> PathBuf {
    options(dir).snapshot_dir.join("archive").join(ClusterId(7).to_string()).join("00000000000000ab")
}

/// What is in a folder, ordered.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn position(index: u64) -> LogPosition {
    LogPosition::new(Term(1), Index(index))
}

#[test]
fn the_newest_snapshots_of_a_peer_are_kept_as_they_were() {
    let dir = TempDir::new().unwrap();
    let snapshots = with_archive(&dir, 2).snapshots();
    for index in [8, 9, 10, 11] {
        let file = make_snapshot(&snapshots, PEER, snapshot_meta(1, index), 300_000);
        let content = fs::read(file.path).unwrap();
        snapshots.archive(PEER, position(index)).unwrap();
        snapshots.archive(PEER, position(index)).unwrap();
        snapshots.remove_before(PEER, position(index)).unwrap();
        assert!(fs::read(folder(&dir).join(format!("{index}-1.snap"))).unwrap() == content);
    }
    assert_eq!(names(&folder(&dir)), ["10-1.snap", "11-1.snap"]);
    // Another peer has a place of its own, and each is kept when its peer goes.
    make_snapshot(&snapshots, Incarnation(1), snapshot_meta(1, 3), 5);
    snapshots.archive(Incarnation(1), position(3)).unwrap();
    snapshots.remove(PEER).unwrap();
    snapshots.remove(Incarnation(1)).unwrap();
    assert_eq!(names(folder(&dir).parent().unwrap()), ["0000000000000001", "00000000000000ab"]);
    assert_eq!(names(&folder(&dir)), ["10-1.snap", "11-1.snap"]);
}

#[test]
fn without_an_archive_nothing_is_kept() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    make_snapshot(&snapshots, PEER, snapshot_meta(1, 8), 5);
    snapshots.archive(PEER, position(8)).unwrap();
    assert!(!options(&bench.dir).snapshot_dir.join("archive").exists());
}

#[test]
fn opening_archives_what_a_crash_left_out_and_removes_what_it_left_unfinished() {
    let bench = Bench::new();
    bench.create(PEER.0);
    make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, 2), 5);
    bench.write(PEER, Write { snapshot: Some(snapshot_meta(1, 2)), ..append(2, 2, 1) });
    let dir = bench.closed().0;
    drop(with_archive(&dir, 3));
    assert_eq!(names(&folder(&dir)), ["2-1.snap"]);
    let (leftover, notes) = (folder(&dir).join("3-1.snap.0.tmp"), folder(&dir).join("notes.txt"));
    fs::write(&leftover, b"half").unwrap();
    fs::write(notes, b"the operator's").unwrap();
    // Also a node that no longer keeps an archive leaves what is in it.
    drop(try_open(options(&dir)).unwrap());
    assert_eq!(names(&folder(&dir)), ["2-1.snap", "notes.txt"]);
    assert!(!leftover.exists());
}

#[test]
fn a_damaged_snapshot_is_not_archived() {
    let dir = TempDir::new().unwrap();
    let snapshots = with_archive(&dir, 1).snapshots();
    make_snapshot(&snapshots, PEER, snapshot_meta(1, 1), 10);
    snapshots.archive(PEER, position(1)).unwrap();
    let file = make_snapshot(&snapshots, PEER, snapshot_meta(1, 2), 1_000);
    let mut content = fs::read(&file.path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&file.path, content).unwrap();
    assert!(matches!(snapshots.archive(PEER, position(2)), Err(StoreError::Corrupt { .. })));
    assert!(matches!(snapshots.archive(PEER, position(3)), Err(StoreError::SnapshotMissing { .. })));
    assert_eq!(names(&folder(&dir)), ["1-1.snap"]);
}

#[test]
fn the_archive_is_checked_with_the_rest() {
    let dir = TempDir::new().unwrap();
    let store = with_archive(&dir, 2);
    let snapshots = store.snapshots();
    for index in [8, 9] {
        make_snapshot(&snapshots, PEER, snapshot_meta(1, index), 5);
        snapshots.archive(PEER, position(index)).unwrap();
    }
    snapshots.remove(PEER).unwrap();
    store.close();
    let check = || StoreCheck::run(&options(&dir).log_dir, &options(&dir).snapshot_dir).unwrap();
    let checked = check();
    assert_eq!(checked.snapshots.iter().map(|found| found.header.meta.position.index.0).collect::<Vec<_>>(), [8, 9]);
    assert!(checked.snapshots.iter().all(|found| found.role == SnapshotRole::Archived));
    assert!(checked.damage.is_empty());

    let (one, two) = (folder(&dir).join("8-1.snap"), folder(&dir).join("9-1.snap"));
    let mut content = fs::read(&one).unwrap();
    content[30] ^= 1;
    fs::write(&one, content).unwrap();
    let elsewhere = options(&dir).snapshot_dir.join("archive").join(ClusterId(9).to_string()).join("00000000000000ab");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::rename(two, elsewhere.join("9-1.snap")).unwrap();
    let checked = check();
    assert_eq!(checked.snapshots.len(), 0);
    let damaged: Vec<_> = checked.damage.iter().map(|damaged| damaged.path.clone()).collect();
    assert_eq!(damaged, [one, elsewhere.join("9-1.snap")]);
}

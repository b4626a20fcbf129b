//! Folders that are not this node's, and files that are not what was written.

use std::fs;
use std::path::PathBuf;

use redb::{Database, ReadableTable, TableDefinition};

use super::super::database::ROUNDS;
use super::*;

pub(super) fn log_path(dir: &TempDir) -> PathBuf {
    options(dir).log_dir.join("log.redb")
}

/// A closed store with two peers and some rounds.
fn sample() -> TempDir {
    let bench = Bench::new();
    let (one, two) = (bench.create(1), bench.create(2));
    for index in 2..20 {
        bench.write(one, append(index, index, 300));
    }
    bench.write(two, append(2, 2, 30));
    bench.closed().0
}

#[test]
fn a_log_in_use_is_refused() {
    let bench = Bench::new();
    bench.create(1);
    let error = try_open(options(&bench.dir)).err().unwrap();
    assert!(matches!(&error, StoreError::InUse { path } if *path == log_path(&bench.dir)), "{error}");
    assert_eq!(bench.reopened().peers.len(), 1);
}

#[test]
fn the_folders_of_another_node_are_refused_by_name() {
    let dir = sample();
    let node: NodeAddr = "127.0.0.1:7401".parse().unwrap();
    let refused = |options: StoreOptions| match try_open(options) {
        Err(StoreError::OtherNode { dir, found, expected }) => {
            assert_eq!((found.as_str(), &expected), (NODE, &node));
            dir
        }
        other => panic!("{:?}", other.err()),
    };
    let theirs = StoreOptions { node: node.clone(), ..options(&dir) };
    assert_eq!(refused(theirs.clone()), theirs.log_dir);
    let other_log = StoreOptions { log_dir: dir.path().join("other"), ..theirs.clone() };
    assert_eq!(refused(other_log), theirs.snapshot_dir);
    assert_eq!(Bench::at(dir, PurgeLimits::default()).peers.len(), 2);
}

#[test]
fn a_log_that_is_gone_is_not_started_anew() {
    let dir = sample();
    fs::remove_file(log_path(&dir)).unwrap();
    for _ in 0..2 {
        assert!(matches!(try_open(options(&dir)), Err(StoreError::LogMissing { .. })));
    }
    // Also where only the folder of a peer tells.
    let snapshot_dir = options(&dir).snapshot_dir;
    fs::remove_file(snapshot_dir.join("node")).unwrap();
    fs::create_dir(snapshot_dir.join("00000000000000ff")).unwrap();
    assert!(matches!(try_open(options(&dir)), Err(StoreError::LogMissing { .. })));
    assert!(snapshot_dir.join("00000000000000ff").exists());
    fs::remove_dir(snapshot_dir.join("00000000000000ff")).unwrap();
    assert_eq!(Bench::at(dir, PurgeLimits::default()).peers, []);
}

#[test]
fn what_is_not_a_log_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(options(&dir).log_dir).unwrap();
    fs::write(log_path(&dir), vec![7; 10_000]).unwrap();
    assert!(matches!(try_open(options(&dir)), Err(StoreError::Corrupt { .. })));
    fs::remove_file(log_path(&dir)).unwrap();
    let database = Database::create(log_path(&dir)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("somebody's")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(try_open(options(&dir)), Err(StoreError::Corrupt { .. })));
}

/// Changes a table through the database, as no damage of the disk would.
pub(super) fn edit<K: redb::Key>(
    dir: &TempDir,
    table: TableDefinition<K, &'static [u8]>,
    change: impl Fn(&mut redb::Table<'_, K, &'static [u8]>),
) {
    let database = Database::open(log_path(dir)).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&mut transaction.open_table(table).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn an_unknown_version_is_refused() {
    let dir = sample();
    edit(&dir, TableDefinition::<&str, &[u8]>::new("meta"), |meta| {
        meta.insert("version", 2u32.to_le_bytes().as_slice()).unwrap();
    });
    assert!(matches!(try_open(options(&dir)), Err(StoreError::UnknownVersion { found: 2, supported: 1, .. })));
}

#[test]
fn a_changed_round_is_an_error_that_names_it() {
    let damage: [fn(&mut Vec<u8>); 3] =
        [|round| *round.last_mut().unwrap() ^= 1, |round| round.truncate(round.len() / 2), |round| round[3] ^= 0x80];
    for change in damage {
        let dir = sample();
        edit(&dir, ROUNDS, |rounds| {
            let mut round = rounds.get(9).unwrap().unwrap().value().to_vec();
            change(&mut round);
            rounds.insert(9, round.as_slice()).unwrap();
        });
        let error = try_open(options(&dir)).err().unwrap();
        assert!(matches!(&error, StoreError::CorruptRound { seq: 9, path, .. } if *path == log_path(&dir)), "{error}");
    }
    let dir = sample();
    edit(&dir, ROUNDS, |rounds| {
        let mut round = rounds.get(9).unwrap().unwrap().value().to_vec();
        round[0] = 200;
        rounds.insert(9, round.as_slice()).unwrap();
    });
    assert!(matches!(try_open(options(&dir)), Err(StoreError::UnknownVersion { found: 200, .. })));
}

#[test]
fn a_missing_round_is_an_error() {
    for (gone, seq) in [(1, Some(3)), (9, Some(10)), (2, Some(3))] {
        let dir = sample();
        edit(&dir, ROUNDS, |rounds| {
            rounds.remove(gone).unwrap();
        });
        match (try_open(options(&dir)).err().unwrap(), seq) {
            (StoreError::CorruptRound { seq: found, .. }, Some(seq)) if found == seq => {}
            // Without the oldest, peers have no state.
            (StoreError::Corrupt { .. }, _) if gone == 1 => {}
            (error, _) => panic!("{error}"),
        }
    }
}

#[test]
fn flipped_bits_in_the_file_never_change_what_is_restored() {
    let dir = sample();
    let sound = fs::read(log_path(&dir)).unwrap();
    let expected = {
        let bench = Bench::at(dir, PurgeLimits::default());
        let peers = bench.peers.clone();
        (bench.closed().0, peers)
    };
    let (dir, peers) = expected;
    let mut refused = 0;
    for step in 0..60 {
        let mut damaged = sound.clone();
        let at = 320 + step * (sound.len() - 320) / 60;
        damaged[at] ^= 4;
        fs::write(log_path(&dir), damaged).unwrap();
        match Store::open(options(&dir), Box::new(Tell(channel().0))) {
            Ok((_, found)) => assert_eq!(found, peers, "byte {at}"),
            Err(StoreError::Corrupt { .. } | StoreError::CorruptRound { .. }) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    // The rest fell on pages that are free.
    assert!(refused > 0);
}

/// What an operator reads: the file, what is wrong with it, and what to do.
#[test]
fn refusals_name_the_file_the_reason_and_the_way_out() {
    let dir = sample();
    let (log, options) = (log_path(&dir).display().to_string(), options(&dir));
    let sound = fs::read(log_path(&dir)).unwrap();
    let refused = |options: StoreOptions| try_open(options).err().unwrap().to_string();
    let change_round = |at: usize| {
        edit(&dir, ROUNDS, |rounds| {
            let mut round = rounds.get(9).unwrap().unwrap().value().to_vec();
            round[at] ^= 2;
            rounds.insert(9, round.as_slice()).unwrap();
        });
        let message = refused(options.clone());
        fs::write(log_path(&dir), &sound).unwrap();
        message
    };
    assert_eq!(
        change_round(40),
        format!(
            "{log} is damaged in round 9: its checksum does not match; restore the file, or replace this node's peers \
             by a membership change"
        )
    );
    assert_eq!(
        change_round(0),
        format!("{log} has format version 3, this release reads 1: use the release that wrote it")
    );

    let theirs = StoreOptions { node: "127.0.0.1:7401".parse().unwrap(), ..options.clone() };
    let (log_dir, snapshot_dir) = (options.log_dir.display(), options.snapshot_dir.display());
    let belongs = "belongs to node 127.0.0.1:7400, this is 127.0.0.1:7401: give each node a folder of its own";
    assert_eq!(refused(theirs.clone()), format!("{log_dir} {belongs}"));
    assert_eq!(
        refused(StoreOptions { log_dir: dir.path().join("new"), ..theirs }),
        format!("{snapshot_dir} {belongs}")
    );

    let store = try_open(options.clone()).unwrap();
    assert_eq!(
        refused(options.clone()),
        format!("{log} is in use by another node: stop that one, or give this one a log_dir of its own")
    );

    let file = make_snapshot(&store.snapshots(), Incarnation(1), snapshot_meta(1, 3), 100);
    let path = file.path.display();
    let read = || -> Result<(), StoreError> {
        let mut reader = store.snapshots().open(Incarnation(1), file.position)?;
        while reader.next()?.is_some() {}
        Ok(())
    };
    let sound = fs::read(&file.path).unwrap();
    let change_snapshot = |at: usize| {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(&file.path, damaged).unwrap();
        read().unwrap_err().to_string()
    };
    let way_out = "restore it, or replace this node's peers by a membership change";
    assert_eq!(
        change_snapshot(sound.len() - 50),
        format!("{path} is damaged: the checksum of a block does not match; {way_out}")
    );
    assert_eq!(change_snapshot(30), format!("{path} is damaged: the checksum of its header does not match; {way_out}"));
    assert_eq!(
        change_snapshot(8),
        format!("{path} has format version 3, this release reads 2: use the release that wrote it")
    );

    let (components, digest) = (store.components(), Digest::of(b"component"));
    components.put(digest, b"component").unwrap();
    let path = Components::path_in(&options.log_dir, digest);
    fs::write(&path, b"c0mponent").unwrap();
    assert_eq!(
        components.get(digest).unwrap_err().to_string(),
        format!("{} is damaged: its digest is {}; {way_out}", path.display(), Digest::of(b"c0mponent"))
    );
}

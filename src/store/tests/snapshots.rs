//! Snapshot files: written, read, sent, received, damaged and cleaned up.

use std::fs;
use std::io::Read;

use super::*;

const PEER: Incarnation = Incarnation(0xab);

fn position(index: u64) -> LogPosition {
    LogPosition::new(Term(1), Index(index))
}

fn read_all(snapshots: &Snapshots, position: LogPosition) -> Result<Vec<u8>, StoreError> {
    let mut reader = snapshots.open(PEER, position)?;
    let mut data = Vec::new();
    while let Some(block) = reader.next()? {
        assert!(block.len() <= MAX_BLOCK_BYTES);
        data.extend_from_slice(&block);
    }
    assert_eq!(reader.next()?, None);
    Ok(data)
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    for (index, size) in [(1, 0), (2, 1), (3, MAX_BLOCK_BYTES), (4, MAX_BLOCK_BYTES + 1), (5, 3 * MAX_BLOCK_BYTES + 7)]
    {
        let file = make_snapshot(&snapshots, PEER, snapshot_meta(1, index), size);
        assert_eq!((file.position, file.size_bytes), (position(index), fs::metadata(&file.path).unwrap().len()));
        assert!(file.path.ends_with(format!("00000000000000ab/{index}-1.snap")));
        assert_eq!(read_all(&snapshots, position(index)).unwrap(), pattern(size));
        assert_eq!(*snapshots.open(PEER, position(index)).unwrap().header(), header(snapshot_meta(1, index)));
    }
    // Written in small pieces, it is the same file.
    let mut writer = snapshots.create(PEER, &header(snapshot_meta(1, 6))).unwrap();
    pattern(300_000).chunks(999).for_each(|piece| writer.write(piece).unwrap());
    writer.finish().unwrap();
    assert_eq!(read_all(&snapshots, position(6)).unwrap(), pattern(300_000));
}

#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    let mut writer = snapshots.create(PEER, &header(snapshot_meta(1, 6))).unwrap();
    writer.write(&pattern(600_000)).unwrap();
    let dir = options(&bench.dir).snapshot_dir.join("00000000000000ab");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    drop(writer);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert!(matches!(snapshots.open(PEER, position(6)), Err(StoreError::SnapshotMissing { .. })));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    let file = make_snapshot(&snapshots, PEER, snapshot_meta(1, 3), 2 * MAX_BLOCK_BYTES + 100);
    let sound = fs::read(&file.path).unwrap();
    let interesting = (0..200).chain((200..sound.len() - 200).step_by(40_009)).chain(sound.len() - 200..sound.len());
    for at in interesting {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x20;
        for content in [damaged.as_slice(), &sound[..at]] {
            fs::write(&file.path, content).unwrap();
            let error = read_all(&snapshots, position(3)).unwrap_err();
            let is_typed = matches!(error, StoreError::Corrupt { .. } | StoreError::UnknownVersion { .. });
            assert!(is_typed, "byte {at}: {error}");
            assert!(error.to_string().contains("3-1.snap"), "{error}");
        }
    }
    fs::write(&file.path, [sound.as_slice(), b"x"].concat()).unwrap();
    assert!(matches!(read_all(&snapshots, position(3)), Err(StoreError::Corrupt { .. })));
}

#[test]
fn swapped_repeated_and_dropped_blocks_are_noticed() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    let file = make_snapshot(&snapshots, PEER, snapshot_meta(1, 3), 3 * MAX_BLOCK_BYTES);
    let sound = fs::read(&file.path).unwrap();
    let block = MAX_BLOCK_BYTES + 8;
    let end = sound.len() - 24;
    let (start, blocks, end) = (&sound[..end - 3 * block], &sound[end - 3 * block..end], &sound[end..]);
    let [one, two, three] = [0, 1, 2].map(|number| &blocks[number * block..][..block]);
    let orders: [&[&[u8]]; 4] = [&[one, three, two], &[one, two, two, three], &[one, two], &[]];
    for order in orders {
        fs::write(&file.path, [start, &order.concat(), end].concat()).unwrap();
        assert!(matches!(read_all(&snapshots, position(3)), Err(StoreError::Corrupt { .. })));
    }
    fs::write(&file.path, [start, one, two, three, end].concat()).unwrap();
    read_all(&snapshots, position(3)).unwrap();
}

#[test]
fn a_snapshot_that_is_being_sent_may_be_replaced_meanwhile() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    let sent = make_snapshot(&snapshots, PEER, snapshot_meta(1, 9), 700_000);
    let whole = fs::read(&sent.path).unwrap();
    let (mut file, _) = snapshots.open_raw(PEER, position(9)).unwrap();
    let mut bytes = vec![0; 1_000];
    file.read_exact(&mut bytes).unwrap();
    make_snapshot(&snapshots, PEER, snapshot_meta(1, 10), 10);
    snapshots.remove_before(PEER, position(10)).unwrap();
    assert!(!sent.path.exists());
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, whole);
}

#[test]
fn a_snapshot_is_sent_as_it_is() {
    let (from, to) = (Bench::new(), Bench::new());
    let sent = make_snapshot(&from.store.snapshots(), PEER, snapshot_meta(1, 9), 700_000);
    let (mut file, identity) = from.store.snapshots().open_raw(PEER, position(9)).unwrap();
    assert_eq!(identity.size_bytes, sent.size_bytes);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(SnapshotIdentity::of(position(9), sent.size_bytes, &bytes), Some(identity));
    let snapshots = to.store.snapshots();
    let receive = |identity, pieces: &[&[u8]]| -> Result<SnapshotFile, StoreError> {
        let mut receiver = snapshots.receive(PEER, identity)?;
        assert_eq!(receiver.received_bytes(), 0, "what was refused is gone");
        pieces.iter().try_for_each(|piece| receiver.write(piece))?;
        receiver.finish()
    };
    let short = SnapshotIdentity { size_bytes: identity.size_bytes - 1, ..identity };
    let wrong_size = |result| matches!(result, Err(StoreError::WrongSize { .. }));
    assert!(wrong_size(receive(identity, &[&bytes, b"x"])));
    assert!(wrong_size(receive(identity, &[&bytes[..bytes.len() - 1]])));
    assert!(wrong_size(receive(short, &[&bytes])));
    let wrong_content = |result| matches!(result, Err(StoreError::WrongContent { .. }));
    assert!(wrong_content(receive(identity, &[&bytes[1..]])));
    assert!(wrong_content(receive(SnapshotIdentity { position: position(8), ..identity }, &[&bytes])));
    assert!(wrong_content(receive(short, &[&bytes[..bytes.len() - 1]])));
    assert!(wrong_content(receive(SnapshotIdentity { checksum: !identity.checksum, ..identity }, &[&bytes])));
    let long = SnapshotIdentity { size_bytes: identity.size_bytes + 1, ..identity };
    assert!(wrong_content(receive(long, &[&bytes, b"x"])));
    let mut damaged = bytes.clone();
    damaged[500_000] ^= 1;
    assert!(wrong_content(receive(identity, &[&damaged])));
    let dir = options(&to.dir).snapshot_dir.join("00000000000000ab");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "what was refused is gone");
    let received = receive(identity, &[&bytes[..1_000], &bytes[1_000..]]).unwrap();
    assert_eq!((received.position, received.size_bytes), (position(9), identity.size_bytes));
    assert_eq!(read_all(&snapshots, position(9)).unwrap(), pattern(700_000));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing of it is left in part");
}

/// The bytes of a snapshot, and which it is.
fn sent(index: u64, data_bytes: usize) -> (Vec<u8>, SnapshotIdentity) {
    let bench = Bench::new();
    let file = make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, index), data_bytes);
    let bytes = fs::read(&file.path).unwrap();
    let identity = SnapshotIdentity::of(position(index), bytes.len() as u64, &bytes).unwrap();
    (bytes, identity)
}

/// The only file in the peer's folder.
fn partial_file(bench: &Bench) -> PathBuf {
    let dir = options(&bench.dir).snapshot_dir.join("00000000000000ab");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn what_was_received_goes_on_after_a_break_and_after_a_restart() {
    let (bytes, identity) = sent(9, 3 * MAX_BLOCK_BYTES + 1_000);
    let bench = Bench::new();
    bench.create(PEER.0);
    let receive = |bench: &Bench| bench.store.snapshots().receive(PEER, identity).unwrap();
    let mut receiver = receive(&bench);
    receiver.write(&bytes[..2 * MAX_BLOCK_BYTES]).unwrap();
    assert_eq!(receiver.received_bytes(), 2 * MAX_BLOCK_BYTES as u64);
    drop(receiver);
    let whole = receive(&bench).received_bytes() as usize;
    assert!((MAX_BLOCK_BYTES..2 * MAX_BLOCK_BYTES).contains(&whole), "whole blocks: {whole}");
    let bench = bench.reopened();
    let mut receiver = receive(&bench);
    assert_eq!(receiver.received_bytes() as usize, whole);
    receiver.write(&bytes[whole..]).unwrap();
    drop(receiver);
    let mut receiver = receive(&bench);
    assert_eq!(receiver.received_bytes(), identity.size_bytes, "all of it");
    receiver.write(&[]).unwrap();
    receiver.finish().unwrap();
    assert_eq!(read_all(&bench.store.snapshots(), position(9)).unwrap(), pattern(3 * MAX_BLOCK_BYTES + 1_000));
}

#[test]
fn what_a_power_cut_has_spoilt_is_received_again() {
    let (bytes, identity) = sent(9, 3 * MAX_BLOCK_BYTES);
    let bench = Bench::new();
    let receive = || bench.store.snapshots().receive(PEER, identity).unwrap();
    let mut receiver = receive();
    receiver.write(&bytes[..bytes.len() - 100]).unwrap();
    drop(receiver);
    let path = partial_file(&bench);
    let mut partial = fs::read(&path).unwrap();
    partial[2 * MAX_BLOCK_BYTES] ^= 1;
    fs::write(&path, &partial).unwrap();
    let mut receiver = receive();
    let whole = receiver.received_bytes() as usize;
    assert!((MAX_BLOCK_BYTES..2 * MAX_BLOCK_BYTES).contains(&whole), "up to the block that is spoilt: {whole}");
    receiver.write(&bytes[whole..]).unwrap();
    receiver.finish().unwrap();
    assert_eq!(read_all(&bench.store.snapshots(), position(9)).unwrap(), pattern(3 * MAX_BLOCK_BYTES));
    let mut receiver = receive();
    receiver.write(&bytes[..1_000]).unwrap();
    drop(receiver);
    assert!(receive().received_bytes() < 1_000, "no block is whole");
}

#[test]
fn a_peer_has_one_partial_file_which_goes_when_it_is_of_no_use() {
    let (bytes, identity) = sent(9, 2 * MAX_BLOCK_BYTES);
    let bench = Bench::new();
    bench.create(PEER.0);
    let begin = |bench: &Bench, identity| {
        let mut receiver = bench.store.snapshots().receive(PEER, identity).unwrap();
        let from = receiver.received_bytes() as usize;
        receiver.write(&bytes[from..from.max(MAX_BLOCK_BYTES + 1_000)]).unwrap();
    };
    begin(&bench, identity);
    let first = partial_file(&bench);
    let other = SnapshotIdentity { checksum: !identity.checksum, ..identity };
    begin(&bench, other);
    assert_ne!(partial_file(&bench), first, "another file takes its place");
    bench.store.snapshots().remove_before(PEER, position(8)).unwrap();
    partial_file(&bench);
    make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, 9), 5);
    bench.store.snapshots().remove_before(PEER, position(9)).unwrap();
    assert_eq!(partial_file(&bench).extension().unwrap(), "snap");

    begin(&bench, identity);
    bench.write(PEER, Write { snapshot: Some(snapshot_meta(1, 9)), ..append(2, 9, 1) });
    let bench = bench.reopened();
    assert_eq!(partial_file(&bench).extension().unwrap(), "snap", "it has the snapshot");
}

#[test]
fn only_what_is_kept_stays() {
    let bench = Bench::new();
    let snapshots = bench.store.snapshots();
    let files: Vec<SnapshotFile> =
        (1..=4).map(|index| make_snapshot(&snapshots, PEER, snapshot_meta(1, index), 5)).collect();
    let writer = snapshots.create(PEER, &header(snapshot_meta(1, 5))).unwrap();
    snapshots.remove_before(PEER, position(2)).unwrap();
    snapshots.remove_one(PEER, position(3)).unwrap();
    assert_eq!(files.iter().map(|file| file.path.exists()).collect::<Vec<_>>(), [false, true, false, true]);
    writer.finish().unwrap();
    read_all(&snapshots, position(5)).unwrap();
    snapshots.remove(PEER).unwrap();
    snapshots.remove(PEER).unwrap();
    assert!(!files[0].path.parent().unwrap().exists());
}

#[test]
fn opening_removes_what_no_peer_refers_to_and_nothing_else() {
    let bench = Bench::new();
    bench.create(PEER.0);
    let snapshots = bench.store.snapshots();
    let old = make_snapshot(&snapshots, PEER, snapshot_meta(1, 1), 5);
    let current = make_snapshot(&snapshots, PEER, snapshot_meta(1, 2), 5);
    let unreferenced = make_snapshot(&snapshots, PEER, snapshot_meta(1, 3), 5);
    let stranger = make_snapshot(&snapshots, Incarnation(0xcd), snapshot_meta(1, 3), 5);
    bench.write(PEER, Write { snapshot: Some(snapshot_meta(1, 2)), ..append(2, 2, 1) });
    let leftover = old.path.with_file_name("4-1.snap.0.tmp");
    let notes = old.path.with_file_name("notes.txt");
    let folder = options(&bench.dir).snapshot_dir.join("backup");
    fs::write(&leftover, b"half").unwrap();
    fs::write(&notes, b"the operator's").unwrap();
    fs::create_dir(&folder).unwrap();
    let bench = bench.reopened();
    assert_eq!([&old, &unreferenced, &stranger].map(|file| file.path.exists()), [false; 3]);
    assert!(!leftover.exists() && !stranger.path.parent().unwrap().exists());
    assert!(current.path.exists() && notes.exists() && folder.exists());
    assert_eq!(bench.peers[0].restored.snapshot, Some(snapshot_meta(1, 2)));
}

#[test]
fn a_referenced_snapshot_that_is_missing_or_damaged_is_an_error() {
    let bench = Bench::new();
    bench.create(PEER.0);
    let file = make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, 1), 5);
    let other = make_snapshot(&bench.store.snapshots(), PEER, snapshot_meta(1, 9), 5);
    bench.write(PEER, Write { snapshot: Some(snapshot_meta(1, 1)), ..append(2, 2, 1) });
    let (dir, _) = bench.closed();
    fs::write(&file.path, b"something else altogether").unwrap();
    assert!(matches!(try_open(options(&dir)), Err(StoreError::Corrupt { path, .. }) if path == file.path));
    fs::remove_file(&file.path).unwrap();
    assert!(matches!(try_open(options(&dir)), Err(StoreError::SnapshotMissing { path }) if path == file.path));
    assert!(other.path.exists(), "nothing is removed by an open that fails");
}

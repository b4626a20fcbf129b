//! Tests of the whole store over real files.

mod archive;
mod check;
mod damage;
mod purge;
mod replay;
mod snapshots;
mod space;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::raft::{Configuration, HardState, LogReadPurpose, Payload, SnapshotMeta};
use crate::types::{ClusterId, Digest, Index, LogPosition, Term};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

const NODE: &str = "127.0.0.1:7400";

/// What the sink was told.
#[derive(Debug)]
enum Told {
    Durable(Vec<Completion>),
    Failed(StoreError),
}

struct Tell(Sender<Told>);

impl DurableSink for Tell {
    fn durable(&mut self, completions: Vec<Completion>) {
        // A test that is over no longer listens.
        let _ = self.0.send(Told::Durable(completions));
    }

    fn failed(&mut self, error: StoreError) {
        let _ = self.0.send(Told::Failed(error));
    }
}

/// An open store in a temporary folder.
struct Bench {
    dir: TempDir,
    limits: PurgeLimits,
    store: Store,
    peers: Vec<StoredPeer>,
    told: Receiver<Told>,
}

fn options(dir: &TempDir) -> StoreOptions {
    StoreOptions {
        log_dir: dir.path().join("log"),
        snapshot_dir: dir.path().join("snapshots"),
        node: NODE.parse().unwrap(),
        cache_bytes: 16 << 20,
        max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
        snapshot_backup_count: 0,
    }
}

fn try_open(options: StoreOptions) -> Result<Store, StoreError> {
    Store::open(options, Box::new(Tell(channel().0))).map(|(store, _)| store)
}

impl Bench {
    fn new() -> Self {
        Self::with(PurgeLimits::default())
    }

    fn with(limits: PurgeLimits) -> Self {
        Self::at(TempDir::new().unwrap(), limits)
    }

    fn at(dir: TempDir, limits: PurgeLimits) -> Self {
        let (sender, told) = channel();
        let disk = Arc::new(SystemDisk);
        let (store, peers) = Store::open_on(disk, options(&dir), Box::new(Tell(sender)), limits).unwrap();
        Self { dir, limits, store, peers, told }
    }

    /// Closes the store and opens it again.
    fn reopened(self) -> Self {
        let (dir, limits) = self.closed();
        Self::at(dir, limits)
    }

    fn closed(self) -> (TempDir, PurgeLimits) {
        self.store.close();
        (self.dir, self.limits)
    }

    fn told(&self) -> Told {
        self.told.recv_timeout(PATIENCE).expect("the sink is told in time")
    }

    /// Waits until the last of what was asked for is durable.
    fn wait(&self, last: Completion) {
        loop {
            match self.told() {
                Told::Durable(completions) if completions.last() == Some(&last) => return,
                Told::Durable(_) => {}
                Told::Failed(error) => panic!("{error}"),
            }
        }
    }

    fn wait_failed(&self) -> StoreError {
        loop {
            if let Told::Failed(error) = self.told() {
                return error;
            }
        }
    }

    fn create(&self, incarnation: u64) -> Incarnation {
        let incarnation = Incarnation(incarnation);
        let bootstrap = Write::bootstrap(configuration(1), 1_000);
        self.store.create_peer(incarnation, record(incarnation), bootstrap);
        self.wait(Completion::Created(incarnation));
        incarnation
    }

    fn write(&self, incarnation: Incarnation, write: Write) {
        let token = write.token;
        self.store.write(incarnation, write);
        self.wait(Completion::Written(incarnation, token));
    }

    fn read(&self, incarnation: Incarnation, from: u64, to: u64) -> Result<Vec<Entry>, StoreError> {
        self.store.read(incarnation, &log_read(from, to, usize::MAX))
    }
}

fn log_read(from: u64, to: u64, max_bytes: usize) -> LogRead {
    LogRead { purpose: LogReadPurpose::Apply, from: Index(from), to: Index(to), max_bytes }
}

fn record(incarnation: Incarnation) -> Bytes {
    Bytes::from(format!("the record of {incarnation}"))
}

fn configuration(size: u64) -> Configuration {
    let voter = |number: u64| (Incarnation(number), format!("kv@h{number}:7400").parse().unwrap());
    Configuration::of((1..=size).map(voter).collect())
}

fn entry(term: u64, index: u64, data: Vec<u8>) -> Entry {
    Entry { term: Term(term), index: Index(index), time_ms: 1_000 + index, payload: Payload::Data(data.into()) }
}

/// A write of entries `from..=to` of `size` bytes, with the last index as its token.
fn append(from: u64, to: u64, size: usize) -> Write {
    let entries = (from..=to).map(|index| entry(1, index, vec![index as u8; size])).collect();
    Write { entries, ..Write::new(WriteToken(to)) }
}

fn snapshot_meta(term: u64, index: u64) -> SnapshotMeta {
    let position = LogPosition::new(Term(term), Index(index));
    SnapshotMeta { position, time_ms: 1_000 + index, configuration: configuration(1) }
}

fn header(meta: SnapshotMeta) -> SnapshotHeader {
    let (backend, chain) = (Digest::of(b"backend"), Digest::of(b"chain"));
    SnapshotHeader { cluster: ClusterId(7), meta, backend, chain, host: Bytes::from_static(b"host") }
}

/// Makes a snapshot file of `size` bytes of data.
fn make_snapshot(snapshots: &Snapshots, peer: Incarnation, meta: SnapshotMeta, size: usize) -> SnapshotFile {
    let mut writer = snapshots.create(peer, &header(meta)).unwrap();
    writer.write(&pattern(size)).unwrap();
    writer.finish().unwrap()
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn a_peer_and_its_entries_are_there_after_a_restart() {
    let bench = Bench::new();
    assert_eq!(bench.peers, []);
    let peer = bench.create(5);
    bench.write(peer, append(2, 4, 10));
    let bench = bench.reopened();
    assert_eq!(bench.peers.len(), 1);
    assert_eq!((bench.peers[0].incarnation, &bench.peers[0].record), (peer, &record(peer)));
    assert_eq!(bench.peers[0].restored.last, Index(4));
    let entries = bench.read(peer, 1, 9).unwrap();
    assert_eq!(entries[0], Write::bootstrap(configuration(1), 1_000).entries[0]);
    assert_eq!(entries[1..], append(2, 4, 10).entries);
}

#[test]
fn a_read_returns_enough_to_pass_its_bytes_and_at_least_one() {
    let bench = Bench::new();
    let peer = bench.create(1);
    bench.write(peer, append(2, 6, 100));
    bench.write(peer, append(7, 9, 100));
    let count = |from, max_bytes| bench.store.read(peer, &log_read(from, 9, max_bytes)).unwrap().len();
    let size = Entry::OVERHEAD_BYTES + 100;
    assert_eq!((count(2, 0), count(2, size - 1), count(2, size), count(2, 3 * size - 1)), (1, 1, 2, 3));
    assert_eq!((count(5, usize::MAX), count(9, usize::MAX)), (5, 1));
    assert!(matches!(bench.read(peer, 10, 12), Err(StoreError::NotInLog { last: Index(9), .. })));
    assert!(matches!(bench.read(peer, 0, 12), Err(StoreError::NotInLog { first: Index(1), .. })));
    assert!(matches!(bench.read(Incarnation(2), 1, 1), Err(StoreError::UnknownPeer(Incarnation(2)))));
    let store = bench.store.clone();
    bench.closed();
    assert!(matches!(store.read(peer, &log_read(1, 1, 1)), Err(StoreError::Closed)));
}

#[test]
fn a_removed_peer_leaves_nothing_and_late_writes_to_it_are_dropped() {
    let bench = Bench::new();
    let (gone, stays) = (bench.create(1), bench.create(2));
    let file = make_snapshot(&bench.store.snapshots(), gone, snapshot_meta(1, 1), 10);
    bench.write(gone, Write { snapshot: Some(snapshot_meta(1, 1)), ..append(2, 3, 10) });
    bench.store.remove_peer(gone);
    bench.store.write(gone, append(4, 4, 10));
    bench.store.remove_peer(gone);
    bench.wait(Completion::Removed(gone));
    assert!(!file.path.parent().unwrap().exists());
    assert!(matches!(bench.read(gone, 2, 2), Err(StoreError::UnknownPeer(_))));
    let bench = bench.reopened();
    assert_eq!(bench.peers.iter().map(|peer| peer.incarnation).collect::<Vec<_>>(), [stays]);
}

#[test]
fn a_write_that_does_not_fit_stops_the_store_and_nothing_after_it_is_acknowledged() {
    let gap = append(3, 3, 1);
    let position = LogPosition::new(Term(1), Index(1));
    let back = Write { discard_through: Some(LogPosition::ZERO), ..Write::new(WriteToken(2)) };
    for (fits, wrong) in [
        (append(2, 2, 1), append(4, 4, 1)),
        (Write { discard_through: Some(position), ..Write::new(WriteToken(2)) }, back),
        (Write::new(WriteToken(2)), gap),
    ] {
        let bench = Bench::new();
        let peer = bench.create(1);
        bench.write(peer, fits);
        bench.store.write(peer, wrong);
        assert!(matches!(bench.wait_failed(), StoreError::WrongWrite { .. }));
        bench.store.write(peer, append(2, 2, 1));
        let (dir, limits) = bench.closed();
        assert_eq!(Bench::at(dir, limits).peers.len(), 1, "what was durable before is still there");
    }
    let bench = Bench::new();
    bench.create(1);
    bench.store.create_peer(Incarnation(1), Bytes::new(), Write::new(WriteToken(0)));
    assert!(matches!(bench.wait_failed(), StoreError::WrongWrite { .. }));
}

#[test]
fn more_waiting_than_the_bound_stops_the_store() {
    let bench = Bench::new();
    let peer = bench.create(1);
    bench.store.write(peer, append(2, 2, MAX_QUEUED_BYTES));
    assert!(matches!(bench.wait_failed(), StoreError::QueueFull { max_bytes: MAX_QUEUED_BYTES }));
}

#[test]
fn a_write_larger_than_a_round_is_one_round() {
    let bench = Bench::new();
    let peer = bench.create(1);
    let size = StoreOptions::DEFAULT_MAX_SEGMENT_BYTES;
    bench.store.write(peer, append(2, 4, size));
    bench.store.write(peer, append(5, 5, 1));
    bench.wait(Completion::Written(peer, WriteToken(4)));
    bench.wait(Completion::Written(peer, WriteToken(5)));
    let bench = bench.reopened();
    assert_eq!(bench.read(peer, 2, 4).unwrap(), append(2, 4, size).entries);
}

#[test]
fn writes_of_many_threads_complete_in_order_and_share_rounds() {
    const THREADS: u64 = 6;
    const WRITES: u64 = 150;
    let bench = Bench::new();
    let peers: Vec<Incarnation> = (1..=THREADS).map(|number| bench.create(number)).collect();
    thread::scope(|scope| {
        for &peer in &peers {
            let store = bench.store.clone();
            scope.spawn(move || (2..2 + WRITES).for_each(|index| store.write(peer, append(index, index, 20))));
        }
    });
    let mut next: BTreeMap<Incarnation, u64> = peers.iter().map(|peer| (*peer, 2)).collect();
    let mut rounds = 0;
    while next.values().any(|next| *next < 2 + WRITES) {
        let Told::Durable(completions) = bench.told() else { panic!("the store failed") };
        rounds += 1;
        for completion in completions {
            let Completion::Written(peer, token) = completion else { panic!("{completion:?}") };
            let next = next.get_mut(&peer).unwrap();
            assert_eq!(token.0, *next);
            *next += 1;
            // Durable entries can be read at once.
            assert_eq!(bench.read(peer, token.0, token.0).unwrap().len(), 1);
        }
    }
    assert!(rounds < THREADS * WRITES / 2, "{rounds} rounds");
}

#[test]
fn dropping_the_last_handle_makes_durable_what_waits() {
    let bench = Bench::new();
    let peer = bench.create(1);
    bench.store.write(peer, append(2, 50, 100));
    let Bench { dir, limits, store, .. } = bench;
    drop(store);
    assert_eq!(Bench::at(dir, limits).read(peer, 2, 50).unwrap().len(), 49);
}

#[test]
fn components_are_kept_by_digest_and_checked() {
    let bench = Bench::new();
    let components = bench.store.components();
    let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
    assert!(matches!(components.put(one, b"two"), Err(StoreError::WrongDigest { found, .. }) if found == two));
    assert_eq!(components.list().unwrap(), []);
    components.put(one, b"one").unwrap();
    components.put(two, b"two").unwrap();
    components.put(one, b"one").unwrap();
    assert_eq!(components.get(one).unwrap(), "one");
    let mut expected = vec![one, two];
    expected.sort();
    let dir = options(&bench.dir).log_dir.join("components");
    std::fs::write(dir.join("x.wasm.3.tmp"), b"half").unwrap();
    let bench = bench.reopened();
    let components = bench.store.components();
    assert!(!dir.join("x.wasm.3.tmp").exists());
    assert_eq!(components.list().unwrap(), expected);
    std::fs::write(dir.join(format!("{one}.wasm")), b"0ne").unwrap();
    assert!(matches!(components.get(one), Err(StoreError::Corrupt { .. })));
    components.remove(two).unwrap();
    components.remove(two).unwrap();
    assert!(matches!(components.get(two), Err(StoreError::ComponentMissing { .. })));
}

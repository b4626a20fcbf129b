//! What every storage of a peer must do, whether in memory or on a disk.

use zraft::raft::{
    Entry, HardState, LogRead, LogReadPurpose, MemStorage, Payload, Restored, SnapshotMeta, Write, WriteToken,
};
use zraft::types::{Incarnation, Index, LogPosition, Term};

use crate::peer::configuration;

/// The storage of one peer.
trait Storage {
    /// Makes a write durable, or refuses it; the storage is of no use then.
    fn write(&mut self, write: &Write) -> Result<(), String>;
    fn read(&mut self, read: &LogRead) -> Vec<Entry>;
    /// Lets go of everything that is not durable and returns what a peer that starts now finds.
    fn restart(&mut self) -> Restored;
}

impl Storage for MemStorage {
    fn write(&mut self, write: &Write) -> Result<(), String> {
        self.write(write).map_err(|error| error.to_string())
    }

    fn read(&mut self, read: &LogRead) -> Vec<Entry> {
        MemStorage::read(self, read)
    }

    fn restart(&mut self) -> Restored {
        self.restored()
    }
}

type Check = fn(&mut dyn Storage);

const SUITE: [(&str, Check); 9] = [
    ("it begins with nothing", begins_with_nothing),
    ("entries are read as they were written", entries_are_read_as_written),
    ("a read is bounded by bytes and returns at least one entry", reads_are_bounded),
    ("a read of what is gone returns nothing", reads_of_what_is_gone),
    ("term and vote change with the entries of their write", term_and_vote),
    ("a truncation takes the end and its configurations", truncation),
    ("a snapshot takes the beginning, and the rest stays", snapshot_of_a_part),
    ("a snapshot beyond the log gives it a new beginning", snapshot_beyond),
    ("a write that does not fit is refused", what_does_not_fit),
];

fn run(name: &str, storage: &mut dyn Storage, check: Check) {
    println!("{name}");
    check(storage);
}

#[test]
fn a_storage_in_memory_conforms() {
    SUITE.into_iter().for_each(|(name, check)| run(name, &mut MemStorage::default(), check));
}

#[test]
#[cfg(feature = "store")]
fn a_storage_on_redb_conforms() {
    SUITE.into_iter().for_each(|(name, check)| run(name, &mut on_redb::OnRedb::default(), check));
}

fn entry(term: u64, index: u64) -> Entry {
    let payload = match index % 5 {
        0 => Payload::Membership(configuration(index)),
        1 => Payload::Noop,
        _ => Payload::Data(vec![index as u8; 100].into()),
    };
    Entry { term: Term(term), index: Index(index), time_ms: 1_000 * index, payload }
}

fn append(term: u64, from: u64, to: u64) -> Write {
    Write { entries: (from..=to).map(|index| entry(term, index)).collect(), ..Write::new(WriteToken(to)) }
}

fn snapshot(term: u64, index: u64) -> Write {
    let position = LogPosition::new(Term(term), Index(index));
    let meta = SnapshotMeta { position, time_ms: 77, configuration: configuration(1) };
    Write { snapshot: Some(meta), discard_through: Some(position), ..Write::new(WriteToken(0)) }
}

fn read(storage: &mut dyn Storage, from: u64, to: u64, max_bytes: usize) -> Vec<u64> {
    let read = LogRead { purpose: LogReadPurpose::Apply, from: Index(from), to: Index(to), max_bytes };
    storage.read(&read).into_iter().map(|entry| entry.index.0).collect()
}

fn begins_with_nothing(storage: &mut dyn Storage) {
    assert_eq!(storage.restart(), Restored::default());
    assert_eq!(read(storage, 1, 9, 1_000), [0; 0]);
}

fn entries_are_read_as_written(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 3)).unwrap();
    storage.write(&append(2, 4, 7)).unwrap();
    for _ in 0..2 {
        let all = LogRead { purpose: LogReadPurpose::Apply, from: Index(1), to: Index(7), max_bytes: usize::MAX };
        let expected: Vec<_> = append(1, 1, 3).entries.into_iter().chain(append(2, 4, 7).entries).collect();
        assert_eq!(storage.read(&all), expected);
        let restored = storage.restart();
        assert_eq!((restored.base, restored.last, restored.last_time_ms), (LogPosition::ZERO, Index(7), 7_000));
        assert_eq!(restored.terms, [LogPosition::new(Term(1), Index(1)), LogPosition::new(Term(2), Index(4))]);
        assert_eq!(restored.configurations, [(Index(5), configuration(5))]);
    }
}

fn reads_are_bounded(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 9)).unwrap();
    let size_bytes = Entry::OVERHEAD_BYTES + 100;
    assert_eq!(read(storage, 2, 4, 0), [2]);
    assert_eq!(read(storage, 2, 4, size_bytes), [2, 3]);
    assert_eq!(read(storage, 2, 4, usize::MAX), [2, 3, 4]);
    assert_eq!(read(storage, 8, 20, usize::MAX), [8, 9]);
}

fn reads_of_what_is_gone(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 9)).unwrap();
    storage.write(&snapshot(1, 4)).unwrap();
    assert_eq!(read(storage, 4, 9, usize::MAX), [0; 0]);
    assert_eq!(read(storage, 10, 12, usize::MAX), [0; 0]);
    assert_eq!(read(storage, 5, 9, usize::MAX), [5, 6, 7, 8, 9]);
}

fn term_and_vote(storage: &mut dyn Storage) {
    for term in 1..4 {
        let hard_state = HardState { term: Term(term), vote: Some(Incarnation(term)), commit: Index(term - 1) };
        storage.write(&Write { hard_state: Some(hard_state), ..append(term, term, term) }).unwrap();
        let restored = storage.restart();
        assert_eq!((restored.hard_state, restored.last), (hard_state, Index(term)));
    }
    storage.write(&append(3, 4, 4)).unwrap();
    assert_eq!(storage.restart().hard_state.vote, Some(Incarnation(3)));
}

fn truncation(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 12)).unwrap();
    storage.write(&Write { truncate_from: Some(Index(8)), ..append(2, 8, 9) }).unwrap();
    let restored = storage.restart();
    assert_eq!((restored.last, restored.last_time_ms), (Index(9), 9_000));
    assert_eq!(restored.configurations, [(Index(5), configuration(5))]);
    assert_eq!([7, 8, 9].map(|index| restored.term_at(Index(index)).unwrap().0), [1, 2, 2]);
    assert_eq!(read(storage, 1, 12, usize::MAX), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

fn snapshot_of_a_part(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 12)).unwrap();
    storage.write(&snapshot(1, 7)).unwrap();
    let restored = storage.restart();
    assert_eq!((restored.snapshot.clone(), restored.base.index), (snapshot(1, 7).snapshot, Index(7)));
    assert_eq!((restored.last, restored.last_time_ms), (Index(12), 12_000));
    assert_eq!(restored.configurations, [(Index(10), configuration(10))]);
    // The next write goes on from there.
    storage.write(&append(2, 13, 13)).unwrap();
    assert_eq!(storage.restart().last, Index(13));
}

fn snapshot_beyond(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 3)).unwrap();
    storage.write(&Write { truncate_from: Some(Index(21)), ..snapshot(4, 20) }).unwrap();
    let restored = storage.restart();
    assert_eq!(restored.last_position(), LogPosition::new(Term(4), Index(20)));
    assert_eq!((restored.last_time_ms, restored.configurations.len()), (77, 0));
    storage.write(&append(4, 21, 22)).unwrap();
    assert_eq!(read(storage, 21, 22, usize::MAX), [21, 22]);
}

fn what_does_not_fit(storage: &mut dyn Storage) {
    storage.write(&append(1, 1, 3)).unwrap();
    assert!(storage.write(&append(1, 5, 5)).is_err());
}

#[cfg(feature = "store")]
mod on_redb {
    use std::sync::Arc;

    use bytes::Bytes;
    use zraft::store::{Journal, Operation, PurgeLimits, SnapshotHeader, StoreError};
    use zraft::types::{ClusterId, Digest};

    use super::*;
    use crate::cuts::options;
    use crate::disk::SimDisk;

    const PEER: Incarnation = Incarnation(1);

    /// One peer of a node. Its power goes off at each restart.
    pub struct OnRedb {
        disk: SimDisk,
        journal: Journal,
    }

    impl Default for OnRedb {
        fn default() -> Self {
            let disk = SimDisk::new(1);
            let mut journal = open(&disk).0;
            let bootstrap = Write::new(WriteToken(0));
            journal
                .commit(vec![Operation::Create { incarnation: PEER, record: Bytes::new(), bootstrap }])
                .expect("there is power");
            Self { disk, journal }
        }
    }

    fn open(disk: &SimDisk) -> (Journal, Option<Restored>) {
        let opened = Journal::open(Arc::new(disk.clone()), &options(), PurgeLimits::default());
        let (journal, peers) = opened.expect("there is power");
        (journal, peers.into_iter().next().map(|peer| peer.restored))
    }

    impl Storage for OnRedb {
        fn write(&mut self, write: &Write) -> Result<(), String> {
            if let Some(meta) = &write.snapshot {
                let (cluster, backend, chain) = (ClusterId(1), Digest::default(), Digest::default());
                let header = SnapshotHeader { cluster, meta: meta.clone(), backend, chain, host: Bytes::new() };
                let snapshot = self.journal.snapshots().create(PEER, &header).expect("there is power");
                snapshot.finish().expect("there is power");
            }
            let committed = self.journal.commit(vec![Operation::Write(PEER, write.clone())]);
            committed.map(drop).map_err(|error| error.to_string())
        }

        fn read(&mut self, read: &LogRead) -> Vec<Entry> {
            match self.journal.read(PEER, read) {
                Ok(entries) => entries,
                Err(StoreError::NotInLog { .. }) => Vec::new(),
                Err(error) => panic!("{error}"),
            }
        }

        fn restart(&mut self) -> Restored {
            self.disk.cut();
            let (journal, restored) = open(&self.disk);
            self.journal = journal;
            restored.expect("the peer is there")
        }
    }
}

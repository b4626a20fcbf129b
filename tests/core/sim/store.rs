//! The disk of a host as a node has it: the real store, on a disk that loses power.

use std::sync::Arc;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zraft::raft::{Entry, LogRead, LogReadPurpose, Restored, SnapshotMeta, Write};
use zraft::store::{Journal, Operation, PurgeLimits, SnapshotHeader, StoreError, StoredPeer};
use zraft::types::{ClusterId, Digest, Incarnation, Index, LogPosition, Term};

use crate::cuts::options;
use crate::disk::SimDisk;
use crate::peer::Machine;
use crate::sim::world::HostStore;

const LIMITS: PurgeLimits = PurgeLimits {
    every_rounds: 8,
    every_bytes: 1 << 20,
    max_moved_bytes: 4_000,
    max_rounds: 32,
    max_deleted_bytes: 16_000,
};
/// Changes of the disk, about as many as two rounds take.
const MOST_CHANGES: u64 = 50;

pub struct Store {
    id: Incarnation,
    disk: SimDisk,
    rng: ChaCha8Rng,
    /// None while the host is down.
    journal: Option<Journal>,
}

impl Store {
    /// The store of a new peer.
    pub fn new(id: Incarnation, bootstrap: Write, luck: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(luck);
        let mut store = Self { id, disk: SimDisk::new(rng.random()), rng, journal: None };
        let mut journal = store.try_open().expect("there is power").0;
        let record = Bytes::from_static(b"a peer");
        journal.commit(vec![Operation::Create { incarnation: id, record, bootstrap }]).expect("there is power");
        store.journal = Some(journal);
        store
    }

    fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().expect("the host is up")
    }

    fn try_open(&self) -> Result<(Journal, Vec<StoredPeer>), StoreError> {
        Journal::open(Arc::new(self.disk.clone()), &options(), LIMITS)
    }

    fn stop(&mut self) {
        self.journal = None;
        if self.rng.random_bool(0.8) { self.disk.cut() } else { self.disk.kill() }
    }

    fn operations(&self, writes: &[Write]) -> Vec<Operation> {
        writes.iter().map(|write| Operation::Write(self.id, write.clone())).collect()
    }
}

impl HostStore for Store {
    fn write(&mut self, writes: &[Write]) {
        let (id, round) = (self.id, self.operations(writes));
        let completions = self.journal().commit(round).expect("there is power");
        assert_eq!(completions.len(), writes.len());
        if let Some(snapshot) = writes.iter().rev().find_map(|write| write.snapshot.as_ref()) {
            let snapshots = self.journal().snapshots();
            snapshots.remove_before(id, snapshot.position).expect("there is power");
        }
    }

    fn read(&mut self, read: &LogRead) -> Vec<Entry> {
        let id = self.id;
        match self.journal().read(id, read) {
            Ok(entries) => entries,
            Err(StoreError::NotInLog { .. }) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    fn save(&mut self, meta: &SnapshotMeta, machine: &Machine) {
        let (backend, chain) = (Digest::default(), Digest::default());
        let header = SnapshotHeader { cluster: ClusterId(1), meta: meta.clone(), backend, chain, host: Bytes::new() };
        let id = self.id;
        let mut writer = self.journal().snapshots().create(id, &header).expect("there is power");
        writer.write(&encode(machine)).expect("there is power");
        writer.finish().expect("there is power");
    }

    fn load(&mut self, position: LogPosition) -> Machine {
        let id = self.id;
        let mut reader = self.journal().snapshots().open(id, position).expect("the snapshot is there");
        let machine = decode(&reader.next().expect("it is whole").expect("it is not empty"));
        assert_eq!(reader.next().expect("it is whole"), None);
        machine
    }

    fn crash(&mut self, writes: &[Write]) {
        self.disk.cut_after(self.rng.random_range(0..MOST_CHANGES));
        let rounds: Vec<_> = writes.chunks(self.rng.random_range(1..4)).map(|round| self.operations(round)).collect();
        let journal = self.journal();
        // What is left when the power goes off only the disk knows.
        let _ = rounds.into_iter().try_for_each(|round| journal.commit(round).map(drop));
        self.stop();
    }

    fn restart(&mut self) -> (Restored, Vec<Entry>) {
        while self.rng.random_bool(0.3) {
            self.disk.cut_after(self.rng.random_range(0..MOST_CHANGES));
            self.journal = self.try_open().ok().map(|(journal, _)| journal);
            self.stop();
        }
        let (journal, peers) = self.try_open().expect("there is power");
        let [peer] = peers.as_slice() else { panic!("the only peer is not there: {peers:?}") };
        self.journal = Some(journal);
        let (from, to) = (peer.restored.base.index.next(), peer.restored.last);
        let all = LogRead { purpose: LogReadPurpose::Apply, from, to, max_bytes: usize::MAX };
        (peer.restored.clone(), self.read(&all))
    }
}

fn encode(machine: &Machine) -> Vec<u8> {
    let Machine { position, time_ms, digest } = machine;
    [position.term.0, position.index.0, *time_ms, *digest].iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Machine {
    let mut numbers = bytes.chunks(8).map(|number| u64::from_le_bytes(number.try_into().expect("whole numbers")));
    let mut next = || numbers.next().expect("four numbers");
    Machine { position: LogPosition::new(Term(next()), Index(next())), time_ms: next(), digest: next() }
}

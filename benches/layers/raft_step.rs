//! The core: three peers in memory, from a proposal until all know that it is committed.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use zraft::raft::{Config, Configuration, Envelope, MemStorage, Raft, Write};
use zraft::types::{Incarnation, Index, PeerId};

use super::{BATCH, put};

const TICK_MS: u64 = 50;

pub fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raft");
    for count in [1, BATCH] {
        let mut peers = Peers::new();
        let proposal: Vec<Bytes> = (0..count).map(put).collect();
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("commit {count} on three peers"), |bencher| {
            bencher.iter_batched(|| proposal.clone(), |data| peers.commit(data), BatchSize::PerIteration);
        });
    }
}

/// Peers whose disks are as fast as memory; what they have written is forgotten.
struct Peers {
    rafts: BTreeMap<Incarnation, Raft>,
    leader: Incarnation,
    now_ms: u64,
}

impl Peers {
    fn new() -> Self {
        let names = [1, 2, 3].map(|number| {
            let name: PeerId = format!("kv@127.0.0.1:{number}").parse().expect("a peer");
            (Incarnation(number), name)
        });
        let configuration = Configuration::of(BTreeMap::from(names));
        let start = |id: Incarnation| {
            let mut storage = MemStorage::default();
            storage.write(&Write::bootstrap(configuration.clone(), 0)).expect("the first write of a peer");
            (id, Raft::new(id, Config::default(), storage.restored(), id.0))
        };
        let rafts = configuration.voters.keys().map(|id| start(*id)).collect();
        let mut peers = Self { rafts, leader: Incarnation(1), now_ms: 0 };
        peers.leader = loop {
            peers.now_ms += TICK_MS;
            let now_ms = peers.now_ms;
            peers.rafts.values_mut().for_each(|raft| raft.tick(now_ms));
            peers.run();
            if let Some(raft) = peers.rafts.values().find(|raft| raft.is_leader()) {
                break raft.id();
            }
        };
        peers
    }

    fn commit(&mut self, data: Vec<Bytes>) -> Index {
        let leader = self.rafts.get_mut(&self.leader).expect("one of them");
        let indexes = leader.propose(data, self.now_ms).expect("nothing else is under way");
        self.run();
        let committed = self.rafts[&self.leader].commit();
        assert_eq!(committed, *indexes.end());
        committed
    }

    /// Carries out what peers want until they want nothing.
    fn run(&mut self) {
        let mut messages: VecDeque<Envelope> = VecDeque::new();
        loop {
            for raft in self.rafts.values_mut() {
                while raft.has_ready() {
                    let ready = raft.ready();
                    messages.extend(ready.messages);
                    if let Some(write) = ready.write {
                        raft.persisted(black_box(write).token);
                    }
                    if let Some(last) = ready.apply.last() {
                        raft.applied(last.index);
                    }
                }
            }
            let Some(envelope) = messages.pop_front() else { return };
            let to = self.rafts.get_mut(&envelope.to).expect("one of them");
            to.step(envelope, self.now_ms);
        }
    }
}

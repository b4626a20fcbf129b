//! Measures each layer by itself, with Criterion: what one request costs where nothing else runs.
//!
//! ```text
//! cargo bench --bench layers             # all, two minutes
//! cargo bench --bench layers -- raft     # those with this in their names
//! ```
//!
//! Figures of a hundred are of a batch of so many, as they form under load. The store commits to a folder under `target/`, which
//! must be on a real disk.

#[path = "../common/native.rs"]
mod native;
mod raft_step;
mod round_trips;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use zraft::client::KvCommand;
use zraft::codec;
use zraft::machine::{BackendFactory, Budget, Command, Genesis, Machine, NoOthers, Rulings};
use zraft::protocol::Request;
use zraft::raft::{Configuration, Entry, Payload, Write, WriteToken};
use zraft::settings::{Budgets, Settings};
use zraft::store::{Journal, Operation, PurgeLimits, StoreOptions, SystemDisk};
use zraft::types::{ClusterId, Digest, Incarnation, Index, PeerId, Term};
use zraft::wasm::Wasm;

const BATCH: u64 = 100;
const VALUE_BYTES: usize = 128;
const KEYS: u64 = 10_000;
const CACHE_BYTES: usize = 64 << 20;

criterion_group!(layers, encoding, raft_step::measure, applying, committing, round_trips::measure);
criterion_main!(layers);

fn encoding(criterion: &mut Criterion) {
    let request = Request::Write { peer: "kv".to_owned(), data: put(7), timeout_ms: 1_000 };
    let encoded = codec::encode(&request);
    let mut group = criterion.benchmark_group("codec");
    group.bench_function("encode a write", |bencher| bencher.iter(|| codec::encode(black_box(&request))));
    group.bench_function("decode a write", |bencher| {
        bencher.iter(|| codec::decode::<Request>(black_box(&encoded)).expect("it was just encoded"));
    });
    let batch = entries(1, BATCH);
    let encoded = codec::encode(&batch);
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("encode 100 entries", |bencher| bencher.iter(|| codec::encode(black_box(&batch))));
    group.bench_function("decode 100 entries", |bencher| {
        bencher.iter(|| codec::decode::<Vec<Entry>>(black_box(&encoded)).expect("they were just encoded"));
    });
}

/// The whole machine: sessions, hash chain and backend, with the same backend natively and as a component.
fn applying(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let wasm = Wasm::in_process(folder.path()).expect("the engine starts");
    let component = wasm.compile(include_bytes!("../../guests/dist/kv.wasm")).expect("it is a component");
    let component = component.factory(ClusterId(1), Budgets::default());
    let backends: [(&str, &dyn BackendFactory); 2] = [("native", &native::NativeFactory), ("component", &component)];
    let mut group = criterion.benchmark_group("machine");
    group.throughput(Throughput::Elements(BATCH));
    for (name, factory) in backends {
        let settings = Settings::default();
        let genesis = Genesis { cluster: ClusterId(1), component: Digest::default(), config: Bytes::new(), settings };
        let mut machine = Machine::start(genesis, factory).expect("kv starts");
        let rulings = Rulings { budget: Budget::Configured, rulings: Vec::new() };
        let mut next = 1;
        group.bench_function(format!("apply 100 puts, {name}"), |bencher| {
            let batch = || {
                let batch = entries(next, BATCH);
                next += BATCH;
                batch
            };
            bencher.iter_batched(
                batch,
                |batch| machine.apply(&batch, &rulings, &mut NoOthers).expect("kv lives"),
                BatchSize::PerIteration,
            );
        });
    }
}

fn committing(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made");
    let options = StoreOptions {
        log_dir: folder.path().join("log"),
        snapshot_dir: folder.path().join("snapshots"),
        node: "127.0.0.1:1".parse().expect("an address"),
        cache_bytes: CACHE_BYTES,
        max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
        snapshot_backup_count: 0,
    };
    let (mut journal, _) =
        Journal::open(Arc::new(SystemDisk), &options, PurgeLimits::default()).expect("a store can be opened");
    let (peer, name) = (Incarnation(1), "kv@127.0.0.1:1".parse::<PeerId>().expect("a peer"));
    let bootstrap = Write::bootstrap(Configuration::of(BTreeMap::from([(peer, name)])), 0);
    let create = Operation::Create { incarnation: peer, record: Bytes::new(), bootstrap };
    journal.commit(vec![create]).expect("a store can be written");
    let (mut next, mut token) = (2, 0);
    let mut group = criterion.benchmark_group("store");
    for count in [1, BATCH] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("commit {count}"), |bencher| {
            let write = || {
                token += 1;
                let write = Write { entries: entries(next, count), ..Write::new(WriteToken(token)) };
                next += count;
                vec![Operation::Write(peer, write)]
            };
            let commit = |operations| journal.commit(operations).expect("a store can be written");
            bencher.iter_batched(write, commit, BatchSize::PerIteration);
        });
    }
}

/// Entries as a leader has them: puts by clients without a session.
fn entries(first: u64, count: u64) -> Vec<Entry> {
    let entry = |index: u64| {
        let payload = Payload::Data(Command::Write { data: put(index) }.encode());
        Entry { index: Index(index), term: Term(1), time_ms: 0, payload }
    };
    (first..first + count).map(entry).collect()
}

/// A put of a key in no order that a processor could guess.
fn put(number: u64) -> Bytes {
    let key = number.wrapping_mul(6_364_136_223_846_793_005) >> 33;
    let key = format!("key-{:012}", key % KEYS).into_bytes();
    codec::encode(&KvCommand::Put { key, value: vec![number as u8; VALUE_BYTES] }).into()
}

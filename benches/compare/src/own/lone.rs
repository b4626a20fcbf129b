//! What a lone client's write takes, and what it cannot take less than: the leader and a follower commit at the same time,
//! so one commit; and the way to the leader and on to a follower, both there and back.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bytes::Bytes;
use zraft::raft::{Configuration, Entry, Payload, Write, WriteToken};
use zraft::store::{Journal, Operation, PurgeLimits, StoreOptions, SystemDisk};
use zraft::transport::{Credentials, Endpoint, EndpointOptions, FrameReader, FrameWriter, Limits, Protocol, TlsFiles};
use zraft::types::{Incarnation, Index, NodeAddr, Term};

use super::{median, us, writes};
use crate::processes::{Folder, free_port, runtime};
use crate::zraft_nodes::{FIRST, Zraft};
use crate::{DURATION, VALUE_BYTES};

const COMMITS: u64 = 1_000;
const ROUND_TRIPS: usize = 5_000;
/// A key, and what an entry has around it.
const AROUND_VALUE_BYTES: usize = 40;
const MAX_FRAME_BYTES: usize = 4096;
const CACHE_BYTES: usize = 64 << 20;

pub fn measure(zraft: &Zraft, folder: &Folder) {
    let write = super::drive(zraft, vec![zraft.peers(FIRST)], &writes(1, DURATION)).writes.percentile(50.0);
    let [alone, two, three] = [1, 2, 3].map(|nodes| commits(folder, nodes));
    let round_trip = round_trip(zraft);
    let least = alone + 2.0 * round_trip;
    println!(
        "a lone write: p50 {:.0} us; a commit: {alone:.0} us (two at a time {two:.0}, three {three:.0}); a round trip: \
         {round_trip:.0} us; a commit and two round trips: {least:.0} us; ratio {:.2} (with three commits at a time, {:.2})",
        us(write),
        us(write) / least,
        us(write) / (three + 2.0 * round_trip),
    );
}

/// The median time of a commit of one entry while so many stores commit at the same time, in microseconds: three nodes share
/// this machine's disk.
fn commits(folder: &Folder, stores: usize) -> f64 {
    let barrier = Barrier::new(stores);
    let medians = std::thread::scope(|scope| {
        let store = |number| {
            let dir = folder.make(&format!("commits-{stores}-{number}"));
            let barrier = &barrier;
            scope.spawn(move || {
                let options = StoreOptions {
                    log_dir: dir.join("log"),
                    snapshot_dir: dir.join("snapshots"),
                    node: "127.0.0.1:1".parse().expect("an address"),
                    cache_bytes: CACHE_BYTES,
                    max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
                    snapshot_backup_count: 0,
                };
                let disk = Arc::new(SystemDisk);
                let (mut journal, _) =
                    Journal::open(disk, &options, PurgeLimits::default()).expect("a store can be opened");
                let (peer, node) = (Incarnation(1), "kv@127.0.0.1:1".parse().expect("a peer"));
                let bootstrap = Write::bootstrap(Configuration::of(BTreeMap::from([(peer, node)])), 0);
                let create = Operation::Create { incarnation: peer, record: Bytes::new(), bootstrap };
                journal.commit(vec![create]).expect("a store can be written");
                let commit = |number: u64| {
                    let payload = Payload::Data(vec![number as u8; VALUE_BYTES + AROUND_VALUE_BYTES].into());
                    let entry = Entry { index: Index(number + 2), term: Term(1), time_ms: 0, payload };
                    let write = Write { entries: vec![entry], ..Write::new(WriteToken(number + 1)) };
                    barrier.wait();
                    let began = Instant::now();
                    journal.commit(vec![Operation::Write(peer, write)]).expect("a store can be written");
                    us(began.elapsed())
                };
                median((0..COMMITS).map(commit).collect())
            })
        };
        let threads: Vec<_> = (0..stores).map(store).collect();
        threads.into_iter().map(|thread| thread.join().expect("a store can be written")).collect::<Vec<_>>()
    });
    median(medians)
}

/// The median time of a round trip over QUIC, by streams that are open, in microseconds.
fn round_trip(zraft: &Zraft) -> f64 {
    // Another node of the same domain, in this process.
    let address = format!("127.0.0.1:{}", free_port());
    zraft.certify(&address);
    let node: NodeAddr = address.parse().expect("an address");
    let stem = address.replace(':', "-");
    let credentials = Credentials::load(&TlsFiles::in_folder(&zraft.certs, &stem)).expect("they were just made");
    let client = zraft.credentials.clone();
    let serve = std::thread::spawn(move || runtime().block_on(echo(&node, credentials)));
    let address: NodeAddr = address.parse().expect("an address");
    let took = runtime().block_on(async {
        let endpoint = Endpoint::client(client).expect("a socket can be had");
        let deadline = Instant::now() + Duration::from_secs(5);
        let connection = loop {
            match endpoint.connect(&address, Protocol::Client).await {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        let (send, recv) = connection.open_bi().await.expect("a stream can be had");
        let (mut writer, mut reader) =
            (FrameWriter::new(send, MAX_FRAME_BYTES), FrameReader::new(recv, MAX_FRAME_BYTES));
        let request = [0; VALUE_BYTES + AROUND_VALUE_BYTES];
        let mut took = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            writer.write(&request).await.expect("it is sent");
            reader.next().await.expect("it is answered").expect("it is answered");
            took.push(us(began.elapsed()));
        }
        writer.finish();
        took
    });
    serve.join().expect("the echo ends");
    median(took)
}

/// Answers one stream with what comes on it.
async fn echo(node: &NodeAddr, credentials: Credentials) {
    let listen = node.to_string().parse().expect("an address");
    let options = EndpointOptions { listen, credentials, limits: Limits::default() };
    let endpoint = Endpoint::server(options).expect("the port is free");
    let incoming = endpoint.accept().await.expect("somebody comes");
    let (send, recv) = incoming.connection.accept_bi().await.expect("a stream comes");
    let (mut writer, mut reader) = (FrameWriter::new(send, MAX_FRAME_BYTES), FrameReader::new(recv, MAX_FRAME_BYTES));
    while let Ok(Some(frame)) = reader.next().await {
        writer.write(&frame).await.expect("it is sent");
    }
}

//! What a large state costs: memory, and snapshots while writes go on.

use std::path::Path;
use std::time::{Duration, Instant};

use zraft::client::{Client, KvQuery, LightSession, NewCluster};
use zraft::codec;
use zraft::types::PeerId;

use crate::harness::{Nodes, runtime};
use crate::judge::judge;
use crate::load::{self, Latencies, Puts};
use crate::processes::Process;

/// Sizes of the state: keys and values.
pub const MEGABYTES: [usize; 3] = [1, 100, 1000];

const NODES: usize = 3;
const NAME: &str = "kv";
const KEY_BYTES: usize = 12;
const VALUE_BYTES: usize = 4 << 10;

/// Writes a second while a snapshot is made, and without.
const RATE: u32 = 500;
/// How long writes are timed without a snapshot: so long that one stall of the disk is less than a hundredth of it.
const WITHOUT: Duration = Duration::from_secs(40);
/// Writes that must have been timed while snapshots were made, unless there were as many snapshots as this.
const ENOUGH_WRITES: usize = 1000;
const MOST_SNAPSHOTS: usize = 5;

/// How much slower the slowest of a hundred writes may get.
const MOST_OF_QUIET: f64 = 2.0;
/// Only with this much are there enough writes during a snapshot to tell.
const JUDGED_FROM_MEGABYTES: usize = 1000;

/// After this long without anything going on in the background, nothing is.
const QUIET: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(10);

/// The names of the threads that run the component.
const GUESTS: &str = "zraft-guest";
const BACKGROUND: &str = "zraft-snapshot";

/// Measures, prints, and returns whether the target holds.
pub fn measure(folder: &Path, megabytes: &[usize]) -> bool {
    println!(
        "{NODES} nodes, values of {VALUE_BYTES} bytes, {RATE} writes a second where they are timed. Memory and processor time are \
         those of a node, the most of the three."
    );
    let mut held = true;
    for megabytes in megabytes {
        for isolation in ["separate", "shared"] {
            println!("\n{megabytes} MB, isolation = \"{isolation}\"");
            let dir = folder.join(format!("{megabytes}-{isolation}"));
            held &= runtime().block_on(async { Story::begin(&dir, *megabytes, isolation).tell().await });
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
    held
}

struct Story {
    nodes: Nodes,
    processes: Vec<Process>,
    client: Client,
    puts: Puts,
    megabytes: usize,
    entries: usize,
    is_separate: bool,
}

impl Story {
    fn begin(dir: &Path, megabytes: usize, isolation: &str) -> Self {
        let mut nodes = Nodes::prepare(NODES);
        nodes.keep_data_in(dir);
        (0..NODES).for_each(|number| nodes.start_node_with(number, &format!("isolation = \"{isolation}\"")));
        let processes = (0..NODES).map(|number| Process(nodes.process_id(number))).collect();
        let entries = megabytes * 1_000_000 / (KEY_BYTES + VALUE_BYTES);
        let client = nodes.client();
        let puts = Puts::new(load::kv(&nodes, NAME), entries, VALUE_BYTES);
        Self { nodes, processes, client, puts, megabytes, entries, is_separate: isolation == "separate" }
    }

    async fn tell(self) -> bool {
        self.create().await;
        let begun = Instant::now();
        self.puts.at_full_speed(self.until(|| self.puts.begun() >= self.entries)).await;
        println!("loaded by {} writes in {:.1} s", self.puts.begun(), begun.elapsed().as_secs_f64());
        self.until_quiet().await;
        println!("memory, idle                  {:>8.0} MiB", self.most(|node| mebibytes(node.memory())));
        self.query_each().await;
        println!("memory, once it was queried   {:>8.0} MiB", self.most(|node| mebibytes(node.memory())));

        let (without, cost) = self.without_snapshot().await;
        print_latencies("without a snapshot", &without);
        println!("processor, of the guests      {:>8.1} us a write", cost.as_secs_f64() * 1e6);
        if self.is_separate { self.in_background(&without).await } else { self.in_between().await }
    }

    async fn create(&self) {
        let kv = include_bytes!("../../guests/dist/kv.wasm");
        self.client.create(NewCluster::new(self.nodes.peers(NAME), kv.as_slice().into())).await.unwrap();
    }

    /// Has every replica answer a query, so that it has all instances that it ever has.
    async fn query_each(&self) {
        for peer in self.nodes.peers(NAME) {
            let query = codec::encode(&KvQuery::Get { key: b"key 00000000".to_vec() });
            LightSession::with_options(self.client.clone(), vec![peer], load::patient()).query(query).await.unwrap();
        }
    }

    /// Times writes while no snapshot is made, and tells what one costs the guests of a node.
    async fn without_snapshot(&self) -> (Latencies, Duration) {
        loop {
            self.until_quiet().await;
            let (before, busy) = (self.snapshots().await, self.background());
            let (used, begun) = (self.guests(), self.puts.begun());
            let latencies = self.puts.at_rate(RATE, tokio::time::sleep(WITHOUT)).await;
            if self.snapshots().await == before && self.background() == busy {
                let cost = (self.guests() - used) / (self.puts.begun() - begun) as u32;
                return (latencies, cost);
            }
        }
    }

    /// Snapshots on a thread of their own, while writes go on.
    async fn in_background(&self, without: &Latencies) -> bool {
        let (mut during, mut made, mut peak, mut took) = (Latencies::default(), 0, 0.0f64, Duration::ZERO);
        let cost = self.background();
        while made < MOST_SNAPSHOTS && during.count() < ENOUGH_WRITES {
            self.until_quiet().await;
            self.processes.iter().for_each(|process| process.forget_peak());
            let (before, busy) = (self.snapshots().await, self.background());
            self.puts.at_full_speed(self.until(|| self.background() > busy)).await;
            let begun = Instant::now();
            during.extend(self.puts.at_rate(RATE, self.until_all_have_later(&before)).await);
            took += begun.elapsed();
            made += 1;
            peak = peak.max(self.most(|node| mebibytes(node.peak_memory())));
        }
        print_latencies("during a snapshot", &during);
        let cost = (self.background() - cost) / made as u32;
        println!("a snapshot takes              {:>8.2} s", took.as_secs_f64() / made as f64);
        println!("processor, of a snapshot      {:>8.2} s", cost.as_secs_f64());
        println!("memory, at most meanwhile     {:>8.0} MiB", peak);
        let ratio = during.percentile(99) / without.percentile(99);
        if self.megabytes < JUDGED_FROM_MEGABYTES {
            println!("p99 is {ratio:.2} times that without");
            return true;
        }
        judge("p99 of writes during a snapshot, of that without: at most 2", ratio, "", ratio <= MOST_OF_QUIET)
    }

    /// Snapshots by the instance that applies, while writes wait.
    async fn in_between(&self) -> bool {
        self.until_quiet().await;
        self.processes.iter().for_each(|process| process.forget_peak());
        let before = self.snapshots().await;
        let during = self.puts.at_full_speed(self.until_all_have_later(&before)).await;
        println!("writes wait for a snapshot    {:>8.2} s", during.percentile(100) / 1e3);
        println!("memory, at most meanwhile     {:>8.0} MiB", self.most(|node| mebibytes(node.peak_memory())));
        true
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn until_all_have_later(&self, before: &[u64]) {
        while self.snapshots().await.iter().zip(before).any(|(now, before)| now <= before) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all replicas are equal, no snapshot is being made, and the system has written what it had put off.
    async fn until_quiet(&self) {
        let (mut last, mut since) = (self.look().await, Instant::now());
        while since.elapsed() < QUIET {
            tokio::time::sleep(QUIET / 20).await;
            let now = self.look().await;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        let written = std::process::Command::new("sync").status();
        assert!(written.is_ok_and(|status| status.success()), "sync");
    }

    /// What changes while something goes on.
    async fn look(&self) -> (Vec<u64>, Duration, u64) {
        let busy = self.processes.iter().map(|node| node.time_of(GUESTS).as_millis() as u64).sum();
        (self.snapshots().await, self.background(), busy)
    }

    /// The entry of each replica's snapshot.
    async fn snapshots(&self) -> Vec<u64> {
        let mut snapshots = Vec::new();
        for peer in self.nodes.peers(NAME) {
            snapshots.push(snapshot_of(&self.client, &peer).await);
        }
        snapshots
    }

    /// Processor time of the threads that make snapshots.
    fn background(&self) -> Duration {
        Duration::from_secs_f64(self.most(|node| node.time_of(BACKGROUND).as_secs_f64()))
    }

    /// Processor time of the threads that apply and answer.
    fn guests(&self) -> Duration {
        Duration::from_secs_f64(self.most(|node| node.time_of(GUESTS).as_secs_f64()))
    }

    fn most(&self, of: impl Fn(Process) -> f64) -> f64 {
        self.processes.iter().map(|process| of(*process)).fold(0.0, f64::max)
    }
}

async fn snapshot_of(client: &Client, peer: &PeerId) -> u64 {
    let status = client.status(peer.node()).await.unwrap();
    status.peers.iter().find(|status| status.peer == *peer).unwrap().snapshot.0
}

fn print_latencies(when: &str, latencies: &Latencies) {
    println!("writes {when:<23}{latencies}");
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

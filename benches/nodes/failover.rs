//! How long nobody can write when the leader's node dies, and when it is stopped.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use zraft::client::{Client, Kv, LightSession};
use zraft::transport::{Credentials, TlsFiles};

use crate::harness::{Nodes, runtime, until};
use crate::judge::{judge, median};

const NODES: usize = 3;
const ROUNDS: usize = 20;
/// Writes that are begun a second, whatever becomes of those before.
const RATE: u32 = 100;
/// Writes between two rounds.
const WRITES_BETWEEN: u64 = 100;

/// Targets in milliseconds.
const MOST_AFTER_KILL: f64 = 900.0;
const MOST_AFTER_STOP: f64 = 200.0;

/// Measures, prints, and returns whether the targets hold.
pub fn measure(folder: &Path) -> bool {
    let mut nodes = Nodes::prepare(NODES);
    nodes.keep_data_in(folder);
    (0..NODES).for_each(|number| nodes.start_node(number));
    nodes.create("kv", "kv", &[]);
    println!("{NODES} nodes with default settings, {RATE} puts a second are begun, {ROUNDS} rounds each\n");
    let mut held = true;

    let writer = Writer::start(&nodes);
    let killed = rounds(&mut nodes, &writer, "kill -9", |nodes, leader| nodes.kill(leader));
    // Some were on their way to whom was killed: nobody knows what became of them.
    println!("kill -9: {} writes done, {} failed or unknown\n", writer.done(), writer.failed());
    let half = median(killed.clone());
    held &= judge(
        "median from kill -9 of the leader to the next write: at most 900 ms",
        half,
        " ms",
        half <= MOST_AFTER_KILL,
    );
    drop(writer);

    let writer = Writer::start(&nodes);
    let stopped =
        rounds(&mut nodes, &writer, "stopped", |nodes, leader| assert!(nodes.terminate(leader), "it ends well"));
    println!("stopped: {} writes done, {} failed or unknown\n", writer.done(), writer.failed());
    let longest = stopped.into_iter().fold(0.0, f64::max);
    held &= judge(
        "longest gap between two writes when the leader's node is stopped: at most 200 ms",
        longest,
        " ms",
        longest <= MOST_AFTER_STOP,
    );
    let lost = writer.failed() as f64;
    held &= judge("writes lost meanwhile: none", lost, "", lost == 0.0);
    held
}

/// Ends the leader's node again and again. Returns the longest time without a write of each round, in milliseconds.
fn rounds(nodes: &mut Nodes, writer: &Writer, name: &str, end: impl Fn(&mut Nodes, usize)) -> Vec<f64> {
    let mut gaps = Vec::new();
    for round in 0..ROUNDS {
        let leader = nodes.leader("kv");
        writer.until_written(WRITES_BETWEEN);
        let at = Instant::now();
        end(nodes, leader);
        writer.until_written(WRITES_BETWEEN);
        gaps.push(writer.longest_gap_since(at).as_secs_f64() * 1e3);
        println!("{name} {:>2}: {:>8.0} ms", round + 1, gaps[round]);
        nodes.start_node(leader);
        // All three are there again, and the last one follows closely.
        until("the node has caught up", || {
            let statuses: Option<Vec<_>> = nodes.peers("kv").iter().map(|peer| nodes.status(peer)).collect();
            let applied = |status: &serde_json::Value| status["applied"].as_u64();
            let all: Option<Vec<_>> = statuses.and_then(|statuses| statuses.iter().map(applied).collect());
            all.is_some_and(|all| all.iter().max().unwrap() - all.iter().min().unwrap() < u64::from(RATE))
        });
    }
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    println!("{name}: median {:.0} ms, worst {worst:.0} ms", median(gaps.clone()));
    gaps
}

/// A client on a thread of its own that begins writes at a steady rate, until this is dropped.
struct Writer {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    ends: AtomicBool,
    /// When writes were answered.
    done: Mutex<Vec<Instant>>,
    failed: AtomicU64,
}

impl Writer {
    fn start(nodes: &Nodes) -> Self {
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "admin")).unwrap();
        let (seen, peers) = (Arc::new(Seen::default()), nodes.peers("kv"));
        let shared = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let kv = Arc::new(Kv::new(LightSession::new(Client::new(credentials).unwrap(), peers)));
                let mut pace = interval(Duration::from_secs(1) / RATE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut writing = JoinSet::new();
                while !shared.ends.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let (kv, seen) = (Arc::clone(&kv), Arc::clone(&shared));
                    writing.spawn(async move {
                        match kv.put("key", "value").await {
                            Ok(_) => seen.done.lock().unwrap().push(Instant::now()),
                            Err(_) => drop(seen.failed.fetch_add(1, Ordering::Relaxed)),
                        }
                    });
                    while writing.try_join_next().is_some() {}
                }
                writing.join_all().await;
            });
        });
        Self { seen, thread: Some(thread) }
    }

    fn done(&self) -> usize {
        self.seen.done.lock().unwrap().len()
    }

    fn failed(&self) -> u64 {
        self.seen.failed.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered.
    fn until_written(&self, more: u64) {
        let target = self.done() + more as usize;
        until("writes are answered", || self.done() >= target);
    }

    /// The longest time in which nothing was answered, from a moment on.
    fn longest_gap_since(&self, at: Instant) -> Duration {
        let done = self.seen.done.lock().unwrap();
        let after: Vec<_> = std::iter::once(at).chain(done.iter().copied().filter(|done| *done > at)).collect();
        after.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.seen.ends.store(true, Ordering::Relaxed);
        // What a thread panicked of, it has printed.
        self.thread.take().map(JoinHandle::join);
    }
}

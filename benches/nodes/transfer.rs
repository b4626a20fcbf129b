//! A snapshot that is sent to another node: how fast, beside plain TCP from file to file on the same disk, and what writes
//! notice of it at the default rate.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Nodes, bulky, runtime, until};
use crate::judge::{judge, median};
use crate::load::{self, Puts};
use crate::processes::Process;

/// Of the snapshot.
pub const MEGABYTES: usize = 1000;

const NODES: usize = 3;
/// The node that is sent snapshots.
const BEHIND: usize = 2;
const NAME: &str = "bulky";
const EVERY: u64 = 20;
const ROUNDS: usize = 3;
const LOOK: Duration = Duration::from_millis(100);
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
/// The thread that sends and receives.
const COURIER: &str = "zraft-courier";

/// The share of plain TCP's rate that is to be reached.
const LEAST_OF_PLAIN: f64 = 0.6;

/// Writes a second, and how long they are timed without a snapshot on its way.
const RATE: u32 = 500;
const KEYS: usize = 1000;
const VALUE_BYTES: usize = 128;
const WITHOUT: Duration = Duration::from_secs(10);
/// How much slower the slowest of a hundred writes may get.
const MOST_OF_QUIET: f64 = 2.0;

/// Measures, prints, and returns whether the targets hold.
pub fn measure(folder: &Path, megabytes: usize) -> bool {
    let mut story = Story::begin(folder, megabytes);
    println!("{megabytes} MB, from file to file on one disk, durable at the end, {ROUNDS} times by turns; MB/s");
    let (mut plain, mut sent) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(plain_rate(folder, megabytes));
        sent.push(story.snapshot_rate("snapshot_bytes_per_second = 0"));
        println!("plain TCP {:>8.0}    snapshot {:>8.0}", plain[plain.len() - 1], sent[sent.len() - 1]);
    }
    let share = median(sent) / median(plain);
    let is_fast =
        judge("a snapshot by mutual TLS, of plain TCP's rate, at least 0.6", share, "", share >= LEAST_OF_PLAIN);
    story.writes_beside() && is_fast
}

/// What the kernel can do: it takes a file to a socket, and from a socket to a file.
fn plain_rate(folder: &Path, megabytes: usize) -> f64 {
    let (from, to) = (folder.join("plain"), folder.join("plain-copy"));
    let mut file = File::create(&from).unwrap();
    (0..megabytes).for_each(|_| file.write_all(&[7; 1_000_000]).unwrap());
    file.sync_all().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let begun = Instant::now();
    let sending = std::thread::spawn(move || {
        let copied = io::copy(&mut File::open(from).unwrap(), &mut TcpStream::connect(address).unwrap()).unwrap();
        assert_eq!(copied, megabytes as u64 * 1_000_000);
    });
    let mut copy = File::create(&to).unwrap();
    io::copy(&mut listener.accept().unwrap().0, &mut copy).unwrap();
    copy.sync_all().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    sending.join().unwrap();
    std::fs::remove_file(folder.join("plain")).unwrap();
    std::fs::remove_file(to).unwrap();
    megabytes as f64 / seconds
}

struct Story {
    nodes: Nodes,
    received: usize,
}

impl Story {
    fn begin(folder: &Path, megabytes: usize) -> Self {
        let mut nodes = Nodes::prepare(NODES);
        nodes.keep_data_in(folder);
        (0..NODES).for_each(|number| nodes.start_node_with(number, "snapshot_bytes_per_second = 0"));
        let component = folder.join("bulky.wasm");
        std::fs::write(&component, bulky(megabytes)).unwrap();
        let every = EVERY.to_string();
        let options = ["--max-log-count", &every, "--min-log-percent", "0", "--kept-log-count", "0"];
        nodes.create(NAME, component.to_str().unwrap(), &options);
        nodes.create("kv", "kv", &[]);
        Self { nodes, received: 0 }
    }

    /// Stops a node until it needs a snapshot, and the others are done with theirs.
    fn fall_behind(&mut self) {
        self.nodes.kill(BEHIND);
        let peers = self.nodes.peers(NAME);
        let number_of = |peer: usize, key: &str| {
            self.nodes.status(&peers[peer]).and_then(|status| status[key].as_u64()).unwrap_or_default()
        };
        let (last, deadline) = (number_of(0, "last"), Instant::now() + GIVE_UP_AFTER);
        // No more than is needed: each snapshot costs its making.
        while (0..BEHIND).any(|peer| number_of(peer, "first") <= last) {
            let before: [u64; BEHIND] = std::array::from_fn(|peer| number_of(peer, "snapshot"));
            (0..EVERY).for_each(|_| drop(self.nodes.zraft(&["write", &peers[0].to_string(), "x"])));
            while (0..BEHIND).any(|peer| number_of(peer, "snapshot") <= before[peer]) {
                assert!(Instant::now() < deadline, "no snapshots were made");
                std::thread::sleep(5 * LOOK);
            }
        }
        let busy = |number: usize| Process(self.nodes.process_id(number)).time_of("zraft-snapshot");
        let mut before = [Duration::MAX; BEHIND];
        while before.iter().enumerate().any(|(number, time)| *time != busy(number)) {
            before = std::array::from_fn(busy);
            std::thread::sleep(20 * LOOK);
        }
    }

    /// What the node tells of the snapshots that it has received, in MB/s.
    fn rates(&self) -> Vec<f64> {
        let log = self.nodes.log(BEHIND);
        let lines = log.lines().filter(|line| line.contains("a snapshot was received"));
        let rate = |line: &str| line.split("mb_per_second=").nth(1)?.split_whitespace().next()?.parse().ok();
        lines.map(|line| rate(line).expect("it tells the rate")).collect()
    }

    fn snapshot_rate(&mut self, settings: &str) -> f64 {
        self.fall_behind();
        self.nodes.start_node_with(BEHIND, settings);
        self.until_received();
        let courier = Process(self.nodes.process_id(BEHIND)).time_of(COURIER);
        println!("processor time of the thread that received: {courier:.2?}");
        self.rates().pop().expect("one was received")
    }

    /// Looks at the log alone: a command that asks would take processor time.
    fn until_received(&mut self) {
        let deadline = Instant::now() + GIVE_UP_AFTER;
        while self.rates().len() == self.received {
            assert!(Instant::now() < deadline, "no snapshot was received");
            std::thread::sleep(LOOK);
        }
        self.received = self.rates().len();
    }

    /// Writes of another cluster on the same nodes, without a snapshot on its way and with one at the default rate.
    fn writes_beside(&mut self) -> bool {
        for number in 0..BEHIND {
            self.nodes.kill(number);
            self.nodes.start_node_with(number, "");
        }
        self.fall_behind();
        let quiet = runtime().block_on(async {
            let puts = Puts::new(load::kv(&self.nodes, "kv"), KEYS, VALUE_BYTES);
            puts.at_rate(RATE, tokio::time::sleep(WITHOUT)).await
        });
        println!("\n{RATE} writes a second, quiet:    {quiet}");
        self.nodes.start_node_with(BEHIND, "");
        let beside = runtime().block_on(async {
            let puts = Puts::new(load::kv(&self.nodes, "kv"), KEYS, VALUE_BYTES);
            let received = async {
                while self.rates().len() == self.received {
                    tokio::time::sleep(LOOK).await;
                }
            };
            puts.at_rate(RATE, received).await
        });
        println!("while a snapshot is sent:          {beside}");
        let rate = self.rates().pop().expect("one was received");
        println!("at {rate:.0} MB/s");
        until("all is well", || self.nodes.zraft(&["status", self.nodes.address(BEHIND).as_str()]).status.success());
        let slower = beside.percentile(99) / quiet.percentile(99);
        judge("p99 of writes while a snapshot is sent, of quiet, at most 2", slower, "", slower <= MOST_OF_QUIET)
    }
}

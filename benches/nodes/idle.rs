//! What clusters cost that nobody uses: processor, memory, datagrams, the start of their nodes, and what they take from one that
//! is used.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::sleep;
use zraft::client::{Client, NewCluster};
use zraft::types::{NodeAddr, PeerId, RoleName};

use crate::harness::{Nodes, PATIENCE, runtime};
use crate::judge::{judge, median};
use crate::load::{self, Puts};
use crate::processes::Process;

const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");

const NODES: usize = 3;
/// How many idle clusters there are, one after the other.
const COUNTS: [usize; 3] = [1, 100, 1000];
/// How many are created at a time. A node keeps names for so many at most.
const CREATED_AT_ONCE: usize = 16;
/// After the last is created, and how long is measured then.
const SETTLING: Duration = Duration::from_secs(50);
const MEASURED: Duration = Duration::from_secs(20);
/// How long a cluster sleeps before its instances are dropped: all are while the nodes settle.
const DROP_AFTER: Duration = Duration::from_secs(10);

/// The cluster that is used.
const KEYS: usize = 1000;
const VALUE_BYTES: usize = 64;
const RATE: u32 = 200;
const TURN: Duration = Duration::from_secs(8);
const TURNS: usize = 3;

/// Targets.
const MOST_PERCENT: f64 = 10.0;
const MOST_OF_ALONE: f64 = 1.5;

/// What all nodes took in a while.
struct Taken {
    /// Of one processor.
    percent: f64,
    memory_bytes: u64,
    /// Over all of this machine.
    datagrams_per_second: f64,
}

/// Measures, prints, and returns whether the targets hold.
pub fn measure(folder: &Path) -> bool {
    let alone_before = alone(&folder.join("before"));
    let mut nodes = start(&folder.join("idle"));
    println!(
        "{NODES} nodes, clusters of {NODES} peers of kv that nobody uses; {} s after the last was created, over {} s\n",
        SETTLING.as_secs(),
        MEASURED.as_secs()
    );
    println!(
        "clusters | % of a processor | MiB at first, quiet | KiB a peer at first, quiet | datagrams/s | created in, s | restarted: up, led, s"
    );
    let none = taken(&nodes);
    print_row(0, &none, none.memory_bytes, &none, None);
    let mut percent = 0.0;
    let mut before = 0;
    for count in COUNTS {
        let begun = Instant::now();
        runtime().block_on(create(&nodes, before..count));
        let created = begun.elapsed();
        let at_first = memory(&nodes);
        before = count;
        let found = taken(&nodes);
        percent = found.percent;
        let (up, led) = restart(&mut nodes, count);
        print_row(count, &found, at_first, &none, Some((created, up, led)));
    }
    std::thread::sleep(SETTLING);
    let restarted = taken(&nodes);
    println!("after the restart: {:.2} % of a processor, {} MiB", restarted.percent, restarted.memory_bytes >> 20);
    let among = busy(&nodes);
    drop(nodes);
    let alone_after = alone(&folder.join("after"));
    println!(
        "\np50 of {RATE} puts a second, ms: alone {alone_before:.2} and {alone_after:.2}, among {before} {among:.2}\n"
    );
    let ratio = 2.0 * among / (alone_before + alone_after);
    let is_cheap = percent <= MOST_PERCENT;
    let is_cheap = judge("processor of 1,000 idle clusters: at most 10 % of one", percent, " %", is_cheap);
    judge("p50 of a cluster among 1,000, of that alone: at most 1.5", ratio, "", ratio <= MOST_OF_ALONE) && is_cheap
}

fn start(folder: &Path) -> Nodes {
    fs::create_dir_all(folder).unwrap();
    let mut nodes = Nodes::prepare(NODES);
    nodes.keep_data_in(folder);
    (0..NODES).for_each(|number| start_node(&mut nodes, number));
    nodes
}

fn start_node(nodes: &mut Nodes, number: usize) {
    let drop_after_ms = DROP_AFTER.as_millis();
    nodes.start_node_with(number, &format!("guest_threads = 2\ndrop_idle_after_ms = {drop_after_ms}"));
}

/// The p50 of a cluster that has its nodes for itself, in milliseconds.
fn alone(folder: &Path) -> f64 {
    busy(&start(folder))
}

fn busy(nodes: &Nodes) -> f64 {
    nodes.create("busy", "kv", &[]);
    runtime().block_on(async {
        let puts = Puts::new(load::kv(nodes, "busy"), KEYS, VALUE_BYTES);
        // The first writes wait for the first election.
        puts.at_rate(RATE, sleep(TURN / 4)).await;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(puts.at_rate(RATE, sleep(TURN)).await.percentile(50));
        }
        median(turns)
    })
}

fn name(number: usize) -> String {
    format!("idle-{number}")
}

/// Creates clusters, coordinated by each node in turn.
async fn create(nodes: &Nodes, numbers: std::ops::Range<usize>) {
    let client = nodes.client();
    let mut creating = JoinSet::new();
    for number in numbers {
        if creating.len() >= CREATED_AT_ONCE {
            creating.join_next().await.unwrap().unwrap();
        }
        let mut peers = nodes.peers(&name(number));
        peers.rotate_left(number % NODES);
        let client = client.clone();
        creating.spawn(async move {
            client.create(NewCluster::new(peers, Bytes::from_static(KV))).await.unwrap();
        });
    }
    creating.join_all().await;
}

fn processes(nodes: &Nodes) -> Vec<Process> {
    (0..NODES).map(|number| Process(nodes.process_id(number))).collect()
}

fn memory(nodes: &Nodes) -> u64 {
    processes(nodes).iter().map(|process| process.memory()).sum()
}

/// What the nodes take once all is quiet.
fn taken(nodes: &Nodes) -> Taken {
    std::thread::sleep(SETTLING);
    let processes = processes(nodes);
    let time = || processes.iter().map(|process| process.time()).sum::<Duration>();
    let (at, time_before, datagrams_before) = (Instant::now(), time(), datagrams_sent());
    std::thread::sleep(MEASURED);
    let seconds = at.elapsed().as_secs_f64();
    Taken {
        percent: 100.0 * (time() - time_before).as_secs_f64() / seconds,
        memory_bytes: memory(nodes),
        datagrams_per_second: (datagrams_sent() - datagrams_before) as f64 / seconds,
    }
}

fn print_row(count: usize, found: &Taken, at_first: u64, none: &Taken, times: Option<(Duration, Duration, Duration)>) {
    let peers = (count * NODES).max(1) as u64;
    let each = |bytes: u64| (bytes.saturating_sub(none.memory_bytes) / peers) >> 10;
    let each = format!("{}, {}", each(at_first), each(found.memory_bytes));
    let times = times.map_or_else(String::new, |(created, up, led)| {
        let [created, up, led] = [created, up, led].map(|time| time.as_secs_f64());
        format!("{created:>13.1} | {up:.1}, {led:.1}")
    });
    let (percent, memory) = (found.percent, format!("{}, {}", at_first >> 20, found.memory_bytes >> 20));
    println!(
        "{count:>8} | {percent:>16.2} | {memory:>19} | {each:>26} | {:>11.0} | {times}",
        found.datagrams_per_second
    );
}

/// Kills all nodes and starts them again. Returns how long the slowest took until it answered, and how long it was until every
/// cluster had a leader.
fn restart(nodes: &mut Nodes, count: usize) -> (Duration, Duration) {
    (0..NODES).for_each(|number| nodes.kill(number));
    let begun = Instant::now();
    (0..NODES).for_each(|number| start_node(nodes, number));
    let up = begun.elapsed();
    runtime().block_on(until_led(nodes, count));
    (up, begun.elapsed())
}

async fn until_led(nodes: &Nodes, count: usize) {
    let client = nodes.client();
    let deadline = Instant::now() + 10 * PATIENCE;
    loop {
        let mut led = 0;
        for number in 0..NODES {
            led += leaders_on(&client, nodes.address(number)).await;
        }
        if led >= count {
            return;
        }
        assert!(Instant::now() < deadline, "only {led} of {count} clusters have a leader");
        sleep(Duration::from_millis(100)).await;
    }
}

/// How many peers of a node lead and have committed an entry of their own.
async fn leaders_on(client: &Client, node: &NodeAddr) -> usize {
    let Ok(status) = client.status(node).await else { return 0 };
    let leads = |peer: &PeerId, role| role == RoleName::Leader && peer.name().starts_with("idle-");
    status.peers.iter().filter(|peer| leads(&peer.peer, peer.role) && peer.applied == peer.last).count()
}

/// UDP datagrams that this machine has sent so far.
fn datagrams_sent() -> u64 {
    let lines = fs::read_to_string("/proc/net/snmp").unwrap();
    let mut udp = lines.lines().filter(|line| line.starts_with("Udp: "));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let place = names.split_whitespace().position(|name| name == "OutDatagrams").unwrap();
    values.split_whitespace().nth(place).unwrap().parse().unwrap()
}

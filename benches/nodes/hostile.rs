//! How well a cluster is served while clients with good certificates, and strangers without, do their worst to its nodes.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use zraft::client::KvQuery;
use zraft::codec;
use zraft::protocol::{MAX_FRAME_BYTES, Request};
use zraft::transport::{Credentials, Endpoint, FrameWriter, Protocol, TlsFiles};
use zraft::types::NodeAddr;

use crate::harness::{Nodes, runtime};
use crate::judge::{judge, median};
use crate::load::{self, Latencies, Puts};

const NODES: usize = 3;
const KEYS: usize = 1000;
const VALUE_BYTES: usize = 64;
/// Writes a second of the cluster that is measured, and how long for each case.
const RATE: u32 = 200;
const TURN: Duration = Duration::from_secs(8);
/// Of so many turns of each case the middle one counts: one stall of the machine is not the nodes' doing.
const TURNS: usize = 3;

/// See `nice`.
const LOWEST_PRIORITY: i32 = 19;

/// How much slower the slowest of a hundred writes may get.
const MOST_OF_ALONE: f64 = 2.0;

/// What is done to each node, a second. All of it runs on this machine's processors too.
const DATAGRAMS: u32 = 2_000;
const RECONNECTS: u32 = 20;
const UNREAD: u32 = 20;
/// Requests that are begun and not ended, at a time on each node.
const UNFINISHED: usize = 500;
/// The largest first packet that is common.
const DATAGRAM_BYTES: usize = 1200;
/// What each reply that nobody reads has.
const REPLY_BYTES: usize = 256 << 10;

const CASES: [(&str, Case); 5] = [
    ("garbage", Case::Garbage),
    ("forged handshakes", Case::Forged),
    ("reconnects", Case::Reconnects),
    ("unfinished", Case::Unfinished),
    ("unread replies", Case::Unread),
];

#[derive(Clone, Copy)]
enum Case {
    /// Datagrams that are no packets.
    Garbage,
    /// First packets of connections that nobody wants, each of another.
    Forged,
    /// Whole handshakes, one after the other.
    Reconnects,
    /// Frames that stop in the middle.
    Unfinished,
    /// Queries whose replies are not read.
    Unread,
}

/// Measures, prints, and returns whether the target holds. Only those are measured whose names begin so.
pub fn measure(folder: &Path, kind: &str) -> bool {
    let mut nodes = Nodes::prepare(NODES);
    nodes.keep_data_in(folder);
    (0..NODES).for_each(|number| nodes.start_node(number));
    nodes.create("kv", "kv", &[]);
    nodes.create("other", "kv", &[]);
    nodes.run_ok(&["cert", "client", "mallory"]);
    println!(
        "{NODES} nodes, puts of {VALUE_BYTES} bytes, {RATE} a second, {} s each, the middle of {TURNS} turns; on each node \
         {DATAGRAMS} datagrams, {RECONNECTS} handshakes or {UNREAD} unread replies of {REPLY_BYTES} bytes a second, \
         {UNFINISHED} unfinished requests at a time\n",
        TURN.as_secs()
    );
    runtime().block_on(async {
        load::kv(&nodes, "other").put("large", vec![7; REPLY_BYTES]).await.unwrap();
        let puts = Puts::new(load::kv(&nodes, "kv"), KEYS, VALUE_BYTES);
        // The first writes wait for the first election.
        puts.at_rate(RATE, sleep(TURN / 4)).await;
        println!(
            "{:<18}| alone: p50  p99  worst, ms | beside: p50  p99  worst, ms | p99 beside/alone | each node met, a second",
            "the clients"
        );
        let mut worst = 0.0f64;
        for (name, case) in CASES.into_iter().filter(|(name, _)| name.starts_with(kind)) {
            let mut ratios = Vec::new();
            for _ in 0..TURNS {
                // Just before, when the machine was about the same.
                let alone = puts.at_rate(RATE, sleep(TURN)).await;
                let hostile = Hostile::start(&nodes, case);
                let beside = puts.at_rate(RATE, sleep(TURN)).await;
                let met = hostile.acts.load(Ordering::Relaxed) / (NODES as u64 * TURN.as_secs());
                drop(hostile);
                let ratio = beside.percentile(99) / alone.percentile(99);
                println!("{name:<18}| {} | {} | {ratio:>16.2} | {met:>24}", figures(&alone), figures(&beside));
                ratios.push(ratio);
            }
            worst = worst.max(median(ratios));
        }
        println!();
        judge("p99 of writes beside the worst clients, of that alone: at most 2", worst, "", worst <= MOST_OF_ALONE)
    })
}

/// Counts datagrams, handshakes, requests or replies.
type Acts = Arc<AtomicU64>;

/// Clients on a thread of their own, until this is dropped.
///
/// It has the lowest priority. What it takes of the processors is not the nodes' doing, and real clients are elsewhere; what they make
/// the nodes do is what counts.
struct Hostile {
    ends: Arc<AtomicBool>,
    /// How much they have done, in what their rates are told in.
    acts: Acts,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hostile {
    fn start(nodes: &Nodes, case: Case) -> Self {
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "mallory")).unwrap();
        let addresses: Vec<_> = (0..NODES).map(|number| nodes.address(number).clone()).collect();
        let ends = Arc::new(AtomicBool::new(false));
        let acts = Acts::default();
        let (is_over, acting) = (Arc::clone(&ends), Arc::clone(&acts));
        let thread = std::thread::spawn(move || {
            // On Linux a priority is a thread's own.
            rustix::process::setpriority_process(None, LOWEST_PRIORITY).unwrap();
            runtime().block_on(async {
                let mut clients = JoinSet::new();
                for node in addresses {
                    clients.spawn(act(case, credentials.clone(), node, Arc::clone(&acting)));
                }
                while !is_over.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(20)).await;
                }
            });
        });
        Self { ends, acts, thread: Some(thread) }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // What a thread panicked of, it has printed.
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn act(case: Case, credentials: Credentials, node: NodeAddr, acts: Acts) {
    match case {
        Case::Garbage => datagrams(&node, &acts, |number| vec![number as u8; DATAGRAM_BYTES]).await,
        Case::Forged => datagrams(&node, &acts, first_packet).await,
        Case::Reconnects => reconnect(credentials, &node, &acts).await,
        Case::Unfinished => leave_unfinished(credentials, &node, &acts).await,
        Case::Unread => leave_unread(credentials, &node, &acts).await,
    }
}

async fn datagrams(node: &NodeAddr, acts: &AtomicU64, make: impl Fn(u64) -> Vec<u8>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(node.as_str()).unwrap();
    let mut pace = pace(DATAGRAMS);
    for number in 0.. {
        pace.tick().await;
        // What the node's socket cannot take is lost.
        let _ = socket.send(&make(number));
        acts.fetch_add(1, Ordering::Relaxed);
    }
}

/// What begins like a connection (RFC 9000 section 17.2.2), each with another identifier, and is none.
fn first_packet(number: u64) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend_from_slice(&number.to_be_bytes());
    // No identifier of its own, no token, and the length of the rest.
    packet.extend_from_slice(&[0, 0]);
    let rest = DATAGRAM_BYTES - packet.len() - 2;
    packet.extend_from_slice(&(0x4000 | rest as u16).to_be_bytes());
    packet.resize(DATAGRAM_BYTES, number as u8);
    packet
}

async fn reconnect(credentials: Credentials, node: &NodeAddr, acts: &AtomicU64) {
    let endpoint = Endpoint::client(credentials).unwrap();
    let mut pace = pace(RECONNECTS);
    loop {
        pace.tick().await;
        // A node may refuse it: that is what bounds are for.
        let _ = endpoint.connect(node, Protocol::Client).await;
        acts.fetch_add(1, Ordering::Relaxed);
    }
}

async fn leave_unfinished(credentials: Credentials, node: &NodeAddr, acts: &AtomicU64) {
    let endpoint = Endpoint::client(credentials).unwrap();
    loop {
        let Ok(connection) = endpoint.connect(node, Protocol::Client).await else { continue };
        let mut begun = Vec::new();
        for _ in 0..UNFINISHED {
            let Ok((mut send, recv)) = connection.open_bi().await else { break };
            let size = 1_000_000_u32;
            // Some are refused early.
            let _ = send.write_all(&size.to_le_bytes()).await;
            let _ = send.write_all(&[0; 1000]).await;
            begun.push((send, recv));
            acts.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn leave_unread(credentials: Credentials, node: &NodeAddr, acts: &AtomicU64) {
    let endpoint = Endpoint::client(credentials).unwrap();
    let Ok(connection) = endpoint.connect(node, Protocol::Client).await else { return };
    let request: Bytes = codec::encode(&KvQuery::Get { key: b"large".to_vec() }).into();
    let ask = codec::encode(&Request::Query { peer: "other".to_owned(), request, timeout_ms: 10_000 });
    let (mut pace, mut unread) = (pace(UNREAD), Vec::new());
    loop {
        pace.tick().await;
        let Ok((send, recv)) = connection.open_bi().await else { return };
        let mut writer = FrameWriter::new(send, MAX_FRAME_BYTES);
        let _ = writer.write(&ask).await;
        unread.push((writer, recv));
        acts.fetch_add(1, Ordering::Relaxed);
    }
}

fn pace(per_second: u32) -> tokio::time::Interval {
    let mut pace = interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

fn figures(latencies: &Latencies) -> String {
    let [half, most, all] = [50, 99, 100].map(|percent| latencies.percentile(percent));
    format!("{half:>10.2} {most:>6.2} {all:>8.2}")
}

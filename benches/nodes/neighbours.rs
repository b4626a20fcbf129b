//! How well a cluster is served while others on its nodes do their worst.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use zraft::client::{LightSession, NewCluster};
use zraft::settings::Settings;

use crate::harness::{Nodes, runtime};
use crate::judge::judge;
use crate::load::{self, Latencies, Puts};

const BROKEN: &[u8] = include_bytes!("../../tests/components/broken.wasm");

const NODES: usize = 3;
const KEYS: usize = 1000;
const VALUE_BYTES: usize = 64;
/// Writes a second of the cluster that is measured, and how long for each case.
const RATE: u32 = 200;
const TURN: Duration = Duration::from_secs(8);

/// How much slower the slowest of a hundred writes may get.
const MOST_OF_ALONE: f64 = 2.0;

/// The config of the hostile cluster: what it does to every tenth command or to each query.
const COMMANDS: [&str; 8] =
    ["loops", "hungry", "traps", "short", "leaks", "floods", "snapshot-endless", "snapshot-traps"];
const QUERIES: [&str; 2] = ["query-loops", "query-traps"];

/// Measures, prints, and returns whether the target holds.
pub fn measure(folder: &Path) -> bool {
    let mut nodes = Nodes::prepare(NODES);
    nodes.keep_data_in(folder);
    let threads = std::thread::available_parallelism().unwrap();
    (0..NODES).for_each(|number| nodes.start_node_with(number, &format!("guest_threads = {threads}")));
    nodes.create("kv", "kv", &[]);
    println!(
        "{NODES} nodes, puts of {VALUE_BYTES} bytes, {RATE} a second, {} s each; the others have the default budgets\n",
        TURN.as_secs()
    );
    runtime().block_on(async {
        let puts = Puts::new(load::kv(&nodes, "kv"), KEYS, VALUE_BYTES);
        // The first writes wait for the first election.
        puts.at_rate(RATE, tokio::time::sleep(TURN / 4)).await;
        println!("{:<18}| alone: p50  p99  worst, ms | beside: p50  p99  worst, ms | p99 beside/alone", "the other");
        let mut worst = 0.0f64;
        for config in COMMANDS.into_iter().chain(QUERIES) {
            // Just before, when the machine was about the same.
            let alone = puts.at_rate(RATE, tokio::time::sleep(TURN)).await;
            let beside = beside(&nodes, &puts, config).await;
            let ratio = beside.percentile(99) / alone.percentile(99);
            println!("{config:<18}| {} | {} | {ratio:>16.2}", figures(&alone), figures(&beside));
            worst = worst.max(ratio);
        }
        println!();
        judge("p99 of writes beside the worst, of that alone: at most 2", worst, "", worst <= MOST_OF_ALONE)
    })
}

/// Writes while another cluster is kept at its worst.
async fn beside(nodes: &Nodes, puts: &Puts, config: &'static str) -> Latencies {
    let component = Bytes::from_static(BROKEN);
    // Snapshots are soon due, since some cannot make them.
    let settings = Settings { max_log_count: 100, ..Settings::default() };
    let new = NewCluster { config: config.into(), settings, ..NewCluster::new(nodes.peers(config), component) };
    nodes.client().create(new).await.unwrap();
    let session = LightSession::with_options(nodes.client(), nodes.peers(config), load::patient());
    let harm = async {
        loop {
            // Most fail, which is what they are for.
            let _ = if QUERIES.contains(&config) {
                session.query("x").await.map(drop)
            } else {
                session.write("x").await.map(drop)
            };
        }
    };
    let writing = puts.at_rate(RATE, tokio::time::sleep(TURN));
    tokio::select! { latencies = writing => latencies, () = harm => unreachable!("it never ends") }
}

fn figures(latencies: &Latencies) -> String {
    let [half, most, all] = [50, 99, 100].map(|percent| latencies.percentile(percent));
    format!("{half:>10.2} {most:>6.2} {all:>8.2}")
}

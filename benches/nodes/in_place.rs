//! What the component costs a cluster: the same load to nodes that run the kv component, and to nodes that run the same code
//! natively. Both are processes of this program, so that nothing else differs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use zraft::machine::BackendFactory;
use zraft::node::{Node, Settings};
use zraft::types::Digest;
use zraft::wasm::Compiler;

use crate::harness::Nodes;
use crate::judge::{judge, median};
use crate::native::NativeFactory;

/// The command by which this program becomes a node; the kind of backend and the node's command line follow.
pub const NODE: &str = "become-a-node";

const KINDS: [&str; 2] = ["component", "native"];
const NODES: usize = 3;
const TURNS: usize = 5;
const CLIENTS: &str = "256";
const SECONDS: &str = "8";

/// At most a fifth more than the native backend takes.
const LEAST_SHARE: f64 = 1.0 / 1.2;

/// Runs a node until it is killed.
pub fn serve(kind: &str, config: &Path) -> bool {
    let settings = Settings::load(config).expect("the harness writes a file of settings");
    let mut config = settings.into_config(Compiler::InProcess).expect("they are valid");
    if kind == "native" {
        let kv = Digest::of(include_bytes!("../../guests/dist/kv.wasm"));
        config.native = BTreeMap::from([(kv, Arc::new(NativeFactory) as Arc<dyn BackendFactory>)]);
    }
    Node::start(config).and_then(Node::wait).expect("the node runs");
    true
}

/// Measures, prints, and returns whether the target holds.
pub fn measure(folder: &Path) -> bool {
    let program = std::env::current_exe().expect("the system tells which program this is");
    let program = program.to_str().expect("its path is text");
    let both: Vec<Nodes> = KINDS
        .into_iter()
        .map(|kind| {
            let mut nodes = Nodes::prepare(NODES);
            nodes.keep_data_in(&folder.join(kind));
            (0..NODES).for_each(|number| nodes.start_node_under(&[program, NODE, kind], number, ""));
            nodes.create("kv", "kv", &[]);
            nodes
        })
        .collect();
    println!("{NODES} nodes with default settings, {CLIENTS} clients that put 128 bytes each, {TURNS} turns\n");
    let mut figures = [Vec::new(), Vec::new()];
    for turn in 1..=TURNS {
        for ((nodes, kind), figures) in both.iter().zip(KINDS).zip(&mut figures) {
            let throughput = throughput(nodes);
            println!("{turn}: {kind:<9} {throughput:>8.0} writes a second");
            figures.push(throughput);
        }
    }
    let [component, native] = figures.map(median);
    println!("median: component {component:.0}, native {native:.0} writes a second\n");
    let share = component / native;
    judge("the component's share of the native throughput: at least 0.83", share, "", share >= LEAST_SHARE)
}

fn throughput(nodes: &Nodes) -> f64 {
    let peers: Vec<_> = nodes.peers("kv").iter().map(ToString::to_string).collect();
    let arguments = ["bench", "--json", "--clients", CLIENTS, "--duration", SECONDS, &peers.join(",")];
    let output = nodes.run_ok(&arguments);
    let last = output.lines().last().expect("a result");
    let result: serde_json::Value = serde_json::from_str(last).expect("it is JSON");
    result["throughput"].as_f64().expect("a throughput")
}

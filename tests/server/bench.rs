//! `zraft bench` against real nodes.

use serde_json::Value;

use crate::harness::Nodes;

const SHORT: [&str; 6] = ["--duration", "1", "--warm-up", "0.2", "--clients", "4"];

fn bench(nodes: &Nodes, name: &str, options: &[&str]) -> Vec<Value> {
    let peers = nodes.peers(name).iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let printed = nodes.run_ok(&[&["bench", "--json", peers.as_str()], &SHORT[..], options].concat());
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_cluster_is_measured_in_closed_and_open_loop_with_and_without_sessions() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    for options in [&["--reads", "50", "--connections", "2", "--threads", "2"][..], &["--sessions", "--reads", "50"]] {
        let [measured] = bench(&nodes, "kv", options).try_into().unwrap();
        assert_eq!(measured["failed"], 0, "{measured}");
        assert!(measured["writes_ms"]["count"].as_u64() > Some(0), "{measured}");
        assert!(measured["reads_ms"]["p99.9"].as_f64() > Some(0.0), "{measured}");
    }
    // Far fewer than it could answer.
    let [measured] = bench(&nodes, "kv", &["--rate", "50"]).try_into().unwrap();
    let throughput = measured["throughput"].as_f64().unwrap();
    assert!((1.0..=60.0).contains(&throughput), "{measured}");
}

#[test]
fn latency_is_drawn_against_load() {
    let nodes = Nodes::start(1);
    nodes.create("count", "counter", &[]);
    let svg = nodes.folder().join("out.svg");
    let steps = bench(&nodes, "count", &["--write", "1", "--plot", svg.to_str().unwrap()]);
    let clients: Vec<_> = steps.iter().map(|step| step["clients"].as_u64().unwrap()).collect();
    assert_eq!(clients, [1, 2, 4]);
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("p99.9"), "{drawn}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    let bench =
        |code, options: &[&str]| nodes.run_err(code, &[&["bench", peer.as_str()], &SHORT[..], options].concat());
    assert!(bench(2, &["--reads", "10", "--write", "1"]).contains("--query"));
    assert!(bench(2, &["--rate", "0"]).contains("the rate must be a positive number"));
    assert!(bench(2, &["--threads", "5"]).contains("a client for each"));
    let nobody = nodes.run_err(1, &[&["bench", "other@127.0.0.1:1"], &SHORT[..]].concat());
    assert!(nobody.contains("not one request was answered"), "{nobody}");
}

//! The commands that show zraft to a newcomer.

use std::process::{Command, Stdio};

use crate::harness::{free_port, until};

#[test]
fn the_demo_ends_well_and_says_what_it_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_zraft")).args(["demo", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["writes"], 1000);
    assert_eq!(summary["counted"], 1000);
    assert!(summary["failover_ms"].as_u64().unwrap() > 0);
    assert_eq!(summary["chain"].as_str().unwrap().len(), 64);
}

#[test]
fn dev_keeps_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let zraft = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zraft"));
        command.args(arguments).current_dir(folder.path()).env("ZRAFT_CERTS", folder.path().join("zraft-dev/certs"));
        command
    };
    let peer = format!("kv@127.0.0.1:{port}");
    let port = port.to_string();
    for run in 0..2 {
        let mut dev = zraft(&["dev", "--nodes", "1", "--port", &port]).stdout(Stdio::null()).spawn().unwrap();
        until("the cluster answers", || zraft(&["kv", "list", &peer]).output().unwrap().status.success());
        if run == 0 {
            assert!(zraft(&["kv", "put", &peer, "a", "1"]).output().unwrap().status.success());
        } else {
            assert_eq!(zraft(&["kv", "get", &peer, "a"]).output().unwrap().stdout, b"1\n");
        }
        assert!(Command::new("kill").args(["-TERM", &dev.id().to_string()]).status().unwrap().success());
        assert!(dev.wait().unwrap().success());
    }
}

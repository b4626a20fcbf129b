//! Who has no certificate of the cluster's CA gets in nowhere, and the node says who was refused.

use std::process::Command;

use crate::harness::{Nodes, runtime, until};
use zraft::client::{CallError, Client};
use zraft::transport::{ConnectError, Credentials};

#[test]
fn a_client_without_a_certificate_is_refused() {
    let nodes = Nodes::start(1);
    let ca = std::fs::read(nodes.certs().join("ca.pem")).unwrap();
    let error = runtime().block_on(async {
        let client = Client::new(Credentials::without_certificate(&ca).unwrap()).unwrap();
        client.status(nodes.address(0)).await.unwrap_err()
    });
    assert!(matches!(error, CallError::Connect(ConnectError::NoCertificate { .. })), "{error}");
    assert!(error.to_string().contains("requires a certificate"), "{error}");
    until("the node says who was refused", || {
        nodes.log(0).lines().any(|line| line.contains("refused") && line.contains("127.0.0.1:"))
    });
}

#[test]
fn a_client_with_a_certificate_of_another_ca_is_refused() {
    let nodes = Nodes::start(1);
    let foreign = nodes.folder().join("foreign");
    let zraft = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_zraft")).args(arguments).env("ZRAFT_CERTS", &foreign).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(zraft(&["cert", "ca"]).0, Some(0));
    assert_eq!(zraft(&["cert", "client", "mallory", "--admin"]).0, Some(0));

    // Mallory does not trust the node.
    let (code, complaint) = zraft(&["status", "--as", "mallory", nodes.address(0).as_str()]);
    assert_eq!(code, Some(4));
    assert!(complaint.contains("not trusted"), "{complaint}");

    // Mallory trusts the node; the node does not trust Mallory.
    std::fs::copy(nodes.certs().join("ca.pem"), foreign.join("ca.pem")).unwrap();
    let (code, complaint) = zraft(&["status", "--as", "mallory", nodes.address(0).as_str()]);
    assert_eq!(code, Some(4));
    assert!(complaint.contains("refused our certificate"), "{complaint}");
    until("the node says who was refused", || {
        nodes.log(0).lines().any(|line| line.contains("refused") && line.contains("mallory"))
    });
}

#[test]
fn only_an_admin_creates_clusters() {
    let nodes = Nodes::start(1);
    let peer = nodes.peers("kv")[0].to_string();
    let refused = nodes.run_err(1, &["create", "--as", "alice", "--backend", "kv", &peer]);
    assert!(refused.contains("admin") && refused.contains("alice"), "{refused}");
    nodes.run_ok(&["create", "--backend", "kv", &peer]);
    nodes.run_ok(&["kv", "put", &peer, "a", "1", "--as", "alice"]);
}

#[test]
fn a_node_with_another_nodes_certificate_does_not_start() {
    let nodes = Nodes::start(1);
    let stem = nodes.address(0).as_str().replace(':', "-");
    let file = |name: &str| nodes.certs().join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file(&format!("{stem}.pem")), file(&format!("{stem}-key.pem")));
    let folder = nodes.folder().join("other").display().to_string();
    let flags = ["--log-dir", &folder, "--ca", &ca, "--cert", &cert, "--key", &key];
    let mut arguments = vec!["serve", "--node", "127.0.0.1:1"];
    arguments.extend(flags);
    let complaint = nodes.run_err(1, &arguments);
    assert!(complaint.contains("zraft cert node 127.0.0.1:1"), "{complaint}");
}

#[test]
fn a_second_node_on_the_same_files_is_refused() {
    let nodes = Nodes::start(1);
    let config = nodes.folder().join("node-0.toml").display().to_string();
    let complaint = nodes.run_err(1, &["serve", "--config", &config]);
    assert!(complaint.contains("data-0"), "{complaint}");
}

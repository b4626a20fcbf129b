//! Certificates that are replaced or revoked while nodes serve.

use std::fs;
use std::path::Path;

use crate::harness::{Nodes, PATIENCE, runtime, until};
use crate::load::Load;

use zraft::client::{Client, Kv, LightSession};
use zraft::transport::{Credentials, TlsFiles};

/// Waits until a node has taken note of its new certificates, and how often it has by then.
fn until_renewed(nodes: &Nodes, number: usize, times: usize) {
    until("the certificates are in use", || {
        nodes.log(number).matches("the certificates were replaced").count() >= times
    });
}

fn stem(nodes: &Nodes, number: usize) -> String {
    nodes.address(number).as_str().replace(':', "-")
}

/// Replaces a file as `zraft cert --replace` does: at once.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn every_nodes_certificate_is_replaced_under_load_and_nobody_notices() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let load = Load::start(&nodes);
    for number in 0..3 {
        let cert = nodes.certs().join(format!("{}.pem", stem(&nodes, number)));
        let before = fs::read_to_string(&cert).unwrap();
        load.until_answered(200);
        nodes.run_ok(&["cert", "node", "--replace", nodes.address(number).as_str()]);
        assert_ne!(fs::read_to_string(&cert).unwrap(), before);
        until_renewed(&nodes, number, 1);
        load.until_answered(200);
        // Who comes now sees the new one.
        nodes.run_ok(&["status", nodes.address(number).as_str()]);
    }
    load.end(&nodes);
    nodes.until_equal("kv");
}

#[test]
fn a_ca_is_replaced_and_who_has_only_the_old_ones_word_is_let_in_no_more() {
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let certs = nodes.certs();
    let (ca, other) = (certs.join("ca.pem"), nodes.folder().join("other"));
    let old_ca = fs::read_to_string(&ca).unwrap();
    let old_admin = Credentials::load(&TlsFiles::in_folder(&certs, "admin")).unwrap();
    // In a folder of its own, since it is to replace the first.
    let of_other = ["--certs", other.to_str().unwrap()];
    nodes.run_ok(&[&["cert", "ca"], &of_other[..]].concat());
    nodes.run_ok(&[&["cert", "client", "admin", "--admin"], &of_other[..]].concat());
    let new_ca = fs::read_to_string(other.join("ca.pem")).unwrap();
    let load = Load::start(&nodes);
    // First both are trusted, then certificates are of the new one. The clients of the load know the old one alone.
    replace(&ca, &format!("{old_ca}{new_ca}"));
    (0..3).for_each(|number| until_renewed(&nodes, number, 1));
    load.until_answered(500);
    load.end(&nodes);
    runtime().block_on(async {
        let client = Client::new(old_admin.clone()).unwrap();
        let kv = Kv::new(LightSession::new(client.clone(), nodes.peers("kv")));
        kv.put("a", "1").await.unwrap();
        for number in 0..3 {
            let address = nodes.address(number).as_str();
            nodes.run_ok(&[&["cert", "node", address], &of_other[..]].concat());
            for suffix in ["-key.pem", ".pem"] {
                let name = format!("{}{suffix}", stem(&nodes, number));
                replace(&certs.join(&name), &fs::read_to_string(other.join(&name)).unwrap());
            }
            until_renewed(&nodes, number, 2);
        }
        // Nodes still speak to each other, and to this client on the connection that it has.
        kv.put("a", "2").await.unwrap();
        replace(&ca, &new_ca);
        (0..3).for_each(|number| until_renewed(&nodes, number, 3));
        kv.get("a").await.expect_err("the old CA is trusted no more");
        let new_admin = Credentials::load(&TlsFiles::in_folder(&other, "admin")).unwrap();
        client.renew(new_admin).unwrap();
        assert_eq!(kv.get("a").await.unwrap().unwrap().value, b"2");
    });
    let status = nodes.run_ok(&["status", "--certs", other.to_str().unwrap(), nodes.address(0).as_str()]);
    assert!(status.contains("kv@"), "{status}");
}

#[test]
fn a_revoked_certificate_is_let_in_no_more_and_its_connections_are_closed() {
    let mut nodes = Nodes::prepare(1);
    let certs = nodes.certs();
    nodes.run_ok(&["cert", "client", "mallory"]);
    // A list is there before it is needed.
    nodes.run_ok(&["cert", "client", "nobody"]);
    nodes.run_ok(&["cert", "revoke", certs.join("nobody.pem").to_str().unwrap()]);
    nodes.start_node_with(0, "crl = \"certs/crl.pem\"");
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].to_string();
    runtime().block_on(async {
        let kv = |name| {
            let credentials = Credentials::load(&TlsFiles::in_folder(&certs, name)).unwrap();
            Kv::new(LightSession::new(Client::new(credentials).unwrap(), nodes.peers("kv")))
        };
        let (alice, mallory, nobody) = (kv("alice"), kv("mallory"), kv("nobody"));
        nobody.put("a", "1").await.expect_err("it is revoked");
        alice.put("a", "1").await.unwrap();
        mallory.put("a", "2").await.unwrap();
        nodes.run_ok(&["cert", "revoke", certs.join("mallory.pem").to_str().unwrap()]);
        until_renewed(&nodes, 0, 1);
        let refused = tokio::time::timeout(PATIENCE, mallory.put("a", "3")).await.unwrap();
        let refused = refused.expect_err("it is revoked").to_string();
        assert!(refused.contains("not trusted") || refused.contains("revoked"), "{refused}");
        kv("mallory").get("a").await.expect_err("it is revoked");
        kv("nobody").get("a").await.expect_err("the list has grown");
        assert_eq!(alice.get("a").await.unwrap().unwrap().value, b"2");
    });
    assert!(nodes.log(0).contains("its certificate was revoked"), "{}", nodes.log(0));
    let foreign = nodes.folder().join("foreign");
    let of_foreign = ["--certs", foreign.to_str().unwrap()];
    nodes.run_ok(&[&["cert", "ca"], &of_foreign[..]].concat());
    nodes.run_ok(&[&["cert", "client", "eve"], &of_foreign[..]].concat());
    let refused = nodes.run_err(2, &["cert", "revoke", foreign.join("eve.pem").to_str().unwrap()]);
    assert!(refused.contains("another CA"), "{refused}");
    nodes.run_ok(&["kv", "get", &peer, "a"]);
}

#[test]
fn certificates_that_do_not_fit_together_leave_the_former_ones_in_use() {
    let nodes = Nodes::start(1);
    let key = nodes.certs().join(format!("{}-key.pem", stem(&nodes, 0)));
    let own = fs::read_to_string(&key).unwrap();
    replace(&key, &fs::read_to_string(nodes.certs().join("alice-key.pem")).unwrap());
    until("the node complains", || nodes.log(0).contains("the certificates on disk cannot be used"));
    nodes.run_ok(&["status", nodes.address(0).as_str()]);
    replace(&key, &own);
    nodes.run_ok(&["cert", "node", "--replace", nodes.address(0).as_str()]);
    until_renewed(&nodes, 0, 1);
    nodes.run_ok(&["status", nodes.address(0).as_str()]);
}

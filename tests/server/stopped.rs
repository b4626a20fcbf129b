//! The files of nodes that do not run: `zraft store check` and `zraft store dump`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Nodes, runtime, until};

/// All files below a folder, with their content.
fn files_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_in(&path));
        } else {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

fn data(nodes: &Nodes) -> String {
    nodes.data(0).display().to_string()
}

fn check(nodes: &Nodes) -> Value {
    let before = files_in(&nodes.data(0));
    let checked = serde_json::from_str(&nodes.run_ok(&["store", "check", "--json", &data(nodes)])).unwrap();
    assert!(before == files_in(&nodes.data(0)), "checking changes nothing");
    checked
}

/// Runs `zraft`, which must fail, and returns what it printed as results.
fn results_of_failed(nodes: &Nodes, code: i32, arguments: &[&str]) -> Value {
    let output = nodes.zraft(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let first = output.stdout.split(|byte| *byte == b'\n').next().unwrap();
    serde_json::from_slice(first).unwrap()
}

/// A node with a kv cluster that has taken snapshots, and the number of its last entry.
fn node_with_snapshots(settings: &str) -> (Nodes, u64) {
    let mut nodes = Nodes::start(1);
    assert!(nodes.terminate(0));
    nodes.start_node_with(0, settings);
    nodes.create("kv", "kv", &["--max-log-count", "20", "--kept-log-count", "5"]);
    let peer = nodes.peers("kv")[0].clone();
    let status = || nodes.status(&peer).unwrap();
    let write = |numbers: std::ops::Range<u32>| {
        runtime().block_on(async {
            let kv = nodes.kv("kv");
            for number in numbers {
                kv.put(format!("key {number}"), "x").await.unwrap();
            }
        });
    };
    write(0..70);
    until("a snapshot is taken", || {
        // One that took long stands where the next is due behind the last write.
        write(70..71);
        status()["snapshot"].as_u64().unwrap() >= 60
    });
    let last = status()["last"].as_u64().unwrap();
    (nodes, last)
}

#[test]
fn a_node_is_checked_when_it_was_stopped_and_when_it_was_killed_but_not_while_it_runs() {
    let (mut nodes, last) = node_with_snapshots("");
    let running = nodes.status(&nodes.peers("kv")[0]).unwrap();
    let refused = nodes.run_err(2, &["store", "check", &data(&nodes)]);
    assert!(refused.contains("log.redb is in use by a running node: stop the node first"), "{refused}");
    let refused = nodes.run_err(2, &["store", "dump", &data(&nodes)]);
    assert!(refused.contains("in use by a running node"), "{refused}");

    nodes.kill(0);
    let killed = check(&nodes);
    assert_eq!(killed["log"]["closed"], false);
    nodes.start_node(0);
    assert!(nodes.terminate(0));
    let stopped = check(&nodes);
    assert_eq!(stopped["log"]["closed"], true);

    for checked in [&killed, &stopped] {
        assert_eq!(checked["node"], nodes.address(0).as_str());
        assert_eq!(checked["damage"], Value::Array(Vec::new()));
        let peer = &checked["peers"][0];
        for name in ["peer", "incarnation", "cluster", "backend", "members"] {
            assert_eq!(peer[name], running[name], "{name}");
        }
        assert!(peer["last"].as_u64().unwrap() >= last && peer["term"].as_u64().unwrap() >= 1, "{peer}");
        assert!(peer["first"].as_u64().unwrap() > 1 && peer["log_bytes"].as_u64().unwrap() > 100, "{peer}");
        assert_eq!(peer["vote"], peer["incarnation"], "it voted for itself");
        let snapshot = &checked["snapshots"][0];
        assert_eq!((&snapshot["role"], &snapshot["index"]), (&Value::from("current"), &peer["snapshot"]));
        assert_eq!((&snapshot["cluster"], &snapshot["backend"]), (&peer["cluster"], &peer["backend"]));
        assert_eq!(checked["components"][0]["digest"], peer["backend"]);
    }

    let text = nodes.run_ok(&["store", "check", &data(&nodes)]);
    let name = nodes.peers("kv")[0].to_string();
    for part in [&name, "closed", "term ", "committed ", "KiB, written ", "s ago", "all files are whole"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn each_damaged_file_is_named_and_the_exit_code_tells() {
    let (mut nodes, _) = node_with_snapshots("");
    assert!(nodes.terminate(0));
    let folder = nodes.data(0);
    let is_snapshot = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "snap");
    let files = files_in(&folder);
    let snapshot = files.keys().find(is_snapshot).unwrap();
    let component = files.keys().find(|path| path.parent().unwrap().ends_with("components")).unwrap();
    for path in [snapshot, component] {
        let mut damaged = files[path].clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(path, damaged).unwrap();
    }
    let checked = results_of_failed(&nodes, 1, &["store", "check", "--json", &data(&nodes)]);
    let damaged: Vec<_> = checked["damage"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(damaged, [snapshot.to_str().unwrap(), component.to_str().unwrap()]);
    assert_eq!(checked["peers"].as_array().unwrap().len(), 1, "the log is whole");
    let output = nodes.zraft(&["store", "check", &data(&nodes)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("DAMAGED {} is damaged: the checksum", snapshot.display())), "{text}");
    assert!(text.contains(&format!("DAMAGED {} is damaged: its digest is", component.display())), "{text}");

    // A log that is no database any more stops neither the check nor the rest of it.
    let log = folder.join("log.redb");
    fs::write(&log, &files[&log][..5000]).unwrap();
    let checked = results_of_failed(&nodes, 1, &["store", "check", "--json", &data(&nodes)]);
    assert_eq!(checked["damage"].as_array().unwrap().len(), 3, "{checked}");
    assert_eq!(checked["damage"][0]["path"], log.to_str().unwrap());
    let refused = nodes.run_err(1, &["store", "dump", &data(&nodes)]);
    assert!(refused.contains("log.redb is damaged"), "{refused}");
}

#[test]
fn what_is_not_there_is_said() {
    let (mut nodes, _) = node_with_snapshots("");
    let nowhere = nodes.folder().display().to_string();
    for command in ["check", "dump"] {
        let absent = nodes.run_err(5, &["store", command, &nowhere]);
        assert!(absent.contains("holds no data of a node"), "{absent}");
    }
    assert!(nodes.terminate(0));
    let absent = nodes.run_err(5, &["store", "dump", &data(&nodes), "--peer", "another"]);
    assert!(absent.contains("no peer 'another'"), "{absent}");
    let log = nodes.data(0).join("log.redb");
    fs::remove_file(&log).unwrap();
    let checked = results_of_failed(&nodes, 1, &["store", "check", "--json", &data(&nodes)]);
    assert!(checked["damage"][0]["reason"].as_str().unwrap().contains("holds no log"), "{checked}");
}

#[test]
fn a_log_is_shown_entry_by_entry() {
    let mut nodes = Nodes::prepare(1);
    // Nothing is written by itself at a time of its own.
    nodes.start_node_with(0, "feature_level = 1");
    nodes.create("kv", "kv", &[]);
    nodes.create("other", "kv", &[]);
    let (peer, other) = (nodes.peers("kv")[0].to_string(), nodes.peers("other")[0].to_string());
    nodes.run_ok(&["kv", "put", &peer, "greeting", &format!("hello {}", "again ".repeat(40))]);
    nodes.run_ok(&["kv", "put", &other, "x", "y"]);
    nodes.kill(0);
    let before = files_in(&nodes.data(0));

    let text = nodes.run_ok(&["store", "dump", &data(&nodes), "--peer", "kv"]);
    assert!(text.contains("  1@1  20") && text.contains(&format!("membership {peer}")), "{text}");
    let write = text.lines().last().unwrap();
    assert!(write.contains("Z  write 2") && write.contains("greeting") && write.contains("hello again"), "{write}");
    assert!(write.ends_with('…') && write.len() < 200, "{write}");
    assert!(!text.contains(&other), "{text}");

    let lines = |arguments: &[&str]| -> Vec<Value> {
        let dir = data(&nodes);
        let dump = [&["store", "dump", "--json", &dir], arguments].concat();
        nodes.run_ok(&dump).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines(&["--peer", "kv"]);
    assert_eq!(all.len(), 3, "{all:?}");
    let kinds: Vec<_> = all.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["membership", "noop", "write"]);
    assert_eq!((&all[0]["voters"][0], &all[2]["index"]), (&Value::from(peer.as_str()), &Value::from(3)));
    let incarnation = checked_incarnation(&nodes, &other);
    let part = lines(&["--peer", &incarnation, "--from", "2", "--to", "2"]);
    assert_eq!((part.len(), &part[0]["peer"]), (1, &Value::from(other.as_str())));
    assert_eq!(lines(&["--from", "4"]), Vec::<Value>::new());
    assert_eq!(lines(&[]).len(), 6);
    assert!(before == files_in(&nodes.data(0)), "showing changes nothing");
}

fn checked_incarnation(nodes: &Nodes, peer: &str) -> String {
    let checked = check(nodes);
    let is_it = |found: &&Value| found["peer"] == peer;
    checked["peers"].as_array().unwrap().iter().find(is_it).unwrap()["incarnation"].as_str().unwrap().to_owned()
}

#[test]
fn snapshots_are_archived_as_they_are_replaced_and_checked_with_the_rest() {
    let (mut nodes, _) = node_with_snapshots("snapshot_backup = true\nsnapshot_backup_count = 2");
    assert!(nodes.terminate(0));
    let checked = check(&nodes);
    let snapshots = checked["snapshots"].as_array().unwrap();
    let archived: Vec<_> = snapshots.iter().filter(|snapshot| snapshot["role"] == "archived").collect();
    let indexes: Vec<_> = archived.iter().map(|snapshot| snapshot["index"].as_u64().unwrap()).collect();
    let current = checked["peers"][0]["snapshot"].as_u64().unwrap();
    assert!(indexes.len() == 2 && indexes[0] < current && indexes[1] == current, "{indexes:?}");
    let path = archived[0]["path"].as_str().unwrap();
    let cluster = checked["peers"][0]["cluster"].as_str().unwrap();
    assert!(path.contains(&format!("snapshots/archive/{cluster}/")), "{path}");

    let mut content = fs::read(path).unwrap();
    content[100] ^= 8;
    fs::write(path, content).unwrap();
    let checked = results_of_failed(&nodes, 1, &["store", "check", "--json", &data(&nodes)]);
    assert_eq!(checked["damage"][0]["path"], path);
    // The node does not depend on it.
    nodes.start_node(0);
}

#[test]
fn a_node_refuses_the_files_of_another_and_files_that_are_damaged() {
    let mut nodes = Nodes::start(2);
    assert!(nodes.terminate(0) && nodes.terminate(1));
    let config = nodes.folder().join("node-1.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("data-1", "data-0")).unwrap();
    let serve = ["serve", "--config", &config.display().to_string()];
    let refused = nodes.run_err(1, &serve);
    let belongs = format!("belongs to node {}, this is {}", nodes.address(0), nodes.address(1));
    assert!(refused.contains("data-0") && refused.contains(&belongs), "{refused}");

    fs::write(&config, text).unwrap();
    let log = nodes.data(1).join("log.redb");
    let mut content = fs::read(&log).unwrap();
    content.truncate(6000);
    fs::write(&log, content).unwrap();
    let refused = nodes.run_err(1, &serve);
    assert!(refused.contains("data-1/log.redb is damaged"), "{refused}");
}

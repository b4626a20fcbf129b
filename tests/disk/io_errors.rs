//! A sync fails, or a write: what was written before may or may not be on the disk, so the node stops at once.

use std::path::Path;

use crate::ext4::Ext4;
use crate::harness::{Nodes, until};
use crate::require;
use crate::writers::{Knowledge, Writers};

const IMAGE_BYTES: u64 = 256 << 20;

#[test]
fn a_failing_log_stops_the_node_before_it_acknowledges_anything_more() {
    require(&["mkfs.ext4", "mount", "umount", "strace"]);
    let disk = Ext4::mount_new(IMAGE_BYTES);
    let mut nodes = Nodes::prepare(1);
    nodes.keep_data_in(&disk.path());
    nodes.start_node(0);
    nodes.create("kv", "kv", &[]);
    let knowledge = Knowledge::default();
    for (call, number) in [("fdatasync", 20), ("fdatasync", 60), ("pwrite64", 300)] {
        assert!(nodes.terminate(0), "{}", nodes.log(0));
        let trace = nodes.folder().join(format!("{call}-{number}.strace"));
        let fault = format!("inject={call}:error=EIO:when={number}");
        let strace =
            ["strace", "-D", "-f", "-o", trace.to_str().unwrap(), "-e", "trace=fdatasync,pwrite64", "-e", &fault];
        nodes.start_node_under(&strace, 0, "");
        let before = knowledge.acknowledged();
        let writers = Writers::start(&nodes, &knowledge);
        assert_eq!(nodes.wait_for_end(0).code(), Some(1), "{}", nodes.log(0));
        writers.stop();
        let acknowledged = knowledge.acknowledged() - before;

        let log = nodes.log(0);
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("log.redb") && last.contains("Input/output error"), "{last}");
        assert!(last.contains("check the disk, then restart the node"), "{last}");
        assert_eq!(syncs_after_the_fault(&trace), 0, "the node went on as if nothing had been");

        nodes.start_node(0);
        let verdict = knowledge.check(&nodes);
        println!(
            "{call} {number} failed: {acknowledged} writes acknowledged and all there, {verdict:?} of those under way"
        );
    }
}

/// How many syncs succeeded after the first call that was made to fail.
fn syncs_after_the_fault(trace: &Path) -> usize {
    let trace = std::fs::read_to_string(trace).unwrap();
    let (_, after) = trace.split_once("(INJECTED)").expect("a call was made to fail");
    after.lines().filter(|line| line.contains("fdatasync") && line.trim_end().ends_with("= 0")).count()
}

#[test]
fn a_failing_snapshot_is_no_loss_and_the_log_is_kept() {
    require(&["mkfs.ext4", "mount", "umount", "strace"]);
    let disk = Ext4::mount_new(IMAGE_BYTES);
    let mut nodes = Nodes::prepare(1);
    nodes.keep_data_in(&disk.path());
    nodes.start_node(0);
    nodes.create("kv", "kv", &["--max-log-count", "40", "--kept-log-count", "5"]);
    assert!(nodes.terminate(0), "{}", nodes.log(0));
    // A start takes some, for folders. After it only snapshots sync this way.
    let trace = nodes.folder().join("start.strace");
    nodes.start_node_under(&["strace", "-D", "-f", "-o", trace.to_str().unwrap(), "-e", "trace=fsync"], 0, "");
    assert!(nodes.terminate(0), "{}", nodes.log(0));
    let of_start = std::fs::read_to_string(&trace).unwrap().matches(" fsync(").count();
    let trace = nodes.folder().join("fsync.strace");
    let fault = format!("inject=fsync:error=EIO:when={}", of_start + 1);
    nodes.start_node_under(&["strace", "-D", "-f", "-o", trace.to_str().unwrap(), "-e", &fault], 0, "");
    let knowledge = Knowledge::default();
    let writers = Writers::start(&nodes, &knowledge);
    writers.until_acknowledged(&knowledge, 200);
    writers.stop();
    let log = nodes.log(0);
    assert!(log.contains("no snapshot could be taken") && log.contains("Input/output error"), "{log}");
    let taken = |nodes: &Nodes| nodes.status(&nodes.peers("kv")[0]).unwrap()["snapshot"].as_u64() > Some(0);
    until("a later one is taken", || taken(&nodes));
    nodes.kill(0);
    nodes.start_node(0);
    knowledge.check(&nodes);
}

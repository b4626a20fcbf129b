//! The disk fills up: writes are refused with a reason, reads go on, and writes too once there is room again.

use std::fs::File;
use std::io::Write as _;

use crate::ext4::Ext4;
use crate::harness::{Nodes, runtime, until};
use crate::require;
use crate::writers::{Knowledge, Writers};

const IMAGE_BYTES: u64 = 128 << 20;
/// Below so much room a node refuses writes.
const MIN_FREE: &str = "min_free_bytes = 16_777_216";

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    require(&["mkfs.ext4", "mount", "umount"]);
    let disk = Ext4::mount_new(IMAGE_BYTES);
    let mut nodes = Nodes::prepare(1);
    nodes.keep_data_in(&disk.path());
    nodes.start_node_with(0, MIN_FREE);
    nodes.create("kv", "kv", &["--max-log-count", "40", "--kept-log-count", "5"]);
    let peer = nodes.peers("kv")[0].to_string();
    let knowledge = Knowledge::default();

    // Once up to the bound, then to the last byte.
    for all in [false, true] {
        let writers = Writers::start(&nodes, &knowledge);
        writers.until_acknowledged(&knowledge, 50);
        let ballast = disk.path().join("ballast");
        fill(&ballast, all);
        until("writes are refused", || {
            let output = nodes.zraft(&["kv", "put", &peer, "other", "1"]);
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            !output.status.success() && complaint.contains(&format!("the disk of {} is full", nodes.address(0)))
        });
        let entries = runtime().block_on(async { nodes.kv("kv").list("", usize::MAX).await.unwrap() });
        assert!(!entries.is_empty(), "reads go on");

        std::fs::remove_file(&ballast).unwrap();
        until("writes go on", || nodes.zraft(&["kv", "put", &peer, "other", "2"]).status.success());
        nodes.run_ok(&["kv", "del", &peer, "other"]);
        writers.stop();
        println!("filled, refused and resumed: {} writes acknowledged", knowledge.acknowledged());
    }

    nodes.kill(0);
    nodes.start_node(0);
    let verdict = knowledge.check(&nodes);
    println!("all there after a kill, {verdict:?} of those under way");
}

/// Leaves less room than the node wants, or none at all.
fn fill(ballast: &std::path::Path, all: bool) {
    let mut file = File::create(ballast).unwrap();
    let leave_bytes = if all { 0 } else { 8 << 20 };
    let block = vec![7; 64 << 10];
    while all || free_bytes(ballast) > leave_bytes {
        if file.write_all(&block).is_err() {
            break;
        }
    }
    file.sync_all().unwrap();
}

/// What `df` says of the file system of a file.
fn free_bytes(path: &std::path::Path) -> u64 {
    let output = std::process::Command::new("df").args(["--output=avail", "-B1"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().trim().parse().unwrap()
}

//! A real node on a real file system that fails it: power cuts, syncs that fail, a full disk.
//!
//! ```text
//! cargo test --test disk -- --nocapture                            # a minute
//! DISK_CUTS=200 cargo test --test disk power -- --nocapture        # a long run of power cuts; DISK_SEED=N chooses others
//! ```
//!
//! Needs root on Linux, loop devices, `mkfs.ext4`, `perl` and `strace`; so `cargo test` leaves it out. Each test mounts an
//! image of its own below `target/`, and takes it away again.

mod ext4;
mod full;
#[path = "../server/harness.rs"]
#[expect(dead_code, reason = "the tests of the server need more of it")]
mod harness;
mod io_errors;
mod power;
mod writers;

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

/// Refuses to go on where the tests cannot run.
fn require(tools: &[&str]) {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    assert!(is_root, "these tests mount file systems: run them as root");
    for tool in tools {
        let found = Command::new("which").arg(tool).stdout(Stdio::null()).status();
        assert!(found.is_ok_and(|status| status.success()), "these tests need {tool}: install it");
    }
}

//! Power cuts under a node's store, which runs whole on a disk in memory: the log in redb, snapshots, components.
//! Everything follows from a seed. A run of any number of seeds, in parts if need be; 32000 are a million power cuts:
//!
//! ```text
//! CUTS_FROM=0 CUTS_SEEDS=32000 \
//!     cargo test --release --no-default-features --features store --test core power_cuts -- --nocapture
//! ```
//!
//! After each cut the store is opened and compared with a model: what was acknowledged is there, and of the round in
//! doubt all or nothing, for all peers; the snapshot that a peer refers to is whole; nothing is left lying about. It
//! prints how many cuts there were at what, and fails if one never was. A failure prints its seed.

mod damage;
mod model;
mod node;
mod story;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use node::Node;
pub use node::options;

use crate::sim::faults::Counts;

/// The default run.
const SEEDS: u64 = 350;
/// How often a node of a seed is started.
const LIVES: u64 = 40;
/// With so many seeds, each kind of cut must have occurred.
const SEEDS_FOR_ALL_KINDS: u64 = 200;
/// Seeds after which a long run says where it is.
const REPORT_EVERY: u64 = 1000;

/// What every long enough run has to see.
const MUST_OCCUR: [&str; 33] = [
    "killed",
    "cut at a write of a file",
    "cut at a write of the log",
    "cut at the creation of a file",
    "cut at the creation of a folder",
    "cut at the removal of a file",
    "cut at the removal of a folder",
    "cut at the renaming of a file",
    "cut at the resizing of the log",
    "cut at the sync of a file",
    "cut at the sync of a folder",
    "cut at the sync of the log",
    "cut between two changes",
    "cut while closing",
    "cut while committing",
    "cut while committing when a purge is due",
    "cut while creating a peer",
    "cut while idle",
    "cut while keeping a component",
    "cut while opening",
    "cut while opening again",
    "cut while opening for the third time",
    "cut while receiving a snapshot",
    "cut while referring to a snapshot",
    "cut while removing a component",
    "cut while removing a peer",
    "cut while removing old snapshots",
    "cut while writing a snapshot",
    "power cut",
    "round in doubt: kept",
    "round in doubt: lost",
    "snapshot received in several goes",
    "snapshots left over",
];

fn run(seed: u64) -> Counts {
    let mut node = Node::new(seed);
    (0..LIVES).for_each(|_| node.live());
    while node.open().is_none() {
        node.cut();
    }
    node.counts
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn power_cuts() {
    let (from, seeds) = (number("CUTS_FROM", 0), number("CUTS_SEEDS", SEEDS));
    let (start, mut counts) = (Instant::now(), Counts::default());
    for seed in from..from + seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(found) => counts.add(&found),
            Err(panic) => {
                eprintln!(
                    "\nthe store broke its promise with seed {seed}; again:\nCUTS_FROM={seed} CUTS_SEEDS=1 \
                     cargo test --no-default-features --features store --test core power_cuts -- --nocapture\n"
                );
                std::panic::resume_unwind(panic);
            }
        }
        let done = seed + 1 - from;
        if done == seeds || done.is_multiple_of(REPORT_EVERY) {
            let cuts = counts.of("power cut");
            let rate = cuts as f64 / start.elapsed().as_secs_f64();
            println!("{done} seeds, {cuts} power cuts, {rate:.0} a second; next: CUTS_FROM={}", seed + 1);
        }
    }
    println!("{counts}");
    if seeds >= SEEDS_FOR_ALL_KINDS {
        let missing: Vec<_> = MUST_OCCUR.into_iter().filter(|what| counts.of(what) == 0).collect();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
}

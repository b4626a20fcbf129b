//! Random clusters under random faults, checked after every step against what Raft promises. Everything follows from
//! a seed. A run of any number of seeds, in parts if need be:
//!
//! ```text
//! SIM_FROM=0 SIM_SEEDS=100000 SIM_STEPS=10000 \
//!     cargo test --release --no-default-features --test core simulation -- --nocapture
//! ```
//!
//! With the feature `store`, the peers of every tenth seed keep their disks in the real store, on simulated disks, and
//! crashes are power cuts.
//!
//! It prints how often each fault occurred, and fails if one never did. A failure prints its seed; with `SIM_TRACE=1`
//! that seed tells its whole story.

pub mod faults;
mod neighbours;
mod promises;
#[cfg(feature = "store")]
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use world::Sim;

use crate::sim::faults::{Counts, MUST_OCCUR};

/// The default run.
const SEEDS: u64 = 600;
const STEPS: u64 = 2000;
/// With so many seeds, each fault must have occurred.
const SEEDS_FOR_ALL_FAULTS: u64 = 100;
/// Seeds after which a long run says where it is.
const REPORT_EVERY: u64 = 1000;

/// What a seed's run has come to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    committed: u64,
    counts: Counts,
}

fn run(seed: u64, steps: u64, tell: bool) -> Outcome {
    let mut sim = Sim::new(seed, tell);
    (0..steps).for_each(|_| sim.step());
    sim.check_liveness();
    Outcome { trace: sim.trace.digest, committed: sim.promises.committed(), counts: sim.counts }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn simulation() {
    let (from, seeds, steps) = (number("SIM_FROM", 0), number("SIM_SEEDS", SEEDS), number("SIM_STEPS", STEPS));
    let tell = number("SIM_TRACE", 0) > 0;
    let (start, mut counts, mut committed) = (Instant::now(), Counts::default(), 0);
    for seed in from..from + seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed, steps, tell))) {
            Ok(outcome) => {
                committed += outcome.committed;
                counts.add(&outcome.counts);
            }
            Err(panic) => {
                eprintln!(
                    "\nthe promise was broken by seed {seed}; its story:\nSIM_TRACE=1 SIM_FROM={seed} SIM_SEEDS=1 \
                     SIM_STEPS={steps} cargo test --no-default-features --test core simulation -- --nocapture\n"
                );
                std::panic::resume_unwind(panic);
            }
        }
        let done = seed + 1 - from;
        if done == seeds || done.is_multiple_of(REPORT_EVERY) {
            let rate = done as f64 / start.elapsed().as_secs_f64();
            println!("{done} seeds of {steps} steps, {rate:.1} a second; next: SIM_FROM={}", seed + 1);
        }
    }
    println!("{committed} entries committed\n{counts}");
    if seeds >= SEEDS_FOR_ALL_FAULTS {
        let of_stores = cfg!(feature = "store").then_some("crash of a real store");
        let missing: Vec<_> = MUST_OCCUR.into_iter().chain(of_stores).filter(|what| counts.of(what) == 0).collect();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..100 {
        assert_eq!(run(seed, 300, false), run(seed, 300, false), "seed {seed}");
    }
}

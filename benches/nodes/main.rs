//! Measures real nodes: three processes of the real binary on this machine, and a client.
//!
//! ```text
//! cargo bench --bench nodes -- state         # snapshots of 1 MB, 100 MB and 1 GB of state under writes; ten minutes
//! cargo bench --bench nodes -- state 100     # of so many MB
//! cargo bench --bench nodes -- transfer      # a snapshot of 1 GB sent to a node, beside plain TCP; five minutes
//! cargo bench --bench nodes -- transfer 100  # of so many MB
//! cargo bench --bench nodes -- neighbours    # writes beside clusters whose component does its worst; three minutes
//! cargo bench --bench nodes -- hostile       # writes beside clients that do their worst; five minutes
//! cargo bench --bench nodes -- hostile unread  # of one kind: garbage, forged, reconnects, unfinished, unread
//! cargo bench --bench nodes -- native        # writes with the kv component, and with the same code natively; two minutes
//! cargo bench --bench nodes -- failover      # without a write, when the leader's node dies or is stopped; three minutes
//! cargo bench --bench nodes -- idle          # 1, 100 and 1,000 clusters that nobody uses; ten minutes
//! ```
//!
//! It works in a folder of its own under `target/`, or under `ZRAFT_BENCH_DIR`, which must be on a real disk. A state of 1 GB
//! takes up to 12 GB of memory and 15 GB of disk there. All three nodes and the client share this machine's processors, and
//! the three make their snapshots at the same time; other load disturbs the figures.
//!
//! Ends with exit code 1 when a target is missed.

mod failover;
#[path = "../../tests/server/harness.rs"]
#[expect(dead_code, reason = "the tests of the server need more of it")]
mod harness;
mod hostile;
mod idle;
mod in_place;
#[path = "../common/judge.rs"]
mod judge;
mod load;
#[path = "../common/native.rs"]
mod native;
mod neighbours;
mod processes;
mod state;
mod transfer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tempfile::TempDir;

/// That of the program, for the nodes that this one runs in its place.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: cargo bench --bench nodes -- state [MB] | transfer [MB] | neighbours | hostile [KIND] | failover | native | idle";

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let held = match arguments.as_slice() {
        ["state"] => state::measure(folder().path(), &state::MEGABYTES),
        ["state", megabytes] => state::measure(folder().path(), &[megabytes.parse().expect(USAGE)]),
        ["transfer"] => transfer::measure(folder().path(), transfer::MEGABYTES),
        ["transfer", megabytes] => transfer::measure(folder().path(), megabytes.parse().expect(USAGE)),
        ["neighbours"] => neighbours::measure(folder().path()),
        ["hostile"] => hostile::measure(folder().path(), ""),
        ["hostile", kind] => hostile::measure(folder().path(), kind),
        ["idle"] => idle::measure(folder().path()),
        ["failover"] => failover::measure(folder().path()),
        ["native"] => in_place::measure(folder().path()),
        [in_place::NODE, kind, .., config] => in_place::serve(kind, Path::new(config)),
        // What `cargo bench` runs without a choice should not take a quarter of an hour.
        [] => {
            println!("{USAGE}");
            true
        }
        _ => panic!("{USAGE}, not {arguments:?}"),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn folder() -> TempDir {
    let above = std::env::var_os("ZRAFT_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    std::fs::create_dir_all(&above).unwrap();
    TempDir::with_prefix_in("nodes-", PathBuf::from(above)).unwrap()
}

//! Measures the store on a real disk, through its public face, so that its queue and its thread are in the figures.
//!
//! ```text
//! cargo bench --bench store            # commits: the store, one key an entry and the raw disk, side by side; a minute
//! cargo bench --bench store -- open    # how long a log of 1 GB takes to open after kill -9, and in what memory
//! ```
//!
//! It works in a folder of its own under `target/`, or under `ZRAFT_BENCH_DIR`, which must be on a real disk: on tmpfs a sync
//! costs nothing. Each takes up to 5 GB there and gives them back. Other load on the machine disturbs the figures; the
//! targets are ratios of neighbours in time, and medians of several rounds, so that they stand it.
//!
//! Ends with exit code 1 when a target is missed.

mod commits;
#[path = "../common/judge.rs"]
mod judge;
mod reopen;
mod subjects;

use std::path::PathBuf;
use std::process::ExitCode;

use tempfile::TempDir;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let held = match arguments.as_slice() {
        [] => commits::measure(folder().path()),
        ["open"] => reopen::measure(folder().path()),
        [child @ ("write" | "reopen"), dir, shape] => reopen::child(child, dir.as_ref(), shape.parse().unwrap()),
        _ => panic!("usage: cargo bench --bench store [-- open], not {arguments:?}"),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn folder() -> TempDir {
    let above = std::env::var_os("ZRAFT_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    std::fs::create_dir_all(&above).unwrap();
    TempDir::with_prefix_in("store-", PathBuf::from(above)).unwrap()
}

//! Real nodes, a network and disks that fail them, and clients whose every answer is checked.
//!
//! ```text
//! cargo test --test chaos -- --seconds 600            # faults of all kinds, from a new seed
//! cargo test --test chaos -- --seed 7 --only kill9,wipe
//! ```
//!
//! Needs root on Linux, `/dev/net/tun`, `ip`, `mkfs.ext4`, `strace` and libfaketime; so `cargo test` leaves it out.
//! docs/chaos.md tells what it does and how to read what it writes.

mod admin;
mod check;
mod clients;
mod clock;
mod disk;
mod faults;
mod history;
mod nemesis;
mod net;
mod nodes;
mod plan;
mod report;
mod run;
mod scratch;
mod shell;
mod timeline;
mod verdict;
mod work;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::plan::Kind;

/// Runs nodes under faults, with clients whose answers are checked. Exits 0 only if every promise was kept and every kind of
/// fault has bitten.
#[derive(Debug, Parser)]
pub struct Options {
    /// What the faults and the clients follow from; a new one if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How long there are faults, in seconds; longer if not every kind has bitten by then.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// How many nodes there are.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5))]
    nodes: u8,
    /// The zraft binary.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_zraft"))]
    binary: PathBuf,
    /// The folder for the report, which must not be there yet; else one below `target/chaos`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// These kinds of faults alone.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// The bug that the nodes are told to have; the binary must be built with the feature `planted`.
    #[arg(long)]
    planted: Option<String>,
    /// Only checks what an earlier run has recorded: its `history.jsonl`.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(history) = &options.check {
        return exit_code(run::check_again(history));
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    let outcome = tasks.block_on(&runtime, async {
        tokio::select! {
            outcome = run::run(&options, seed) => outcome,
            error = interruption() => Err(error),
        }
    });
    // They hold nodes and namespaces, which go with them.
    drop(tasks);
    exit_code(outcome)
}

fn exit_code(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("no verdict: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits until somebody wants the run to end.
async fn interruption() -> String {
    let signals = signal(SignalKind::interrupt()).and_then(|first| Ok((first, signal(SignalKind::terminate())?)));
    match signals {
        Ok((mut interrupt, mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            "interrupted".to_owned()
        }
        Err(error) => format!("cannot wait for signals: {error}"),
    }
}

//! The `zraft` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    zraft::cli::run(zraft::cli::Arguments::parse())
}

//! The `zraft` program.

use std::process::ExitCode;

use clap::Parser;

/// It hardly ever asks the kernel for memory. That would wait while a large instance of a component is dropped, and with it
/// everybody whom the network's thread serves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    zraft::cli::run(zraft::cli::Arguments::parse())
}

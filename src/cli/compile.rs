//! The hidden command of the processes in which a node has components compiled.

use clap::Args;

use crate::cli::output::Failure;
use crate::wasm::{self, Compiler};

#[derive(Debug, Args)]
pub(super) struct Compile {
    /// Most address space, in bytes.
    #[arg(long, value_name = "BYTES")]
    memory_bytes: u64,
}

impl Compile {
    pub(super) fn run(self) -> Result<(), Failure> {
        wasm::compile_for_parent(self.memory_bytes).map_err(|error| Failure::failed(error.to_string()))
    }
}

/// Who compiles for the nodes that this program runs: children of it.
pub(super) fn compiler() -> Result<Compiler, Failure> {
    let unknown = |error| Failure::failed(format!("the system does not tell which program runs: {error}"));
    Compiler::this_program().map_err(unknown)
}

//! `zraft backend`: what the author of a backend needs.

mod build;
mod check;
mod inspect;
mod language;
mod new;

use std::path::PathBuf;

use clap::Subcommand;

use crate::cli::output::{Failure, Output};

#[derive(Debug, Subcommand)]
pub(super) enum Backend {
    /// Begin a backend: a small counter that builds as it is.
    New(new::New),
    /// Make a component of a backend's sources.
    Build(build::Build),
    /// Show what a component is and asks for. Exits 1 if a node refuses it.
    Inspect(inspect::Inspect),
    /// Prove that a component fits the contract and behaves: it starts, survives its commands, and is deterministic.
    Check(check::Check),
}

impl Backend {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        match self {
            Self::New(new) => new.run(output),
            Self::Build(build) => build.run(output),
            Self::Inspect(inspect) => inspect.run(output),
            Self::Check(check) => check.run(output),
        }
    }
}

/// Reads a file that the person who typed the command named.
fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}

//! `zraft store`: the files of a node that does not run.

mod check;
mod dump;

use clap::Subcommand;

use crate::cli::output::{Failure, Output};
use crate::store::StoreError;

#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Check every file of a stopped node and show what is in it. Changes nothing. Exits 1 if something is damaged.
    Check(check::Check),
    /// Show the entries in the log of a stopped node. Changes nothing.
    Dump(dump::Dump),
}

impl Store {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        match self {
            Self::Check(check) => check.run(output),
            Self::Dump(dump) => dump.run(output),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NothingThere { .. } => Self::absent(error.to_string()),
            StoreError::InUse { path } => Self::usage(format!(
                "{} is in use by a running node: stop the node first, or ask it with `zraft status`",
                path.display()
            )),
            error => Self::failed(error.to_string()),
        }
    }
}

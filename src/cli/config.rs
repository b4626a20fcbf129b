//! `zraft config`: the settings of a node, looked at without starting it.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::cli::compile;
use crate::cli::output::{Failure, Output};
use crate::node::{Config, Settings};

/// A configuration with every setting in it.
const EXAMPLE: &str = include_str!("../../docs/zraft.toml");

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a node's settings and certificates as `zraft serve` would.
    Check {
        /// The TOML file.
        #[arg(value_name = "FILE", env = "ZRAFT_CONFIG")]
        config: PathBuf,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Print a configuration with every setting, its meaning and default.
    Example,
}

impl ConfigCommand {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        match self {
            Self::Check { config, settings } => {
                let settings = settings.or(Settings::load(&config)?);
                let Config { node, log_dir, snapshot_dir, tuning, .. } = settings.into_config(compile::compiler()?)?;
                let text = format!(
                    "a node {node} could start with {}\n  log in {}\n  snapshots in {}\n  {tuning:?}",
                    config.display(),
                    log_dir.display(),
                    snapshot_dir.display(),
                );
                output.result(text, &json!({ "node": node.as_str(), "valid": true }));
            }
            Self::Example => output.result(EXAMPLE.trim_end(), &json!({ "example": EXAMPLE })),
        }
        Ok(())
    }
}

//! Python: componentize-py.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::language::Language;
use super::{find, run};
use crate::cli::output::Failure;

const TOOL: &str = "componentize-py";

/// Builds the module `machine` in a folder, and returns the file that came of it.
pub(super) fn build(dir: &Path, target: &Path) -> Result<PathBuf, Failure> {
    let own = std::path::absolute(dir.join(".venv/bin").join(TOOL)).ok().filter(|tool| tool.is_file());
    let tool = own.or_else(|| find(TOOL)).ok_or_else(|| {
        let command = Language::Python.preparation().unwrap_or_default();
        Failure::failed(format!("building Python needs {TOOL}; in {}: {command}", dir.display()))
    })?;
    let arguments = ["--wit-path", "wit", "--world", "backend", "componentize", "machine", "--output"];
    run(dir, Command::new(tool).args(arguments).arg(target))?;
    Ok(target.to_owned())
}

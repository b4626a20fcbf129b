//! JavaScript: componentize-js.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::language::Language;
use super::{find, run};
use crate::cli::output::Failure;

const TOOL: &str = "componentize-js";

/// Builds `machine.js` in a folder, and returns the file that came of it.
pub(super) fn build(dir: &Path, target: &Path) -> Result<PathBuf, Failure> {
    if find("node").is_none() {
        return Err(Failure::failed("building JavaScript needs node and npm: apt-get install nodejs npm"));
    }
    let tool = std::path::absolute(dir.join("node_modules/.bin").join(TOOL)).ok().filter(|tool| tool.is_file());
    let tool = tool.ok_or_else(|| {
        let command = Language::Js.preparation().unwrap_or_default();
        Failure::failed(format!("building JavaScript needs {TOOL}; in {}: {command}", dir.display()))
    })?;
    // What is disabled would be imported, and a backend has no network.
    let mut command = Command::new(tool);
    command.args(["machine.js", "--wit", "wit", "--world-name", "backend", "--out"]).arg(target);
    run(dir, command.args(["--disable", "http", "fetch-event"]))?;
    Ok(target.to_owned())
}

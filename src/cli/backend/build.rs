//! `zraft backend build`: has the language's own tools make a component of a project.

mod c;
mod js;
mod python;
mod rust;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::json;

use super::language::Language;
use super::read;
use crate::cli::output::{Failure, Output};
use crate::cli::units::size;
use crate::types::Digest;
use crate::wasm;

#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// The project's folder.
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where the component goes [default: `backend.wasm` in the project].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Build {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let language = Language::of(&self.dir)?;
        let file = self.output.unwrap_or_else(|| inside(&self.dir, "backend.wasm"));
        // The tools run in the project's folder.
        let target = std::path::absolute(&file)
            .map_err(|error| Failure::usage(format!("cannot write {}: {error}", file.display())))?;
        let made = match language {
            Language::Rust => rust::build(&self.dir)?,
            Language::C => c::build(&self.dir, &target)?,
            Language::Python => python::build(&self.dir, &target)?,
            Language::Js => js::build(&self.dir, &target)?,
        };
        let component = wasm::to_component(read(&made)?)
            .map_err(|error| Failure::failed(format!("what was built is no backend: {error}")))?;
        std::fs::write(&target, &component)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
        let (size_bytes, digest) = (component.len() as u64, Digest::of(&component));
        output.result(
            format_args!("built {} from {language}: {}, digest {digest}", file.display(), size(size_bytes)),
            &json!({
                "file": file,
                "language": language.to_string(),
                "size_bytes": size_bytes,
                "digest": digest.to_string(),
            }),
        );
        Ok(())
    }
}

/// A file in the project's folder, as one would type it.
fn inside(dir: &Path, name: &str) -> PathBuf {
    if dir == Path::new(".") { PathBuf::from(name) } else { dir.join(name) }
}

/// Runs a tool in the project's folder. What it prints goes to standard error: standard output is for results.
fn run(dir: &Path, command: &mut Command) -> Result<(), Failure> {
    let program = command.get_program().display().to_string();
    let status = command.current_dir(dir).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::failed(format!("{program} failed ({status}); it says why above"))),
        Err(error) => Err(Failure::failed(format!("cannot run {program}: {error}"))),
    }
}

/// Runs a tool that tells something, and returns the first line of it, if it could.
fn ask(dir: &Path, command: &mut Command) -> Option<String> {
    let output = command.current_dir(dir).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Finds a program where a shell would.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

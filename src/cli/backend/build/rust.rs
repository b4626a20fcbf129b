//! Rust: `cargo` for a target of wasm.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{ask, find};
use crate::cli::output::Failure;

/// Makes components by itself.
const WASIP2: &str = "wasm32-wasip2";

/// Makes core modules, without WASI.
const UNKNOWN: &str = "wasm32-unknown-unknown";

/// Debian's linkers, by their names.
const DEBIAN_LINKERS: [&str; 3] = ["wasm-ld", "wasm-ld-14", "wasm-ld-19"];

/// Builds the crate in a folder and returns the file that came of it.
pub(super) fn build(dir: &Path) -> Result<PathBuf, Failure> {
    let mut command = cargo(dir)?;
    command.args(["build", "--release", "--message-format=json-render-diagnostics"]);
    let output = command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Failure::failed(format!("cannot run cargo: {error}")))?;
    if !output.status.success() {
        return Err(Failure::failed("cargo failed; it says why above"));
    }
    let manifest = std::fs::canonicalize(dir.join("Cargo.toml")).ok();
    let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let built = messages.filter_map(|message: Value| artifact(&message, manifest.as_deref())).next_back();
    built.ok_or_else(|| {
        let dir = dir.display();
        Failure::failed(format!("the crate in {dir} makes no .wasm: give it [lib] crate-type = [\"cdylib\"]"))
    })
}

/// The .wasm that a message of cargo is about, if it is of this crate.
fn artifact(message: &Value, manifest: Option<&Path>) -> Option<PathBuf> {
    let is_ours = message["reason"] == "compiler-artifact"
        && message["manifest_path"].as_str().map(Path::new) == manifest
        && message["target"]["crate_types"].as_array()?.iter().any(|kind| kind == "cdylib");
    let mut files = message["filenames"].as_array()?.iter().filter_map(Value::as_str).map(PathBuf::from);
    files.find(|file| is_ours && file.extension().is_some_and(|extension| extension == "wasm"))
}

/// Cargo with a target that is there: rustup's, or else the one that Debian's toolchain can build.
fn cargo(dir: &Path) -> Result<Command, Failure> {
    for target in [WASIP2, UNKNOWN] {
        if has_target(dir, target) {
            let mut command = Command::new("cargo");
            command.args(["--config", &format!("build.target='{target}'")]);
            return Ok(command);
        }
    }
    debian_cargo(dir).ok_or_else(|| {
        Failure::failed(format!(
            "building Rust needs cargo and the target {WASIP2}: rustup target add {WASIP2}; or Debian's toolchain: \
             apt-get install rustc-web cargo-web rust-web-src lld"
        ))
    })
}

fn has_target(dir: &Path, target: &str) -> bool {
    let libraries = ask(dir, Command::new("rustc").args(["--print", "target-libdir", "--target", target]));
    libraries.is_some_and(|libraries| Path::new(&libraries).is_dir())
}

/// Debian has no standard library for wasm, but its sources, and a compiler that can be told to build them.
fn debian_cargo(dir: &Path) -> Option<Command> {
    const RUSTC: &str = "/usr/bin/rustc";
    let sysroot = ask(dir, Command::new(RUSTC).args(["--print", "sysroot"]))?;
    let linker = DEBIAN_LINKERS.iter().find_map(|name| find(name))?;
    if !Path::new(&sysroot).join("lib/rustlib/src/rust/library").is_dir() {
        return None;
    }
    let mut command = Command::new("/usr/bin/cargo");
    command
        .args(["--config", &format!("build.target='{UNKNOWN}'"), "-Z", "build-std=std,panic_abort"])
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    Some(command)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_component_is_found_among_what_cargo_tells() {
        let message = json!({
            "reason": "compiler-artifact",
            "manifest_path": "/p/Cargo.toml",
            "target": { "crate_types": ["cdylib", "rlib"] },
            "filenames": ["/p/target/x.rlib", "/p/target/x.wasm"],
        });
        let manifest = Some(Path::new("/p/Cargo.toml"));
        assert_eq!(artifact(&message, manifest), Some(PathBuf::from("/p/target/x.wasm")));
        assert_eq!(artifact(&message, Some(Path::new("/q/Cargo.toml"))), None, "a dependency");
        assert_eq!(artifact(&json!({ "reason": "build-finished" }), manifest), None);
    }
}

//! C: a clang that has a C library for WASI, or zig, which brings both.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ask, find, run};
use crate::cli::output::Failure;

/// Where Debian's wasi-libc has its libraries.
const DEBIAN_LIBC: &str = "/usr/lib/wasm32-wasi/libc.a";

/// A stack of 1 MiB in linear memory. Compilers differ in what they give by themselves: from 64 KiB to 16 MiB.
const FLAGS: [&str; 6] = ["-O2", "-Wall", "-Wextra", "-s", "-mexec-model=reactor", "-Wl,-z,stack-size=1048576"];

/// Compiles and links all C files in a folder and in `bindings` in it, and returns the file that came of it.
pub(super) fn build(dir: &Path, target: &Path) -> Result<PathBuf, Failure> {
    let mut compiler = compiler(dir)?;
    compiler.args(FLAGS).arg("-o").arg(target);
    let mut sources = c_files(dir, Path::new(""));
    sources.append(&mut c_files(dir, Path::new("bindings")));
    run(dir, compiler.args(sources))?;
    Ok(target.to_owned())
}

/// The C files in a folder of the project, in order.
fn c_files(dir: &Path, inside: &Path) -> Vec<PathBuf> {
    let entries = dir.join(inside).read_dir().into_iter().flatten().flatten();
    let names = entries.map(|entry| inside.join(entry.file_name()));
    let mut files: Vec<_> = names.filter(|path| path.extension().is_some_and(|extension| extension == "c")).collect();
    files.sort_unstable();
    files
}

/// The first compiler that is there, told to compile for WASI.
fn compiler(dir: &Path) -> Result<Command, Failure> {
    let sdk = std::env::var_os("WASI_SDK_PATH").map(|sdk| Path::new(&sdk).join("bin/clang"));
    let debian = find("clang").filter(|_| Path::new(DEBIAN_LIBC).is_file());
    let found = if let Some(clang) = sdk.filter(|clang| clang.is_file()) {
        command(clang, &["--target=wasm32-wasi"])
    } else if let Some(clang) = debian {
        command(clang, &["--target=wasm32-wasi"])
    } else if let Some(zig) = find("zig") {
        command(zig, &["cc", "-target", "wasm32-wasi"])
    } else if let Some(python) = python_with_zig(dir) {
        command(python, &["-m", "ziglang", "cc", "-target", "wasm32-wasi"])
    } else {
        return Err(Failure::failed(
            "building C needs a compiler with a C library for WASI, one of: Debian's (apt-get install clang lld \
             wasi-libc libclang-rt-14-dev-wasm32), zig (pip install ziglang), or wasi-sdk (WASI_SDK_PATH says where)",
        ));
    };
    Ok(found)
}

fn command(program: PathBuf, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn python_with_zig(dir: &Path) -> Option<PathBuf> {
    let own = dir.join(".venv/bin/python3");
    let candidates = [std::path::absolute(own).ok(), find("python3")];
    let has_zig = |python: &PathBuf| ask(dir, Command::new(python).args(["-m", "ziglang", "version"])).is_some();
    candidates.into_iter().flatten().find(has_zig)
}

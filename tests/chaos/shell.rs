//! Programs of the system that the harness runs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a program, which must succeed, and returns what it printed.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String, String> {
    let words = || arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {}: {}, {}", words(), output.status, complaint.trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program is installed.
pub fn is_there(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| place.join(program).is_file())
}

/// Whether a process is alive.
pub fn is_alive(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

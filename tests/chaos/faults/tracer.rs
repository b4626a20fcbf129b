//! strace, which makes a running node's system calls fail or take long.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::shell;

/// How long strace may take to take hold of a process.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A node under strace. It is let go when this is dropped.
pub(super) struct Tracer {
    child: Child,
    output: PathBuf,
}

impl Tracer {
    /// Takes hold of a process and does this to these calls of it, in strace's words. Returns once that is in force.
    pub async fn attach(process: &str, calls: &str, injection: &str) -> Result<Self, String> {
        let output = std::env::temp_dir().join(format!("zraft-chaos-{}-{process}.strace", std::process::id()));
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{injection}"));
        let child = Command::new("strace")
            .args(["-f", "-q", "-p", process, "-e", &trace, "-e", &inject, "-o"])
            .arg(&output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut tracer = Self { child: child.map_err(|error| format!("strace: {error}"))?, output };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds_all_threads(process, tracer.child.id()) {
            let has_ended = tracer.child.try_wait().map_err(|error| format!("strace: {error}"))?;
            if has_ended.is_some() || tokio::time::Instant::now() >= deadline {
                return Err(format!("strace does not take hold of process {process}: {has_ended:?}"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(tracer)
    }

    /// Of how many calls strace says this, such as `(INJECTED)`.
    pub fn count(&self, what: &str) -> usize {
        fs::read_to_string(&self.output).map_or(0, |trace| trace.matches(what).count())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // At this signal strace lets the process go on by itself. Both may have ended already.
        let _ = shell::run("kill", &["-INT", &self.child.id().to_string()]);
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.output);
    }
}

fn holds_all_threads(process: &str, tracer: u32) -> bool {
    let wanted = format!("TracerPid:\t{tracer}\n");
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return false };
    let mut status = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    status.all(|status| status.contains(&wanted))
}

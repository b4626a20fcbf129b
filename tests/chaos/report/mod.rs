//! What a run has shown, for people and for programs.

mod numbers;
mod page;
mod timeline;

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::check::{Outcome, Verdict};
use crate::history::History;
use crate::timeline::FaultRecord;

/// What a run was.
#[derive(Clone, Debug)]
pub struct RunInfo {
    pub seed: u64,
    pub nodes: usize,
    pub took: Duration,
    /// Settings and versions, as they are to be shown.
    pub facts: Vec<(String, String)>,
    /// Why the run is not a pass, apart from what the verdicts say; empty when it is.
    pub failures: Vec<String>,
}

impl RunInfo {
    /// Whether the run has shown that the promises were kept.
    #[must_use]
    pub fn is_pass(&self, verdicts: &[Verdict]) -> bool {
        let is_valid = |verdict: &Verdict| matches!(verdict.outcome, Outcome::Valid { .. });
        self.failures.is_empty() && verdicts.iter().all(is_valid)
    }
}

/// Writes `report.md`, `report.json`, `timeline.svg` and `history.jsonl` into a folder, which is made if it is not there.
///
/// # Errors
/// Those of the file system.
pub fn write(
    dir: &Path,
    run: &RunInfo,
    history: &History,
    faults: &[FaultRecord],
    verdicts: &[Verdict],
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    history.write(&dir.join("history.jsonl"))?;
    let numbers = numbers::of(history);
    fs::write(dir.join("report.md"), page::markdown(run, &numbers, faults, verdicts))?;
    fs::write(dir.join("report.json"), page::json(run, &numbers, faults, verdicts))?;
    fs::write(dir.join("timeline.svg"), timeline::draw(run, history, faults))
}

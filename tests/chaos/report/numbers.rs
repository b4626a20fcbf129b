//! How many operations went well, how long they took, and for how long none did.

use crate::history::{History, Outcome, Workload};

/// The numbers of one workload. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    pub workload: &'static str,
    pub ok: usize,
    pub failed: usize,
    pub unknown: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// The longest time from one success to the next, and when it began, in seconds since the start of the run.
    pub longest_gap_ms: f64,
    pub gap_from_s: f64,
}

/// The numbers of every workload.
pub fn of(history: &History) -> Vec<Numbers> {
    Workload::ALL.map(|workload| of_workload(history, workload)).into()
}

fn of_workload(history: &History, workload: Workload) -> Numbers {
    let mut numbers = Numbers { workload: workload.name(), ..Numbers::default() };
    let (mut took, mut ends) = (Vec::new(), Vec::new());
    for operation in history.of(workload) {
        match operation.outcome {
            Outcome::Ok(_) => {
                took.push(operation.ended_ns - operation.called_ns);
                ends.push(operation.ended_ns);
            }
            Outcome::Failed(_) => numbers.failed += 1,
            Outcome::Unknown(_) => numbers.unknown += 1,
        }
    }
    took.sort_unstable();
    ends.sort_unstable();
    numbers.ok = took.len();
    let at = |percent: usize| took.get((took.len() * percent / 100).min(took.len().saturating_sub(1)));
    let ms = |took: Option<&u64>| took.map_or(0.0, |took| *took as f64 / 1e6);
    (numbers.p50_ms, numbers.p99_ms, numbers.max_ms) = (ms(at(50)), ms(at(99)), ms(took.last()));
    if let Some(pair) = ends.windows(2).max_by_key(|pair| pair[1] - pair[0]) {
        numbers.longest_gap_ms = (pair[1] - pair[0]) as f64 / 1e6;
        numbers.gap_from_s = pair[0] as f64 / 1e9;
    }
    numbers
}

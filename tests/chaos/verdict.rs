//! Whether a run is a pass, apart from what the checkers say of its history.

use std::collections::BTreeMap;

use crate::check::{Outcome, Verdict};
use crate::plan::Kind;
use crate::timeline::FaultRecord;
use crate::world::World;

/// How often each kind of fault was applied, and how often it bit.
pub fn bites(kinds: &[Kind], records: &[FaultRecord]) -> BTreeMap<&'static str, (usize, usize)> {
    let mut counts: BTreeMap<_, _> = kinds.iter().map(|kind| (kind.name(), (0, 0))).collect();
    for record in records {
        let (applied, bit) = counts.entry(record.kind).or_default();
        *applied += 1;
        *bit += usize::from(!record.bite.is_empty());
    }
    counts
}

/// The kinds that never bit: then nothing was shown of them.
pub fn without_bite(kinds: &[Kind], records: &[FaultRecord]) -> Vec<String> {
    let counts = bites(kinds, records).into_iter();
    let never = counts.filter(|(_, (_, bit))| *bit == 0);
    never.map(|(kind, (applied, _))| format!("{kind} never bit, though it was applied {applied} times")).collect()
}

/// What the nodes' logs say that they never should.
pub fn wrong_in_logs(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for node in 0..world.nodes.count() {
        match world.nodes.log(node) {
            Ok(log) => {
                let find = |word: &str| log.lines().find(|line| line.contains(word)).map(str::to_owned);
                wrong.extend(find(" panicked").map(|line| format!("node {node}: {line}")));
                // Only who was damaged on purpose may find its state to be another than the majority's.
                let in_quarantine = find("in quarantine: ").filter(|_| !world.damaged().contains(&node));
                wrong.extend(in_quarantine.map(|line| format!("node {node}, which nobody has damaged: {line}")));
            }
            Err(error) => wrong.push(error),
        }
    }
    wrong
}

/// Whether all replicas of all clusters are equal at the end, and none is in quarantine or has stopped.
pub async fn unequal(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for cluster in &world.clusters {
        wrong.extend(world.admin.until_equal(&cluster.name).await.err());
    }
    wrong
}

/// The workloads for which nothing went well once all faults were over.
pub fn without_success(successes: &BTreeMap<String, usize>) -> Vec<String> {
    let none = successes.iter().filter(|(_, count)| **count == 0);
    none.map(|(workload, _)| format!("{workload}: nothing went well after all faults were over")).collect()
}

/// Whether a checker is satisfied: with nothing at all it is not.
pub fn is_good(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Valid { operations } if operations > 0)
}

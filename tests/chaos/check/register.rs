//! Registers: each key by itself, since linearizability of each is that of all.

use std::collections::{BTreeMap, HashMap};

use super::linearizable::{self, Act, Interval, Linearizable, MAX_STEPS};
use super::{Outcome, describe};
use crate::history::{Answer, Call, Operation, Outcome as Ended};

pub fn check(operations: &[&Operation]) -> Outcome {
    let mut by_key = BTreeMap::<u32, Vec<&Operation>>::new();
    for operation in operations {
        if let Call::Get { key } | Call::Put { key, .. } | Call::CompareAndSet { key, .. } = operation.call {
            by_key.entry(key).or_default().push(operation);
        }
    }
    let mut unknown = None;
    for (key, operations) in by_key {
        let intervals = match intervals(&operations) {
            Ok(intervals) => intervals,
            Err(why) => return Outcome::Violation(format!("key {key}: {why}")),
        };
        let history: Vec<_> = intervals.iter().map(|(interval, _)| *interval).collect();
        match linearizable::check(&history, MAX_STEPS) {
            Linearizable::Yes => {}
            Linearizable::No { stuck_at } => {
                let stuck = describe(intervals[stuck_at].1);
                return Outcome::Violation(format!(
                    "key {key}: no order of its {} operations explains {stuck}",
                    history.len()
                ));
            }
            Linearizable::Exhausted => {
                unknown = Some(format!("key {key}: the search of {} operations was given up", history.len()))
            }
        }
    }
    match unknown {
        Some(why) => Outcome::Unknown(why),
        None => Outcome::Valid { operations: operations.len() },
    }
}

/// What is known of each operation that took effect.
///
/// No value is written twice. So a write whose outcome is unknown took effect before the first that has seen its value
/// returned; and if nobody has, leaving it out changes nothing for the others. What is left has returned, all of it.
fn intervals<'a>(operations: &[&'a Operation]) -> Result<Vec<(Interval, &'a Operation)>, String> {
    let mut seen = Sightings::default();
    let mut intervals = Vec::new();
    let mut open = HashMap::new();
    for operation in operations {
        match (&operation.call, &operation.outcome) {
            (_, Ended::Failed(_)) | (Call::Get { .. }, Ended::Unknown(_)) => {}
            (Call::Put { value, .. } | Call::CompareAndSet { value, .. }, Ended::Unknown(_)) => {
                open.insert(*value, *operation);
            }
            (call, Ended::Ok(answer)) => {
                let act = act(call, answer)
                    .ok_or_else(|| format!("the answer fits no such call: {}", describe(operation)))?;
                seen.note(act, operation.ended_ns);
                intervals
                    .push((Interval { act, called: operation.called_ns, returned: operation.ended_ns }, *operation));
            }
            (call, Ended::Unknown(_)) => return Err(format!("{call:?} is none of a register")),
        }
    }
    // What an exchange has found was there before, which may show another's effect.
    while let Some((value, returned)) = seen.news.pop() {
        let Some(operation) = open.get(&value) else { continue };
        let act = match operation.call {
            Call::CompareAndSet { expected, value, .. } => Act::Exchange(expected, value),
            _ => Act::Write(value),
        };
        seen.note(act, returned);
    }
    for (value, operation) in open {
        let Some(returned) = seen.first.get(&value) else { continue };
        let act = match operation.call {
            Call::CompareAndSet { expected, value, .. } => Act::Exchange(expected, value),
            _ => Act::Write(value),
        };
        if *returned < operation.called_ns {
            return Err(format!("the value of {} was seen before", describe(operation)));
        }
        intervals.push((Interval { act, called: operation.called_ns, returned: *returned }, operation));
    }
    Ok(intervals)
}

fn act(call: &Call, answer: &Answer) -> Option<Act> {
    match (call, answer) {
        (Call::Get { .. }, Answer::Value(found)) => Some(Act::Read(*found)),
        (Call::CompareAndSet { expected, .. }, Answer::Value(found)) if *found != Some(*expected) => {
            Some(Act::Read(*found))
        }
        (Call::Put { value, .. }, Answer::Done) => Some(Act::Write(*value)),
        (Call::CompareAndSet { expected, value, .. }, Answer::Done) => Some(Act::Exchange(*expected, *value)),
        _ => None,
    }
}

/// By when each value was seen.
#[derive(Default)]
struct Sightings {
    first: HashMap<u64, u64>,
    /// Values that were seen earlier than was known.
    news: Vec<(u64, u64)>,
}

impl Sightings {
    /// Whoever has done this by then has seen a value.
    fn note(&mut self, act: Act, by: u64) {
        if let Act::Read(Some(value)) | Act::Exchange(value, _) = act {
            let first = self.first.entry(value).or_insert(u64::MAX);
            if by < *first {
                *first = by;
                self.news.push((value, by));
            }
        }
    }
}

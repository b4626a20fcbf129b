//! Lists that are appended to: every answer shows a beginning of what the last read shows.

use std::collections::{BTreeMap, HashMap};

use super::order::{self, Placed};
use super::{Outcome, describe};
use crate::history::{Answer, Call, Operation, Outcome as Ended};

pub fn check(operations: &[&Operation]) -> Outcome {
    let mut by_list = BTreeMap::<u32, Vec<&Operation>>::new();
    for operation in operations {
        if let Call::Append { list, .. } | Call::ReadList { list } = operation.call {
            by_list.entry(list).or_default().push(operation);
        }
    }
    let mut unknown = None;
    for (list, operations) in by_list {
        match check_list(&operations) {
            Ok(true) => {}
            Ok(false) => unknown = Some(format!("list {list} could not be read at the end")),
            Err(why) => return Outcome::Violation(format!("list {list}: {why}")),
        }
    }
    match unknown {
        Some(why) => Outcome::Unknown(why),
        None => Outcome::Valid { operations: operations.len() },
    }
}

/// False if what was appended last was never read.
fn check_list(operations: &[&Operation]) -> Result<bool, String> {
    let reads = operations.iter().filter_map(|operation| match &operation.outcome {
        Ended::Ok(Answer::List(values)) => Some((*operation, values)),
        _ => None,
    });
    let appends = || operations.iter().filter(|operation| matches!(operation.call, Call::Append { .. }));
    let acknowledged = || appends().filter(|operation| matches!(operation.outcome, Ended::Ok(_)));
    let Some((last, whole)) = reads.clone().max_by_key(|(read, _)| read.called_ns) else {
        return Ok(acknowledged().next().is_none());
    };
    // Otherwise what else was answered may show more.
    if acknowledged().any(|append| append.ended_ns > last.called_ns)
        || reads.clone().any(|(read, _)| read != last && read.ended_ns > last.called_ns)
    {
        return Ok(false);
    }
    let mut numbers = HashMap::new();
    for (place, value) in whole.iter().enumerate() {
        if numbers.insert(*value, place as u64 + 1).is_some() {
            return Err(format!("{value} is there twice, in {}", describe(last)));
        }
    }
    let mut placed = Vec::new();
    for (read, values) in reads {
        if !whole.starts_with(values) {
            return Err(format!("{} shows no beginning of what was there at last", describe(read)));
        }
        placed.push(Placed::read(read, values.len() as u64));
    }
    for append in appends() {
        let Call::Append { value, .. } = append.call else { continue };
        let number = numbers.remove(&value);
        match (&append.outcome, number) {
            (Ended::Ok(Answer::Length(length)), Some(number)) if *length == number => {
                placed.push(Placed::write(append, number));
            }
            (Ended::Ok(answer), Some(number)) => {
                return Err(format!("{} is at place {number}, not at {answer:?}", describe(append)));
            }
            (Ended::Ok(_), None) => return Err(format!("{} was lost: it is not there at last", describe(append))),
            (Ended::Unknown(_), Some(number)) => placed.push(Placed::write(append, number).open()),
            (Ended::Failed(_), Some(_)) => return Err(format!("{} is there all the same", describe(append))),
            (Ended::Unknown(_) | Ended::Failed(_), None) => {}
        }
    }
    if let Some(value) = numbers.keys().next() {
        return Err(format!("{value} is there, and nobody has appended it"));
    }
    order::check(&placed).map(|()| true)
}

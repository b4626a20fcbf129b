//! A counter to which every increment adds one, exactly once: each answer is the increment's place among all.

use super::order::{self, Placed};
use super::{Outcome, describe};
use crate::history::{Answer, Call, Operation, Outcome as Ended};

pub fn check(operations: &[&Operation]) -> Outcome {
    match check_all(operations) {
        Ok(true) => Outcome::Valid { operations: operations.len() },
        Ok(false) => Outcome::Unknown("the counter could not be read at the end".to_owned()),
        Err(why) => Outcome::Violation(why),
    }
}

/// False if it was not read behind the last increment.
fn check_all(operations: &[&Operation]) -> Result<bool, String> {
    let mut placed = Vec::new();
    let mut open = Vec::new();
    let mut last_read = None;
    for operation in operations {
        match (operation.call, &operation.outcome) {
            (Call::Increment, Ended::Ok(Answer::Count(count))) if *count > 0 => {
                placed.push(Placed::write(operation, *count))
            }
            (Call::Increment, Ended::Unknown(_)) => open.push(*operation),
            (Call::ReadCounter, Ended::Ok(Answer::Count(count))) => {
                placed.push(Placed::read(operation, *count));
                last_read = last_read.max(Some((operation.called_ns, *count)));
            }
            (_, Ended::Ok(_)) => return Err(format!("the answer fits no such call: {}", describe(operation))),
            (_, Ended::Failed(_) | Ended::Unknown(_)) => {}
        }
    }
    order::check(&placed)?;
    fill_gaps(&placed, open)?;
    let last_end = placed
        .iter()
        .filter(|placed| placed.operation.call == Call::Increment)
        .map(|placed| placed.operation.ended_ns)
        .max();
    Ok(last_end.is_none_or(|last_end| last_read.is_some_and(|(called_ns, _)| called_ns > last_end)))
}

/// Every increment that nobody was told of must be one whose outcome is unknown, called before its effect was seen. If there
/// are as many as are needed, in the order of their calls, there is a way.
fn fill_gaps(placed: &[Placed<'_>], mut open: Vec<&Operation>) -> Result<(), String> {
    open.sort_by_key(|operation| operation.called_ns);
    let mut open = open.into_iter();
    // By place; each with the earliest end of all that are behind it.
    let mut by_place: Vec<_> = placed.iter().collect();
    by_place.sort_by_key(|placed| placed.place);
    let mut seen_by: Vec<&Placed<'_>> = Vec::new();
    for placed in by_place.iter().rev() {
        let earlier = seen_by.last().copied().filter(|last| last.operation.ended_ns <= placed.operation.ended_ns);
        seen_by.push(earlier.unwrap_or(placed));
    }
    seen_by.reverse();
    let mut counted = 0;
    for (placed, seen) in by_place.iter().zip(seen_by) {
        let is_write = placed.place.is_multiple_of(2);
        let up_to = placed.place / 2 - u64::from(is_write && placed.place > 0);
        while counted < up_to {
            counted += 1;
            let is_filled = open.next().is_some_and(|operation| operation.called_ns <= seen.operation.ended_ns);
            if !is_filled {
                return Err(format!(
                    "increment {counted} is nobody's: an increment ran twice, by {}",
                    describe(seen.operation)
                ));
            }
        }
        counted += u64::from(is_write);
    }
    Ok(())
}

//! Operations whose place in the order is known: by what was answered, or by the last read. Then there is nothing to search,
//! and linearizable means that who was done before another was called has no later place.

use super::describe;
use crate::history::Operation;

/// An operation and its place. Writes are at even places, each at its own; a read of what so many writes have led to is at
/// the odd one behind the last of them.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    pub operation: &'a Operation,
    pub place: u64,
    /// Absent for one whose outcome is unknown: it may have taken effect long after its client gave up.
    pub ended_ns: Option<u64>,
}

impl<'a> Placed<'a> {
    /// The so-manieth write, from 1 on.
    pub fn write(operation: &'a Operation, number: u64) -> Self {
        Self { operation, place: number.saturating_mul(2), ended_ns: Some(operation.ended_ns) }
    }

    /// A read behind so many writes.
    pub fn read(operation: &'a Operation, behind: u64) -> Self {
        Self { operation, place: behind.saturating_mul(2).saturating_add(1), ended_ns: Some(operation.ended_ns) }
    }

    /// The same, of which it is not known when it was done.
    pub fn open(self) -> Self {
        Self { ended_ns: None, ..self }
    }
}

/// Whether the order of places is one of time as well.
pub fn check(placed: &[Placed<'_>]) -> Result<(), String> {
    let mut by_call: Vec<_> = placed.iter().collect();
    by_call.sort_by_key(|placed| placed.operation.called_ns);
    let mut by_end: Vec<_> = placed.iter().filter_map(|placed| Some((placed.ended_ns?, placed))).collect();
    by_end.sort_by_key(|(ended_ns, _)| *ended_ns);
    let mut ended = by_end.into_iter().peekable();
    let mut last: Option<&Placed<'_>> = None;
    for placed in by_call {
        while let Some((_, before)) = ended.next_if(|(ended_ns, _)| *ended_ns < placed.operation.called_ns) {
            if last.is_none_or(|last| last.place < before.place) {
                last = Some(before);
            }
        }
        if let Some(last) = last.filter(|last| last.place > placed.place) {
            return Err(format!(
                "{} was done before what had been answered earlier: {}",
                describe(placed.operation),
                describe(last.operation)
            ));
        }
    }
    let mut writes: Vec<_> = placed.iter().filter(|placed| placed.place.is_multiple_of(2)).collect();
    writes.sort_by_key(|placed| placed.place);
    match writes.windows(2).find(|pair| pair[0].place == pair[1].place) {
        Some(pair) => {
            Err(format!("both have one place: {}, and {}", describe(pair[0].operation), describe(pair[1].operation)))
        }
        None => Ok(()),
    }
}

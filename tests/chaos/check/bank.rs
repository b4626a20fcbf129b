//! Transfers: the ledger tells the order of all, so they are made again, and every answer must be what comes of it.

use std::collections::{BTreeMap, HashMap};

use super::order::{self, Placed};
use super::{Outcome, describe};
use crate::history::{Answer, Call, Operation, Outcome as Ended};

/// How many accounts there are, and what each begins with.
pub const ACCOUNTS: u32 = 8;
pub const BEGIN_WITH: u64 = 100;

pub fn check(operations: &[&Operation]) -> Outcome {
    match check_all(operations) {
        Ok(true) => Outcome::Valid { operations: operations.len() },
        Ok(false) => Outcome::Unknown("the ledger could not be read at the end".to_owned()),
        Err(why) => Outcome::Violation(why),
    }
}

/// False if the ledger was not read behind the last transfer.
fn check_all(operations: &[&Operation]) -> Result<bool, String> {
    let ledgers = operations.iter().filter_map(|operation| match &operation.outcome {
        Ended::Ok(Answer::List(ids)) => Some((*operation, ids)),
        _ => None,
    });
    let Some((last, ledger)) = ledgers.max_by_key(|(read, _)| read.called_ns) else {
        return Ok(operations.iter().all(|operation| !matches!(operation.outcome, Ended::Ok(_))));
    };
    let mut numbers = HashMap::new();
    for (place, id) in ledger.iter().enumerate() {
        if numbers.insert(*id, place as u64 + 1).is_some() {
            return Err(format!("transfer {id} was made twice"));
        }
    }
    let mut transfers = vec![None; ledger.len()];
    let mut placed = Vec::new();
    let mut seen = Vec::new();
    for operation in operations {
        if let Call::Transfer { id, from, to, amount } = operation.call {
            let number = numbers.remove(&id);
            if let Some(number) = number {
                transfers[number as usize - 1] = Some((from as usize, to as usize, amount));
            }
            match (&operation.outcome, number) {
                (Ended::Ok(Answer::Moved { number: told, .. }), Some(number)) if *told == number => {}
                (Ended::Ok(Answer::Moved { .. }), None) if operation.ended_ns > last.called_ns => return Ok(false),
                (Ended::Ok(Answer::Moved { .. }), None) => return Err(format!("{} was lost", describe(operation))),
                (Ended::Ok(_), Some(number)) => return Err(format!("{} is number {number}", describe(operation))),
                (Ended::Unknown(_), Some(number)) => placed.push(Placed::write(operation, number).open()),
                (Ended::Failed(_), Some(_)) => return Err(format!("{} was made all the same", describe(operation))),
                (_, None) => {}
            }
        }
        match &operation.outcome {
            Ended::Ok(Answer::Moved { number, .. }) => {
                placed.push(Placed::write(operation, *number));
                seen.push((*number, *operation));
            }
            Ended::Ok(Answer::TooLittle { number, .. } | Answer::Balances { number, .. }) => {
                placed.push(Placed::read(operation, *number));
                seen.push((*number, *operation));
            }
            _ => {}
        }
    }
    if let Some(id) = numbers.keys().next() {
        return Err(format!("transfer {id} was made, and nobody wanted it"));
    }
    seen.sort_by_key(|(number, _)| *number);
    replay(&transfers, &seen)?;
    order::check(&placed)?;
    check_builds(placed)?;
    Ok(true)
}

/// Makes all transfers again, and compares what was seen behind each.
fn replay(transfers: &[Option<(usize, usize, u64)>], seen: &[(u64, &Operation)]) -> Result<(), String> {
    let mut balances = vec![BEGIN_WITH; ACCOUNTS as usize];
    let mut seen = seen.iter().peekable();
    for number in 0..=transfers.len() {
        if let Some(transfer) = number.checked_sub(1).and_then(|place| transfers[place]) {
            let (from, to, amount) = transfer;
            let Some(left) = balances[from].checked_sub(amount) else {
                return Err(format!("transfer number {number} took {amount} from an account with {}", balances[from]));
            };
            balances[from] = left;
            balances[to] += amount;
        }
        while let Some((_, operation)) = seen.next_if(|(at, _)| *at == number as u64) {
            let is_right = match (operation.call, &operation.outcome) {
                (Call::Transfer { from, .. }, Ended::Ok(Answer::Moved { left, .. })) => {
                    balances[from as usize] == *left
                }
                (Call::Transfer { from, amount, .. }, Ended::Ok(Answer::TooLittle { left, .. })) => {
                    balances[from as usize] == *left && *left < amount
                }
                (Call::ReadBalances, Ended::Ok(Answer::Balances { balances: found, .. })) => *found == balances,
                _ => false,
            };
            if !is_right {
                return Err(format!(
                    "{} does not fit the balances {balances:?} behind {number} transfers",
                    describe(operation)
                ));
            }
        }
    }
    match seen.next() {
        Some((_, operation)) => Err(format!("{} shows more transfers than were made", describe(operation))),
        None => Ok(()),
    }
}

/// Upgrades stand in the log as transfers do: whoever stands behind one knows of it, and each brings one build.
fn check_builds(mut placed: Vec<Placed<'_>>) -> Result<(), String> {
    placed.sort_by_key(|placed| placed.place);
    let mut builds = BTreeMap::new();
    let mut before = (0, 0);
    for group in placed.chunk_by(|one, other| one.place == other.place) {
        let mut most = before.1;
        for placed in group {
            let Ended::Ok(
                Answer::Moved { upgrades, build, .. }
                | Answer::TooLittle { upgrades, build, .. }
                | Answer::Balances { upgrades, build, .. },
            ) = &placed.operation.outcome
            else {
                continue;
            };
            if *upgrades < before.1 {
                return Err(format!("{} is behind {} upgrades", describe(placed.operation), before.1));
            }
            if *builds.entry(*upgrades).or_insert(*build) != *build {
                return Err(format!("two builds after {upgrades} upgrades, one in {}", describe(placed.operation)));
            }
            most = most.max(*upgrades);
        }
        before = (before.1, most);
    }
    Ok(())
}

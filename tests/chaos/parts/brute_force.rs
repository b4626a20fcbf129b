//! Checkers against brute force: is there any order of a few operations in which a single copy would have answered the same?

use std::collections::BTreeMap;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::check::bank::{ACCOUNTS, BEGIN_WITH};
use crate::check::linearizable::{self, Act, Interval, Linearizable};
use crate::check::{self, Outcome};
use crate::history::{Answer, Call, History, Operation, Outcome as Ended, Workload};

/// A single copy of everything.
#[derive(Clone)]
struct Single {
    values: BTreeMap<u32, u64>,
    list: Vec<u64>,
    count: u64,
    balances: Vec<u64>,
    ledger: Vec<u64>,
}

impl Single {
    fn new() -> Self {
        let balances = vec![BEGIN_WITH; ACCOUNTS as usize];
        Self { values: BTreeMap::new(), list: Vec::new(), count: 0, balances, ledger: Vec::new() }
    }

    fn apply(&mut self, call: Call) -> Answer {
        let (upgrades, build) = (0, 1);
        match call {
            Call::Get { key } => Answer::Value(self.values.get(&key).copied()),
            Call::Put { key, value } => {
                self.values.insert(key, value);
                Answer::Done
            }
            Call::CompareAndSet { key, expected, value } => {
                let found = self.values.get(&key).copied();
                if found != Some(expected) {
                    return Answer::Value(found);
                }
                self.values.insert(key, value);
                Answer::Done
            }
            Call::Append { value, .. } => {
                self.list.push(value);
                Answer::Length(self.list.len() as u64)
            }
            Call::ReadList { .. } => Answer::List(self.list.clone()),
            Call::Increment => {
                self.count += 1;
                Answer::Count(self.count)
            }
            Call::ReadCounter => Answer::Count(self.count),
            Call::Transfer { id, from, to, amount } => {
                let number = self.ledger.len() as u64;
                let left = self.balances[from as usize];
                let Some(left) = left.checked_sub(amount) else {
                    return Answer::TooLittle { number, left, upgrades, build };
                };
                self.balances[from as usize] = left;
                self.balances[to as usize] += amount;
                self.ledger.push(id);
                Answer::Moved { number: number + 1, left, upgrades, build }
            }
            Call::ReadBalances => {
                let number = self.ledger.len() as u64;
                Answer::Balances { number, balances: self.balances.clone(), upgrades, build }
            }
            Call::ReadLedger => Answer::List(self.ledger.clone()),
            call => panic!("{call:?} is none of a single copy"),
        }
    }
}

/// Whether some order explains all that is left.
fn explains(single: &Single, left: &[&Operation]) -> bool {
    if left.iter().all(|operation| !matches!(operation.outcome, Ended::Ok(_))) {
        return true;
    }
    // Whoever was called after another had returned cannot be first.
    let returned = left.iter().filter(|operation| matches!(operation.outcome, Ended::Ok(_))).map(|one| one.ended_ns);
    let first_return = returned.min().unwrap_or(u64::MAX);
    (0..left.len()).filter(|place| left[*place].called_ns <= first_return).any(|place| {
        let mut after = single.clone();
        let answer = after.apply(left[place].call);
        if matches!(&left[place].outcome, Ended::Ok(told) if *told != answer) {
            return false;
        }
        let rest = [&left[..place], &left[place + 1..]].concat();
        explains(&after, &rest)
    })
}

fn brute_force(operations: &[Operation]) -> bool {
    let left: Vec<_> = operations.iter().filter(|operation| !matches!(operation.outcome, Ended::Failed(_))).collect();
    explains(&Single::new(), &left)
}

fn random_call(workload: Workload, rng: &mut ChaCha8Rng, value: u64) -> Call {
    match workload {
        Workload::Register => match rng.random_range(0..3) {
            0 => Call::Get { key: 0 },
            1 => Call::Put { key: 0, value },
            _ => Call::CompareAndSet { key: 0, expected: rng.random_range(1..=value), value },
        },
        Workload::List if rng.random() => Call::ReadList { list: 0 },
        Workload::List => Call::Append { list: 0, value },
        Workload::Counter if rng.random_ratio(1, 3) => Call::ReadCounter,
        Workload::Counter => Call::Increment,
        _ if rng.random_ratio(1, 3) => Call::ReadBalances,
        _ => {
            let from = rng.random_range(0..2);
            Call::Transfer { id: value, from, to: 1 - from, amount: rng.random_range(1..=3 * BEGIN_WITH / 2) }
        }
    }
}

fn last_read(workload: Workload) -> Call {
    match workload {
        Workload::Register => Call::Get { key: 0 },
        Workload::List => Call::ReadList { list: 0 },
        Workload::Counter => Call::ReadCounter,
        _ => Call::ReadLedger,
    }
}

/// What a single copy answers to a few clients, and a last read.
fn random_history(workload: Workload, rng: &mut ChaCha8Rng) -> Vec<Operation> {
    const END: u64 = 40;
    let count = rng.random_range(1..=6);
    let mut operations: Vec<_> = (1..=count)
        .map(|value| {
            let called_ns = rng.random_range(0..END);
            let ended_ns = rng.random_range(called_ns..END + 1);
            let (client, process) = (0, value as u32);
            let call = random_call(workload, rng, value);
            let outcome = Ended::Ok(Answer::Done);
            Operation { workload, client, process, call, called_ns, ended_ns, outcome }
        })
        .collect();
    let (called_ns, ended_ns, call) = (2 * END, 2 * END, last_read(workload));
    let outcome = Ended::Ok(Answer::Done);
    operations.push(Operation { workload, client: 0, process: 0, call, called_ns, ended_ns, outcome });
    // Each takes effect at some moment; one whose outcome is unknown perhaps late, or never.
    let mut moments = Vec::new();
    for (place, operation) in operations.iter_mut().enumerate() {
        match rng.random_range(0..10) {
            0..2 if place < count as usize => {
                operation.outcome = Ended::Unknown(String::new());
                moments.push((rng.random_range(operation.called_ns..=3 * END), place));
            }
            2 if place < count as usize => operation.outcome = Ended::Failed(String::new()),
            _ => moments.push((rng.random_range(operation.called_ns..=operation.ended_ns), place)),
        }
    }
    moments.shuffle(rng);
    moments.sort_by_key(|(moment, _)| *moment);
    let mut single = Single::new();
    for (_, place) in moments {
        let answer = single.apply(operations[place].call);
        if let Ended::Ok(told) = &mut operations[place].outcome {
            *told = answer;
        }
    }
    operations
}

/// Makes something of it that may have been otherwise.
fn spoil(operations: &mut [Operation], rng: &mut ChaCha8Rng) {
    let place = rng.random_range(0..operations.len());
    let is_last = place + 1 == operations.len();
    let other = rng.random_range(0..8);
    match &mut operations[place].outcome {
        outcome if rng.random_ratio(1, 5) && !is_last => *outcome = Ended::Failed(String::new()),
        Ended::Ok(Answer::Value(found)) => *found = Some(other).filter(|other| *other > 0),
        Ended::Ok(answer @ Answer::Done) => *answer = Answer::Value(Some(other)),
        Ended::Ok(Answer::Length(number) | Answer::Count(number)) => *number = other,
        Ended::Ok(Answer::List(values)) => {
            let was_empty = values.pop().is_none();
            if was_empty || rng.random() {
                values.insert(0, other);
            }
        }
        Ended::Ok(Answer::Moved { number, left, .. } | Answer::TooLittle { number, left, .. }) => match rng.random() {
            true => *number = other,
            false => *left += 1,
        },
        Ended::Ok(Answer::Balances { number, balances, .. }) => match rng.random() {
            true => *number = other,
            false => balances[0] += 1,
        },
        _ => {}
    }
}

#[test]
fn checkers_find_what_brute_force_finds() {
    const HISTORIES: u64 = 20_000;
    for workload in [Workload::Register, Workload::List, Workload::Counter, Workload::Bank] {
        let mut found = (0, 0);
        for seed in 0..HISTORIES {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut operations = random_history(workload, &mut rng);
            assert!(brute_force(&operations), "{operations:#?}");
            if seed % 2 == 1 {
                spoil(&mut operations, &mut rng);
            }
            let is_explained = brute_force(&operations);
            let history = History { operations, ..History::default() };
            let verdict =
                check::check(&history).into_iter().find(|verdict| verdict.workload == workload.name()).unwrap();
            let agrees = match verdict.outcome {
                Outcome::Valid { .. } => is_explained,
                Outcome::Violation(_) => !is_explained,
                Outcome::Unknown(_) => false,
            };
            assert!(agrees, "seed {seed}: {verdict:?}, and brute force says {is_explained}: {history:#?}");
            found = if is_explained { (found.0 + 1, found.1) } else { (found.0, found.1 + 1) };
        }
        assert!(found.0 > 5_000 && found.1 > 2_000, "{}: {found:?}", workload.name());
    }
}

/// Clients that overlap all the time, one operation after the other each.
fn long_history(count: u64, rng: &mut ChaCha8Rng) -> Vec<Interval> {
    const CLIENTS: u64 = 6;
    let mut value = None;
    let act = |number: u64| {
        let act = match rng.random_range(0..3) {
            0 => Act::Read(value),
            1 => Act::Write(number + 1),
            _ => value.map_or(Act::Write(number + 1), |value| Act::Exchange(value, number + 1)),
        };
        if !matches!(act, Act::Read(_)) {
            value = Some(number + 1);
        }
        let moment = number * 10;
        let reach = 10 * CLIENTS / 2;
        Interval {
            act,
            called: moment.saturating_sub(rng.random_range(0..reach)),
            returned: moment + rng.random_range(0..reach),
        }
    };
    (0..count).map(act).collect()
}

#[test]
fn a_long_history_is_searched_in_little_time() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut history = long_history(30_000, &mut rng);
    assert_eq!(linearizable::check(&history, 2_000_000), Linearizable::Yes);
    assert_eq!(linearizable::check(&history, 1_000), Linearizable::Exhausted);
    // A read of what was overwritten long before.
    let old = history.iter().find_map(|one| match one.act {
        Act::Write(value) => Some(value),
        _ => None,
    });
    let late = history.len() - 100;
    history[late].act = Act::Read(old);
    let Linearizable::No { stuck_at } = linearizable::check(&history, 10_000_000) else {
        panic!("an old value was read")
    };
    assert!(stuck_at.abs_diff(late) < 10, "{stuck_at} is far from {late}");
}

//! The checker against a search that tries everything, and against histories that no single copy could have.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const BUDGET: u64 = 100_000;

/// One value, which a write answers with as well.
struct Register;

#[derive(Clone, Copy, Debug)]
enum OnRegister {
    Write(u64),
    Read,
    /// Adds one.
    Count,
}

impl Model for Register {
    type State = u64;
    type Call = OnRegister;
    type Return = u64;

    fn apply(state: &u64, call: &OnRegister) -> (u64, u64) {
        let after = match call {
            OnRegister::Write(value) => *value,
            OnRegister::Read => *state,
            OnRegister::Count => state + 1,
        };
        (after, after)
    }
}

/// Counts, and never goes back.
struct Counter;

impl Model for Counter {
    type State = u64;
    type Call = OnRegister;
    type Return = u64;

    fn apply(state: &u64, call: &OnRegister) -> (u64, u64) {
        match call {
            OnRegister::Write(_) | OnRegister::Count => (state + 1, state + 1),
            OnRegister::Read => (*state, *state),
        }
    }

    fn may_come(state: &u64, _call: &OnRegister, answer: &u64) -> bool {
        state <= answer
    }
}

type OnRegisterOnce = Operation<OnRegister, u64>;

fn returned(call: OnRegister, called: u64, returned: u64, answer: u64) -> OnRegisterOnce {
    Operation { call, called, returned: Some((returned, answer)) }
}

fn unknown(call: OnRegister, called: u64) -> OnRegisterOnce {
    Operation { call, called, returned: None }
}

fn verdict(operations: &[OnRegisterOnce]) -> Verdict {
    check::<Register>(operations, BUDGET)
}

/// Tries every operation that nothing else must come before, and all that can come after it.
fn is_linearizable<M: Model<State = u64, Call = OnRegister, Return = u64>>(
    state: u64,
    left: &[OnRegisterOnce],
) -> bool {
    let must_come_first = |operation: &OnRegisterOnce| {
        left.iter().any(|other| other.returned.as_ref().is_some_and(|(returned, _)| *returned < operation.called))
    };
    let may_come_next = |operation: &OnRegisterOnce| {
        let (after, answer) = M::apply(&state, &operation.call);
        let fits = operation.returned.as_ref().is_none_or(|(_, returned)| *returned == answer);
        (fits && !must_come_first(operation)).then_some(after)
    };
    left.iter().all(|operation| operation.returned.is_none())
        || left.iter().enumerate().any(|(place, operation)| {
            may_come_next(operation).is_some_and(|after| {
                let mut rest = left.to_vec();
                rest.remove(place);
                is_linearizable::<M>(after, &rest)
            })
        })
}

fn random_history(rng: &mut ChaCha8Rng) -> Vec<OnRegisterOnce> {
    let count = rng.random_range(1..=6);
    let mut times: Vec<u64> = (0..2 * count).collect();
    // Half of the histories are nearly sequential.
    let reach = if rng.random() { times.len() } else { 3 };
    for place in 0..times.len() {
        let other = (place + rng.random_range(0..reach)).min(times.len() - 1);
        times.swap(place, other);
    }
    let operation = |pair: &[u64]| {
        let call = match rng.random_range(0..3) {
            0 => OnRegister::Write(rng.random_range(1..3)),
            1 => OnRegister::Read,
            _ => OnRegister::Count,
        };
        let (called, end) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        let answer = match call {
            OnRegister::Write(value) if rng.random_bool(0.95) => value,
            _ => rng.random_range(0..4),
        };
        if rng.random_bool(0.2) { unknown(call, called) } else { returned(call, called, end, answer) }
    };
    times.chunks(2).map(operation).collect()
}

fn compare<M: Model<State = u64, Call = OnRegister, Return = u64>>() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut counts = [0; 2];
    for _ in 0..30_000 {
        let history = random_history(&mut rng);
        let expected = is_linearizable::<M>(0, &history);
        let expected_verdict = if expected { Verdict::Linearizable } else { Verdict::NotLinearizable };
        assert_eq!(check::<M>(&history, BUDGET), expected_verdict, "{history:#?}");
        counts[usize::from(expected)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 1500), "hardly any of a kind: {counts:?}");
}

#[test]
fn the_checker_agrees_with_a_search_that_tries_everything() {
    compare::<Register>();
    compare::<Counter>();
}

#[test]
fn a_stale_read_is_caught() {
    let write = [returned(OnRegister::Write(1), 1, 2, 1), returned(OnRegister::Write(2), 3, 4, 2)];
    let read = |called, answer| [&write[..], &[returned(OnRegister::Read, called, 9, answer)]].concat();
    assert_eq!(verdict(&read(5, 2)), Verdict::Linearizable);
    assert_eq!(verdict(&read(5, 1)), Verdict::NotLinearizable);
    assert_eq!(verdict(&[write[0].clone(), returned(OnRegister::Read, 0, 3, 0)]), Verdict::Linearizable);
}

#[test]
fn a_lost_write_is_caught() {
    let counted = |called, end, answer| returned(OnRegister::Count, called, end, answer);
    assert_eq!(verdict(&[counted(1, 2, 1), counted(3, 4, 2)]), Verdict::Linearizable);
    assert_eq!(verdict(&[counted(1, 2, 1), counted(3, 4, 1)]), Verdict::NotLinearizable);
    assert_eq!(verdict(&[counted(1, 3, 1), counted(2, 4, 1)]), Verdict::NotLinearizable);
}

#[test]
fn a_write_that_is_applied_twice_is_caught() {
    let history = |answer| [unknown(OnRegister::Count, 1), returned(OnRegister::Read, 2, 3, answer)];
    assert_eq!(verdict(&history(0)), Verdict::Linearizable);
    assert_eq!(verdict(&history(1)), Verdict::Linearizable);
    assert_eq!(verdict(&history(2)), Verdict::NotLinearizable);
}

#[test]
fn what_is_unknown_may_happen_late_but_not_be_undone() {
    let read = |called, answer| returned(OnRegister::Read, called, called + 1, answer);
    let write = unknown(OnRegister::Write(7), 1);
    assert_eq!(verdict(&[write.clone(), read(2, 0), read(4, 7), read(6, 7)]), Verdict::Linearizable);
    assert_eq!(verdict(&[write.clone(), read(2, 7), read(4, 0)]), Verdict::NotLinearizable);
    assert_eq!(verdict(&[read(2, 7), unknown(OnRegister::Write(7), 4)]), Verdict::NotLinearizable);
}

#[test]
fn a_search_that_is_not_finished_says_so() {
    let history = [returned(OnRegister::Write(1), 1, 2, 1), returned(OnRegister::Read, 3, 4, 1)];
    assert_eq!(check::<Register>(&history, 2), Verdict::Exhausted);
}

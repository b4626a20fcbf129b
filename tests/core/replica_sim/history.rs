//! What clients have done to each key that nobody owns, and what they saw: checked for linearizability.

use std::collections::BTreeMap;

use super::backend::{KeyState, RECENT};
use crate::linearizable::{Model, Operation, Verdict, check};

/// Steps of the search for one key. The histories here take far fewer.
const BUDGET: u64 = 500_000;

/// Names an operation.
#[derive(Clone, Copy, Debug)]
pub struct OperationId(usize);

#[derive(Clone, Copy, Debug)]
pub enum Call {
    Append(u64),
    Read,
}

/// Numbers under one key. Every answer tells of all that is there.
struct Appended;

impl Model for Appended {
    type State = KeyState;
    type Call = Call;
    type Return = KeyState;

    fn apply(state: &KeyState, call: &Call) -> (KeyState, KeyState) {
        let after = match call {
            Call::Append(number) => state.push(*number),
            Call::Read => *state,
        };
        (after, after)
    }

    fn may_come(state: &KeyState, call: &Call, answer: &KeyState) -> bool {
        match call {
            Call::Append(_) => state.missing(*answer).is_some_and(|missing| missing > 0),
            Call::Read => state.missing(*answer).is_some(),
        }
    }
}

#[derive(Default)]
pub struct History {
    now: u64,
    /// How many numbers were written under each key since anybody saw what is there.
    unseen: BTreeMap<u8, usize>,
    operations: Vec<(u8, Option<Operation<Call, KeyState>>)>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Whether another number under this key could still be told apart: answers show the latest ones alone, and the order of
    /// others would have to be guessed.
    pub fn may_append(&self, key: u8) -> bool {
        self.unseen.get(&key).is_none_or(|unseen| *unseen < RECENT / 2)
    }

    pub fn call(&mut self, key: u8, call: Call) -> OperationId {
        let called = self.tick();
        if matches!(call, Call::Append(_)) {
            *self.unseen.entry(key).or_default() += 1;
        }
        self.operations.push((key, Some(Operation { call, called, returned: None })));
        OperationId(self.operations.len() - 1)
    }

    pub fn returned(&mut self, id: OperationId, state: KeyState) {
        let now = self.tick();
        if let Some(operation) = &mut self.operations[id.0].1 {
            operation.returned = Some((now, state));
        }
        self.unseen.remove(&self.operations[id.0].0);
    }

    /// It came to nothing, and its client knows.
    pub fn nothing(&mut self, id: OperationId) {
        self.operations[id.0].1 = None;
    }

    /// How many operations were checked. Those that were never answered may take effect at any time, or never.
    pub fn check(&self) -> u64 {
        let mut by_key = BTreeMap::<_, Vec<_>>::new();
        for (key, operation) in &self.operations {
            by_key.entry(*key).or_default().extend(operation.clone());
        }
        for (key, operations) in &by_key {
            let verdict = check::<Appended>(operations, BUDGET);
            assert_eq!(verdict, Verdict::Linearizable, "what clients saw of key {key}: {operations:#?}");
        }
        by_key.values().map(|operations| operations.len() as u64).sum()
    }
}

//! Is there one order of the operations, each at some moment between its call and its return, in which a single copy
//! would have answered the same? Wing and Gong's search with Lowe's memory of what was tried: a set of operations done
//! and the state they led to need not be tried twice.
//!
//! An operation that never returned may have taken effect at any time after its call, or never.

mod links;
mod tests;

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use links::Links;

/// A single copy of what is under test.
pub trait Model {
    type State: Clone + Default + Eq + Hash;
    type Call: Debug;
    type Return: Debug + PartialEq;

    fn apply(state: &Self::State, call: &Self::Call) -> (Self::State, Self::Return);

    /// Whether a call may yet get this answer, from this state or from one that follows it. Spares the search what leads
    /// nowhere: above all, trying those that never returned in every order.
    fn may_come(_state: &Self::State, _call: &Self::Call, _answer: &Self::Return) -> bool {
        true
    }
}

/// What a client has called, and what it got. All times are different.
#[derive(Clone, Debug)]
pub struct Operation<C, R> {
    pub call: C,
    pub called: u64,
    pub returned: Option<(u64, R)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    NotLinearizable,
    /// Not known after as many steps as were allowed.
    Exhausted,
}

/// Looks for an order, in at most `budget` steps.
pub fn check<M: Model>(operations: &[Operation<M::Call, M::Return>], budget: u64) -> Verdict {
    let mut search = Search::<M>::new(operations);
    for _ in 0..budget {
        if let Some(verdict) = search.step() {
            return verdict;
        }
    }
    Verdict::Exhausted
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// Calls and returns in the order of time, linked, so that an operation that is done can be taken out and put back.
struct Search<'a, M: Model> {
    operations: &'a [Operation<M::Call, M::Return>],
    events: Vec<Event>,
    links: Links,
    /// Where each operation's call and return are.
    places: Vec<(usize, Option<usize>)>,
    state: M::State,
    done: Box<[u64]>,
    tried: HashSet<(Box<[u64]>, M::State)>,
    /// The operations done, with the states before them.
    trail: Vec<(usize, M::State)>,
    /// Operations that have returned and are not done.
    open: usize,
    at: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: &'a [Operation<M::Call, M::Return>]) -> Self {
        let mut timed = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            timed.push((operation.called, number, true));
            timed.extend(operation.returned.as_ref().map(|(returned, _)| (*returned, number, false)));
        }
        timed.sort_unstable();
        let mut places = vec![(0, None); operations.len()];
        for (place, (_, number, is_call)) in timed.iter().enumerate() {
            match is_call {
                true => places[*number].0 = place,
                false => places[*number].1 = Some(place),
            }
        }
        let event = |(_, number, is_call)| if is_call { Event::Call(number) } else { Event::Return(number) };
        let links = Links::new(timed.len());
        Self {
            operations,
            events: timed.into_iter().map(event).collect(),
            links,
            places,
            state: M::State::default(),
            done: vec![0; operations.len().div_ceil(64)].into(),
            tried: HashSet::new(),
            trail: Vec::new(),
            open: operations.iter().filter(|operation| operation.returned.is_some()).count(),
            at: 0,
        }
    }

    /// Looks at the next event.
    fn step(&mut self) -> Option<Verdict> {
        if self.open == 0 {
            return Some(Verdict::Linearizable);
        }
        match self.events.get(self.at) {
            Some(Event::Call(number)) => {
                if !self.try_operation(*number) {
                    self.at = self.links.behind(self.at);
                }
                None
            }
            // An operation returned before this, and could not be done: something before must be done otherwise.
            Some(Event::Return(_)) | None => match self.trail.pop() {
                Some((number, state)) => {
                    self.undo(number, state);
                    None
                }
                None => Some(Verdict::NotLinearizable),
            },
        }
    }

    fn try_operation(&mut self, number: usize) -> bool {
        let operation = &self.operations[number];
        let (after, answer) = M::apply(&self.state, &operation.call);
        if operation.returned.as_ref().is_some_and(|(_, returned)| *returned != answer) {
            return false;
        }
        if !self.may_go_on(number, &after) {
            return false;
        }
        self.done[number / 64] ^= 1 << (number % 64);
        if !self.tried.insert((self.done.clone(), after.clone())) {
            self.done[number / 64] ^= 1 << (number % 64);
            return false;
        }
        self.trail.push((number, std::mem::replace(&mut self.state, after)));
        let (call, returned) = self.places[number];
        self.links.take_out(call);
        if let Some(returned) = returned {
            self.links.take_out(returned);
            self.open -= 1;
        }
        self.at = self.links.first();
        true
    }

    /// Whether those that must be done soon may be done once this one has led to this state.
    fn may_go_on(&self, done: usize, state: &M::State) -> bool {
        let mut at = self.links.first();
        while let Some(event) = self.events.get(at) {
            match event {
                Event::Call(number) if *number != done => {
                    let Operation { call, returned, .. } = &self.operations[*number];
                    if returned.as_ref().is_some_and(|(_, answer)| !M::may_come(state, call, answer)) {
                        return false;
                    }
                }
                Event::Return(number) if *number != done => return true,
                Event::Call(_) | Event::Return(_) => {}
            }
            at = self.links.behind(at);
        }
        true
    }

    fn undo(&mut self, number: usize, state: M::State) {
        self.state = state;
        self.done[number / 64] ^= 1 << (number % 64);
        let (call, returned) = self.places[number];
        if let Some(returned) = returned {
            self.links.put_back(returned);
            self.open += 1;
        }
        self.links.put_back(call);
        self.at = self.links.behind(call);
    }
}

//! Is there one order of a key's operations, each at some moment between its call and its return, in which a single register
//! would have answered the same? Wing and Gong's search with Lowe's memory: a set of operations done and the value they led
//! to need not be tried twice.
//!
//! The simulator's checker (`tests/core/linearizable`) remembers a bit for every operation, which for the histories here,
//! of some ten thousand, would take gigabytes. Here every operation has returned (`register` sees to that), so what is done
//! is everything up to some operation and a few of those that overlap it: that is remembered.

#[path = "../../core/linearizable/links.rs"]
mod links;

use std::collections::{BTreeSet, HashSet};

use links::Links;

/// Steps of one search. A history that can be explained takes a few for each operation.
pub const MAX_STEPS: u64 = 50_000_000;
/// States that one search remembers, of about a hundred bytes each.
pub const MAX_REMEMBERED: usize = 5_000_000;

/// What was done to a register, and what it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It had this value.
    Read(Option<u64>),
    Write(u64),
    /// It had the first value, and has the second since.
    Exchange(u64, u64),
}

/// An act, from when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub act: Act,
    pub called: u64,
    pub returned: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linearizable {
    Yes,
    /// No; as far as any order went, it could not explain the operation at this place in what was given.
    No {
        stuck_at: usize,
    },
    /// Not known after as many steps, or states, as are allowed.
    Exhausted,
}

/// Looks for an order, in at most `max_steps` steps.
#[must_use]
pub fn check(history: &[Interval], max_steps: u64) -> Linearizable {
    let mut search = Search::new(history);
    for _ in 0..max_steps {
        if let Some(found) = search.step() {
            return found;
        }
        if search.tried.len() > MAX_REMEMBERED {
            break;
        }
    }
    Linearizable::Exhausted
}

/// Operations done: all below `all_below` in the order of their calls, and these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Done {
    all_below: usize,
    others: BTreeSet<usize>,
}

impl Done {
    fn add(&mut self, number: usize) {
        self.others.insert(number);
        while self.others.remove(&self.all_below) {
            self.all_below += 1;
        }
    }

    fn remove(&mut self, number: usize) {
        if number < self.all_below {
            self.others.extend(number + 1..self.all_below);
            self.all_below = number;
        } else {
            self.others.remove(&number);
        }
    }

    fn key(&self) -> (usize, Box<[usize]>) {
        (self.all_below, self.others.iter().copied().collect())
    }
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// A state that was tried: what was done, and the value.
type Tried = ((usize, Box<[usize]>), Option<u64>);

/// Calls and returns in the order of time, linked, so that an operation that is done can be taken out and put back.
struct Search<'a> {
    history: &'a [Interval],
    /// Operations in the order of their calls: places in `history`.
    order: Vec<usize>,
    events: Vec<Event>,
    links: Links,
    /// Where each operation's call and return are.
    places: Vec<(usize, usize)>,
    value: Option<u64>,
    done: Done,
    tried: HashSet<Tried>,
    /// The operations done, with the values before them.
    trail: Vec<(usize, Option<u64>)>,
    at: usize,
    /// How many were done where no order went on, at the most, and what could not be done there.
    furthest: (usize, usize),
}

impl<'a> Search<'a> {
    fn new(history: &'a [Interval]) -> Self {
        let mut order: Vec<usize> = (0..history.len()).collect();
        order.sort_by_key(|place| history[*place].called);
        // What happens at one moment overlaps: calls come first.
        let mut timed: Vec<_> = order
            .iter()
            .enumerate()
            .flat_map(|(number, place)| {
                let Interval { called, returned, .. } = history[*place];
                [(called, false, number), (returned.max(called), true, number)]
            })
            .collect();
        timed.sort_unstable();
        let mut places = vec![(0, 0); order.len()];
        for (place, (_, is_return, number)) in timed.iter().enumerate() {
            match is_return {
                false => places[*number].0 = place,
                true => places[*number].1 = place,
            }
        }
        let links = Links::new(timed.len());
        let event = |(_, is_return, number)| if is_return { Event::Return(number) } else { Event::Call(number) };
        Self {
            history,
            order,
            events: timed.into_iter().map(event).collect(),
            links,
            places,
            value: None,
            done: Done::default(),
            tried: HashSet::new(),
            trail: Vec::new(),
            at: 0,
            furthest: (0, 0),
        }
    }

    /// Looks at the next event.
    fn step(&mut self) -> Option<Linearizable> {
        if self.trail.len() == self.order.len() {
            return Some(Linearizable::Yes);
        }
        match self.events[self.at] {
            Event::Call(number) => {
                if !self.try_operation(number) {
                    self.at = self.links.behind(self.at);
                }
                None
            }
            // An operation returned before this, and could not be done: something before must be done otherwise.
            Event::Return(number) => {
                if self.trail.len() >= self.furthest.0 {
                    self.furthest = (self.trail.len(), self.order[number]);
                }
                match self.trail.pop() {
                    Some((number, value)) => {
                        self.undo(number, value);
                        None
                    }
                    None => Some(Linearizable::No { stuck_at: self.furthest.1 }),
                }
            }
        }
    }

    fn try_operation(&mut self, number: usize) -> bool {
        let after = match self.history[self.order[number]].act {
            Act::Read(found) if found == self.value => found,
            Act::Write(value) => Some(value),
            Act::Exchange(expected, value) if self.value == Some(expected) => Some(value),
            Act::Read(_) | Act::Exchange(..) => return false,
        };
        self.done.add(number);
        if !self.tried.insert((self.done.key(), after)) {
            self.done.remove(number);
            return false;
        }
        self.trail.push((number, std::mem::replace(&mut self.value, after)));
        let (call, returned) = self.places[number];
        self.links.take_out(call);
        self.links.take_out(returned);
        self.at = self.links.first();
        true
    }

    fn undo(&mut self, number: usize, value: Option<u64>) {
        self.value = value;
        self.done.remove(number);
        let (call, returned) = self.places[number];
        self.links.put_back(returned);
        self.links.put_back(call);
        self.at = self.links.behind(call);
    }
}

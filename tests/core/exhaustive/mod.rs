//! Every run of three real peers within small bounds, found by model checking: where the simulator samples long runs of
//! wild clusters, this leaves out nothing in short runs of small ones.
//!
//! A [`State`](world::State) of the model is three peers, each the real core with its disk, and the messages between them.
//! In each state everything that the bounds allow happens in turn: a message arrives, in any order and more than once or
//! never; the oldest write of a peer becomes durable; a peer's patience ends; a leader is given a command or the change of
//! the membership; a process crashes, loses its writes that are not durable, and starts again. What must hold is in
//! `promises`, and is asked of every state.
//!
//! The [`SMALL`] scopes are run by `cargo test`. The [`LARGE`] ones take minutes and are run by
//!
//! ```text
//! EXHAUSTIVE_LARGE=1 cargo test --release --no-default-features --test core exhaustive -- --nocapture
//! ```
//!
//! Each prints how many states it has. A failure prints the shortest run that breaks the promise.
//!
//! # Bounds
//!
//! Three peers, and terms 2 and 3: term 1 is that of the cluster's first entry, which nobody leads. A run that enters term 4
//! is not followed, and what is said in term 4 is lost. [`Budget`] bounds what is no consequence of anything else; messages
//! and writes have no bound, because only finitely many differ.
//!
//! # Time and chance
//!
//! Ticks are not counted: "an election timeout passes" is an event, and may happen at any time that the budget allows. Random
//! timeouts, the generator behind them, and counters of ticks therefore do not tell states apart (`identity`). Otherwise,
//! peers are compared by their whole `Debug` text: a new field counts unless it is named there, so that a state is never
//! taken for another by oversight, and the core needs nothing but `Clone` for it. That text is slow, but a peer in a state
//! does the same whatever the others do, so the core runs once for each state of a peer and input (`table`), which are some
//! thousands.
//!
//! # What is left out
//!
//! All of the following are things that can happen to a cluster and do not happen here; the simulator does them.
//!
//! - Snapshots, reads, leadership transfers by request, and limits on bytes. A leader that leaves appoints its successor.
//! - A pre-vote and its answer travel at once, while the candidate still asks: neither comes late.
//! - A message of which nothing would come now, nor after a crash of its receiver, is lost at once. So a peer gets a second
//!   copy of a request as long as that would do anything, and an old message does come late, but not one that could first do
//!   something after yet another event. Kept although nothing comes of them now are appends that are rejected, and vote
//!   requests to a leader or to followers who hear one.
//! - What is committed and durable is applied at once, and entries are read from the disk at once.
//! - Heartbeats are sent only where the budget has some. Those of a leader that gives up for want of answers are lost.
//! - A peer that asks for an election while it has writes that are not durable has seen a write become durable since it last
//!   heard its leader: else the core takes its disk for stalled.
//! - While the peers differ by name alone, the first of them runs first.

mod identity;
mod local;
mod promises;
mod table;
mod world;

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use world::{Budget, Scope, World};

const NOTHING: Budget = Budget { timeouts: 0, proposals: 0, changes: 0, crashes: 0, heartbeats: 0 };

const BOTH: &str = "both terms have had a leader";
const OVERWRITTEN: &str = "an entry is overwritten";
const COMMAND: &str = "a command is committed";
const COMPLETE: &str = "the change is complete";
const TAKEN_OVER: &str = "the second leader completes the change";
const JOINT: &str = "a leader in a joint configuration of another's making";

const ELECTION: Scope = Scope {
    name: "elections among three",
    from: &[1, 2, 3],
    to: &[1, 2, 3],
    budget: Budget { timeouts: 3, ..NOTHING },
    is_symmetric: true,
    reaches: &[BOTH, OVERWRITTEN],
};

const COMMANDS: Scope = Scope {
    name: "a command",
    budget: Budget { timeouts: 2, proposals: 1, ..NOTHING },
    reaches: &[BOTH, OVERWRITTEN, COMMAND],
    ..ELECTION
};

const GROWTH: Scope = Scope {
    name: "two become three",
    from: &[1, 2],
    to: &[1, 2, 3],
    budget: Budget { timeouts: 2, changes: 1, ..NOTHING },
    is_symmetric: true,
    reaches: &[BOTH, COMPLETE, TAKEN_OVER, JOINT],
};

const REPLACEMENT: Scope =
    Scope { name: "one of two is replaced", from: &[1, 2], to: &[2, 3], is_symmetric: false, ..GROWTH };

const REMOVAL: Scope = Scope {
    name: "three become two",
    from: &[1, 2, 3],
    to: &[2, 3],
    is_symmetric: false,
    reaches: &[BOTH, OVERWRITTEN, COMPLETE, TAKEN_OVER, JOINT],
    ..GROWTH
};

const CRASH_OF_TWO: Scope = Scope {
    name: "a command, a crash and a heartbeat among two",
    from: &[1, 2],
    to: &[1, 2],
    budget: Budget { timeouts: 2, proposals: 1, crashes: 1, heartbeats: 1, ..NOTHING },
    is_symmetric: true,
    reaches: &[BOTH, COMMAND],
};

const CRASH: Scope = Scope {
    name: "a crash among three",
    budget: Budget { timeouts: 2, crashes: 1, ..NOTHING },
    reaches: &[BOTH, OVERWRITTEN],
    ..ELECTION
};

/// What `cargo test` explores.
const SMALL: [Scope; 4] = [GROWTH, REPLACEMENT, CRASH_OF_TWO, COMMANDS];

/// What takes minutes.
const LARGE: [Scope; 4] = [
    ELECTION,
    CRASH,
    REMOVAL,
    Scope {
        name: "one of two is replaced, and a crash",
        budget: Budget { crashes: 1, ..GROWTH.budget },
        ..REPLACEMENT
    },
];

#[test]
fn exhaustive() {
    let is_large = std::env::var("EXHAUSTIVE_LARGE").is_ok();
    SMALL.into_iter().chain(LARGE.into_iter().filter(|_| is_large)).for_each(explore);
}

fn explore(scope: Scope) {
    let start = Instant::now();
    let (name, budget) = (scope.name, scope.budget);
    let checker = World::new(scope.clone()).checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let (states, transitions, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    let (peers, lossy_crashes) = checker.model().counts();
    println!(
        "{name}: {states} unique states, {transitions} transitions, depth {depth}, {peers} states of a peer, in {:.1} s; \
         {budget:?}",
        start.elapsed().as_secs_f64()
    );
    if broken(&checker).is_some() {
        tell_shortest(scope);
    }
    assert!(checker.is_done(), "not every state was looked at");
    checker.assert_properties();
    assert!(budget.crashes == 0 || lossy_crashes > 0, "no crash lost a write");
}

/// A promise that does not hold.
fn broken(checker: &impl Checker<World>) -> Option<&'static str> {
    let found = checker.discoveries();
    let properties = checker.model().properties();
    let promises = properties.iter().filter(|property| matches!(property.expectation, Expectation::Always));
    promises.map(|property| property.name).find(|name| found.contains_key(name))
}

/// Explores the scope again, shortest runs first, and tells the run that breaks a promise.
fn tell_shortest(scope: Scope) {
    let checker = World::new(scope).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let promise = broken(&checker).expect("the promise is broken again");
    eprintln!("\nthe promise that {promise} is broken by this run:");
    for action in checker.discovery(promise).expect("a run").into_actions() {
        eprintln!("  {}", checker.model().format_action(&action));
    }
    panic!("broken: {promise}");
}

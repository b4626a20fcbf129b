//! What must hold in every state (Figure 3.2 of the thesis, and what it rests on), and what must happen in some.

use stateright::Property;
use zraft::raft::{Message, Payload};

use crate::exhaustive::local::Fault;
use crate::exhaustive::table::{EntryName, Facts, Known, PeerSet, Table};
use crate::exhaustive::world::{History, PEERS, Scope, State, World, place_of_term};

/// Remembers for whom a message's sender has voted.
pub fn note_vote(history: &mut History, message: &Known) {
    let candidate = match message.envelope.message {
        Message::VoteReply { granted: true } => message.to,
        Message::Vote { .. } => message.from,
        _ => return,
    };
    if let Some(term) = place_of_term(message.envelope.term.0) {
        history.votes[term][message.from] |= 1 << candidate;
    }
}

/// Remembers what a peer knows to be committed. What is new comes from a leader, and a quorum of the configuration in
/// effect there has it on its disks.
pub fn note_commit(next: &mut State, table: &Table, before: &Facts, after: &Facts) {
    let known = next.history.committed.len();
    if after.commit <= known {
        return;
    }
    next.history.committed.extend(&after.log[known..after.commit]);
    let last = after.commit - 1;
    let holds = |peer: usize| table.peers[next.peers[peer] as usize].durable.get(last) == Some(&after.log[last]);
    let holders = (0..PEERS).filter(|peer| holds(*peer)).fold(0, |set, peer| set | 1 << peer);
    let is_quorum = is_majority(holders, before.voters) && is_majority(holders, before.outgoing);
    let is_own = table.term_of(after.log[last]) == after.term;
    if !before.is_leader || !is_quorum || !is_own {
        next.history.fault = next.history.fault.or(Some(Fault::CommittedWithoutQuorum));
    }
}

fn is_majority(of: PeerSet, voters: PeerSet) -> bool {
    voters == 0 || (of & voters).count_ones() * 2 > voters.count_ones()
}

/// Whether every peer's state fits.
fn all(world: &World, state: &State, fits: impl Fn(&Table, &Facts) -> bool) -> bool {
    let table = world.table();
    state.peers.iter().all(|peer| fits(&table, &table.peers[*peer as usize]))
}

fn is_without(state: &State, fault: Fault) -> bool {
    state.history.fault != Some(fault)
}

/// The promises, and what the scope must reach so that they are not kept for want of events.
pub fn properties(scope: &Scope) -> Vec<Property<World>> {
    let reached = REACHABLE.into_iter().filter(|(name, _)| scope.reaches.contains(name));
    always().into_iter().chain(reached.map(|(name, happens)| Property::sometimes(name, happens))).collect()
}

fn always() -> Vec<Property<World>> {
    vec![
        Property::always("at most one leader a term", |_, state: &State| {
            state.history.leaders.iter().all(|leaders| leaders.count_ones() <= 1)
        }),
        Property::always("at most one vote a term, over crashes", |_, state: &State| {
            state.history.votes.iter().flatten().all(|votes| votes.count_ones() <= 1)
        }),
        Property::always("logs that agree on an entry agree on all before", log_matching),
        Property::always("the latest leader has every committed entry", leader_completeness),
        Property::always("what is committed is the same everywhere and for ever", |world: &World, state: &State| {
            all(world, state, |_, facts| state.history.committed.starts_with(&facts.log[..facts.commit]))
        }),
        Property::always("a leader has at most one configuration uncommitted", |world: &World, state: &State| {
            all(world, state, |_, facts| !facts.is_leader || facts.pending_configurations <= 1)
        }),
        Property::always("committed are entries of the own term on a quorum's disks", |_, state: &State| {
            is_without(state, Fault::CommittedWithoutQuorum)
        }),
        Property::always("nothing is said before it is durable", |_, state: &State| {
            is_without(state, Fault::SaidBeforeDurable)
        }),
        Property::always("nothing is applied before it is committed and durable", |_, state: &State| {
            is_without(state, Fault::AppliedBeforeDurable)
        }),
        Property::always("a leader only appends", |_, state: &State| is_without(state, Fault::LeaderRewrote)),
        Property::always("no peer takes another for a liar", |_, state: &State| {
            is_without(state, Fault::RefusedCorrectPeer)
        }),
        Property::always("the core does not panic", |_, state: &State| is_without(state, Fault::Panicked)),
    ]
}

fn log_matching(world: &World, state: &State) -> bool {
    let table = world.table();
    let logs = state.peers.map(|peer| &table.peers[peer as usize].log);
    let matches = |(one, other): (usize, usize)| {
        let terms = |at: &usize| (table.term_of(logs[one][*at]), table.term_of(logs[other][*at]));
        let both = logs[one].len().min(logs[other].len());
        let agreed = (0..both).rev().find(|at| matches!(terms(at), (a, b) if a == b)).map_or(0, |at| at + 1);
        logs[one][..agreed] == logs[other][..agreed]
    };
    [(0, 1), (0, 2), (1, 2)].into_iter().all(matches)
}

fn leader_completeness(world: &World, state: &State) -> bool {
    let latest = state.history.leaders.iter().rposition(|leaders| *leaders != 0);
    all(world, state, |_, facts| {
        let leads_latest = facts.is_leader && place_of_term(facts.term) == latest;
        !leads_latest || facts.log.starts_with(&state.history.committed)
    })
}

type Happens = fn(&World, &State) -> bool;

/// Events that a scope may have to reach.
pub const REACHABLE: [(&str, Happens); 6] = [
    ("both terms have had a leader", |_, state| state.history.leaders.iter().all(|leaders| *leaders != 0)),
    ("an entry is overwritten", |world, state| !all(world, state, |_, facts| !facts.overwrites)),
    ("a command is committed", |world, state| {
        let table = world.table();
        let is_data = |entry: &EntryName| matches!(table.entries[usize::from(*entry)].payload, Payload::Data(_));
        state.history.committed.iter().any(is_data)
    }),
    ("the change is complete", |world, state| {
        let table = world.table();
        state.history.committed.iter().rev().find_map(|entry| table.settles(*entry)) == Some(&world.new)
    }),
    ("the second leader completes the change", |world, state| {
        let table = world.table();
        let last = state.history.committed.last().copied();
        let is_change = |entry: EntryName| table.settles(entry) == Some(&world.new);
        last.is_some_and(|entry| is_change(entry) && place_of_term(table.term_of(entry)) == Some(1))
    }),
    ("a leader in a joint configuration of another's making", |world, state| {
        !all(world, state, |_, facts| !facts.is_leader || facts.outgoing == 0 || place_of_term(facts.term) != Some(1))
    }),
];

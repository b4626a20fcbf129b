//! Three peers and the network between them, as a model for the checker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stateright::{Model, Property};
use zraft::raft::Configuration;
use zraft::types::Incarnation;

use crate::exhaustive::local::{self, Fault, Input};
use crate::exhaustive::promises;
use crate::exhaustive::table::{EntryName, Facts, Kind, MessageName, PeerSet, PeerState, Table};
use crate::peer::peers;

/// The peers there are.
pub const PEERS: usize = 3;
/// The first term that has an election: the cluster's first entry is of term 1, which nobody leads.
const FIRST_TERM: u64 = 2;
/// How many terms have elections.
pub const TERMS: usize = 2;
const LAST_TERM: u64 = FIRST_TERM + TERMS as u64 - 1;

/// How often what is not a consequence of something else may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub timeouts: u8,
    pub proposals: u8,
    pub changes: u8,
    pub crashes: u8,
    pub heartbeats: u8,
}

/// What is explored: the voters at first, those after the change, and the bounds.
#[derive(Clone, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub from: &'static [u64],
    pub to: &'static [u64],
    pub budget: Budget,
    /// The voters at first are all voters or none of them after the change.
    pub is_symmetric: bool,
    /// What must be reached, by the names of [`promises::REACHABLE`].
    pub reaches: &'static [&'static str],
}

/// What has happened, as far as promises are about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// Who has led each term.
    pub leaders: [PeerSet; TERMS],
    /// For whom each peer has said to vote, term by term.
    pub votes: [[PeerSet; PEERS]; TERMS],
    /// What some peer knew to be committed, from index 1 on.
    pub committed: Vec<EntryName>,
    pub fault: Option<Fault>,
}

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub peers: [PeerState; PEERS],
    /// Every message that was sent and may still matter. It stays when it has arrived, and may arrive again.
    pub network: Vec<MessageName>,
    pub history: History,
    pub left: Budget,
}

/// Something happens to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub at: usize,
    pub input: Input<MessageName>,
}

pub struct World {
    pub scope: Scope,
    pub old: Configuration,
    pub new: Configuration,
    table: Mutex<Table>,
}

fn configuration(ids: &[u64]) -> Configuration {
    Configuration::of(peers(ids.iter().copied()))
}

impl World {
    pub fn new(scope: Scope) -> Self {
        let (old, new) = (configuration(scope.from), configuration(scope.to));
        Self { scope, old, new, table: Mutex::default() }
    }

    /// What is known of peers, messages and entries.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many states of a peer are known, and how many of them lose a write in a crash.
    pub fn counts(&self) -> (usize, usize) {
        let table = self.table();
        (table.peers.len(), table.lossy_crashes)
    }

    /// The place of a term in arrays.
    fn term_place(term: u64) -> Option<usize> {
        usize::try_from(term.checked_sub(FIRST_TERM)?).ok().filter(|place| *place < TERMS)
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut table = self.table();
        let peers = [1, 2, 3].map(|id| {
            let cluster = self.scope.from.contains(&id).then(|| self.old.clone());
            table.peer(local::start(Incarnation(id), cluster))
        });
        let first = peers.iter().map(|peer| &table.peers[*peer as usize]).find(|facts| facts.commit > 0);
        let committed = first.expect("somebody is there").log.clone();
        let history = History { leaders: [0; TERMS], votes: [[0; PEERS]; TERMS], committed, fault: None };
        vec![State { peers, network: Vec::new(), history, left: self.scope.budget }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.history.fault.is_some() {
            return;
        }
        let table = self.table();
        for name in &state.network {
            let message = &table.messages[usize::from(*name)];
            let at = message.to;
            actions.push(Action { at, input: Input::Deliver(*name) });
            let asks = matches!(message.kind, Kind::PreVote | Kind::Vote);
            if asks && table.peers[state.peers[at] as usize].trusts_leader {
                actions.push(Action { at, input: Input::DeliverLate(*name) });
            }
        }
        for at in 0..PEERS {
            let facts = &table.peers[state.peers[at] as usize];
            // The peers that are there at first differ by name alone: the first to run is the first by name.
            let may_begin = at == 0 || !self.scope.is_symmetric || state.left != self.scope.budget;
            let inputs = self.own_inputs(facts, &state.left, may_begin);
            actions.extend(inputs.into_iter().map(|input| Action { at, input }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut table = self.table();
        let mut next = state.clone();
        next.left = spend(state.left, action.input);
        let sent = self.happen(&mut table, &mut next, action)?;
        for name in sent {
            let message = Arc::clone(&table.messages[usize::from(name)]);
            if message.kind == Kind::PreVoteReply {
                self.happen(&mut table, &mut next, Action { at: message.to, input: Input::Deliver(name) });
            }
        }
        self.lose_useless(&mut table, &mut next);
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        let table = self.table();
        state.peers.iter().all(|peer| table.peers[*peer as usize].term <= LAST_TERM)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::properties(&self.scope)
    }

    fn format_action(&self, action: &Action) -> String {
        let (Input::Deliver(name) | Input::DeliverLate(name)) = action.input else {
            return format!("p{}: {:?}", action.at + 1, action.input);
        };
        let late = if action.input == Input::Deliver(name) { "" } else { " late" };
        format!("p{}{late} <- {:?}", action.at + 1, self.table().messages[usize::from(name)].envelope)
    }
}

impl World {
    /// An input takes place: the peer changes, and what it says is on the network. Tells what that is, or none if
    /// nothing came of it.
    fn happen(&self, table: &mut Table, state: &mut State, action: Action) -> Option<Vec<MessageName>> {
        let before = state.peers[action.at] as usize;
        let outcome = table.outcome(state.peers[action.at], action.input, &self.new)?;
        state.peers[action.at] = outcome.next;
        state.history.fault = state.history.fault.or(outcome.fault);
        for name in &outcome.sent {
            let message = &table.messages[usize::from(*name)];
            promises::note_vote(&mut state.history, message);
            let travels = message.kind != Kind::PreVoteReply && message.envelope.term.0 <= LAST_TERM;
            if let (true, Err(place)) = (travels, state.network.binary_search(name)) {
                state.network.insert(place, *name);
            }
        }
        let (before, after) = (&table.peers[before], &table.peers[outcome.next as usize]);
        if let Some(term) = Self::term_place(after.term).filter(|_| after.is_leader) {
            state.history.leaders[term] |= 1 << action.at;
        }
        promises::note_commit(state, table, before, after);
        Some(outcome.sent.clone())
    }

    /// Loses messages of which nothing would come, now or after a crash of their receiver.
    fn lose_useless(&self, table: &mut Table, state: &mut State) {
        let network = std::mem::take(&mut state.network);
        let kept = network.iter().filter(|name| {
            let receiver = state.peers[table.messages[usize::from(**name)].to];
            let crashed = (state.left.crashes > 0).then(|| table.outcome(receiver, Input::Crash, &self.new)).flatten();
            self.would_matter(table, state, &network, **name, receiver)
                || crashed.is_some_and(|crashed| self.would_matter(table, state, &network, **name, crashed.next))
        });
        state.network = kept.copied().collect();
    }

    /// Whether a message would change its receiver, or its answer somebody else, or may do so when a leader has given
    /// up or a follower's log has grown.
    fn would_matter(
        &self,
        table: &mut Table,
        state: &State,
        network: &[MessageName],
        name: MessageName,
        receiver: PeerState,
    ) -> bool {
        let message = Arc::clone(&table.messages[usize::from(name)]);
        let (sender, facts) = (&table.peers[state.peers[message.from] as usize], &table.peers[receiver as usize]);
        let (asks, term) = (matches!(message.kind, Kind::PreVote | Kind::Vote), message.envelope.term.0);
        if message.kind == Kind::PreVote && !(sender.is_asking && sender.term + 1 == term) {
            return false;
        }
        if asks && facts.is_leader && facts.term < term {
            return true;
        }
        let late = (asks && facts.trusts_leader).then_some(Input::DeliverLate(name));
        [Some(Input::Deliver(name)), late].into_iter().flatten().any(|input| {
            let Some(outcome) = table.outcome(receiver, input, &self.new) else { return false };
            let matters = |answer: &MessageName| {
                let answer_to = state.peers[table.messages[usize::from(*answer)].to];
                let is_new = network.binary_search(answer).is_err();
                let is_rejection = table.messages[usize::from(*answer)].is_rejection;
                is_rejection || is_new && table.outcome(answer_to, Input::Deliver(*answer), &self.new).is_some()
            };
            outcome.next != receiver || outcome.fault.is_some() || outcome.sent.iter().any(matters)
        })
    }

    /// What may happen to a peer without a message.
    fn own_inputs(&self, facts: &Facts, left: &Budget, may_begin: bool) -> Vec<Input<MessageName>> {
        let writes = facts.peer.writes.len();
        let number = self.scope.budget.proposals - left.proposals;
        let inputs = [
            (writes > 0, Input::Persist),
            (writes > 1 && facts.is_patient && !facts.is_leader, Input::PersistLate),
            (left.timeouts > 0 && may_begin, Input::Timeout),
            (left.heartbeats > 0 && facts.is_leader, Input::Heartbeat),
            (left.proposals > 0 && facts.is_leader, Input::Propose(number)),
            (left.changes > 0 && facts.is_leader, Input::Change),
            (left.crashes > 0, Input::Crash),
        ];
        inputs.into_iter().filter(|(may, _)| *may).map(|(_, input)| input).collect()
    }
}

fn spend(mut left: Budget, input: Input<MessageName>) -> Budget {
    match input {
        Input::Timeout => left.timeouts -= 1,
        Input::Heartbeat => left.heartbeats -= 1,
        Input::Propose(_) => left.proposals -= 1,
        Input::Change => left.changes -= 1,
        Input::Crash => left.crashes -= 1,
        Input::Deliver(_) | Input::DeliverLate(_) | Input::Persist | Input::PersistLate => {}
    }
    left
}

/// The place of a term in arrays, for what is said in it.
pub fn place_of_term(term: u64) -> Option<usize> {
    World::term_place(term)
}

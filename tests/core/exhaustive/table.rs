//! Every state of a peer, every message and every entry once, under a small number. What an input makes of a peer
//! depends on that peer alone, so the core runs once for each pair of the two, however many states of the whole cluster
//! contain it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use zraft::raft::{AppendReply, Configuration, Entry, Envelope, Message, Payload, RoleName};
use zraft::types::{Digest, Incarnation};

use crate::exhaustive::identity;
use crate::exhaustive::local::{self, Fault, Input};
use crate::peer::Peer;

pub type PeerState = u32;
pub type MessageName = u16;
pub type EntryName = u16;
/// A set of peers: bit `i` is the peer at place `i`.
pub type PeerSet = u8;

/// The place of a peer in arrays.
pub fn place(id: Incarnation) -> usize {
    usize::try_from(id.0 - 1).expect("a small number")
}

fn set<'a>(ids: impl Iterator<Item = &'a Incarnation>) -> PeerSet {
    ids.fold(0, |set, id| set | 1 << place(*id))
}

/// What the checker asks a peer's state.
pub struct Facts {
    pub peer: Peer,
    pub term: u64,
    pub is_leader: bool,
    /// Asks whether it would win an election.
    pub is_asking: bool,
    /// A follower that would refuse a vote for its leader's sake.
    pub trusts_leader: bool,
    pub is_patient: bool,
    pub commit: usize,
    /// The log with what is not durable yet, from index 1 on.
    pub log: Vec<EntryName>,
    pub durable: Vec<EntryName>,
    pub voters: PeerSet,
    pub outgoing: PeerSet,
    /// Configurations in the log that the peer does not know to be committed.
    pub pending_configurations: usize,
    /// A write that waits removes entries.
    pub overwrites: bool,
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Comes and is answered at once, while its sender asks.
    PreVote,
    /// The answer, which never waits.
    PreVoteReply,
    /// Asks for a vote without the leader's consent.
    Vote,
    /// Any other request.
    Request,
    /// Is lost as soon as nothing would come of it.
    Answer,
}

/// A message and how it travels.
pub struct Known {
    pub envelope: Envelope,
    pub from: usize,
    pub to: usize,
    pub kind: Kind,
    /// Says that the follower's log does not reach as far as the append.
    pub is_rejection: bool,
}

/// What an input has made of a peer.
pub struct Outcome {
    pub next: PeerState,
    pub sent: Vec<MessageName>,
    pub fault: Option<Fault>,
}

/// An input, and what came of it.
type Computed = (Input<MessageName>, Option<Arc<Outcome>>);

#[derive(Default)]
pub struct Table {
    pub peers: Vec<Arc<Facts>>,
    pub messages: Vec<Arc<Known>>,
    pub entries: Vec<Entry>,
    peer_names: HashMap<Digest, PeerState>,
    message_names: HashMap<Vec<u8>, MessageName>,
    /// For each state of a peer, by its number.
    outcomes: Vec<Vec<Computed>>,
    /// How often a crash has lost a write, counted once for each state of a peer.
    pub lossy_crashes: usize,
}

impl Table {
    /// What the input makes of the peer; none if nothing comes of it.
    pub fn outcome(
        &mut self,
        state: PeerState,
        input: Input<MessageName>,
        new: &Configuration,
    ) -> Option<Arc<Outcome>> {
        if let Some((_, known)) = self.outcomes[state as usize].iter().find(|(known, _)| *known == input) {
            return known.clone();
        }
        let outcome = self.compute(state, input, new).map(Arc::new);
        self.outcomes[state as usize].push((input, outcome.clone()));
        outcome
    }

    fn compute(&mut self, state: PeerState, input: Input<MessageName>, new: &Configuration) -> Option<Outcome> {
        let before = Arc::clone(&self.peers[state as usize]);
        let input = self.with_message(input);
        let is_crash = input == Input::Crash;
        let Ok(step) = catch_unwind(AssertUnwindSafe(|| local::step(&before.peer, input, new))) else {
            return Some(Outcome { next: state, sent: Vec::new(), fault: Some(Fault::Panicked) });
        };
        let step = step?;
        self.lossy_crashes += usize::from(is_crash && !before.peer.writes.is_empty());
        let mut sent: Vec<_> = step.sent.into_iter().map(|envelope| self.message(envelope)).collect();
        sent.sort_unstable();
        sent.dedup();
        let next = self.peer(step.peer);
        let is_nothing = next == state && sent.is_empty() && step.fault.is_none();
        (!is_nothing).then_some(Outcome { next, sent, fault: step.fault })
    }

    fn with_message(&self, input: Input<MessageName>) -> Input<Envelope> {
        let envelope = |name: MessageName| self.messages[usize::from(name)].envelope.clone();
        match input {
            Input::Deliver(name) => Input::Deliver(envelope(name)),
            Input::DeliverLate(name) => Input::DeliverLate(envelope(name)),
            Input::Persist => Input::Persist,
            Input::PersistLate => Input::PersistLate,
            Input::Timeout => Input::Timeout,
            Input::Heartbeat => Input::Heartbeat,
            Input::Propose(number) => Input::Propose(number),
            Input::Change => Input::Change,
            Input::Crash => Input::Crash,
        }
    }

    /// The name of a peer's state.
    pub fn peer(&mut self, peer: Peer) -> PeerState {
        let (identity, is_patient) = identity::of(&peer);
        if let Some(known) = self.peer_names.get(&identity) {
            return *known;
        }
        let name = PeerState::try_from(self.peers.len()).expect("fewer states of a peer");
        let facts = self.facts(peer, is_patient);
        self.peers.push(Arc::new(facts));
        self.outcomes.push(Vec::new());
        self.peer_names.insert(identity, name);
        name
    }

    fn facts(&mut self, peer: Peer, is_patient: bool) -> Facts {
        let status = peer.raft.status();
        let configuration = peer.raft.configuration().clone();
        let configurations = &peer.written.state().configurations;
        Facts {
            term: status.term.0,
            is_asking: status.role == RoleName::PreCandidate,
            is_leader: peer.raft.is_leader(),
            trusts_leader: is_patient && !peer.raft.is_leader() && peer.raft.leader().is_some(),
            is_patient,
            commit: usize::try_from(status.commit.0).expect("a short log"),
            log: peer.written.entries().map(|entry| self.entry(entry)).collect(),
            durable: peer.disk.entries().map(|entry| self.entry(entry)).collect(),
            voters: set(configuration.voters.keys()),
            outgoing: set(configuration.outgoing.keys()),
            pending_configurations: configurations.iter().filter(|(index, _)| *index > status.commit).count(),
            overwrites: peer.writes.iter().any(|write| write.truncate_from.is_some()),
            peer,
        }
    }

    fn entry(&mut self, entry: &Entry) -> EntryName {
        let known = self.entries.iter().position(|known| known == entry).unwrap_or_else(|| {
            self.entries.push(entry.clone());
            self.entries.len() - 1
        });
        EntryName::try_from(known).expect("fewer entries")
    }

    fn message(&mut self, envelope: Envelope) -> MessageName {
        let text = format!("{envelope:?}").into_bytes();
        if let Some(known) = self.message_names.get(&text) {
            return *known;
        }
        let name = MessageName::try_from(self.messages.len()).expect("fewer messages");
        self.messages.push(Arc::new(known(envelope)));
        self.message_names.insert(text, name);
        name
    }

    /// The settled configuration that an entry brings into effect.
    pub fn settles(&self, entry: EntryName) -> Option<&Configuration> {
        match &self.entries[usize::from(entry)].payload {
            Payload::Membership(configuration) if configuration.is_settled() => Some(configuration),
            _ => None,
        }
    }

    pub fn term_of(&self, entry: EntryName) -> u64 {
        self.entries[usize::from(entry)].term.0
    }
}

fn known(envelope: Envelope) -> Known {
    let kind = match &envelope.message {
        Message::PreVote { .. } => Kind::PreVote,
        Message::PreVoteReply { .. } => Kind::PreVoteReply,
        Message::Vote { appointed: false, .. } => Kind::Vote,
        Message::VoteReply { .. } | Message::HeartbeatReply { .. } | Message::AppendReply(_) => Kind::Answer,
        Message::ReadIndexReply { .. } => Kind::Answer,
        Message::QuiesceReply { .. } => Kind::Answer,
        Message::Vote { .. } | Message::Append { .. } | Message::Heartbeat { .. } => Kind::Request,
        Message::Quiesce { .. } => Kind::Request,
        Message::TimeoutNow | Message::ReadIndex { .. } | Message::Snapshot { .. } => Kind::Request,
    };
    let is_rejection = matches!(envelope.message, Message::AppendReply(AppendReply::Rejected { .. }));
    Known { is_rejection, from: place(envelope.from), to: place(envelope.to), kind, envelope }
}

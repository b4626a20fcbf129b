//! Whom a peer belongs with: where the others live, and whether it still belongs to its cluster.
//!
//! A peer's log names its cluster's peers, but not at all times those that it has to do with. Who has just been created
//! to join a cluster has an empty log; it knows the others by an [`Introduction`]. Who has slept through a change hears
//! from peers that came meanwhile; such strangers are listened to, as the thesis wants (section 4.1): their node has
//! proved who it is, and they name the cluster by its 128-bit id.
//!
//! Who has left must learn it, stop, and leave nothing behind. Mostly its own log tells. If it was not sent the end of
//! the log, it hears of no leader any more, and asks those whom it knows about its *standing*; only a leader answers. A
//! life is minted for one change alone, proposed by one leader in the term of the introduction, so a leader of that term or
//! a later one who does not have it will never have it again. While a leader is asked for a change it does not answer: its
//! new peers are there before they are in its log.
//!
//! Whoever a peer has seen leave, by entries that are committed, is no stranger: nothing that it says is listened to any
//! more, whoever has its node's key.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::node::driver::Driver;
use crate::node::frames::{ClusterSpec, NodeFrame, Standing, StandingFrame};
use crate::node::hosting::HostedPeer;
use crate::raft::Envelope;
use crate::types::{ClusterId, Incarnation, Index, NodeAddr, PeerId, Term};

/// Ticks without a leader after which a peer asks whether it still belongs to its cluster: twice an election timeout.
const ASK_TICKS: u32 = 2 * super::ELECTION_TICKS;
/// Strangers whose nodes a peer remembers.
const MAX_STRANGERS: usize = 64;
/// Lives that have left which a peer remembers. Of more, some are strangers again.
const MAX_DEPARTED: usize = 1024;

/// What a peer is told that joins a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The term of the leader that wants it.
    pub term: Term,
    /// The cluster's peers then, and those that join with it.
    pub peers: BTreeMap<Incarnation, PeerId>,
}

/// What a peer knows of the others beside its log.
#[derive(Debug, Default)]
pub(super) struct Company {
    introduced: Term,
    acquaintances: BTreeMap<Incarnation, NodeAddr>,
    strangers: BTreeMap<Incarnation, NodeAddr>,
    /// The last set of peers that is known to be committed, with those that learn, and where it stands in the log.
    members: BTreeSet<Incarnation>,
    members_at: Index,
    /// Who was in such a set before. A life that has left does not come back: it would get another number.
    departed: BTreeSet<Incarnation>,
    /// Where the last set of peers stands in the log to which this peer belongs; zero while there was none.
    belonged_at: Index,
    /// Ticks without a leader.
    lonely_ticks: u32,
}

impl Company {
    pub(super) fn new(introduction: Option<&Introduction>) -> Self {
        let node = |(life, peer): (&Incarnation, &PeerId)| (*life, peer.node().clone());
        Self {
            introduced: introduction.map_or(Term::ZERO, |introduction| introduction.term),
            acquaintances: introduction.iter().flat_map(|introduction| &introduction.peers).map(node).collect(),
            ..Self::default()
        }
    }

    /// A set of peers is committed, after the one before.
    fn see(&mut self, members: BTreeSet<Incarnation>, at: Index) {
        let before = std::mem::replace(&mut self.members, members);
        self.departed.extend(before.difference(&self.members));
        self.members_at = at;
        while self.departed.len() > MAX_DEPARTED {
            self.departed.pop_first();
        }
    }

    fn meet(&mut self, stranger: Incarnation, node: &NodeAddr) {
        if self.strangers.len() >= MAX_STRANGERS {
            // Who is still there will be heard of again.
            self.strangers.pop_first();
        }
        self.strangers.insert(stranger, node.clone());
    }
}

impl HostedPeer {
    /// Where another peer lives: by the log, by introduction, or by its own word.
    pub(super) fn node_of(&self, other: Incarnation) -> Option<&NodeAddr> {
        self.acquaintance(other).or_else(|| self.company.strangers.get(&other))
    }

    /// Where another peer lives, if that is certain.
    fn acquaintance(&self, other: Incarnation) -> Option<&NodeAddr> {
        let in_log = self.replica.raft().address(other).map(PeerId::node);
        in_log.or_else(|| self.company.acquaintances.get(&other))
    }

    /// Whether a message that comes from a node is that of a peer which has something to say. Strangers are remembered.
    pub(super) fn listens_to(&mut self, envelope: &Envelope, node: &NodeAddr) -> bool {
        !self.has_departed(envelope) && self.lives_on(envelope.from, node)
    }

    /// Whether the sender has left the cluster. A leader that leaves leads until that is committed, and names its successor
    /// then.
    fn has_departed(&self, Envelope { from, term, .. }: &Envelope) -> bool {
        let raft = self.replica.raft();
        self.company.departed.contains(from) && !(raft.leader() == Some(*from) && raft.term() == *term)
    }

    /// Takes in which sets of peers are committed.
    fn see_members(&mut self) {
        let raft = self.replica.raft();
        let (configuration, at) = (raft.configuration(), raft.configuration_index());
        if at == self.company.members_at || raft.committed().index < at {
            return;
        }
        if self.company.members.is_empty() {
            // After a restart the log tells who was there at its beginning.
            let snapshot = raft.snapshot().map_or(Index::ZERO, |meta| meta.position.index);
            self.company.members = raft.configuration_at(snapshot.max(Index(1))).members();
        }
        self.company.see(configuration.members(), at);
    }

    /// Whether a node is where a peer lives, as far as known.
    fn lives_on(&mut self, other: Incarnation, node: &NodeAddr) -> bool {
        match self.node_of(other) {
            Some(known) => known == node,
            None => {
                self.company.meet(other, node);
                true
            }
        }
    }

    /// Whether the peer has left its cluster, by its own log.
    fn has_left(&mut self, this: Incarnation) -> bool {
        let raft = self.replica.raft();
        let (configuration, at) = (raft.configuration(), raft.configuration_index());
        if configuration.contains(this) {
            self.company.belonged_at = at;
            return false;
        }
        let committed = raft.committed();
        let is_over = configuration.is_settled() && committed.index >= at && self.replica.machine().0 >= at;
        // Who has joined and follows the log from its beginning passes sets of peers from before its time.
        let was_there = self.company.belonged_at > Index::ZERO && self.company.belonged_at < at;
        !configuration.voters.is_empty() && is_over && (was_there || committed.term > self.company.introduced)
    }

    /// Whether the peer is a leader who can tell for certain who does not belong to the cluster.
    fn can_tell(&self) -> bool {
        let raft = self.replica.raft();
        let committed = raft.committed();
        let is_settled = raft.configuration().is_settled() && committed.index >= raft.configuration_index();
        let is_leader = self.stopped.is_none() && raft.is_leader() && committed.term == raft.term();
        is_leader && is_settled && !self.change.is_wanted()
    }

    fn cluster(&self) -> ClusterId {
        self.record.genesis.cluster
    }
}

impl Driver {
    /// Peers that have been without a leader for long ask those whom they know. So do those that have stopped: nothing else
    /// would tell them.
    pub(super) fn tick_standing(&mut self) {
        // Who sleeps has a leader.
        for this in &self.quiet.awake {
            let Some(peer) = self.peers.get_mut(this) else { continue };
            let is_lonely = peer.stopped.is_some() || peer.replica.raft().leader().is_none();
            peer.company.lonely_ticks = if is_lonely { peer.company.lonely_ticks.saturating_add(1) } else { 0 };
            if !is_lonely || !peer.company.lonely_ticks.is_multiple_of(ASK_TICKS) {
                continue;
            }
            let members = peer.replica.raft().configuration().members();
            let known = members.iter().chain(peer.company.acquaintances.keys());
            for to in known.filter(|to| *to != this) {
                let Some(node) = peer.acquaintance(*to) else { continue };
                let content = Standing::Question;
                let frame = StandingFrame { cluster: peer.cluster(), from: *this, to: *to, content };
                self.parts.network.send(node, true, &NodeFrame::Standing(frame));
            }
        }
    }

    /// Takes in a question about the standing of another peer, or the answer to one.
    pub(super) fn standing(&mut self, from: &NodeAddr, frame: StandingFrame) {
        let StandingFrame { cluster, from: other, to: this, content } = frame;
        let Some(peer) = self.peers.get(&this).filter(|peer| peer.cluster() == cluster) else { return };
        match content {
            Standing::Question => {
                if peer.can_tell() && !peer.replica.raft().configuration().contains(other) {
                    let content = Standing::Left { term: peer.replica.raft().term() };
                    let frame = StandingFrame { cluster, from: this, to: other, content };
                    self.parts.network.send(from, true, &NodeFrame::Standing(frame));
                }
            }
            Standing::Left { term } => {
                let is_genuine = peer.acquaintance(other) == Some(from);
                if is_genuine && peer.company.introduced <= term {
                    self.say_goodbye(this);
                }
            }
        }
    }

    /// Forgets the peer if it has left its cluster.
    pub(super) fn leave(&mut self, incarnation: Incarnation) {
        let Some(peer) = self.peers.get_mut(&incarnation).filter(|peer| peer.stopped.is_none()) else { return };
        peer.see_members();
        if peer.has_left(incarnation) {
            self.say_goodbye(incarnation);
        }
    }

    /// Forgets peers that are in the way of those to come and of which the leader who sends them knows that they do not
    /// belong to the cluster; also those that were prepared and never started.
    pub(super) fn make_way(&mut self, spec: &ClusterSpec) {
        let Some(introduction) = &spec.introduction else { return };
        self.reservations.make_way(spec);
        let is_gone = |life: &Incarnation| {
            self.peers.get(life).is_some_and(|peer| {
                let is_stranger = !introduction.peers.contains_key(life);
                peer.cluster() == spec.cluster && is_stranger && peer.company.introduced <= introduction.term
            })
        };
        let here = spec.peers.iter().filter(|(_, peer)| *peer.node() == self.parts.node);
        let namesakes = here.filter_map(|(_, peer)| self.names.get(peer.name()));
        for incarnation in namesakes.copied().filter(is_gone).collect::<Vec<_>>() {
            self.say_goodbye(incarnation);
        }
    }

    fn say_goodbye(&mut self, incarnation: Incarnation) {
        if let Some(peer) = self.peers.get(&incarnation) {
            tracing::info!(peer = %peer.record.peer, cluster = %peer.cluster(), "the peer has left its cluster and is removed");
        }
        self.remove_peer(incarnation);
        self.forget_unused_components();
    }
}

//! One peer as the checker sees it: the real core with its disk, and what it may be given.

use bytes::Bytes;
use zraft::raft::{AppendReply, ConfigValues, Configuration, Envelope, MemStorage, Message, Write};
use zraft::types::Incarnation;

use crate::peer::{Job, Peer};

/// The election timeout. Large, so that the shortest random timeout is rare; ticks cost next to nothing.
pub const PATIENCE_TICKS: u32 = 1000;
/// The first random timeouts of every life. Which they are plays no role, but none of them is the shortest possible,
/// so that there is a time in which a follower trusts its leader no more and does not run yet.
const SEED: u64 = 1;

/// What may happen to a peer. `M` names a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input<M> {
    /// A message arrives.
    Deliver(M),
    /// A message arrives after the peer has not heard its leader for an election timeout.
    DeliverLate(M),
    /// The oldest write becomes durable.
    Persist,
    /// The oldest write becomes durable when an election timeout has passed; others still wait.
    PersistLate,
    /// Time passes until the peer asks for an election or gives up leading or its leader.
    Timeout,
    /// Time passes until a leader's next heartbeat.
    Heartbeat,
    /// A command, by number.
    Propose(u8),
    /// The change of the membership.
    Change,
    /// The process stops and starts again; writes that are not durable are lost.
    Crash,
}

/// What a peer must not do, whatever the others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    Panicked,
    SaidBeforeDurable,
    AppliedBeforeDurable,
    LeaderRewrote,
    RefusedCorrectPeer,
    CommittedWithoutQuorum,
}

/// What came of an input.
pub struct Step {
    pub peer: Peer,
    pub sent: Vec<Envelope>,
    pub fault: Option<Fault>,
}

fn values() -> ConfigValues {
    ConfigValues { election_ticks: PATIENCE_TICKS, heartbeat_ticks: 1, ..ConfigValues::default() }
}

/// A peer on a new disk: one of the cluster's first, or one that knows of no cluster.
pub fn start(id: Incarnation, cluster: Option<Configuration>) -> Peer {
    let mut disk = MemStorage::default();
    if let Some(configuration) = cluster {
        disk.write(&Write::bootstrap(configuration, 0)).expect("the first write fits");
    }
    let mut peer = Peer::start(id, &values(), disk, SEED);
    settle(&mut peer);
    peer
}

/// Gives a peer an input; none if nothing comes of it.
pub fn step(before: &Peer, input: Input<Envelope>, new: &Configuration) -> Option<Step> {
    let mut peer = before.clone();
    let gives_up = matches!(input, Input::Timeout);
    match input {
        Input::Deliver(envelope) => peer.raft.step(envelope, 0),
        Input::DeliverLate(envelope) => {
            wait(&mut peer);
            peer.raft.step(envelope, 0);
        }
        Input::Persist => {
            peer.persist_one();
        }
        Input::PersistLate => {
            wait(&mut peer);
            peer.persist_one();
        }
        Input::Timeout => time_out(&mut peer)?,
        Input::Heartbeat => peer.raft.tick(0),
        Input::Propose(number) => {
            peer.raft.propose(vec![Bytes::from(vec![number])], 0).ok()?;
        }
        Input::Change => {
            peer.raft.propose_membership(new.voters.clone(), 0).ok()?;
        }
        Input::Crash => peer.restart(&values(), SEED),
    }
    let mut fault = settle(&mut peer);
    // A leader that hears nobody sends heartbeats until it gives up: here they are lost.
    let mut sent = std::mem::take(&mut peer.outbox);
    if gives_up {
        sent.retain(|envelope| !matches!(envelope.message, Message::Heartbeat { .. }));
    }
    fault = fault
        .or_else(|| sent.iter().any(|envelope| is_said_early(&peer, envelope)).then_some(Fault::SaidBeforeDurable));
    fault = fault.or_else(|| has_rewritten(before, &peer).then_some(Fault::LeaderRewrote));
    fault = fault.or_else(|| (peer.raft.status().refused > 0).then_some(Fault::RefusedCorrectPeer));
    Some(Step { peer, sent, fault })
}

/// An election timeout passes in which the peer hears nobody, and does not run yet.
fn wait(peer: &mut Peer) {
    (0..PATIENCE_TICKS).for_each(|_| peer.raft.tick(0));
    assert!(!peer.raft.has_ready(), "a random timeout is the shortest possible: choose another seed");
}

fn time_out(peer: &mut Peer) -> Option<()> {
    let led = peer.raft.is_leader();
    for _ in 0..=2 * PATIENCE_TICKS {
        peer.raft.tick(0);
        if peer.raft.is_leader() != led || (!led && peer.raft.has_ready()) {
            return Some(());
        }
    }
    None
}

/// Lets the core say all that it has to say, reads what it asks for, and applies what it gives out.
fn settle(peer: &mut Peer) -> Option<Fault> {
    let mut fault = None;
    loop {
        peer.pump();
        let early = peer.jobs.iter().any(|job| {
            matches!(job, Job::Apply(entries) if entries.iter().any(|entry| {
                peer.disk.state().term_at(entry.index) != Some(entry.term) || entry.index > peer.raft.status().commit
            }))
        });
        fault = fault.or_else(|| early.then_some(Fault::AppliedBeforeDurable));
        if !peer.read_one() && peer.work_one().is_none() {
            peer.statuses.clear();
            return fault;
        }
    }
}

/// Whether a message says what its sender may forget in a crash.
fn is_said_early(peer: &Peer, envelope: &Envelope) -> bool {
    let durable = peer.disk.state();
    let vote = match envelope.message {
        Message::VoteReply { granted: true } => envelope.to,
        Message::Vote { .. } => envelope.from,
        Message::AppendReply(AppendReply::Accepted { matched }) => {
            let entry = peer.written.state().term_at(matched);
            return durable.hard_state.term < envelope.term || durable.term_at(matched) != entry;
        }
        _ => return false,
    };
    (durable.hard_state.term, durable.hard_state.vote) != (envelope.term, Some(vote))
}

/// Whether a leader has done anything but append (Leader Append-Only, thesis section 3.3).
fn has_rewritten(before: &Peer, after: &Peer) -> bool {
    let leads_on = before.raft.is_leader() && after.raft.is_leader() && before.raft.term() == after.raft.term();
    let mut pairs = before.written.entries().zip(after.written.entries());
    leads_on && (after.raft.status().last < before.raft.status().last || pairs.any(|(old, new)| old != new))
}

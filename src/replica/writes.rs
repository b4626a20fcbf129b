//! Writes that wait: first to be proposed, then to be applied. A client's command is one, and so is everything else that
//! becomes an entry: a session's beginning, its commands, its end.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::machine::Outcome;
use crate::protocol::RequestError;
use crate::raft::{Entry, ProposeError, Raft};
use crate::replica::{LinkId, Replica, Ticket};
use crate::types::{Index, LogPosition, PeerId, SessionId, Term};

/// Who waits for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A client without a session.
    Client(Ticket),
    /// The client on a stream, for a new session.
    Opening(LinkId),
    /// The client on a stream, for its command of this number.
    Session(LinkId, u64),
    /// The client on a stream, for the end of its session.
    Closing(LinkId),
    /// This replica, for the end of a session that was not heard of.
    Expiring(SessionId),
}

/// A write that waits no more.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) waiter: Waiter,
    /// Where it stands and what came of it, or what is known of it.
    pub(super) result: Result<(Index, Outcome), RequestError>,
}

impl Settled {
    fn failed(waiter: Waiter, error: RequestError) -> Self {
        Self { waiter, result: Err(error) }
    }
}

/// The writes of one replica that wait.
///
/// - A write is in `new` until it is proposed and in `proposed` until the entry at its index is applied.
/// - Several may wait at one index: a peer that leads again, with its former entries replaced, proposes there anew,
///   while others may yet hold and commit the former ones.
/// - What is in `new` fits one append: as a whole it is no larger than what may be uncommitted, unless it is one write.
/// - It is answered exactly once: with the outcome, or with an error that says whether it may have been applied.
pub(super) struct Writes {
    new: Vec<New>,
    /// As entries.
    new_bytes: usize,
    max_new_bytes: usize,
    proposed: BTreeMap<(Index, Term), Proposed>,
}

struct New {
    waiter: Waiter,
    data: Bytes,
    deadline_ms: u64,
}

struct Proposed {
    waiter: Waiter,
    deadline_ms: u64,
}

impl Writes {
    pub(super) fn new(max_new_bytes: usize) -> Self {
        Self { new: Vec::new(), new_bytes: 0, max_new_bytes, proposed: BTreeMap::new() }
    }

    /// Whether no write waits.
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.proposed.is_empty()
    }

    /// Whether another write may wait.
    pub(super) fn has_room_for(&self, data: &Bytes) -> bool {
        let fits = self.new.is_empty() || self.new_bytes + entry_bytes(data) <= self.max_new_bytes;
        fits && self.new.len() + self.proposed.len() < Replica::MAX_WAITING
    }

    pub(super) fn add(&mut self, waiter: Waiter, data: Bytes, deadline_ms: u64) {
        self.new_bytes += entry_bytes(&data);
        self.new.push(New { waiter, data, deadline_ms });
    }

    /// Proposes all new writes in one append; where that is too much at once, as many as fit.
    pub(super) fn propose(&mut self, raft: &mut Raft, wall_ms: u64, settled: &mut Vec<Settled>) {
        if self.new.is_empty() || !raft.is_leader() {
            return;
        }
        let new = std::mem::take(&mut self.new);
        self.new_bytes = 0;
        match raft.propose(new.iter().map(|write| write.data.clone()).collect(), wall_ms) {
            Ok(indexes) => self.wait_for(new, *indexes.start(), raft.term()),
            Err(_) => {
                for write in new {
                    match raft.propose(vec![write.data.clone()], wall_ms) {
                        Ok(indexes) => self.wait_for(vec![write], *indexes.start(), raft.term()),
                        Err(ProposeError::TooMuchUncommitted) => {
                            settled.push(Settled::failed(write.waiter, RequestError::Overloaded));
                        }
                        // Answered by `lead`, which knows the leader's address, when this peer does not lead.
                        Err(ProposeError::NotLeader { .. } | ProposeError::Transferring { .. }) => {
                            self.add(write.waiter, write.data, write.deadline_ms);
                        }
                    }
                }
            }
        }
    }

    fn wait_for(&mut self, writes: Vec<New>, first: Index, term: Term) {
        for (write, index) in writes.into_iter().zip(first.0..) {
            let waiting = Proposed { waiter: write.waiter, deadline_ms: write.deadline_ms };
            self.proposed.insert((Index(index), term), waiting);
        }
    }

    /// What stands at a position is waited for.
    pub(super) fn wait_at(&mut self, waiter: Waiter, at: (Index, Term), deadline_ms: u64) {
        self.proposed.insert(at, Proposed { waiter, deadline_ms });
    }

    /// Without leadership nothing new can be proposed. What was proposed goes on waiting: whoever leads may commit it.
    pub(super) fn lead(&mut self, is_leader: bool, leader: Option<&PeerId>, settled: &mut Vec<Settled>) {
        if !is_leader {
            self.new_bytes = 0;
            let refused =
                |write: New| Settled::failed(write.waiter, RequestError::NotLeader { leader: leader.cloned() });
            settled.extend(self.new.drain(..).map(refused));
        }
    }

    /// The entry at a position was applied. A write whose place was taken by another leader's entry is known not to have
    /// been applied, and never will be.
    pub(super) fn applied(&mut self, position: LogPosition, outcome: &Outcome, settled: &mut Vec<Settled>) {
        let at_index = (position.index, Term::ZERO)..=(position.index, Term(u64::MAX));
        for ((index, term), waiting) in self.proposed.extract_if(at_index, |_, _| true) {
            let is_it = term == position.term;
            let result = if is_it { Ok((index, outcome.clone())) } else { Err(RequestError::NotApplied) };
            settled.push(Settled { waiter: waiting.waiter, result });
        }
    }

    /// Where a write stands in the log, if it is proposed and waits.
    pub(super) fn place_of(&self, waiter: Waiter) -> Option<LogPosition> {
        // Who asks does so of the latest.
        let found = self.proposed.iter().rev().find(|(_, proposed)| proposed.waiter == waiter);
        found.map(|((index, term), _)| LogPosition::new(*term, *index))
    }

    /// A snapshot has taken the place of the entries up to `index`: what became of writes there is not known.
    pub(super) fn skipped(&mut self, index: Index, settled: &mut Vec<Settled>) {
        let beyond = self.proposed.split_off(&(index.next(), Term::ZERO));
        let skipped = std::mem::replace(&mut self.proposed, beyond);
        let unknown = |waiting: Proposed| Settled::failed(waiting.waiter, RequestError::Unknown);
        settled.extend(skipped.into_values().map(unknown));
    }

    /// Answers the writes whose deadline has passed.
    pub(super) fn expire(&mut self, monotonic_ms: u64, settled: &mut Vec<Settled>) {
        for write in self.new.extract_if(.., |write| write.deadline_ms <= monotonic_ms) {
            self.new_bytes -= entry_bytes(&write.data);
            settled.push(Settled::failed(write.waiter, RequestError::Overloaded));
        }
        for (_, waiting) in self.proposed.extract_if(.., |_, waiting| waiting.deadline_ms <= monotonic_ms) {
            settled.push(Settled::failed(waiting.waiter, RequestError::Unknown));
        }
    }
}

fn entry_bytes(data: &Bytes) -> usize {
    Entry::OVERHEAD_BYTES + data.len()
}

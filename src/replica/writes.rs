//! Writes that wait: first to be proposed, then to be applied.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::machine::{Applied, Outcome};
use crate::protocol::RequestError;
use crate::raft::{Entry, ProposeError, Raft};
use crate::replica::{Answer, Replica, Ticket};
use crate::types::{Index, PeerId, Term};

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
    ticket: Ticket,
    data: Bytes,
    deadline_ms: u64,
}

struct Proposed {
    ticket: Ticket,
    deadline_ms: u64,
}

impl Writes {
    pub(super) fn new(max_new_bytes: usize) -> Self {
        Self { new: Vec::new(), new_bytes: 0, max_new_bytes, proposed: BTreeMap::new() }
    }

    /// Whether another write may wait.
    pub(super) fn has_room_for(&self, data: &Bytes) -> bool {
        let fits = self.new.is_empty() || self.new_bytes + entry_bytes(data) <= self.max_new_bytes;
        fits && self.new.len() + self.proposed.len() < Replica::MAX_WAITING
    }

    pub(super) fn add(&mut self, ticket: Ticket, data: Bytes, deadline_ms: u64) {
        self.new_bytes += entry_bytes(&data);
        self.new.push(New { ticket, data, deadline_ms });
    }

    /// Proposes all new writes in one append; where that is too much at once, as many as fit.
    pub(super) fn propose(&mut self, raft: &mut Raft, wall_ms: u64, answers: &mut Vec<Answer>) {
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
                            answers.push(Answer { ticket: write.ticket, result: Err(RequestError::Overloaded) });
                        }
                        // Answered by `lead`, which knows the leader's address, when this peer does not lead.
                        Err(ProposeError::NotLeader { .. } | ProposeError::Transferring { .. }) => {
                            self.add(write.ticket, write.data, write.deadline_ms);
                        }
                    }
                }
            }
        }
    }

    fn wait_for(&mut self, writes: Vec<New>, first: Index, term: Term) {
        for (write, index) in writes.into_iter().zip(first.0..) {
            let waiting = Proposed { ticket: write.ticket, deadline_ms: write.deadline_ms };
            self.proposed.insert((Index(index), term), waiting);
        }
    }

    /// Without leadership nothing new can be proposed. What was proposed goes on waiting: whoever leads may commit it.
    pub(super) fn lead(&mut self, is_leader: bool, leader: Option<&PeerId>, answers: &mut Vec<Answer>) {
        if !is_leader {
            self.new_bytes = 0;
            answers.extend(self.new.drain(..).map(|write| {
                let error = RequestError::NotLeader { leader: leader.cloned() };
                Answer { ticket: write.ticket, result: Err(error) }
            }));
        }
    }

    /// Answers the writes at the applied positions. A write whose place was taken by another leader's entry is
    /// known not to have been applied, and never will be.
    pub(super) fn applied(&mut self, applied: Vec<Applied>, answers: &mut Vec<Answer>) {
        for Applied { position, outcome, .. } in applied {
            let mut reply = match outcome {
                Outcome::Written(reply) => Some(reply),
                _ => None,
            };
            let at_index = (position.index, Term::ZERO)..=(position.index, Term(u64::MAX));
            for ((index, term), waiting) in self.proposed.extract_if(at_index, |_, _| true) {
                let outcome = reply.take_if(|_| term == position.term).map(|reply| (index, reply));
                answers.push(Answer { ticket: waiting.ticket, result: outcome.ok_or(RequestError::NotApplied) });
            }
        }
    }

    /// A snapshot has taken the place of the entries up to `index`: what became of writes there is not known.
    pub(super) fn skipped(&mut self, index: Index, answers: &mut Vec<Answer>) {
        let beyond = self.proposed.split_off(&(index.next(), Term::ZERO));
        let skipped = std::mem::replace(&mut self.proposed, beyond);
        answers.extend(skipped.into_values().map(|waiting| unknown(waiting.ticket)));
    }

    /// Answers the writes whose deadline has passed.
    pub(super) fn expire(&mut self, monotonic_ms: u64, answers: &mut Vec<Answer>) {
        for write in self.new.extract_if(.., |write| write.deadline_ms <= monotonic_ms) {
            self.new_bytes -= entry_bytes(&write.data);
            answers.push(Answer { ticket: write.ticket, result: Err(RequestError::Overloaded) });
        }
        for (_, waiting) in self.proposed.extract_if(.., |_, waiting| waiting.deadline_ms <= monotonic_ms) {
            answers.push(unknown(waiting.ticket));
        }
    }
}

fn entry_bytes(data: &Bytes) -> usize {
    Entry::OVERHEAD_BYTES + data.len()
}

fn unknown(ticket: Ticket) -> Answer {
    Answer { ticket, result: Err(RequestError::Unknown) }
}

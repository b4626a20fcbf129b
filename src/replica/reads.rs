//! Reads that wait: first for an index that is known to be current, then for the machine to apply it.

use std::collections::BTreeMap;

use crate::protocol::RequestError;
use crate::raft::{Raft, ReadId, ReadReady};
use crate::replica::{Answer, Query};
use crate::types::Index;

/// The reads of one replica that wait.
///
/// - A read is in `new` until its index is asked for, in `asked` until that is known, and in `confirmed` until the
///   machine has applied it. One question serves all reads that were new when it was asked, and none that came later.
/// - A question that got lost is asked anew, under a new name. Raft says of each whether it is answered or lost.
#[derive(Default)]
pub(super) struct Reads {
    new: Vec<Query>,
    asked: BTreeMap<ReadId, Vec<Query>>,
    confirmed: BTreeMap<Index, Vec<Query>>,
    /// Reads in `asked` and `confirmed`.
    waiting: usize,
    /// Reads that the machine was given and has not answered.
    given: usize,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.new.len() + self.waiting + self.given
    }

    pub(super) fn add(&mut self, query: Query) {
        self.new.push(query);
    }

    /// Asks for an index that is current for all new reads. Without a leader they go on waiting.
    pub(super) fn ask(&mut self, raft: &mut Raft) {
        if self.new.is_empty() {
            return;
        }
        if let Ok(id) = raft.read_index() {
            let queries = std::mem::take(&mut self.new);
            self.waiting += queries.len();
            self.asked.insert(id, queries);
        }
    }

    /// These questions got no answer and never will.
    pub(super) fn lost(&mut self, ids: &[ReadId]) {
        for id in ids {
            if let Some(queries) = self.asked.remove(id) {
                self.waiting -= queries.len();
                self.new.extend(queries);
            }
        }
    }

    /// These questions are answered.
    pub(super) fn confirmed(&mut self, reads: &[ReadReady]) {
        for read in reads {
            if let Some(queries) = self.asked.remove(&read.id) {
                self.confirmed.entry(read.index).or_default().extend(queries);
            }
        }
    }

    /// Takes out the reads that a machine at `applied` may answer.
    pub(super) fn servable(&mut self, applied: Index) -> Vec<Query> {
        let mut queries = Vec::new();
        while let Some(first) = self.confirmed.first_entry().filter(|first| *first.key() <= applied) {
            queries.extend(first.remove());
        }
        self.waiting -= queries.len();
        self.given += queries.len();
        queries
    }

    /// The machine has answered this many of the reads that it was given.
    pub(super) fn answered(&mut self, count: usize) {
        self.given = self.given.saturating_sub(count);
    }

    /// Answers the reads whose deadline has passed.
    pub(super) fn expire(&mut self, monotonic_ms: u64, answers: &mut Vec<Answer>) {
        let before = answers.len();
        let is_late = |query: &mut Query| query.deadline_ms <= monotonic_ms;
        for queries in self.asked.values_mut() {
            answers.extend(queries.extract_if(.., is_late).map(no_leader));
        }
        for queries in self.confirmed.values_mut() {
            answers.extend(queries.extract_if(.., is_late).map(machine_is_behind));
        }
        // A machine that stands still must not collect an index for each commit.
        self.confirmed.retain(|_, queries| !queries.is_empty());
        self.waiting -= answers.len() - before;
        answers.extend(self.new.extract_if(.., is_late).map(no_leader));
    }
}

fn no_leader(query: Query) -> Answer {
    Answer { ticket: query.ticket, result: Err(RequestError::NoLeader) }
}

fn machine_is_behind(query: Query) -> Answer {
    Answer { ticket: query.ticket, result: Err(RequestError::Overloaded) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::replica::Ticket;

    #[test]
    fn nothing_is_left_of_reads_that_a_stuck_machine_did_not_reach() {
        let mut reads = Reads::default();
        for index in 1..=5 {
            let query = Query { ticket: Ticket(index), request: Bytes::new(), deadline_ms: index };
            let id = ReadId(index);
            reads.waiting += 1;
            reads.asked.insert(id, vec![query]);
            reads.confirmed(&[ReadReady { id, index: Index(index) }]);
        }
        let mut answers = Vec::new();
        reads.expire(3, &mut answers);
        assert_eq!((answers.len(), reads.len(), reads.confirmed.len()), (3, 2, 2));
    }
}

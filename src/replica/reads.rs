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
/// - A question that got lost is asked anew, under a new name.
pub(super) struct Reads {
    new: Vec<Query>,
    asked: BTreeMap<ReadId, Asked>,
    confirmed: BTreeMap<Index, Vec<Query>>,
    /// Reads in `asked` and `confirmed`.
    waiting: usize,
    /// How many ticks a question may take before it is taken for lost.
    patience_ticks: u64,
    ticks: u64,
}

struct Asked {
    queries: Vec<Query>,
    since_tick: u64,
}

impl Reads {
    pub(super) fn new(patience_ticks: u64) -> Self {
        Self {
            new: Vec::new(),
            asked: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            waiting: 0,
            patience_ticks,
            ticks: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.new.len() + self.waiting
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
            self.asked.insert(id, Asked { queries, since_tick: self.ticks });
        }
    }

    /// These questions got no answer and never will.
    pub(super) fn lost(&mut self, ids: &[ReadId]) {
        for id in ids {
            if let Some(asked) = self.asked.remove(id) {
                self.waiting -= asked.queries.len();
                self.new.extend(asked.queries);
            }
        }
    }

    /// These questions are answered.
    pub(super) fn confirmed(&mut self, reads: &[ReadReady]) {
        for read in reads {
            if let Some(asked) = self.asked.remove(&read.id) {
                self.confirmed.entry(read.index).or_default().extend(asked.queries);
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
        queries
    }

    /// Answers the reads whose deadline has passed, and gives up questions that take too long.
    pub(super) fn tick(&mut self, monotonic_ms: u64, answers: &mut Vec<Answer>) {
        self.ticks += 1;
        let late: Vec<_> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.since_tick + self.patience_ticks <= self.ticks)
            .map(|(id, _)| *id)
            .collect();
        self.lost(&late);
        let before = answers.len();
        let asked = self.asked.values_mut().map(|asked| &mut asked.queries);
        for queries in asked.chain(self.confirmed.values_mut()) {
            answers.extend(queries.extract_if(.., |query| query.deadline_ms <= monotonic_ms).map(no_leader));
        }
        self.waiting -= answers.len() - before;
        answers.extend(self.new.extract_if(.., |query| query.deadline_ms <= monotonic_ms).map(no_leader));
    }
}

fn no_leader(query: Query) -> Answer {
    Answer { ticket: query.ticket, result: Err(RequestError::NoLeader) }
}

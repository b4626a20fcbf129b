//! Reads that wait: first for an index that is known to be current, then for the machine to apply it.

use crate::protocol::RequestError;
use crate::raft::{Raft, ReadId, ReadReady};
use crate::replica::Query;
use crate::replica::confirm::{Confirming, Extracted};
use crate::types::Index;

/// The reads of one replica that wait.
#[derive(Default)]
pub(super) struct Reads {
    queries: Confirming<Query>,
    /// Reads that the machine was given and has not answered.
    given: usize,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.queries.len() + self.given
    }

    pub(super) fn add(&mut self, query: Query) {
        self.queries.add(query);
    }

    pub(super) fn ask(&mut self, raft: &mut Raft) {
        self.queries.ask(raft);
    }

    pub(super) fn lost(&mut self, ids: &[ReadId]) {
        self.queries.lost(ids);
    }

    pub(super) fn confirmed(&mut self, reads: &[ReadReady]) {
        self.queries.confirmed(reads);
    }

    /// Takes out the reads that a machine at `applied` may answer.
    pub(super) fn servable(&mut self, applied: Index) -> Vec<Query> {
        let queries = self.queries.take(applied);
        self.given += queries.len();
        queries
    }

    /// The machine has answered this many of the reads that it was given.
    pub(super) fn answered(&mut self, count: usize) {
        self.given = self.given.saturating_sub(count);
    }

    /// Takes out all that wait, wherever they stand.
    pub(super) fn take_all(&mut self) -> Vec<Query> {
        let Extracted { mut unconfirmed, confirmed } = self.queries.extract(|_| true);
        unconfirmed.extend(confirmed);
        unconfirmed
    }

    /// Forgets reads whose asker has gone.
    pub(super) fn forget(&mut self, has_gone: impl Fn(&Query) -> bool) {
        self.queries.extract(has_gone);
    }

    /// Takes out the reads whose deadline has passed, with the reason why they were not answered.
    pub(super) fn expired(&mut self, monotonic_ms: u64) -> impl Iterator<Item = (Query, RequestError)> {
        let Extracted { unconfirmed, confirmed } = self.queries.extract(|query| query.deadline_ms <= monotonic_ms);
        let leaderless = unconfirmed.into_iter().map(|query| (query, RequestError::NoLeader));
        leaderless.chain(confirmed.into_iter().map(|query| (query, RequestError::Overloaded)))
    }
}

//! Queries on an instance of their own.
//!
//! What a query does to the instance that answers it must not touch the machine that applies: it may trap, take all its
//! fuel, or change what it should only read. So there is a second machine for queries. It is made when the first query
//! comes, and given the same entries, many at a time. Its hash chain must then be that of the first machine; if it is
//! not, or its backend has died, it is made again.

use super::{HostPast, PastError};
use crate::machine::{Budget, HashChain, Ran, Ruling, Rulings, Run, RunError, Runner};
use crate::protocol::RequestError;
use crate::raft::Entry;
use crate::replica::{Query, QueryAnswer};
use crate::types::Index;

/// The machine for queries.
#[derive(Default)]
pub(super) struct Reader {
    /// None before the first query, and while it must be made again.
    runner: Option<Runner>,
    /// What the first machine has applied and this one has not.
    behind: Vec<Entry>,
    behind_bytes: usize,
    /// What was ruled about those entries.
    rulings: Vec<(Index, Ruling)>,
}

impl Reader {
    /// Most entries that the machine for queries may be behind. Enough for batches to be cheap, and few enough that commands,
    /// which wait meanwhile on the same thread, hardly notice.
    pub(super) const MAX_BEHIND: usize = 64;

    /// Most bytes of these entries, which are kept in memory until then. The last one may exceed it.
    const MAX_BEHIND_BYTES: usize = 1 << 20;

    /// Where the machine for queries is.
    #[cfg(test)]
    pub(super) fn at(&self) -> Option<(Index, HashChain)> {
        self.runner.as_ref().map(Runner::at)
    }

    /// The first machine has applied the first `count` entries of a run, and is `at` an entry with this hash chain.
    pub(super) fn applied(
        &mut self,
        run: &Run,
        count: usize,
        at: (Index, HashChain),
        past: &mut HostPast,
    ) -> Result<(), RunError<PastError>> {
        if self.runner.is_none() {
            return Ok(());
        }
        let entries = &run.entries[..count];
        self.behind.extend_from_slice(entries);
        self.behind_bytes += entries.iter().map(Entry::size_bytes).sum::<usize>();
        let is_of_them = |on: Index| entries.last().is_some_and(|last| on <= last.index);
        let rulings = run.rulings.rulings.iter().filter(|(on, _)| is_of_them(*on));
        self.rulings.extend(rulings.cloned());
        let may_wait = self.behind.len() < Self::MAX_BEHIND && self.behind_bytes < Self::MAX_BEHIND_BYTES;
        if may_wait { Ok(()) } else { self.catch_up(at, past) }
    }

    /// The first machine has gone back to an entry.
    pub(super) fn rewound(&mut self, to: Index) {
        self.runner.take_if(|runner| runner.applied() > to);
        self.behind.retain(|entry| entry.index <= to);
        self.behind_bytes = self.behind.iter().map(Entry::size_bytes).sum();
        self.rulings.retain(|(on, _)| *on <= to);
    }

    /// There is a new snapshot to be made from.
    pub(super) fn snapshot_taken(&mut self, at: Index) {
        if let Some(runner) = &mut self.runner {
            runner.snapshot_taken(at);
        }
    }

    /// Answers a query from the state of the first machine, which is alive.
    pub(super) fn answer(
        &mut self,
        query: Query,
        first: &Runner,
        past: &mut HostPast,
    ) -> Result<QueryAnswer, RunError<PastError>> {
        let index = first.applied();
        let refused = |result| Ok(QueryAnswer { asker: query.asker, index, result });
        let Some(machine) = first.machine() else { return refused(Err(RequestError::Overloaded)) };
        let request = match query.for_backend(machine) {
            Ok(request) => request,
            Err(result) => return refused(result),
        };
        let answer = match self.ready(first, past)? {
            Ok(runner) => blame_backend(runner.query(request, past))?,
            Err(reason) => Err(reason),
        };
        let result = match answer {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(fault))) => Err(RequestError::BackendFault { message: fault.to_string() }),
            Ok(None) => Err(RequestError::Overloaded),
            Err(message) => {
                self.runner = None;
                Err(RequestError::BackendFault { message })
            }
        };
        Ok(QueryAnswer { asker: query.asker, index, result })
    }

    /// The machine for queries where the first one is, or why it cannot be made.
    fn ready(
        &mut self,
        first: &Runner,
        past: &mut HostPast,
    ) -> Result<Result<&mut Runner, String>, RunError<PastError>> {
        self.catch_up(first.at(), past)?;
        if self.runner.is_none() {
            (self.behind, self.behind_bytes, self.rulings) = (Vec::new(), 0, Vec::new());
            match blame_backend(first.another(past))? {
                Ok(another) => self.runner = Some(another),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(self.runner.as_mut().expect("made above")))
    }

    /// Applies what the first machine has applied. A machine that does not come to the same is dropped.
    fn catch_up(&mut self, at: (Index, HashChain), past: &mut HostPast) -> Result<(), RunError<PastError>> {
        let Some(runner) = self.runner.as_mut().filter(|_| !self.behind.is_empty()) else { return Ok(()) };
        let (entries, rulings) = (std::mem::take(&mut self.behind), std::mem::take(&mut self.rulings));
        self.behind_bytes = 0;
        // What the first machine has borne ends, whatever it costs here.
        let rulings = Rulings { budget: Budget::Unlimited, rulings };
        let ran = blame_backend(runner.apply(&Run { entries, rulings }, past))?;
        let has_died = !matches!(ran, Ok(Ran { died: None, .. }));
        if has_died || runner.at() != at {
            tracing::error!(entry = %at.0, has_died,
                "the instance for queries is not as the one that applies: a query has changed or spoiled it; it is made again");
            self.runner = None;
        }
        Ok(())
    }
}

/// Tells what the backend is to blame for from what stops the peer.
fn blame_backend<T>(result: Result<T, RunError<PastError>>) -> Result<Result<T, String>, RunError<PastError>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error @ (RunError::DiedAgain { .. } | RunError::Diverged(_))) => Ok(Err(error.to_string())),
        Err(error @ (RunError::Host(_) | RunError::Past(_))) => Err(error),
    }
}

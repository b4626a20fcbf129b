//! Verdicts: entries that say how the machine is to take an earlier one. What they say is for the machine; here they are
//! only found in time, before the entry that they are about is applied.

use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::raft::role::Role;
use crate::raft::{Payload, ProposeError, Raft, Verdict};
use crate::types::Index;

impl Raft {
    /// Appends a verdict on an earlier entry, whatever else waits to be committed: those behind it wait for this one.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] and [`ProposeError::Transferring`].
    pub fn propose_verdict(&mut self, verdict: Verdict, now_ms: u64) -> Result<Index, ProposeError> {
        self.clock_ms = now_ms;
        let (leader, next_leader) = (self.leader(), self.transferring_to());
        let Role::Leader(state) = &mut self.role else { return Err(ProposeError::NotLeader { leader }) };
        if let Some(to) = next_leader {
            return Err(ProposeError::Transferring { to });
        }
        state.flush = true;
        self.append_own(Payload::Verdict(verdict));
        Ok(self.log.last())
    }

    /// Whether this peer leads and has committed an entry of its own term: it then knows every verdict on the entries before.
    #[must_use]
    pub fn knows_all_verdicts(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.log.commit() >= leader.term_start)
    }

    /// Whether the log holds a verdict on the entry, committed or not.
    #[must_use]
    pub fn has_verdict(&self, on: Index) -> bool {
        self.log.verdicts().any(|(_, verdict)| verdict.on == on)
    }

    /// The rulings of the committed verdicts on these entries, oldest first.
    pub fn rulings(&self, on: RangeInclusive<Index>) -> impl Iterator<Item = (Index, &Bytes)> {
        let committed = self.committed_verdicts().filter(move |(_, verdict)| on.contains(&verdict.on));
        committed.map(|(_, verdict)| (verdict.on, &verdict.ruling))
    }

    /// Whose log is committed up to here knows every committed verdict on the entries up to `on`, which are applied here: where
    /// the last one stands, or where the log begins, since what stood before is forgotten.
    #[must_use]
    pub fn last_verdict(&self, on: Index) -> Index {
        let about = self.committed_verdicts().filter(|(_, verdict)| verdict.on <= on);
        about.last().map_or(self.log.base().index, |(index, _)| *index)
    }

    fn committed_verdicts(&self) -> impl Iterator<Item = &(Index, Verdict)> {
        let commit = self.log.commit();
        self.log.verdicts().take_while(move |(index, _)| *index <= commit)
    }
}

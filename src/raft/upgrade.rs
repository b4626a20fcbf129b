//! Upgrades: entries that move the machine to another backend. What comes of one is for the machine; here it is only known
//! which components the log needs.

use crate::raft::{Payload, ProposeError, Raft, Upgrade};
use crate::types::{Digest, Index};

impl Raft {
    /// Appends an upgrade, if this peer leads. [`Ready::apply`](crate::raft::Ready::apply) brings it once it is committed.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose_upgrade(&mut self, upgrade: Upgrade, now_ms: u64) -> Result<Index, ProposeError> {
        self.propose_all(vec![Payload::Upgrade(upgrade)], now_ms).map(|indexes| *indexes.end())
    }

    /// The upgrades in the log, committed or not: where they stand, and the component that each needs, oldest first.
    #[must_use]
    pub fn upgrades(&self) -> &[(Index, Digest)] {
        self.log.upgrades()
    }
}

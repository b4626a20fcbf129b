//! Going on with another backend: the state of the present one is handed to a new instance of the other, at one entry of the
//! log.
//!
//! Whether the new one takes the state follows from the state, and so is the same on all replicas: a refusal is an outcome,
//! and a fault goes the way of all faults (`replica/judge.rs`). In both cases the present backend goes on.

use bytes::Bytes;

use crate::machine::{Backend, BackendSource, Budget, Fault, Key, Machine, Moment, Origin, Outcome, StartError};
use crate::protocol::UpgradeRefusal;
use crate::raft::Upgrade;

/// Longest reason of a backend for not taking a state, in bytes: it goes to who waits, and into the status.
const MAX_REASON_BYTES: usize = 1024;

impl Machine {
    /// Moves the machine to another backend here and now, as if the next entry said so, to see how that ends. No replica of its
    /// cluster is like it from then on.
    ///
    /// # Errors
    /// [`Fault`]: the machine is dead.
    pub fn try_upgrade(&mut self, upgrade: &Upgrade, others: &mut dyn BackendSource) -> Result<Outcome, Fault> {
        let (outcome, _) = self.upgrade(self.moment(), upgrade, Budget::Configured, others)?;
        Ok(outcome)
    }

    /// Moves the machine to another backend. Where the former one has died of the end of sessions, the new one is to clean up.
    ///
    /// # Errors
    /// [`Fault`]: the machine is dead.
    pub(super) fn upgrade(
        &mut self,
        at: Moment,
        upgrade: &Upgrade,
        budget: Budget,
        others: &mut dyn BackendSource,
    ) -> Result<(Outcome, Vec<Key>), Fault> {
        let mut backend = match self.hand_over(at, upgrade, budget, others)? {
            Ok(backend) => backend,
            Err(reason) => return Ok((Outcome::NotUpgraded(UpgradeRefusal::Refused(shorten(reason))), Vec::new())),
        };
        let version = backend.version()?;
        backend.set_budget(budget);
        let mut changed = Vec::new();
        for session in self.sessions.orphans() {
            changed.append(&mut backend.expire_session(at, session.0)?);
        }
        self.sessions.forget_orphans();
        (self.backend, self.backend_version, self.genesis.component) = (backend, version.clone(), upgrade.to);
        Ok((Outcome::Upgraded { component: upgrade.to, version }, changed))
    }

    /// An instance of the other backend with the state of the present one, chunk by chunk: nothing holds all of it besides the
    /// two. Or why the other does not take it.
    fn hand_over(
        &mut self,
        at: Moment,
        upgrade: &Upgrade,
        budget: Budget,
        others: &mut dyn BackendSource,
    ) -> Result<Result<Box<dyn Backend>, String>, Fault> {
        let factory = others.factory(upgrade.to)?;
        let origin = Origin {
            version: self.backend_version.clone(),
            config: self.genesis.config.clone(),
            // By this a backend tells an upgrade from the reading of a snapshot.
            migration: Some(upgrade.migration.clone().unwrap_or_default()),
        };
        let mut reader = self.backend.read_state(at, budget)?;
        let mut died = None;
        let mut chunks = || -> Result<Option<Bytes>, String> {
            reader.next_chunk(Self::MAX_CHUNK_BYTES).map_err(|fault| died.insert(fault).to_string())
        };
        let restored = factory.restore(at, &origin, &mut chunks);
        if let Some(fault) = died {
            return Err(fault);
        }
        reader.close()?;
        match restored {
            Ok(backend) => Ok(Ok(backend)),
            Err(StartError::Refused(reason)) => Ok(Err(reason)),
            Err(StartError::Fault(fault)) => Err(fault),
            Err(StartError::Source(reason)) => Err(Fault::Host(reason)),
        }
    }
}

fn shorten(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

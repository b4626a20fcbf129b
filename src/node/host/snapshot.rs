//! Snapshots: written, and proved by restoring another machine from them, before they count.
//!
//! Where queries have a machine of their own, so have snapshots: a fresh one, made from the snapshot before and the log, in
//! the background. The machine that applies goes on meanwhile, no query can have touched what is written, and each
//! snapshot shows once more that the log leads to the same hash chain.

use super::{HostPast, PastError};
use crate::machine::{Fault, Machine, RunError, SnapshotError, SnapshotHead, StartError, Target};
use crate::raft::SnapshotMeta;
use crate::store::{SnapshotHeader, StoreError};

/// A snapshot to be made in the background.
pub(in crate::node) struct SnapshotTask {
    pub(super) meta: SnapshotMeta,
    pub(super) target: Target,
    pub(super) past: HostPast,
    /// See [`Host::restores`](super::Host).
    pub(super) restores: u64,
}

/// A snapshot that was made in the background, or why it was not.
pub(in crate::node) struct SnapshotMade {
    pub(super) meta: SnapshotMeta,
    pub(super) restores: u64,
    /// What it takes, in bytes.
    pub(super) result: Result<u64, String>,
}

impl SnapshotTask {
    /// Makes it. Takes as long as it takes to restore the state twice and to write it once.
    pub(in crate::node) fn run(mut self) -> SnapshotMade {
        let result = self.make();
        SnapshotMade { meta: self.meta, restores: self.restores, result }
    }

    /// What is said of a task that ended by a panic.
    pub(in crate::node) fn panicked(meta: SnapshotMeta, restores: u64) -> SnapshotMade {
        let result = Err("making it panicked: a defect of zraft; the node's log tells more".to_owned());
        SnapshotMade { meta, restores, result }
    }

    /// What is needed to say so.
    pub(in crate::node) fn name(&self) -> (SnapshotMeta, u64) {
        (self.meta.clone(), self.restores)
    }

    fn make(&mut self) -> Result<u64, String> {
        let (snapshots, peer) = (self.past.store.snapshots().clone(), self.past.incarnation);
        let machine = self.target.reach(&mut self.past).map_err(|error: RunError<PastError>| error.to_string())?;
        let mut machine = machine.ok_or("the log has given way to another snapshot")?;
        // What another node has sent for this very entry is not to be written over.
        if !matches!(snapshots.open(peer, self.meta.position), Err(StoreError::SnapshotMissing { .. })) {
            return Err("there is another snapshot of this entry".to_owned());
        }
        let written = self.past.write_snapshot(&mut machine, &self.meta);
        let size_bytes = written.map_err(|failure| failure.to_string())?;
        // Two states at once may not fit.
        drop(machine);
        self.past.prove_snapshot(&self.meta).map_err(|error| error.to_string())?;
        Ok(size_bytes)
    }
}

/// Why no snapshot was taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotFailure {
    /// The machine died of it.
    #[error(transparent)]
    Fault(Fault),
    #[error(transparent)]
    Past(PastError),
}

impl<E: Into<PastError>> From<E> for SnapshotFailure {
    fn from(error: E) -> Self {
        Self::Past(error.into())
    }
}

impl HostPast {
    /// Writes a snapshot of a machine. Returns its size in bytes.
    pub(super) fn write_snapshot(&self, machine: &mut Machine, meta: &SnapshotMeta) -> Result<u64, SnapshotFailure> {
        let SnapshotHead { meta: _, cluster, backend, chain, host } = machine.snapshot_head(meta.clone());
        let header = SnapshotHeader { cluster, meta: meta.clone(), backend, chain: chain.0, host: host.encode() };
        let mut writer = self.store.snapshots().create(self.incarnation, &header)?;
        let mut failure = None;
        let written = machine.write_snapshot(&mut |chunk| {
            self.give_way();
            writer.write(&chunk).map_err(|error| {
                let reason = error.to_string();
                failure = Some(error);
                reason
            })
        });
        match (written, failure) {
            (Ok(()), _) => {}
            (Err(SnapshotError::Fault(fault)), _) => return Err(SnapshotFailure::Fault(fault)),
            (Err(SnapshotError::Sink(_)), Some(error)) => return Err(error.into()),
            (Err(SnapshotError::Sink(reason)), None) => return Err(StartError::Source(reason).into()),
        }
        Ok(writer.finish()?.size_bytes)
    }

    /// Restores a machine from a snapshot that was written: the log behind a snapshot goes, so one that a backend cannot read
    /// back must never count. It is removed then.
    pub(super) fn prove_snapshot(&self, meta: &SnapshotMeta) -> Result<(), PastError> {
        let proof = self.open_snapshot(meta);
        if proof.is_err() {
            self.store.snapshots().remove_one(self.incarnation, meta.position)?;
        }
        proof.map(drop)
    }
}

//! Snapshots: written, and proved by restoring another machine from them, before they count.
//!
//! Where queries have a machine of their own, so have snapshots: a fresh one, made from the snapshot before and the log, in
//! the background. The machine that applies goes on meanwhile, no query can have touched what is written, and each
//! snapshot shows once more that the log leads to the same hash chain. Most of those of small states are read out of the
//! machine that applies instead ([`capture`](super::capture)); writing and proving them is left to the background, too.

use std::time::Duration;

use super::capture::Captured;
use super::{HostPast, PastError};
use crate::machine::{Fault, Machine, RunError, SnapshotError, SnapshotHead, StartError, Target};
use crate::node::guests;
use crate::raft::SnapshotMeta;
use crate::store::{SnapshotHeader, StoreError};

/// A snapshot to be made in the background.
pub(in crate::node) struct SnapshotTask {
    pub(super) meta: SnapshotMeta,
    pub(super) target: Target,
    pub(super) past: HostPast,
    /// See [`Host::restores`](super::Host).
    pub(super) restores: u64,
    /// The state, if it need not be made.
    pub(super) captured: Option<Captured>,
}

/// A snapshot that was made in the background, or why it was not.
pub(in crate::node) struct SnapshotMade {
    pub(super) meta: SnapshotMeta,
    pub(super) restores: u64,
    pub(super) result: Result<Made, String>,
}

/// What came of making a snapshot.
pub(super) struct Made {
    /// What it takes, in bytes.
    pub(super) size_bytes: u64,
    /// What reading the state took of a processor, if its machine was made from an earlier snapshot and the log.
    pub(super) read_in: Option<Duration>,
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

    fn make(&mut self) -> Result<Made, String> {
        let made = match self.captured.take() {
            Some(captured) => self.write_captured(captured)?,
            None => self.make_again()?,
        };
        self.past.prove_snapshot(&self.meta).map_err(|error| error.to_string())?;
        Ok(made)
    }

    fn write_captured(&self, captured: Captured) -> Result<Made, String> {
        self.refuse_to_write_over()?;
        let size_bytes = self.past.write_captured(captured).map_err(|error| error.to_string())?;
        Ok(Made { size_bytes, read_in: None })
    }

    fn make_again(&mut self) -> Result<Made, String> {
        let is_from_snapshot = self.past.snapshot.is_some();
        let machine = self.target.reach(&mut self.past).map_err(|error: RunError<PastError>| error.to_string())?;
        // It goes before the proof: two states at once may not fit.
        let mut machine = machine.ok_or("the log has given way to another snapshot")?;
        self.refuse_to_write_over()?;
        let before = guests::processor_time();
        let written = self.past.write_snapshot(&mut machine, &self.meta);
        let size_bytes = written.map_err(|failure| failure.to_string())?;
        let read_in = is_from_snapshot.then(|| guests::processor_time().saturating_sub(before));
        Ok(Made { size_bytes, read_in })
    }

    /// What another node has sent for this very entry is not to be written over.
    fn refuse_to_write_over(&self) -> Result<(), String> {
        match self.past.store.snapshots().open(self.past.incarnation, self.meta.position) {
            Err(StoreError::SnapshotMissing { .. }) => Ok(()),
            _ => Err("there is another snapshot of this entry".to_owned()),
        }
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
        let mut writer = self.store.snapshots().create(self.incarnation, &header(machine, meta))?;
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

    /// Writes a snapshot whose state was captured. Returns its size in bytes.
    fn write_captured(&self, captured: Captured) -> Result<u64, StoreError> {
        let mut writer = self.store.snapshots().create(self.incarnation, &captured.header)?;
        for chunk in &captured.chunks {
            self.give_way();
            writer.write(chunk)?;
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

/// What a snapshot of a machine begins with.
pub(super) fn header(machine: &Machine, meta: &SnapshotMeta) -> SnapshotHeader {
    let SnapshotHead { meta, cluster, backend, chain, host } = machine.snapshot_head(meta.clone());
    SnapshotHeader { cluster, meta, backend, chain: chain.0, host: host.encode() }
}

//! Small states are read out of the machine that applies.
//!
//! A snapshot that is made in the background costs each entry once more: reading it, and applying it. Where all processors
//! are busy, that is a sixth of what they do. A small state is read out in less time than applying waits for other
//! things, so most of its snapshots are made that way, and every sixteenth as all others are: it begins with one of these,
//! and must come to the same hash chain.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::snapshot;
use crate::machine::{Fault, Machine, SnapshotError};
use crate::node::guests;
use crate::raft::SnapshotMeta;
use crate::store::SnapshotHeader;

/// A state whose reading took a processor for longer than this is not read out again.
pub(super) const MAX_PAUSE: Duration = Duration::from_millis(10);

/// Most bytes of a state that is read out: they are in memory until they are written.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// So many snapshots may be read out between two that are made from the log.
pub(super) const MAX_IN_A_ROW: u32 = 15;

/// States of a node that are read out and not written yet.
pub(super) const MAX_CAPTURED: usize = 8;

/// The room of a node for states that are read out. Cheap to clone.
#[derive(Clone)]
pub(in crate::node) struct CaptureRoom(Arc<Semaphore>);

/// A state that was read out.
pub(super) struct Captured {
    pub(super) header: SnapshotHeader,
    pub(super) chunks: Vec<Bytes>,
    _place: OwnedSemaphorePermit,
}

/// When a peer's state may be read out.
pub(super) struct Captures {
    room: CaptureRoom,
    /// What reading the state took last. None while that is not known.
    read_in: Option<Duration>,
    /// How many were read out since the last that was made from the log.
    in_a_row: u32,
}

impl CaptureRoom {
    pub(in crate::node) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CAPTURED)))
    }
}

impl Captures {
    pub(super) fn new(room: CaptureRoom) -> Self {
        Self { room, read_in: None, in_a_row: 0 }
    }

    /// A snapshot was made from an earlier one and the log: what is read out leads to the same, and takes so long.
    pub(super) fn made_from_log(&mut self, read_in: Duration) {
        (self.read_in, self.in_a_row) = (Some(read_in), 0);
    }

    /// What reading the state took last.
    #[cfg(test)]
    pub(super) fn read_in(&self) -> Option<Duration> {
        self.read_in
    }

    /// Nothing is read out until another snapshot was made from the log.
    pub(super) fn refuse(&mut self) {
        self.read_in = None;
    }

    /// Reads out the state, if that is soon done. None if it is not.
    ///
    /// # Errors
    /// [`Fault`]: the machine is dead.
    pub(super) fn read(&mut self, machine: &mut Machine, meta: &SnapshotMeta) -> Result<Option<Captured>, Fault> {
        let is_short = self.read_in.is_some_and(|read_in| read_in <= MAX_PAUSE);
        if !is_short || self.in_a_row >= MAX_IN_A_ROW {
            return Ok(None);
        }
        let Ok(place) = Arc::clone(&self.room.0).try_acquire_owned() else { return Ok(None) };
        let before = guests::processor_time();
        let captured = read(machine, meta, place);
        let took = guests::processor_time().saturating_sub(before);
        tracing::debug!(at = %meta.position, ?took, "read the state out for a snapshot");
        self.read_in = matches!(captured, Ok(Some(_))).then_some(took);
        self.in_a_row += 1;
        captured
    }
}

fn read(machine: &mut Machine, meta: &SnapshotMeta, place: OwnedSemaphorePermit) -> Result<Option<Captured>, Fault> {
    let header = snapshot::header(machine, meta);
    let (mut chunks, mut bytes) = (Vec::new(), header.host.len());
    let written = machine.write_snapshot(&mut |chunk| {
        bytes += chunk.len();
        chunks.push(chunk);
        if bytes > MAX_BYTES { Err("it is too large to be read out".to_owned()) } else { Ok(()) }
    });
    match written {
        Ok(()) => Ok(Some(Captured { header, chunks, _place: place })),
        Err(SnapshotError::Sink(_)) => Ok(None),
        Err(SnapshotError::Fault(fault)) => Err(fault),
    }
}

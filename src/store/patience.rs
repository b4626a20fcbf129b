//! A database that waits for room on a full disk.
//!
//! redb gives up for good once a write has failed: its file would have to be opened and checked anew, and could not be read
//! meanwhile. But a full disk is nothing to give up for. A write that finds no room waits here, on the writer's thread,
//! until there is some or the store is closed; what it is part of is not acknowledged before, and readers go on.
//! All other errors are passed on: after a failed sync nobody knows what is durable.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;

use super::StoreError;
use super::disk::Disk;
use super::forward::forward_locks;

/// How often a write that found no room tries again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Whether writes wait for room, and whether one does.
#[derive(Debug, Default)]
pub(super) struct Patience {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_patient: bool,
    is_waiting: bool,
}

impl Patience {
    /// From now on writes wait for room. Before, while the store is being opened, they fail: the operator is there.
    pub(super) fn begin(&self) {
        self.lock().is_patient = true;
    }

    /// From now on they fail again.
    pub(super) fn end(&self) {
        self.lock().is_patient = false;
        self.changed.notify_all();
    }

    /// Whether a write waits for room.
    pub(super) fn is_waiting(&self) -> bool {
        self.lock().is_waiting
    }

    /// Repeats what finds no room until it does, or patience has ended.
    fn wait_for_room(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            let result = write();
            let is_full = result.as_ref().is_err_and(|error| is_disk_full(error.kind()));
            let mut state = self.lock();
            state.is_waiting = is_full && state.is_patient;
            if !state.is_waiting {
                return result;
            }
            drop(self.changed.wait_timeout(state, RETRY_INTERVAL));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Two flags, set one at a time, are whole whenever a thread dies.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room that is left where the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What may yet be written, in bytes.
    pub free_bytes: u64,
    /// Whether a write of the log waits for room.
    pub is_exhausted: bool,
}

/// What tells about the room, and ends the waiting for it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) log_dir: PathBuf,
    pub(super) patience: Arc<Patience>,
}

impl Room {
    pub(super) fn space(&self) -> Result<DiskSpace, StoreError> {
        let free_bytes = self.disk.free_bytes(&self.log_dir).map_err(StoreError::io(&self.log_dir, "measure"))?;
        Ok(DiskSpace { free_bytes, is_exhausted: self.patience.is_waiting() })
    }
}

/// Whether an error is gone once there is room again.
pub(super) fn is_disk_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A database file whose writes wait for room.
#[derive(Debug)]
pub(super) struct PatientStorage {
    storage: Box<dyn StorageBackend>,
    patience: Arc<Patience>,
}

impl PatientStorage {
    pub(super) fn new(storage: Box<dyn StorageBackend>, patience: Arc<Patience>) -> Self {
        Self { storage, patience }
    }
}

impl StorageBackend for PatientStorage {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.patience.wait_for_room(|| self.storage.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.patience.wait_for_room(|| self.storage.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    forward_locks!(storage);
}

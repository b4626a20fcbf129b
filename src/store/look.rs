//! The log of a stopped node, to read in. Nothing is written, and no node can open it meanwhile.

use std::fs::File;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase};

use super::database::{self, ROUNDS};
use super::disk::SystemDisk;
use super::head::Head;
use super::overlay::Overlay;
use super::rounds::stored_peers;
use super::view::View;
use super::{StoreError, StoredPeer};
use crate::raft::{Entry, LogRead};
use crate::types::Incarnation;

/// Pages that are kept in memory while the log is read, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// The log of a stopped node.
pub struct StoredLog {
    // Holds the lock.
    _database: Database,
    path: PathBuf,
    view: View,
    peers: Vec<StoredPeer>,
}

impl StoredLog {
    /// Opens the log in a folder, and reads and checks all of it.
    ///
    /// # Errors
    /// [`StoreError::NothingThere`], [`StoreError::InUse`] while a node has it open, and what opening the store would
    /// say of a damaged log.
    pub fn open(log_dir: &Path) -> Result<Self, StoreError> {
        let path = database::path_in(log_dir);
        if !path.exists() {
            return Err(StoreError::NothingThere { dir: log_dir.to_owned() });
        }
        let (database, recovered) = database::guarded(&path, || {
            let database = open(&path)?;
            database::read_node(&database, &path)?;
            let recovered = database::recover(&database, &path)?;
            Ok((database, recovered))
        })?;
        Head::check(&SystemDisk, &path, &recovered.ledger)?;
        let peers = stored_peers(&recovered.peers);
        let transaction = database.begin_read().map_err(StoreError::database(&path))?;
        let table = transaction.open_table(ROUNDS).map_err(StoreError::database(&path))?;
        let view = View::new(path.clone(), table, recovered.groups);
        Ok(Self { _database: database, path, view, peers })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The peers in it, ordered.
    #[must_use]
    pub fn peers(&self) -> &[StoredPeer] {
        &self.peers
    }

    /// Reads entries, as [`Store::read`](super::Store::read) does.
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, incarnation: Incarnation, read: &LogRead) -> Result<Vec<Entry>, StoreError> {
        self.view.read(incarnation, read)
    }
}

/// Opens a database that no node has open, and checks every page of it. What a crash has left is repaired in memory.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let overlay = Overlay::new(open_file(path)?).map_err(StoreError::io(path, "measure"))?;
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(overlay)
        .map_err(StoreError::database(path))
}

/// Whether a whole database was closed by the node. If not, the next start repairs it.
pub(super) fn was_closed(path: &Path) -> Result<bool, StoreError> {
    match Database::builder().open_read_only_with_backend(open_file(path)?) {
        Ok(_) => Ok(true),
        Err(DatabaseError::RepairAborted) => Ok(false),
        Err(error) => Err(StoreError::database(path)(error)),
    }
}

fn open_file(path: &Path) -> Result<FileBackend, StoreError> {
    let file = File::open(path).map_err(StoreError::io(path, "open"))?;
    FileBackend::new(file).map_err(StoreError::database(path))
}

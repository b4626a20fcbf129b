//! Looks at every file of a stopped node and tells what is in it and what is damaged. Changes nothing.
//!
//! One that is damaged does not keep the others from being checked. Compiled components are left out: they are a cache.

mod found;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::database::{self, ROUNDS};
use super::disk::SystemDisk;
use super::format;
use super::head::Head;
use super::recovery::{Recovered, Recovery};
use super::rounds::stored_peers;
use super::{Components, SnapshotHeader, StoreError, StoredPeer, look, snapshots};
use crate::raft::SnapshotMeta;
use crate::types::{Digest, Incarnation, LogPosition, NodeAddr};
use found::{Found, FoundSnapshot};

/// So many damaged rounds are named; a log with more is damaged all over.
const MAX_DAMAGED_ROUNDS: usize = 1000;

/// What the files of a node hold.
#[derive(Debug, Default)]
pub struct StoreCheck {
    /// The log; none when it could not be opened.
    pub log: Option<CheckedLog>,
    /// The peers in the log, ordered; empty when the log is damaged, since what its rounds add up to is not known then.
    pub peers: Vec<CheckedPeer>,
    /// The snapshots that are whole, by folder and position.
    pub snapshots: Vec<CheckedSnapshot>,
    /// The components that are whole, and their sizes in bytes.
    pub components: Vec<(Digest, u64)>,
    /// Unfinished files, which the next start removes.
    pub leftovers: Vec<PathBuf>,
    /// What is damaged.
    pub damage: Vec<DamagedFile>,
}

/// The file of the log.
#[derive(Debug)]
pub struct CheckedLog {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whose it is.
    pub node: NodeAddr,
    /// How many commit rounds are in it.
    pub rounds: u64,
    /// Whether the node has closed it. If not, the node was killed, and the next start repairs the file.
    pub was_closed: bool,
}

/// A peer in the log.
#[derive(Debug)]
pub struct CheckedPeer {
    /// The peer and its state.
    pub stored: StoredPeer,
    /// What its entries take, in bytes.
    pub log_bytes: u64,
}

/// A snapshot that is whole.
#[derive(Debug)]
pub struct CheckedSnapshot {
    /// Whose it is.
    pub incarnation: Incarnation,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was written, if the file system tells.
    pub written: Option<SystemTime>,
    /// What it says of itself.
    pub header: SnapshotHeader,
    /// What it is to the node.
    pub role: SnapshotRole,
}

/// What a snapshot is to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotRole {
    /// The peer's own: its log goes on from there.
    Current,
    /// In the archive.
    Archived,
    /// The log, as far as it could be read, does not refer to it; a start of the node removes it.
    Unused,
}

/// A file that is not what it should be.
#[derive(Debug)]
pub struct DamagedFile {
    /// The file, or where it should be.
    pub path: PathBuf,
    /// What is wrong.
    pub error: StoreError,
}

impl StoreCheck {
    /// Checks all that is in the folders of a node that does not run. Reads all of it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a node has the log open, [`StoreError::NothingThere`] when there is no file of a
    /// node. All else that is wrong is in [`damage`](Self::damage).
    pub fn run(log_dir: &Path, snapshot_dir: &Path) -> Result<Self, StoreError> {
        let mut check = Self::default();
        check.log(log_dir, snapshot_dir)?;
        check.owner(snapshot_dir);
        check.snapshots(snapshot_dir);
        check.components(log_dir);
        let nothing = check.log.is_none() && check.components.is_empty() && check.damage.is_empty();
        if nothing { Err(StoreError::NothingThere { dir: log_dir.to_owned() }) } else { Ok(check) }
    }

    /// Adds a damaged file.
    pub fn add_damage(&mut self, path: &Path, error: StoreError) {
        self.damage.push(DamagedFile { path: path.to_owned(), error });
    }

    /// The snapshot that the peer's log goes on from, if it has one and that is whole.
    #[must_use]
    pub fn current_snapshot(&self, incarnation: Incarnation) -> Option<&CheckedSnapshot> {
        let is_it = |found: &&CheckedSnapshot| found.incarnation == incarnation && found.role == SnapshotRole::Current;
        self.snapshots.iter().find(is_it)
    }

    fn log(&mut self, log_dir: &Path, snapshot_dir: &Path) -> Result<(), StoreError> {
        let path = database::path_in(log_dir);
        if !path.exists() {
            self.missing_log(log_dir, snapshot_dir);
            return Ok(());
        }
        let checked = database::guarded(&path, || self.database(&look::open(&path)?, &path));
        // The database is closed again: redb lets nobody else look while it is open.
        let was_closed = checked.and_then(|()| look::was_closed(&path));
        match was_closed {
            Ok(was_closed) => self.log.as_mut().expect("a log that was checked").was_closed = was_closed,
            Err(error @ StoreError::InUse { .. }) => return Err(error),
            Err(error) => self.add_damage(&path, error),
        }
        Ok(())
    }

    /// A node that has never run has neither log nor snapshots; one with snapshots has lost its log.
    fn missing_log(&mut self, log_dir: &Path, snapshot_dir: &Path) {
        match database::has_snapshots(&SystemDisk, snapshot_dir) {
            Ok(false) => {}
            Ok(true) => {
                let (path, log_dir, snapshot_dir) =
                    (database::path_in(log_dir), log_dir.to_owned(), snapshot_dir.to_owned());
                self.add_damage(&path, StoreError::LogMissing { log_dir, snapshot_dir });
            }
            Err(error) => self.add_damage(snapshot_dir, error),
        }
    }

    fn database(&mut self, database: &Database, path: &Path) -> Result<(), StoreError> {
        let size_bytes = fs::metadata(path).map_err(StoreError::io(path, "measure"))?.len();
        let node = database::read_node(database, path)?;
        self.log = Some(CheckedLog { path: path.to_owned(), size_bytes, node, rounds: 0, was_closed: false });
        self.rounds(database, path)
    }

    /// Checks every round, also after one that is damaged; only then, what they add up to is not known.
    fn rounds(&mut self, database: &Database, path: &Path) -> Result<(), StoreError> {
        let transaction = database.begin_read().map_err(StoreError::database(path))?;
        let table = transaction.open_table(ROUNDS).map_err(StoreError::database(path))?;
        let first = table.first().map_err(StoreError::database(path))?;
        let mut recovery = Some(Recovery::new(first.map_or(1, |(seq, _)| seq.value())));
        let mut rounds = 0;
        for row in table.range::<u64>(..).map_err(StoreError::database(path))? {
            let (seq, round) = row.map_err(StoreError::database(path))?;
            let (seq, round) = (seq.value(), round.value());
            rounds += 1;
            let checked = match &mut recovery {
                Some(recovery) => recovery.round(seq, round),
                None => format::parse(seq, round).map(drop),
            };
            if let Err(damage) = checked {
                self.add_damage(path, database::damaged(path, seq, damage));
                recovery = None;
                if self.damage.len() == MAX_DAMAGED_ROUNDS {
                    break;
                }
            }
        }
        self.log.as_mut().expect("it was just put there").rounds = rounds;
        let Some(recovery) = recovery else { return Ok(()) };
        let recovered = recovery.finish().map_err(|reason| StoreError::corrupt(path, reason))?;
        self.peers = checked_peers(&recovered);
        Head::check(&SystemDisk, path, &recovered.ledger)
    }

    /// The snapshot folder must be that of the same node.
    fn owner(&mut self, snapshot_dir: &Path) {
        let Some(node) = self.log.as_ref().map(|log| log.node.clone()) else { return };
        let checked = database::check_owner(&SystemDisk, snapshot_dir, &node);
        self.note(snapshot_dir, checked);
    }

    fn snapshots(&mut self, snapshot_dir: &Path) {
        let found = match Found::list(&SystemDisk, snapshot_dir) {
            Ok(found) => found,
            Err(error) => return self.add_damage(snapshot_dir, error),
        };
        self.leftovers.extend(found.leftovers);
        for snapshot in found.snapshots {
            match self.snapshot(&snapshot) {
                Ok(checked) => self.snapshots.push(checked),
                Err(error) => self.add_damage(&snapshot.path, error),
            }
        }
        let missing: Vec<_> = self
            .peers
            .iter()
            .filter_map(|peer| Some((peer.stored.incarnation, peer.stored.restored.snapshot.as_ref()?.position)))
            .map(|(incarnation, position)| snapshots::path_in(snapshot_dir, incarnation, position))
            .filter(|path| !path.exists())
            .collect();
        for path in missing {
            self.add_damage(&path, StoreError::SnapshotMissing { path: path.clone() });
        }
    }

    fn snapshot(&self, found: &FoundSnapshot) -> Result<CheckedSnapshot, StoreError> {
        let FoundSnapshot { incarnation, position, path, archived } = found;
        let metadata = fs::metadata(path).map_err(StoreError::io(path, "measure"))?;
        let header = found.verify(&SystemDisk)?;
        let role = match self.reference(*incarnation, *position) {
            _ if archived.is_some() => SnapshotRole::Archived,
            None => SnapshotRole::Unused,
            Some(meta) if *meta == header.meta => SnapshotRole::Current,
            Some(_) => return Err(StoreError::corrupt(path, "its time or membership is not what the log says")),
        };
        Ok(CheckedSnapshot {
            incarnation: *incarnation,
            path: path.clone(),
            size_bytes: metadata.len(),
            written: metadata.modified().ok(),
            header,
            role,
        })
    }

    /// What the log says of the snapshot, if it refers to it.
    fn reference(&self, incarnation: Incarnation, position: LogPosition) -> Option<&SnapshotMeta> {
        let peer = self.peers.iter().find(|peer| peer.stored.incarnation == incarnation)?;
        peer.stored.restored.snapshot.as_ref().filter(|meta| meta.position == position)
    }

    fn components(&mut self, log_dir: &Path) {
        let (components, leftovers) = match Components::find(Arc::new(SystemDisk), log_dir) {
            Ok(found) => found,
            Err(error) => return self.add_damage(log_dir, error),
        };
        self.leftovers.extend(leftovers);
        for digest in components.list().unwrap_or_default() {
            match components.get(digest) {
                Ok(bytes) => self.components.push((digest, bytes.len() as u64)),
                Err(error) => self.add_damage(&components.path(digest), error),
            }
        }
    }

    fn note(&mut self, path: &Path, checked: Result<(), StoreError>) {
        if let Err(error) = checked {
            self.add_damage(path, error);
        }
    }
}

fn checked_peers(recovered: &Recovered) -> Vec<CheckedPeer> {
    let with_size = |stored: StoredPeer| {
        let locations = recovered.groups[&stored.incarnation].locations();
        let log_bytes = locations.map(|location| u64::from(location.size_bytes)).sum();
        CheckedPeer { stored, log_bytes }
    };
    stored_peers(&recovered.peers).into_iter().map(with_size).collect()
}

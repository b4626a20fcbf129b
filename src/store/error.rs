//! What can go wrong in the store, and who has to act.

use std::io;
use std::path::{Path, PathBuf};

use super::patience::is_disk_full;
use crate::types::{Digest, Incarnation, Index, LogPosition, NodeAddr};

/// Why the store could not do what it was asked.
///
/// * The operator acts on [`InUse`](Self::InUse), [`OtherNode`](Self::OtherNode),
///   [`UnknownVersion`](Self::UnknownVersion), [`LogMissing`](Self::LogMissing),
///   [`NothingThere`](Self::NothingThere) and [`DiskFull`](Self::DiskFull): nothing was changed.
/// * The disk is to blame for [`Io`](Self::Io), [`Database`](Self::Database), [`Corrupt`](Self::Corrupt),
///   [`CorruptRound`](Self::CorruptRound) and [`SnapshotMissing`](Self::SnapshotMissing). When the sink gets one of
///   them the node must stop: whether its last writes are durable is unknown.
/// * The sender of a file is to blame for [`WrongContent`](Self::WrongContent), [`WrongDigest`](Self::WrongDigest)
///   and [`WrongSize`](Self::WrongSize): nothing was kept.
/// * The rest say that the store was driven wrongly.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another node of this one, has the log open.
    #[error("{} is in use by another node: stop that one, or give this one a log_dir of its own", path.display())]
    InUse {
        /// The log file.
        path: PathBuf,
    },
    /// The folder holds the data of a node with another address.
    #[error("{} belongs to node {found}, this is {expected}: give each node a folder of its own", dir.display())]
    OtherNode {
        /// The log or snapshot folder.
        dir: PathBuf,
        /// The address found in it.
        found: String,
        /// This node's address.
        expected: NodeAddr,
    },
    /// The file was written in a format that this release does not read.
    #[error("{} has format version {found}, this release reads {supported}: use the release that wrote it", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The only version known.
        supported: u32,
    },
    /// The snapshot folder was in use by a node, but there is no log beside it. Going on would make the node forget
    /// its votes and its log.
    #[error(
        "{} holds a node's snapshots but {} holds no log: mount or restore the log folder; to start from nothing, \
         empty the snapshot folder and remove this node's peers from their clusters",
        snapshot_dir.display(),
        log_dir.display()
    )]
    LogMissing {
        /// Where the log should be.
        log_dir: PathBuf,
        /// Where snapshots are.
        snapshot_dir: PathBuf,
    },
    /// There is no room on the disk.
    #[error("the disk of {} is full: make room there, then try again", path.display())]
    DiskFull {
        /// The file that found none.
        path: PathBuf,
    },
    /// There is nothing of a node in the folder.
    #[error("{} holds no data of a node: give the log_dir of one", dir.display())]
    NothingThere {
        /// The folder.
        dir: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The database could not be read or written.
    #[error("the log {} failed: {source}; check the disk, then restart the node", path.display())]
    Database {
        /// The log file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// A file is not what was written to it.
    #[error("{} is damaged: {reason}; restore it, or replace this node's peers by a membership change", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A round of the log is not what was written.
    #[error(
        "{} is damaged in round {seq}: {reason}; restore the file, or replace this node's peers by a membership change",
        path.display()
    )]
    CorruptRound {
        /// The log file.
        path: PathBuf,
        /// The round's key.
        seq: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot that is asked for, or that the log refers to, is not there.
    #[error(
        "there is no snapshot {}: if the log needs it, restore it or replace this peer by a membership change",
        path.display()
    )]
    SnapshotMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A component is not there.
    #[error("there is no component {}: upload it again, or fetch it from another node", path.display())]
    ComponentMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Bytes received are not the snapshot that was announced.
    #[error("what was received as snapshot {position} is not it: {reason}; it was dropped, ask for it again")]
    WrongContent {
        /// The snapshot announced.
        position: LogPosition,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// Bytes are not the component they were named.
    #[error("what was named component {expected} is {found}; it was dropped, ask for it again")]
    WrongDigest {
        /// The digest announced.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// More or fewer bytes than announced, or than the format can hold.
    #[error("{} should take {expected_bytes} bytes, not {found_bytes}; it was dropped", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Its announced or largest size in bytes.
        expected_bytes: u64,
        /// The bytes counted when this was noticed.
        found_bytes: u64,
    },
    /// A write that does not fit the state of its peer. It was not made durable, and the store has stopped.
    #[error("peer {incarnation} was told to write what does not fit its log: {reason}")]
    WrongWrite {
        /// The peer.
        incarnation: Incarnation,
        /// What does not fit.
        reason: String,
    },
    /// The peer is not in the store.
    #[error("peer {0} is not in the store")]
    UnknownPeer(Incarnation),
    /// The entries asked for are not, or no longer, in the log.
    #[error("peer {incarnation} has no entry {from}: its log holds {first} up to {last}")]
    NotInLog {
        /// The peer.
        incarnation: Incarnation,
        /// The first entry asked for.
        from: Index,
        /// The first entry of the log.
        first: Index,
        /// The last durable entry; before `first` when the log is empty.
        last: Index,
    },
    /// More was waiting to be written than the named bound. The store has stopped.
    #[error("more than {max_bytes} bytes wait to be written: the disk is too slow for the limits set")]
    QueueFull {
        /// The bound.
        max_bytes: usize,
    },
    /// The store has been closed or has failed.
    #[error("the store is closed")]
    Closed,
    /// The writer thread panicked. The store has stopped.
    #[error("the writer of the log panicked: restart the node and report the panic in its log")]
    WriterPanicked,
}

impl StoreError {
    /// For `map_err`: an error of the system that came up while `action` was done to `path`.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            kind if is_disk_full(kind) => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), action, source },
        }
    }

    /// For `map_err`: an error of the database at `path`.
    pub(super) fn database<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> Self {
        move |error| match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                Self::InUse { path: path.to_owned() }
            }
            redb::Error::DatabaseClosed => Self::Closed,
            redb::Error::Corrupted(reason) => Self::corrupt(path, reason),
            redb::Error::Io(error) if is_disk_full(error.kind()) => Self::DiskFull { path: path.to_owned() },
            redb::Error::Io(error) if is_damage(error.kind()) => Self::corrupt(path, error.to_string()),
            // A node's log was never of another format.
            error @ redb::Error::UpgradeRequired(_) => Self::corrupt(path, error.to_string()),
            source => Self::Database { path: path.to_owned(), source: Box::new(source) },
        }
    }

    /// A damaged file.
    pub(super) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}

/// Whether an error of the system says that a file is not what it should be.
fn is_damage(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

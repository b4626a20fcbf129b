//! The durable store of a node: one redb database with the logs of all its peers, and files for what is large.
//!
//! [`Store`] is the handle. A write goes into the queue (`queue`); the writer thread (`writer`) hands all that waits to
//! the [`Journal`] (`rounds`), which makes a *round* of it and commits that as one row with one sync; then the thread
//! tells the [`DurableSink`]. A row per round, rather than one per entry, keeps a commit at the right edge of one
//! tree however many peers are in it. Where entries are (`group_log`) and what is live in each round (`index`) is kept in
//! memory and rebuilt on open (`recovery`) from the bytes of the rounds (`format`). Old rounds are deleted in
//! batches by the writer, which moves what is still live in them into its next round in the same transaction; so a
//! peer that rarely writes holds nobody back. Readers use `view`, which changes with each commit.
//!
//! [`Snapshots`] and [`Components`] are files that appear whole or not at all. A snapshot becomes its peer's once a
//! write refers to it; files that no peer refers to are removed on open, but for those in the `archive` and what was received
//! in part (`receiver`). All of this
//! reaches a disk through [`Disk`].
//!
//! ```text
//! log_dir/log.redb                                     meta: version, node; rounds: seq -> round
//! log_dir/head                                         the newest round, to notice that it is lost
//! log_dir/components/<digest>.wasm
//! snapshot_dir/node                                    whose folder it is
//! snapshot_dir/<incarnation>/<index>-<term>.snap
//! snapshot_dir/<incarnation>/<index>-<term>-<size>-<checksum>.part    received in part
//! snapshot_dir/archive/<cluster>/<incarnation>/<index>-<term>.snap
//! ```
//!
//! Everything read is checked against a checksum; what fails is an error that names the file, never a fresh start.
//! An error of the disk while a round is written stops the writer: nothing after it is acknowledged, and what became
//! of that round only the next open can tell. A full disk is no such error: the writer waits for room (`patience`).
//!
//! [`StoreCheck`] and [`StoredLog`] look at the files of a node that does not run, and write nothing (`overlay`).

mod archive;
mod check;
mod components;
mod database;
mod disk;
mod error;
mod files;
mod format;
mod forward;
mod fresh;
mod gentle;
mod group_log;
mod head;
mod index;
mod look;
mod overlay;
mod patience;
mod queue;
mod receiver;
mod recovery;
mod rounds;
mod snapshot_format;
mod snapshots;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

pub use check::{CheckedLog, CheckedPeer, CheckedSnapshot, DamagedFile, SnapshotRole, StoreCheck};
pub use components::Components;
pub use disk::{Disk, DiskFile, SystemDisk};
pub use error::StoreError;
pub use fresh::FreshlyFilled;
pub use index::PurgeLimits;
pub use look::StoredLog;
pub use patience::DiskSpace;
pub use queue::{MAX_QUEUED_BYTES, Operation};
pub use receiver::SnapshotReceiver;
pub use rounds::Journal;
pub use snapshot_format::{MAX_BLOCK_BYTES, SnapshotHeader, SnapshotIdentity};
pub use snapshots::{SnapshotFile, SnapshotReader, SnapshotWriter, Snapshots};

use crate::raft::{Entry, LogRead, Restored, Write, WriteToken};
use crate::types::{Incarnation, NodeAddr};
use patience::Room;
use queue::Queue;
use view::View;

/// Where a store is and how large its parts may get.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The folder of the log and the components; created if it is not there. One node's alone.
    pub log_dir: PathBuf,
    /// The folder of the snapshots; created if it is not there. One node's alone.
    pub snapshot_dir: PathBuf,
    /// The node whose data this is.
    pub node: NodeAddr,
    /// What the store may hold in memory while nothing waits, in bytes. Half of it caches pages of the database; the
    /// other half is left to the index, which grows with the log and is not limited: two to six bytes an entry, and
    /// eight a round.
    pub cache_bytes: usize,
    /// The size of a round in bytes, by [`Entry::size_bytes`]: more than that is split over several rounds. A single
    /// write may exceed it, and what a purge moves comes on top.
    pub max_segment_bytes: usize,
    /// How many snapshots of each peer the archive is to hold; with 0 nothing is archived.
    pub snapshot_backup_count: usize,
}

impl StoreOptions {
    /// The usual [`max_segment_bytes`](Self::max_segment_bytes): just below a power of two, to which the database
    /// rounds a row up.
    pub const DEFAULT_MAX_SEGMENT_BYTES: usize = (4 << 20) - 4096;
}

/// A peer found on open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPeer {
    /// Which peer.
    pub incarnation: Incarnation,
    /// The node's description of it, as given to [`Store::create_peer`].
    pub record: Bytes,
    /// The state to start its Raft from.
    pub restored: Restored,
}

/// Who is told what has become durable. Called on the writer thread, which writes nothing meanwhile: hand over and
/// return. Must not call [`Store::close`].
pub trait DurableSink: Send + 'static {
    /// These operations are durable, in the order in which they were asked for. Called once for each round.
    fn durable(&mut self, completions: Vec<Completion>);

    /// The store has failed and makes nothing durable any more: the node must stop. Called at most once, and last.
    fn failed(&mut self, error: StoreError);
}

/// An operation that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The peer and its bootstrap.
    Created(Incarnation),
    /// The peer is gone.
    Removed(Incarnation),
    /// The write with this token.
    Written(Incarnation, WriteToken),
}

/// A handle to the store of a node. Clones share it, and any thread may use them. The last one to go closes it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue>,
    view: Arc<View>,
    room: Room,
    snapshots: Snapshots,
    components: Components,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store of a node, creating it if the node is new, and returns the peers in it, ordered.
    ///
    /// Reads and checks all of the log, and of each peer's snapshot that it exists and begins right. Removes unfinished
    /// files and snapshots that no peer refers to.
    ///
    /// # Errors
    /// [`StoreError`]: what the operator must see to, or what the disk has lost. Nothing was changed.
    pub fn open(options: StoreOptions, sink: Box<dyn DurableSink>) -> Result<(Self, Vec<StoredPeer>), StoreError> {
        Self::open_on(Arc::new(SystemDisk), options, sink, PurgeLimits::default())
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        options: StoreOptions,
        sink: Box<dyn DurableSink>,
        purge_limits: PurgeLimits,
    ) -> Result<(Self, Vec<StoredPeer>), StoreError> {
        let (journal, peers) = Journal::open(disk, &options, purge_limits)?;
        let (view, room) = (journal.view(), journal.room());
        let (snapshots, components) = (journal.snapshots(), journal.components());
        let queue = Arc::new(Queue::default());
        let (max_segment_bytes, writer_queue) = (options.max_segment_bytes, Arc::clone(&queue));
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(journal, max_segment_bytes, &writer_queue, sink))
            .map_err(StoreError::io(&options.log_dir, "start the writer thread of"))?;
        let writer = Mutex::new(Some(thread));
        room.patience.begin();
        Ok((Self { shared: Arc::new(Shared { queue, view, room, snapshots, components, writer }) }, peers))
    }

    /// Adds a peer with its first write. Never blocks; [`Completion::Created`] tells when both are durable. The writes
    /// of the peer may follow at once. The peer must not exist.
    pub fn create_peer(&self, incarnation: Incarnation, record: Bytes, bootstrap: Write) {
        self.shared.queue.push(Operation::Create { incarnation, record, bootstrap });
    }

    /// Forgets a peer: its log, record and snapshots. Never blocks; [`Completion::Removed`] tells when it is durable
    /// and the files are gone. Writes of the peer that come later are dropped. Removing a peer that does not exist
    /// is no error.
    pub fn remove_peer(&self, incarnation: Incarnation) {
        self.shared.queue.push(Operation::Remove(incarnation));
    }

    /// Makes a write of a peer durable, after all that were asked for before. Never blocks; [`Completion::Written`]
    /// tells when it is done. A store that is closed or has failed drops it.
    ///
    /// More than [`MAX_QUEUED_BYTES`] waiting, or a write that does not fit the peer's log, is a failure of the store:
    /// the caller has lost count, and the sink is told.
    pub fn write(&self, incarnation: Incarnation, write: Write) {
        self.shared.queue.push(Operation::Write(incarnation, write));
    }

    /// Reads durable entries: those asked for that the log holds, until their sizes pass `max_bytes`; at least one.
    /// Blocks on the disk when they are not cached.
    ///
    /// # Errors
    /// [`StoreError::NotInLog`] when the log does not hold the first, [`StoreError::UnknownPeer`],
    /// [`StoreError::CorruptRound`] and [`StoreError::Database`] when the disk has lost it, [`StoreError::Closed`].
    pub fn read(&self, incarnation: Incarnation, read: &LogRead) -> Result<Vec<Entry>, StoreError> {
        self.shared.view.read(incarnation, read)
    }

    /// The snapshots of the node's peers.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        self.shared.snapshots.clone()
    }

    /// The components on the node.
    #[must_use]
    pub fn components(&self) -> Components {
        self.shared.components.clone()
    }

    /// The room that is left for the log. Asks the system: not for a thread that must not wait.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn space(&self) -> Result<DiskSpace, StoreError> {
        self.shared.room.space()
    }

    /// Makes durable what waits, tells the sink, and closes the files, for all handles. Blocks until it is done. Where
    /// there is no room on the disk, what waits is given up; it was never acknowledged.
    pub fn close(self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.queue.close();
        self.room.patience.end();
        let writer = self.writer.lock().expect("no thread panics while it holds the handle").take();
        // The sink may own the last handle: the writer thread then ends on its own.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id())
            && writer.join().is_err()
        {
            tracing::error!("the sink of the store panicked");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

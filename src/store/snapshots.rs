//! Snapshot files, `snapshot_dir/<incarnation>/<index>-<term>.snap`.
//! [`snapshot_format`](super::snapshot_format) tells what is in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::archive::Archive;
use super::disk::{Disk, DiskFile};
use super::files::{self, Draft};
use super::gentle;
use super::receiver::partial_position;
use super::snapshot_format::{Checker, END_BYTES, Former, MAX_BLOCK_BYTES, SnapshotHeader, SnapshotIdentity};
use super::{SnapshotReceiver, StoreError};
use crate::codec;
use crate::types::{Incarnation, Index, LogPosition, Term};

const SUFFIX: &str = ".snap";

/// A snapshot file that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// What it covers.
    pub position: LogPosition,
    /// Its size on disk.
    pub size_bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// The snapshots of a node's peers. A handle: clones share the folder, and any thread may use them.
#[derive(Clone, Debug)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    root: Arc<Path>,
    archive: Archive,
}

impl Snapshots {
    /// Opens the folder: what the log of a peer refers to must be there, and goes to the archive if a crash kept it from there.
    /// What a peer has received in part of a later snapshot stays; all else goes. The archive is to hold `archive_count`
    /// snapshots of each peer.
    pub(super) fn open_dir(
        disk: Arc<dyn Disk>,
        root: &Path,
        peers: &[(Incarnation, Option<LogPosition>)],
        archive_count: usize,
    ) -> Result<Self, StoreError> {
        let archive = Archive::open(Arc::clone(&disk), root, archive_count)?;
        let snapshots = Self { disk, root: root.into(), archive };
        let disk = snapshots.disk.as_ref();
        let referenced = || peers.iter().filter_map(|(incarnation, position)| Some((*incarnation, (*position)?)));
        for (incarnation, position) in referenced() {
            snapshots.open(incarnation, position)?;
        }
        let kept: BTreeMap<String, Option<LogPosition>> =
            peers.iter().map(|(peer, position)| (folder_name(*peer), *position)).collect();
        files::remove_files(disk, root, files::is_temporary)?;
        for folder in files::names(disk, root)?.iter().filter(|name| parse_folder_name(name).is_some()) {
            let dir = root.join(folder);
            match kept.get(folder) {
                Some(kept) => files::remove_files(disk, &dir, |name| is_ours(name) && !is_kept(name, *kept))?,
                None => remove_folder(disk, &dir)?,
            }
        }
        for (incarnation, position) in referenced() {
            // The node can do without.
            if let Err(error) = snapshots.archive(incarnation, position) {
                tracing::warn!(%incarnation, %error, "a snapshot could not be archived");
            }
        }
        Ok(snapshots)
    }

    /// Whether there is the folder of any peer.
    pub(super) fn any(disk: &dyn Disk, root: &Path) -> Result<bool, StoreError> {
        Ok(files::names(disk, root)?.iter().any(|name| parse_folder_name(name).is_some()))
    }

    /// Starts a snapshot of the peer.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::WrongSize`] for a header of 4 GiB.
    pub fn create(&self, incarnation: Incarnation, header: &SnapshotHeader) -> Result<SnapshotWriter, StoreError> {
        let position = header.meta.position;
        let mut draft = self.draft(incarnation, position)?;
        let header = codec::encode(header);
        let mut former = Former::default();
        let start = former.start(&header).ok_or_else(|| StoreError::WrongSize {
            path: draft.target().to_owned(),
            expected_bytes: u32::MAX.into(),
            found_bytes: header.len() as u64,
        })?;
        draft.write(&start)?;
        draft.write(&header)?;
        let size_bytes = (start.len() + header.len()) as u64;
        Ok(SnapshotWriter { draft, position, former, size_bytes, block: Vec::new() })
    }

    /// Opens a snapshot of the peer and checks its header.
    ///
    /// # Errors
    /// [`StoreError::SnapshotMissing`], [`StoreError::Corrupt`], [`StoreError::UnknownVersion`], [`StoreError::Io`].
    pub fn open(&self, incarnation: Incarnation, position: LogPosition) -> Result<SnapshotReader, StoreError> {
        SnapshotReader::open(self.disk.as_ref(), &self.path(incarnation, position), position)
    }

    /// Opens a snapshot of the peer to be sent as it is; the receiver checks it. Returns the file, which is one of this
    /// machine's file system whatever the [`Disk`], and which one it is. It can be read also once it is removed.
    ///
    /// # Errors
    /// [`StoreError::SnapshotMissing`], [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn open_raw(
        &self,
        incarnation: Incarnation,
        position: LogPosition,
    ) -> Result<(File, SnapshotIdentity), StoreError> {
        let path = self.path(incarnation, position);
        let mut file = gentle::open_held(&path).map_err(missing_or_io(&path))?;
        let size_bytes = file.metadata().map_err(StoreError::io(&path, "measure"))?.len();
        let mut end = Vec::new();
        let mut read_end = || {
            file.seek(SeekFrom::Start(size_bytes.saturating_sub(END_BYTES as u64)))?;
            file.read_to_end(&mut end)?;
            file.rewind()
        };
        read_end().map_err(StoreError::io(&path, "read"))?;
        let identity = SnapshotIdentity::of(position, size_bytes, &end);
        Ok((file, identity.ok_or_else(|| StoreError::corrupt(&path, "it is cut short"))?))
    }

    /// Starts to receive a snapshot for the peer, or goes on where that was left: a file as another node's
    /// [`open_raw`](Self::open_raw) gave it. Reads what is there already. Only one may be received for a peer at a time.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn receive(
        &self,
        incarnation: Incarnation,
        identity: SnapshotIdentity,
    ) -> Result<SnapshotReceiver, StoreError> {
        let folder = self.folder(incarnation);
        files::create_dir(self.disk.as_ref(), &folder)?;
        SnapshotReceiver::open(&self.disk, &folder, self.path(incarnation, identity.position), identity)
    }

    /// How many bytes may yet be written to the folder's disk.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.disk.free_bytes(&self.root).map_err(StoreError::io(&self.root, "measure the room in"))
    }

    /// Copies a snapshot of the peer to the archive, if the node keeps one, and makes room there for it. Call it once the
    /// write that refers to the snapshot is durable.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the snapshot or its copy is not whole, [`StoreError::SnapshotMissing`],
    /// [`StoreError::Io`]. The archive then holds what it held.
    pub fn archive(&self, incarnation: Incarnation, position: LogPosition) -> Result<(), StoreError> {
        self.archive.keep(incarnation, position, &self.path(incarnation, position))
    }

    /// Removes the peer's snapshots that come before one, and what was received in part of any up to that. Call it once the
    /// write that refers to that one is durable. Later ones stay: they may have been received already, while their write is
    /// yet to come. Large ones go slowly, so that the disk is there for others.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_before(&self, incarnation: Incarnation, keep: LogPosition) -> Result<(), StoreError> {
        let goes = |name: &str| {
            position_of(name).is_some_and(|position| position.index < keep.index)
                || partial_position(name).is_some_and(|position| position.index <= keep.index)
        };
        files::remove_large_files(self.disk.as_ref(), &self.folder(incarnation), goes)
    }

    /// Removes one snapshot of the peer, to which no write refers.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_one(&self, incarnation: Incarnation, position: LogPosition) -> Result<(), StoreError> {
        let unwanted = file_name(position);
        files::remove_files(self.disk.as_ref(), &self.folder(incarnation), |name| name == unwanted)
    }

    /// Removes all snapshots of the peer, also unfinished ones.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        remove_folder(self.disk.as_ref(), &self.folder(incarnation))
    }

    fn draft(&self, incarnation: Incarnation, position: LogPosition) -> Result<Draft, StoreError> {
        files::create_dir(self.disk.as_ref(), &self.folder(incarnation))?;
        Draft::create(&self.disk, self.path(incarnation, position))
    }

    fn folder(&self, incarnation: Incarnation) -> PathBuf {
        self.root.join(folder_name(incarnation))
    }

    fn path(&self, incarnation: Incarnation, position: LogPosition) -> PathBuf {
        path_in(&self.root, incarnation, position)
    }
}

/// Writes a snapshot. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    draft: Draft,
    position: LogPosition,
    former: Former,
    size_bytes: u64,
    block: Vec<u8>,
}

impl SnapshotWriter {
    /// Adds data, however long.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the writer is then to be dropped.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), StoreError> {
        while !data.is_empty() {
            let (taken, rest) = data.split_at(data.len().min(MAX_BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(taken);
            data = rest;
            if self.block.len() == MAX_BLOCK_BYTES {
                self.write_block()?;
            }
        }
        Ok(())
    }

    /// Ends the snapshot and makes it durable under its name, in place of one of the same position.
    ///
    /// # Errors
    /// [`StoreError::Io`]; nothing is left then.
    pub fn finish(mut self) -> Result<SnapshotFile, StoreError> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let end = self.former.end();
        self.draft.write(&end)?;
        self.size_bytes += end.len() as u64;
        let path = self.draft.publish()?;
        Ok(SnapshotFile { position: self.position, size_bytes: self.size_bytes, path })
    }

    fn write_block(&mut self) -> Result<(), StoreError> {
        let prefix = self.former.block(&self.block);
        self.draft.write(&prefix)?;
        self.draft.write(&self.block)?;
        self.size_bytes += (prefix.len() + self.block.len()) as u64;
        self.block.clear();
        Ok(())
    }
}

/// Reads a snapshot and checks it on the way.
#[derive(Debug)]
pub struct SnapshotReader {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    checker: Checker,
    /// Bytes of the file that are not read yet.
    left_bytes: u64,
}

impl SnapshotReader {
    /// Opens the file, which must be the snapshot at `position`.
    pub(super) fn open(disk: &dyn Disk, path: &Path, position: LogPosition) -> Result<Self, StoreError> {
        let file = disk.open_held(path).map_err(missing_or_io(path))?;
        Self::new(file, path, position)
    }

    pub(super) fn new(file: Box<dyn DiskFile>, path: &Path, position: LogPosition) -> Result<Self, StoreError> {
        let left_bytes = file.size_bytes().map_err(StoreError::io(path, "measure"))?;
        let mut reader = Self { file, path: path.to_owned(), checker: Checker::new(position), left_bytes };
        while reader.checker.header().is_none() {
            reader.read_piece()?;
        }
        Ok(reader)
    }

    /// What the snapshot begins with.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        self.checker.header().expect("it was read when the file was opened")
    }

    /// The next of the data, at most [`MAX_BLOCK_BYTES`]; `None` once all of it was read and found whole.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`]; the reader is then to be dropped, and what it returned forgotten.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while !self.checker.is_done() {
            let is_data = self.checker.wants_data();
            let piece = self.read_piece()?;
            if is_data {
                return Ok(Some(piece.into()));
            }
        }
        if self.left_bytes > 0 {
            return Err(StoreError::corrupt(&self.path, "something follows its end"));
        }
        Ok(None)
    }

    /// Reads and checks the rest of it.
    pub(super) fn verify(mut self) -> Result<(), StoreError> {
        while self.next()?.is_some() {}
        Ok(())
    }

    /// Reads and checks the next piece, which must be there before room is made for it.
    fn read_piece(&mut self) -> Result<Vec<u8>, StoreError> {
        let length = self.checker.wants();
        let cut_short = || StoreError::corrupt(&self.path, "it is cut short");
        self.left_bytes = self.left_bytes.checked_sub(length as u64).ok_or_else(cut_short)?;
        let mut piece = vec![0; length];
        self.file.read_exact(&mut piece).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut_short(),
            _ => StoreError::io(&self.path, "read")(error),
        })?;
        self.checker.take(&piece).map_err(|flaw| flaw.at(&self.path))?;
        Ok(piece)
    }
}

/// For `map_err`: a snapshot at `path` could not be opened.
fn missing_or_io(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::SnapshotMissing { path: path.to_owned() },
        _ => StoreError::io(path, "open")(error),
    }
}

/// Where a peer's own snapshot is.
pub(super) fn path_in(root: &Path, incarnation: Incarnation, position: LogPosition) -> PathBuf {
    root.join(folder_name(incarnation)).join(file_name(position))
}

/// The name of a peer's folder.
pub(super) fn folder_name(incarnation: Incarnation) -> String {
    format!("{:016x}", incarnation.0)
}

/// Whose folder it is, if its name is one that is given here.
pub(super) fn parse_folder_name(name: &str) -> Option<Incarnation> {
    let incarnation = Incarnation(u64::from_str_radix(name, 16).ok()?);
    (folder_name(incarnation) == name).then_some(incarnation)
}

pub(super) fn file_name(position: LogPosition) -> String {
    format!("{}-{}{SUFFIX}", position.index, position.term)
}

/// Which snapshot a file is, if its name is one that is given here.
pub(super) fn position_of(name: &str) -> Option<LogPosition> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let position = LogPosition::new(Term(term.parse().ok()?), Index(index.parse().ok()?));
    (file_name(position) == name).then_some(position)
}

/// Whether a name in a peer's folder is one that is given here.
fn is_ours(name: &str) -> bool {
    position_of(name).is_some() || partial_position(name).is_some() || files::is_temporary(name)
}

/// Whether a file of a peer is its snapshot, or part of a later one.
fn is_kept(name: &str, snapshot: Option<LogPosition>) -> bool {
    let index = snapshot.map(|position| position.index);
    snapshot.is_some_and(|position| name == file_name(position))
        || partial_position(name).is_some_and(|position| Some(position.index) > index)
}

/// Removes a peer's folder with all that was put there by this module. What else is in it stays, and the folder too.
fn remove_folder(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    files::remove_files(disk, dir, is_ours)?;
    match disk.remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %dir.display(), "a folder of a removed peer is left: it holds files of somebody else");
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(dir, "remove")(error)),
        _ => Ok(()),
    }
}

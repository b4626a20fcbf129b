//! Snapshot files, `snapshot_dir/<incarnation>/<index>-<term>.snap`.
//!
//! ```text
//! file   = magic (8 bytes), format version (4), header length (4), checksum (4), header (bincode), blocks, end
//! block  = length (4 bytes, not 0), checksum (4), data
//! end    = 0 (4 bytes), checksum (4), number of blocks (8), bytes of data (8)
//! ```
//!
//! Numbers are little-endian. A checksum is the CRC-32 of all that is in the file before it and of what it stands in front
//! of, other checksums left out; so a block that is missing, repeated or from another file is noticed as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::archive::Archive;
use super::disk::{Disk, DiskFile};
use super::files::{self, Draft};
use crate::codec;
use crate::raft::SnapshotMeta;
use crate::types::{ClusterId, Digest, Incarnation, Index, LogPosition, Term};

const MAGIC: [u8; 8] = *b"zraftsnp";
const VERSION: u32 = 2;
const SUFFIX: &str = ".snap";

/// The most data in a block, in bytes.
pub const MAX_BLOCK_BYTES: usize = 256 << 10;

/// What a snapshot begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// What Raft needs to go on from it: index, term and membership.
    pub meta: SnapshotMeta,
    /// The digest of the backend whose state it is.
    pub backend: Digest,
    /// The hash chain at its index.
    pub chain: Digest,
    /// The rest of the machine's part, opaque here.
    pub host: Bytes,
}

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
    /// Opens the folder: what the log refers to must be there, and goes to the archive if a crash kept it from there;
    /// all else goes. The archive is to hold `archive_count` snapshots of each peer.
    pub(super) fn open_dir(
        disk: Arc<dyn Disk>,
        root: &Path,
        referenced: &[(Incarnation, LogPosition)],
        archive_count: usize,
    ) -> Result<Self, StoreError> {
        let archive = Archive::open(Arc::clone(&disk), root, archive_count)?;
        let snapshots = Self { disk, root: root.into(), archive };
        let disk = snapshots.disk.as_ref();
        for (incarnation, position) in referenced {
            snapshots.open(*incarnation, *position)?;
        }
        let kept: BTreeMap<String, String> =
            referenced.iter().map(|(peer, position)| (folder_name(*peer), file_name(*position))).collect();
        files::remove_files(disk, root, files::is_temporary)?;
        for folder in files::names(disk, root)?.iter().filter(|name| parse_folder_name(name).is_some()) {
            let dir = root.join(folder);
            match kept.get(folder) {
                Some(kept) => files::remove_files(disk, &dir, |name| is_ours(name) && name != kept)?,
                None => remove_folder(disk, &dir)?,
            }
        }
        for (incarnation, position) in referenced {
            // The node can do without.
            if let Err(error) = snapshots.archive(*incarnation, *position) {
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
        let length = u32::try_from(header.len()).map_err(|_| StoreError::WrongSize {
            path: draft.target().to_owned(),
            expected_bytes: u32::MAX.into(),
            found_bytes: header.len() as u64,
        })?;
        let start = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &length.to_le_bytes()].concat();
        let checksum = extend_checksum(0, &[&start, &header]);
        let prefix = [start.as_slice(), &checksum.to_le_bytes()].concat();
        draft.write(&prefix)?;
        draft.write(&header)?;
        let size_bytes = (prefix.len() + header.len()) as u64;
        Ok(SnapshotWriter { draft, position, checksum, totals: Totals::default(), size_bytes, block: Vec::new() })
    }

    /// Opens a snapshot of the peer and checks its header.
    ///
    /// # Errors
    /// [`StoreError::SnapshotMissing`], [`StoreError::Corrupt`], [`StoreError::UnknownVersion`], [`StoreError::Io`].
    pub fn open(&self, incarnation: Incarnation, position: LogPosition) -> Result<SnapshotReader, StoreError> {
        SnapshotReader::open(self.disk.as_ref(), &self.path(incarnation, position), position)
    }

    /// Opens a snapshot of the peer to be sent as it is; the receiver checks it. Returns the file, which is one of this
    /// machine's file system whatever the [`Disk`], and its size in bytes.
    ///
    /// # Errors
    /// [`StoreError::SnapshotMissing`], [`StoreError::Io`].
    pub fn open_raw(&self, incarnation: Incarnation, position: LogPosition) -> Result<(File, u64), StoreError> {
        let path = self.path(incarnation, position);
        let file = File::open(&path).map_err(missing_or_io(&path))?;
        let size_bytes = file.metadata().map_err(StoreError::io(&path, "measure"))?.len();
        Ok((file, size_bytes))
    }

    /// Starts to receive the snapshot at `expected` for the peer: a file of `size_bytes`, as another node's
    /// [`open_raw`](Self::open_raw) gave it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn receive(
        &self,
        incarnation: Incarnation,
        expected: LogPosition,
        size_bytes: u64,
    ) -> Result<SnapshotReceiver, StoreError> {
        let draft = self.draft(incarnation, expected)?;
        Ok(SnapshotReceiver { draft, position: expected, size_bytes, received_bytes: 0 })
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

    /// Removes the peer's snapshots that come before one. Call it once the write that refers to that one is durable.
    /// Later ones stay: they may have been received already, while their write is yet to come.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_before(&self, incarnation: Incarnation, keep: LogPosition) -> Result<(), StoreError> {
        let goes = |name: &str| position_of(name).is_some_and(|position| position.index < keep.index);
        files::remove_files(self.disk.as_ref(), &self.folder(incarnation), goes)
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
    checksum: u32,
    totals: Totals,
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
        self.write_checked(0, &self.totals.to_bytes())?;
        let path = self.draft.publish()?;
        Ok(SnapshotFile { position: self.position, size_bytes: self.size_bytes, path })
    }

    fn write_block(&mut self) -> Result<(), StoreError> {
        let mut block = std::mem::take(&mut self.block);
        self.totals.add(block.len());
        self.write_checked(block.len() as u32, &block)?;
        block.clear();
        self.block = block;
        Ok(())
    }

    fn write_checked(&mut self, length: u32, data: &[u8]) -> Result<(), StoreError> {
        let length = length.to_le_bytes();
        self.checksum = extend_checksum(self.checksum, &[&length, data]);
        let prefix = [length, self.checksum.to_le_bytes()].concat();
        self.draft.write(&prefix)?;
        self.draft.write(data)?;
        self.size_bytes += (prefix.len() + data.len()) as u64;
        Ok(())
    }
}

/// Reads a snapshot and checks it on the way.
#[derive(Debug)]
pub struct SnapshotReader {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    header: SnapshotHeader,
    checksum: u32,
    totals: Totals,
    /// Bytes of the file that are not read yet.
    left_bytes: u64,
    ended: bool,
}

impl SnapshotReader {
    /// Opens the file, which must be the snapshot at `position`.
    pub(super) fn open(disk: &dyn Disk, path: &Path, position: LogPosition) -> Result<Self, StoreError> {
        let file = disk.open(path).map_err(missing_or_io(path))?;
        Self::new(file, path, position)
    }

    pub(super) fn new(mut file: Box<dyn DiskFile>, path: &Path, position: LogPosition) -> Result<Self, StoreError> {
        let mut left_bytes = file.size_bytes().map_err(StoreError::io(path, "measure"))?;
        let start = read_bytes(file.as_mut(), &mut left_bytes, 16, path)?;
        let (magic, numbers) = start.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(StoreError::corrupt(path, "it does not begin like a snapshot"));
        }
        let (found, length) = (number(&numbers[..4]), number(&numbers[4..]));
        if found != VERSION {
            return Err(StoreError::UnknownVersion { path: path.to_owned(), found, supported: VERSION });
        }
        let checksum = number(&read_bytes(file.as_mut(), &mut left_bytes, 4, path)?);
        let encoded = read_bytes(file.as_mut(), &mut left_bytes, length, path)?;
        if extend_checksum(0, &[&start, &encoded]) != checksum {
            return Err(StoreError::corrupt(path, "the checksum of its header does not match"));
        }
        let header: SnapshotHeader =
            codec::decode(&encoded).map_err(|error| StoreError::corrupt(path, error.to_string()))?;
        if header.meta.position != position {
            let found = header.meta.position;
            return Err(StoreError::corrupt(path, format!("it is the snapshot {found}, not {position}")));
        }
        let totals = Totals::default();
        Ok(Self { file, path: path.to_owned(), header, checksum, totals, left_bytes, ended: false })
    }

    /// What the snapshot begins with.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next of the data, at most [`MAX_BLOCK_BYTES`]; `None` once all of it was read and found whole.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`]; the reader is then to be dropped, and what it returned forgotten.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let prefix = read_bytes(self.file.as_mut(), &mut self.left_bytes, 8, &self.path)?;
        let (length, checksum) = (number(&prefix[..4]), number(&prefix[4..]));
        if length as usize > MAX_BLOCK_BYTES {
            return Err(self.damaged("a block is too long"));
        }
        let stored = if length == 0 { Totals::SIZE_BYTES } else { length };
        let data = read_bytes(self.file.as_mut(), &mut self.left_bytes, stored, &self.path)?;
        self.checksum = extend_checksum(self.checksum, &[&prefix[..4], &data]);
        if self.checksum != checksum {
            return Err(self.damaged("the checksum of a block does not match"));
        }
        if length == 0 {
            return self.end(&data);
        }
        self.totals.add(data.len());
        Ok(Some(data.into()))
    }

    /// Reads and checks the rest of it.
    pub(super) fn verify(mut self) -> Result<(), StoreError> {
        while self.next()?.is_some() {}
        Ok(())
    }

    fn end(&mut self, totals: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if totals != self.totals.to_bytes() {
            return Err(self.damaged("its totals do not match"));
        }
        if self.left_bytes > 0 {
            return Err(self.damaged("something follows its end"));
        }
        self.ended = true;
        Ok(None)
    }

    fn damaged(&self, reason: &str) -> StoreError {
        StoreError::corrupt(&self.path, reason)
    }
}

/// Receives a snapshot file. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotReceiver {
    draft: Draft,
    position: LogPosition,
    size_bytes: u64,
    received_bytes: u64,
}

impl SnapshotReceiver {
    /// Adds bytes of the file.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when they are more than announced, [`StoreError::Io`]; the receiver is then to be
    /// dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.received_bytes = self.received_bytes.saturating_add(bytes.len() as u64);
        if self.received_bytes > self.size_bytes {
            return Err(self.wrong_size());
        }
        self.draft.write(bytes)
    }

    /// Checks all of the file and makes it durable under its name.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when it is shorter than announced, [`StoreError::WrongContent`] when it is not a
    /// whole snapshot at the announced position, [`StoreError::UnknownVersion`], [`StoreError::Io`]. Nothing is left
    /// then.
    pub fn finish(self) -> Result<SnapshotFile, StoreError> {
        if self.received_bytes != self.size_bytes {
            return Err(self.wrong_size());
        }
        self.verify().map_err(|error| match error {
            StoreError::Corrupt { reason, .. } => StoreError::WrongContent { position: self.position, reason },
            error => error,
        })?;
        let Self { draft, position, size_bytes, .. } = self;
        Ok(SnapshotFile { position, size_bytes, path: draft.publish()? })
    }

    fn verify(&self) -> Result<(), StoreError> {
        SnapshotReader::new(self.draft.reopen()?, self.draft.target(), self.position)?.verify()
    }

    fn wrong_size(&self) -> StoreError {
        StoreError::WrongSize {
            path: self.draft.target().to_owned(),
            expected_bytes: self.size_bytes,
            found_bytes: self.received_bytes,
        }
    }
}

/// What the end block says.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    blocks: u64,
    bytes: u64,
}

impl Totals {
    const SIZE_BYTES: u32 = 16;

    fn add(&mut self, block_bytes: usize) {
        self.blocks += 1;
        self.bytes += block_bytes as u64;
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.blocks.to_le_bytes(), self.bytes.to_le_bytes()].concat()
    }
}

/// The CRC-32 of what `checksum` is of, followed by `parts`.
fn extend_checksum(checksum: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(checksum);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("numbers are read from 4 bytes"))
}

/// Reads exactly `length` bytes, which must be there before room is made for them.
fn read_bytes(file: &mut dyn DiskFile, left_bytes: &mut u64, length: u32, path: &Path) -> Result<Vec<u8>, StoreError> {
    let cut_short = || StoreError::corrupt(path, "it is cut short");
    *left_bytes = left_bytes.checked_sub(length.into()).ok_or_else(cut_short)?;
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => cut_short(),
        _ => StoreError::io(path, "read")(error),
    })?;
    Ok(bytes)
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
    position_of(name).is_some() || files::is_temporary(name)
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

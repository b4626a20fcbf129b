//! A snapshot file that comes from another node, maybe in several goes.
//!
//! What has arrived is checked block by block and kept in a *partial* file, `<index>-<term>-<size>-<checksum>.part`, that
//! names the very file it is of. A transfer that breaks, by a lost connection or the end of either process, goes on behind
//! what of that is whole. A peer has one partial file at most.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::files::{self, Draft};
use super::snapshot_format::{Checker, Flaw, SnapshotIdentity};
use super::{SnapshotFile, StoreError};
use crate::types::{Index, LogPosition, Term};

const SUFFIX: &str = ".part";

/// Receives a snapshot file. Dropped before it is finished, it leaves what has arrived so far; after an error it leaves
/// nothing.
#[derive(Debug)]
pub struct SnapshotReceiver {
    draft: Draft,
    identity: SnapshotIdentity,
    checker: Checker,
    /// What has arrived and is not in the file yet: whole pieces, and the beginning of another.
    arrived: Vec<u8>,
    /// How much of it was checked.
    checked: usize,
    /// The size of the file: all of it is checked, and ends between two blocks.
    stored_bytes: u64,
}

impl SnapshotReceiver {
    /// Goes on with the partial file in a folder, if it is of the very same snapshot; others are removed.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        target: PathBuf,
        identity: SnapshotIdentity,
    ) -> Result<Self, StoreError> {
        let name = partial_name(&identity);
        files::remove_files(disk.as_ref(), folder, |other| partial_position(other).is_some() && other != name)?;
        let path = folder.join(name);
        let (checker, stored_bytes) = check_stored(disk.as_ref(), &path, &identity)?;
        let draft = Draft::resume(disk, path, target, stored_bytes)?;
        Ok(Self { draft, identity, checker, arrived: Vec::new(), checked: 0, stored_bytes })
    }

    /// How many bytes of the file are here already: the sender is to go on behind them.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.stored_bytes + self.arrived.len() as u64
    }

    /// Adds bytes of the file.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when they are more than announced, [`StoreError::WrongContent`] when they are not those of
    /// a snapshot at the announced position, [`StoreError::UnknownVersion`], [`StoreError::Io`]; the receiver is then to be
    /// dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let result = self.take(bytes);
        if result.is_err() {
            self.draft.discard();
        }
        result
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if self.received_bytes().saturating_add(bytes.len() as u64) > self.identity.size_bytes {
            return Err(self.wrong_size(self.received_bytes().saturating_add(bytes.len() as u64)));
        }
        while !bytes.is_empty() {
            let missing = self.checker.wants() - (self.arrived.len() - self.checked);
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            if self.checker.is_done() {
                return Err(self.wrong_content("something follows its end"));
            }
            self.arrived.extend_from_slice(taken);
            bytes = rest;
            if taken.len() == missing {
                self.take_piece()?;
            }
        }
        Ok(())
    }

    /// The next piece has arrived.
    fn take_piece(&mut self) -> Result<(), StoreError> {
        self.checker.take(&self.arrived[self.checked..]).map_err(|flaw| match flaw {
            Flaw::Damaged(reason) => self.wrong_content(&reason),
            flaw => flaw.at(self.draft.target()),
        })?;
        self.checked = self.arrived.len();
        if self.checker.is_between_blocks() {
            self.draft.write(&self.arrived)?;
            self.stored_bytes += self.arrived.len() as u64;
            self.arrived.clear();
            self.checked = 0;
        }
        Ok(())
    }

    /// Makes the file durable under its name, now that all of it was found whole.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`] when it is shorter than announced, [`StoreError::WrongContent`] when it is not a
    /// whole snapshot at the announced position, [`StoreError::Io`]. Nothing is left then.
    pub fn finish(mut self) -> Result<SnapshotFile, StoreError> {
        if let Err(error) = self.check_end() {
            self.draft.discard();
            return Err(error);
        }
        let SnapshotIdentity { position, size_bytes, .. } = self.identity;
        Ok(SnapshotFile { position, size_bytes, path: self.draft.publish()? })
    }

    fn check_end(&self) -> Result<(), StoreError> {
        if self.received_bytes() != self.identity.size_bytes {
            return Err(self.wrong_size(self.received_bytes()));
        }
        if !self.checker.is_done() {
            return Err(self.wrong_content("it is cut short"));
        }
        if self.checker.checksum() != self.identity.checksum {
            return Err(self.wrong_content("it is another than was announced"));
        }
        Ok(())
    }

    fn wrong_content(&self, reason: &str) -> StoreError {
        StoreError::WrongContent { position: self.identity.position, reason: reason.to_owned() }
    }

    fn wrong_size(&self, found_bytes: u64) -> StoreError {
        let expected_bytes = self.identity.size_bytes;
        StoreError::WrongSize { path: self.draft.target().to_owned(), expected_bytes, found_bytes }
    }
}

/// Checks what of a file has arrived before. Returns how much of that is whole, which may be nothing: a power cut leaves any
/// part of what was not synced.
fn check_stored(disk: &dyn Disk, path: &Path, identity: &SnapshotIdentity) -> Result<(Checker, u64), StoreError> {
    let mut checker = Checker::new(identity.position);
    let mut file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((checker, 0)),
        Err(error) => return Err(StoreError::io(path, "open")(error)),
    };
    let mut left_bytes = file.size_bytes().map_err(StoreError::io(path, "measure"))?.min(identity.size_bytes);
    let (mut read_bytes, mut whole_bytes, mut mark) = (0, 0, checker.mark());
    let mut piece = Vec::new();
    while !checker.is_done() && checker.wants() as u64 <= left_bytes {
        piece.resize(checker.wants(), 0);
        file.read_exact(&mut piece).map_err(StoreError::io(path, "read"))?;
        left_bytes -= piece.len() as u64;
        read_bytes += piece.len() as u64;
        if checker.take(&piece).is_err() {
            break;
        }
        if checker.is_between_blocks() {
            (whole_bytes, mark) = (read_bytes, checker.mark());
        }
    }
    checker.back_to(mark);
    Ok((checker, whole_bytes))
}

fn partial_name(identity: &SnapshotIdentity) -> String {
    let SnapshotIdentity { position, size_bytes, checksum } = identity;
    format!("{}-{}-{size_bytes}-{checksum:08x}{SUFFIX}", position.index, position.term)
}

/// Which snapshot a file is of, if its name is one of a partial file.
pub(super) fn partial_position(name: &str) -> Option<LogPosition> {
    let mut parts = name.strip_suffix(SUFFIX)?.split('-');
    let (index, term) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (size_bytes, checksum) = (parts.next()?.parse().ok()?, u32::from_str_radix(parts.next()?, 16).ok()?);
    let identity = SnapshotIdentity { position: LogPosition::new(Term(term), Index(index)), size_bytes, checksum };
    (partial_name(&identity) == name).then_some(identity.position)
}

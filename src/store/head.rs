//! The number of the newest round, kept beside the log, so that a log which has lost its end is noticed.
//!
//! redb takes a newest commit that is damaged for one that a power cut has torn, and silently goes back to the one before.
//! Of a torn commit nobody was told; but one that was acknowledged must not vanish. So after each commit its number
//! goes here, and is not waited for: what the file says may be late after a power cut, but never early. A file that is not
//! there, or is damaged itself, says nothing.

use std::path::{Path, PathBuf};

use redb::StorageBackend;

use super::disk::Disk;
use super::index::Ledger;
use super::{StoreError, files};

const FILE_NAME: &str = "head";
/// The number, little-endian, and its CRC-32.
const SIZE_BYTES: usize = 12;

/// The file, open.
#[derive(Debug)]
pub(super) struct Head {
    file: Box<dyn StorageBackend>,
    path: PathBuf,
}

impl Head {
    pub(super) fn open(disk: &dyn Disk, log_dir: &Path) -> Result<Self, StoreError> {
        let path = log_dir.join(FILE_NAME);
        let file = disk.open_storage(&path).map_err(StoreError::io(&path, "open"))?;
        Ok(Self { file, path })
    }

    /// Removes the file, durably: the operator has a log start from nothing.
    pub(super) fn forget(disk: &dyn Disk, log_dir: &Path) -> Result<(), StoreError> {
        files::remove_file(disk, &log_dir.join(FILE_NAME))?;
        files::sync_dir(disk, log_dir)
    }

    /// The log at `path` must not end before a round that was durable.
    pub(super) fn check(disk: &dyn Disk, path: &Path, ledger: &Ledger) -> Result<(), StoreError> {
        let content = files::read(disk, &path.with_file_name(FILE_NAME))?.unwrap_or_default();
        let (found, newest) = (ledger.next_seq() - 1, decode(&content).unwrap_or_default());
        if found < newest {
            let reason = format!("it ends with round {found}, but round {newest} was durable");
            return Err(StoreError::corrupt(path, reason));
        }
        Ok(())
    }

    /// A round is durable.
    pub(super) fn advance(&self, seq: u64) {
        // It guards against another failure; one of its own is nothing to stop for.
        if let Err(error) = self.file.write(0, &encode(seq)) {
            tracing::warn!(path = %self.path.display(), %error, "the newest round could not be noted");
        }
    }

    /// The log is closed.
    pub(super) fn close(&self) {
        if let Err(error) = self.file.sync_data() {
            tracing::warn!(path = %self.path.display(), %error, "the newest round could not be noted");
        }
    }
}

/// The number; none when it is damaged.
fn decode(content: &[u8]) -> Option<u64> {
    let seq = u64::from_le_bytes(*content.first_chunk()?);
    (content == encode(seq)).then_some(seq)
}

fn encode(seq: u64) -> [u8; SIZE_BYTES] {
    let mut bytes = [0; SIZE_BYTES];
    let seq = seq.to_le_bytes();
    bytes[..8].copy_from_slice(&seq);
    bytes[8..].copy_from_slice(&crc32fast::hash(&seq).to_le_bytes());
    bytes
}

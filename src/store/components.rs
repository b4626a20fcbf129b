//! The components of backends: files named by their digest, `log_dir/components/<digest>.wasm`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use super::disk::Disk;
use super::files::{self, Draft};
use crate::types::Digest;

const FOLDER: &str = "components";
const SUFFIX: &str = ".wasm";

/// The components on this node. A handle: clones share the folder, and any thread may use them.
#[derive(Clone, Debug)]
pub struct Components {
    disk: Arc<dyn Disk>,
    dir: Arc<Path>,
}

impl Components {
    /// Opens the folder and removes what was left unfinished.
    pub(super) fn open(disk: Arc<dyn Disk>, log_dir: &Path) -> Result<Self, StoreError> {
        let dir = log_dir.join(FOLDER);
        files::create_dir(disk.as_ref(), &dir)?;
        files::remove_files(disk.as_ref(), &dir, files::is_temporary)?;
        // Those that are found are taken for durable from here on.
        files::sync_dir(disk.as_ref(), &dir)?;
        Ok(Self { disk, dir: dir.into() })
    }

    /// The components in a folder that is only looked at, and the files that were left unfinished in it.
    pub(super) fn find(disk: Arc<dyn Disk>, log_dir: &Path) -> Result<(Self, Vec<PathBuf>), StoreError> {
        let dir = log_dir.join(FOLDER);
        let names = files::names(disk.as_ref(), &dir)?;
        let leftovers = names.iter().filter(|name| files::is_temporary(name)).map(|name| dir.join(name)).collect();
        Ok((Self { disk, dir: dir.into() }, leftovers))
    }

    /// Keeps a component; durable on return. Keeping one that is there replaces it with the same.
    ///
    /// # Errors
    /// [`StoreError::WrongDigest`] when the bytes are not those named, [`StoreError::Io`] when they cannot be kept.
    pub fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let found = Digest::of(bytes);
        if found != digest {
            return Err(StoreError::WrongDigest { expected: digest, found });
        }
        let mut draft = Draft::create(&self.disk, self.path(digest))?;
        draft.write(bytes)?;
        draft.publish()?;
        Ok(())
    }

    /// Reads a component and checks it.
    ///
    /// # Errors
    /// [`StoreError::ComponentMissing`], [`StoreError::Corrupt`] when the file's digest is not its name,
    /// [`StoreError::Io`].
    pub fn get(&self, digest: Digest) -> Result<Bytes, StoreError> {
        let path = self.path(digest);
        let Some(bytes) = files::read(self.disk.as_ref(), &path)? else {
            return Err(StoreError::ComponentMissing { path });
        };
        match Digest::of(&bytes) {
            found if found == digest => Ok(bytes.into()),
            found => Err(StoreError::corrupt(&path, format!("its digest is {found}"))),
        }
    }

    /// Forgets a component. One that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        files::remove_file(self.disk.as_ref(), &self.path(digest))?;
        files::sync_dir(self.disk.as_ref(), &self.dir)
    }

    /// The components that are kept, in order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let names = files::names(self.disk.as_ref(), &self.dir)?;
        let mut digests: Vec<Digest> =
            names.iter().filter_map(|name| parse_digest(name.strip_suffix(SUFFIX)?)).collect();
        digests.sort_unstable();
        Ok(digests)
    }

    /// Where a component is kept.
    #[must_use]
    pub fn path_in(log_dir: &Path, digest: Digest) -> PathBuf {
        log_dir.join(FOLDER).join(format!("{digest}{SUFFIX}"))
    }

    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}{SUFFIX}"))
    }
}

/// Reads what `Digest` prints. Other spellings of the number are not names this folder gives.
fn parse_digest(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    for (byte, digits) in digest.0.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    (digest.to_string() == text).then_some(digest)
}

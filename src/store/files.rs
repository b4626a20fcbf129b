//! Files that appear whole or not at all, and folders whose names are durable.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use super::disk::{Disk, DiskFile};

/// How the names of unfinished files end.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// So much of a file is made durable before more of it is written. To sync a large file at once keeps the disk busy for long,
/// and the syncs of the log, for which clients wait, with it.
const SYNC_STEP_BYTES: usize = 2 << 20;

/// A file being written under a temporary name. Dropping it unpublished removes it, unless it is to be resumed.
#[derive(Debug)]
pub(super) struct Draft {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    temporary: PathBuf,
    target: PathBuf,
    unsynced_bytes: usize,
    stays: bool,
}

impl Draft {
    /// Starts a file that is to be called `target`, in a folder that exists. Several drafts of one target may be
    /// open; the last one published stays.
    pub(super) fn create(disk: &Arc<dyn Disk>, target: PathBuf) -> Result<Self, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{number}{TEMPORARY_SUFFIX}"));
        let temporary = PathBuf::from(name);
        let file = disk.create(&temporary).map_err(StoreError::io(&temporary, "create"))?;
        Ok(Self { disk: Arc::clone(disk), file, temporary, target, unsynced_bytes: 0, stays: false })
    }

    /// Goes on with a file of that name, behind its first `size_bytes`, or starts it. It stays when it is dropped, and may be
    /// resumed again.
    pub(super) fn resume(
        disk: &Arc<dyn Disk>,
        temporary: PathBuf,
        target: PathBuf,
        size_bytes: u64,
    ) -> Result<Self, StoreError> {
        let resumed = if size_bytes == 0 { disk.create(&temporary) } else { disk.resume(&temporary, size_bytes) };
        let file = resumed.map_err(StoreError::io(&temporary, "open"))?;
        Ok(Self { disk: Arc::clone(disk), file, temporary, target, unsynced_bytes: 0, stays: true })
    }

    /// Has the file removed when it is dropped.
    pub(super) fn discard(&mut self) {
        self.stays = false;
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io(&self.temporary, "write"))?;
        self.unsynced_bytes += bytes.len();
        if self.unsynced_bytes < SYNC_STEP_BYTES { Ok(()) } else { self.sync() }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.unsynced_bytes = 0;
        self.file.sync().map_err(StoreError::io(&self.temporary, "sync"))
    }

    /// The name it will have.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// A second handle to the same file, for reading it back before it is published.
    pub(super) fn reopen(&self) -> Result<Box<dyn DiskFile>, StoreError> {
        self.disk.open(&self.temporary).map_err(StoreError::io(&self.temporary, "open"))
    }

    /// Makes the content durable, then the name.
    pub(super) fn publish(mut self) -> Result<PathBuf, StoreError> {
        self.sync()?;
        rename(self.disk.as_ref(), &self.temporary, &self.target)?;
        self.stays = true;
        sync_dir(self.disk.as_ref(), parent(&self.target))?;
        Ok(std::mem::take(&mut self.target))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the store is next opened.
        if !self.stays && self.disk.remove_file(&self.temporary).is_err() {
            tracing::warn!(path = %self.temporary.display(), "an unfinished file could not be removed");
        }
    }
}

/// Creates a folder and those above it, durably. Where it exists, its name is made durable: a process that was killed may
/// have created it and no more. A folder above that may not be read is somebody else's, and so is its content.
pub(super) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let above = parent(dir);
    if disk.is_dir(dir) {
        return match disk.sync_dir(above) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(StoreError::io(above, "sync")(error)),
            _ => Ok(()),
        };
    }
    create_dir(disk, above)?;
    match disk.create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io(dir, "create")(error)),
        _ => sync_dir(disk, above),
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    disk.sync_dir(dir).map_err(StoreError::io(dir, "sync"))
}

/// The names in a folder, those that are not UTF-8 left out; none when there is no such folder.
pub(super) fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, StoreError> {
    match disk.names(dir) {
        Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::io(dir, "list")(error)),
    }
}

/// The content of a file; `None` when there is no such file.
pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut content = Vec::new();
    match disk.open(path).and_then(|mut file| file.read_to_end(&mut content)) {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(path, "read")(error)),
    }
}

/// Removes the files of a folder whose name is chosen. Those that are already gone are no error.
pub(super) fn remove_files(disk: &dyn Disk, dir: &Path, chosen: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for name in names(disk, dir)?.iter().filter(|name| chosen(name)) {
        remove_file(disk, &dir.join(name))?;
    }
    Ok(())
}

/// The same for files that may be large, and take their time.
pub(super) fn remove_large_files(disk: &dyn Disk, dir: &Path, chosen: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for name in names(disk, dir)?.iter().filter(|name| chosen(name)) {
        let path = dir.join(name);
        removed(&path, disk.remove_gently(&path))?;
    }
    Ok(())
}

/// Removes a file. One that is already gone is no error.
pub(super) fn remove_file(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    removed(path, disk.remove_file(path))
}

fn removed(path: &Path, result: io::Result<()>) -> Result<(), StoreError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, "remove")(error)),
        _ => Ok(()),
    }
}

/// Gives a file another name.
pub(super) fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), StoreError> {
    disk.rename(from, to).map_err(StoreError::io(from, "rename"))
}

/// The size of a file in bytes; `None` when there is no such file.
pub(super) fn size_bytes(disk: &dyn Disk, path: &Path) -> Result<Option<u64>, StoreError> {
    match disk.open(path).and_then(|file| file.size_bytes()) {
        Ok(size_bytes) => Ok(Some(size_bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(path, "measure")(error)),
    }
}

/// Whether a name is that of an unfinished file.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY_SUFFIX)
}

/// The folder a path is in. The root is in itself.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str() == OsStr::new("") => Path::new("."),
        Some(above) => above,
        None => path,
    }
}

//! Files that appear whole or not at all, and folders whose names are durable.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// How the names of unfinished files end.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file being written under a temporary name. Dropping it unpublished removes it.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Draft {
    /// Starts a file that is to be called `target`, in a folder that exists. Several drafts of one target may be
    /// open; the last one published stays.
    pub(super) fn create(target: PathBuf) -> Result<Self, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{number}{TEMPORARY_SUFFIX}"));
        let temporary = PathBuf::from(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(StoreError::io(&temporary, "create"))?;
        Ok(Self { file, temporary, target, published: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io(&self.temporary, "write"))
    }

    /// The name it will have.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// A second handle to the same file, for reading it back before it is published.
    pub(super) fn reopen(&self) -> Result<File, StoreError> {
        File::open(&self.temporary).map_err(StoreError::io(&self.temporary, "open"))
    }

    /// Makes the content durable, then the name.
    pub(super) fn publish(mut self) -> Result<PathBuf, StoreError> {
        self.file.sync_all().map_err(StoreError::io(&self.temporary, "sync"))?;
        fs::rename(&self.temporary, &self.target).map_err(StoreError::io(&self.temporary, "rename"))?;
        self.published = true;
        sync_dir(parent(&self.target))?;
        Ok(std::mem::take(&mut self.target))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the store is next opened.
        if !self.published && fs::remove_file(&self.temporary).is_err() {
            tracing::warn!(path = %self.temporary.display(), "an unfinished file could not be removed");
        }
    }
}

/// Creates a folder and those above it, durably.
pub(super) fn create_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    create_dir(above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io(dir, "create")(error)),
        _ => sync_dir(above),
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(StoreError::io(dir, "sync"))
}

/// The names in a folder, those that are not UTF-8 left out; none when there is no such folder.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io(dir, "list")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io(dir, "list"))?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}

/// Removes the files of a folder whose name is chosen. Those that are already gone are no error.
pub(super) fn remove_files(dir: &Path, chosen: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for name in names(dir)?.iter().filter(|name| chosen(name)) {
        remove_file(&dir.join(name))?;
    }
    Ok(())
}

/// Removes a file. One that is already gone is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, "remove")(error)),
        _ => Ok(()),
    }
}

/// Whether a name is that of an unfinished file.
pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY_SUFFIX)
}

/// The folder a path is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if above.as_os_str() != OsStr::new("") => above,
        _ => Path::new("."),
    }
}

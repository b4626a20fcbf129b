//! What the store asks of a disk.
//!
//! Everything that the store does to files goes through [`Disk`]: what it relies on is here in one place, and a
//! simulated disk can lose power at any point of it.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::fresh::FreshlyFilled;
use super::gentle;

/// Files below this size are read soon enough by whoever needs them.
const READ_AHEAD_FROM_BYTES: u64 = 16 << 20;
const READ_AHEAD_STEP_BYTES: usize = 1 << 20;

/// A file system.
///
/// What a power cut leaves: the content of a file as of its last [`sync`](DiskFile::sync), and the names in a folder as
/// of its last [`sync_dir`](Self::sync_dir); of what came later any part. A rename happens or not, and never leaves
/// the new name without one of the two files.
///
/// Errors are those of [`std::fs`]. Among them `NotFound`, `AlreadyExists` and `DirectoryNotEmpty` must be told apart.
pub trait Disk: Debug + Send + Sync {
    /// Creates a file for writing, or empties the one there is.
    ///
    /// # Errors
    /// Those of the system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading, for whom its content stays if [`remove_gently`](Self::remove_gently) removes it.
    ///
    /// # Errors
    /// Those of the system.
    fn open_held(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    /// Opens a file for writing behind its first `size_bytes`, which it has; what comes behind them is cut off.
    ///
    /// # Errors
    /// Those of the system.
    fn resume(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of the file that had it.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a file that may be large: that may take some time, in which the disk is there for others.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_gently(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    /// Whether there is a folder of that name.
    fn is_dir(&self, path: &Path) -> bool;

    /// Creates a folder in one that exists.
    ///
    /// # Errors
    /// Those of the system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Removes a folder that is empty.
    ///
    /// # Errors
    /// Those of the system.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// Those of the system.
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Opens the file of a database, creating it if it is not there.
    ///
    /// # Errors
    /// Those of the system.
    fn open_storage(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// How many bytes may yet be written to the file system of a folder.
    ///
    /// # Errors
    /// Those of the system.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Read + Write + Debug + Send + Sync {
    /// The size of the file in bytes.
    ///
    /// # Errors
    /// Those of the system.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// Those of the system. What is durable then is unknown, also after another try.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_held(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(gentle::open_held(path)?))
    }

    fn resume(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.set_len(size_bytes)?;
        file.seek(SeekFrom::Start(size_bytes))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_gently(&self, path: &Path) -> io::Result<()> {
        gentle::remove(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn open_storage(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        read_ahead(path);
        let storage = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(FreshlyFilled::new(storage)))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stats = rustix::fs::statvfs(dir)?;
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }
}

impl DiskFile for File {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Has the system read a file from its beginning to its end, on a thread of its own. Opening a database goes through all of
/// it, checks what it has read, and leaves the disk idle meanwhile. Nothing depends on how far this comes.
fn read_ahead(path: &Path) {
    let Ok(mut file) = File::open(path) else { return };
    let is_large = file.metadata().is_ok_and(|metadata| metadata.len() >= READ_AHEAD_FROM_BYTES);
    if is_large {
        let read = move || {
            let mut buffer = vec![0; READ_AHEAD_STEP_BYTES];
            while file.read(&mut buffer).is_ok_and(|count| count > 0) {}
        };
        // Without the thread, opening takes longer.
        let _ = std::thread::Builder::new().name("zraft-read-ahead".to_owned()).spawn(read);
    }
}

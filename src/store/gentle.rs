//! Removing large files.
//!
//! A file system gives back the room of a removed file in one go, and what is synced meanwhile waits for that: a gigabyte holds
//! up the log for a tenth of a second. So a large file loses its name first and then its content, piece by piece, unless
//! somebody is reading it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// What is given back at a time, and how long the disk then has for others.
const STEP_BYTES: u64 = 8 << 20;
const REST: Duration = Duration::from_millis(10);

/// Opens a file whose content stays until it is closed, removed or not.
///
/// # Errors
/// Those of the system; `NotFound` also for a file that is being removed.
pub(super) fn open_held(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::NotFound.into()),
        // It was removed, and perhaps emptied, since it was opened.
        Ok(()) if !has_name(&file)? => Err(io::ErrorKind::NotFound.into()),
        // A file system without locks lets nobody remove piece by piece either.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Removes a file. Its name is gone at once; for every 8 MiB of it this takes some 10 ms more.
///
/// # Errors
/// Those of the system, until the name is gone.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    fs::remove_file(path)?;
    // What may not be written goes at once.
    if let Ok(file) = file
        && let Err(error) = empty(&file)
    {
        tracing::debug!(path = %path.display(), %error, "a removed file could not be emptied");
    }
    Ok(())
}

/// Gives back the room of a file that nobody can want any more: who reads it holds a lock, and somebody may have given it another
/// name, to keep it. What remains goes when the last of them lets go of it.
fn empty(file: &File) -> io::Result<()> {
    if has_name(file)? || file.try_lock().is_err() {
        return Ok(());
    }
    let mut left = file.metadata()?.len();
    while left > STEP_BYTES {
        left -= STEP_BYTES;
        file.set_len(left)?;
        // Else the steps would be carried out together later.
        file.sync_all()?;
        std::thread::sleep(REST);
    }
    Ok(())
}

#[cfg(unix)]
fn has_name(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(file.metadata()?.nlink() > 0)
}

/// Elsewhere what is open keeps its name, so nothing is emptied.
#[cfg(not(unix))]
fn has_name(_file: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn who_reads_a_file_that_is_removed_reads_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let content = vec![7; 2 * STEP_BYTES as usize + 5];
        fs::write(&path, &content).unwrap();
        let mut held = open_held(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(open_held(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut found = Vec::new();
        held.read_to_end(&mut found).unwrap();
        assert!(found == content);
    }

    #[test]
    fn what_nobody_reads_is_emptied_when_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        fs::write(&path, vec![7; 2 * STEP_BYTES as usize + 5]).unwrap();
        // It has it open, but not held: nobody else would see what becomes of the file.
        let mut file = File::open(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(file.seek(io::SeekFrom::End(0)).unwrap(), 5);
        assert!(!path.exists());
    }

    #[test]
    fn what_has_another_name_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (path, backup) = (dir.path().join("large"), dir.path().join("backup"));
        let content = vec![7; STEP_BYTES as usize + 5];
        fs::write(&path, &content).unwrap();
        fs::hard_link(&path, &backup).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists() && fs::read(&backup).unwrap() == content);
    }

    #[test]
    fn a_file_that_is_being_removed_is_there_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "content").unwrap();
        let remover = File::open(&path).unwrap();
        remover.lock().unwrap();
        assert_eq!(open_held(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

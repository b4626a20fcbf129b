//! A folder for what nobody needs after a run: disks and clocks.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{disk, shell};

/// What the names of such folders begin with; the id of the run's process follows.
const PREFIX: &str = "zraft-chaos-";

/// The folder of this run. Removed when dropped: after what is in it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    pub fn make() -> Result<Self, String> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

/// Removes the folders of runs that were killed, with the disks in them.
pub fn remove_leftovers() -> Result<(), String> {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let entries = fs::read_dir(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if owner.is_some_and(|owner| !shell::is_alive(owner)) {
            disk::remove_leftovers(&path)?;
            fs::remove_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

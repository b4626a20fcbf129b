//! Which snapshots there are, whatever the log says.

use std::path::{Path, PathBuf};

use crate::store::disk::Disk;
use crate::store::snapshots::{self, SnapshotReader};
use crate::store::{SnapshotHeader, StoreError, archive, files};
use crate::types::{ClusterId, Incarnation, LogPosition};

/// The files in a snapshot folder.
#[derive(Default)]
pub(super) struct Found {
    pub(super) snapshots: Vec<FoundSnapshot>,
    pub(super) leftovers: Vec<PathBuf>,
}

/// A file with the name of a snapshot.
pub(super) struct FoundSnapshot {
    pub(super) incarnation: Incarnation,
    pub(super) position: LogPosition,
    pub(super) path: PathBuf,
    /// For which cluster it is in the archive.
    pub(super) archived: Option<ClusterId>,
}

impl Found {
    pub(super) fn list(disk: &dyn Disk, snapshot_dir: &Path) -> Result<Self, StoreError> {
        let mut found = Self::default();
        for name in files::names(disk, snapshot_dir)? {
            if files::is_temporary(&name) {
                found.leftovers.push(snapshot_dir.join(name));
            } else if let Some(incarnation) = snapshots::parse_folder_name(&name) {
                found.folder(disk, &snapshot_dir.join(name), incarnation, None)?;
            }
        }
        for folder in archive::peer_folders(disk, snapshot_dir)? {
            found.folder(disk, &folder.dir, folder.incarnation, Some(folder.cluster))?;
        }
        found.leftovers.sort_unstable();
        found.snapshots.sort_unstable_by_key(|snapshot| {
            (snapshot.archived, snapshot.incarnation, snapshot.position.index, snapshot.position.term)
        });
        Ok(found)
    }

    fn folder(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        incarnation: Incarnation,
        archived: Option<ClusterId>,
    ) -> Result<(), StoreError> {
        for name in files::names(disk, dir)? {
            let path = dir.join(&name);
            if files::is_temporary(&name) {
                self.leftovers.push(path);
            } else if let Some(position) = snapshots::position_of(&name) {
                self.snapshots.push(FoundSnapshot { incarnation, position, path, archived });
            }
        }
        Ok(())
    }
}

impl FoundSnapshot {
    /// Reads and checks all of the file.
    pub(super) fn verify(&self, disk: &dyn Disk) -> Result<SnapshotHeader, StoreError> {
        let reader = SnapshotReader::open(disk, &self.path, self.position)?;
        let header = reader.header().clone();
        reader.verify()?;
        match self.archived {
            Some(cluster) if cluster != header.cluster => {
                Err(StoreError::corrupt(&self.path, format!("it is of cluster {}", header.cluster)))
            }
            _ => Ok(header),
        }
    }
}

//! The archive: copies of the latest snapshots of each peer, `snapshot_dir/archive/<cluster>/<incarnation>/`.
//!
//! A peer's own snapshots go when a newer one takes their place, or with the peer. A copy in the archive stays until
//! so many newer ones of the same peer are there, whatever becomes of the peer. It is a copy and not a link: the damage
//! of one is not that of the other, and the archive may be a folder of another file system.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::disk::Disk;
use super::files::{self, Draft};
use super::snapshot_format::MAX_BLOCK_BYTES;
use super::snapshots::{self, SnapshotReader};
use crate::types::{ClusterId, Incarnation, LogPosition};

const FOLDER: &str = "archive";

/// The archive of a node.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    disk: Arc<dyn Disk>,
    root: Arc<Path>,
    count: usize,
}

/// The folder of a peer in the archive.
pub(super) struct PeerFolder {
    pub(super) cluster: ClusterId,
    pub(super) incarnation: Incarnation,
    pub(super) dir: PathBuf,
}

impl Archive {
    /// Opens the archive in a snapshot folder and removes what was left unfinished. It is to hold `count` snapshots of
    /// each peer; with 0, nothing new comes in, and what is there stays.
    pub(super) fn open(disk: Arc<dyn Disk>, snapshot_dir: &Path, count: usize) -> Result<Self, StoreError> {
        for PeerFolder { dir, .. } in peer_folders(disk.as_ref(), snapshot_dir)? {
            files::remove_files(disk.as_ref(), &dir, files::is_temporary)?;
        }
        Ok(Self { disk, root: snapshot_dir.join(FOLDER).into(), count })
    }

    /// Copies a peer's snapshot, unless that is there, and removes the peer's oldest copies beyond the count.
    pub(super) fn keep(
        &self,
        incarnation: Incarnation,
        position: LogPosition,
        snapshot: &Path,
    ) -> Result<(), StoreError> {
        if self.count == 0 {
            return Ok(());
        }
        let reader = SnapshotReader::open(self.disk.as_ref(), snapshot, position)?;
        let cluster = self.root.join(reader.header().cluster.to_string());
        let dir = cluster.join(snapshots::folder_name(incarnation));
        let name = snapshots::file_name(position);
        files::create_dir(self.disk.as_ref(), &dir)?;
        if !files::names(self.disk.as_ref(), &dir)?.contains(&name) {
            self.copy(snapshot, position, dir.join(name))?;
        }
        self.prune(&dir)
    }

    /// Copies the bytes and checks the copy before it gets its name.
    fn copy(&self, snapshot: &Path, position: LogPosition, target: PathBuf) -> Result<(), StoreError> {
        let mut file = self.disk.open(snapshot).map_err(StoreError::io(snapshot, "open"))?;
        let mut draft = Draft::create(&self.disk, target)?;
        let mut buffer = vec![0; MAX_BLOCK_BYTES];
        loop {
            match file.read(&mut buffer).map_err(StoreError::io(snapshot, "read"))? {
                0 => break,
                length => draft.write(&buffer[..length])?,
            }
        }
        SnapshotReader::new(draft.reopen()?, draft.target(), position)?.verify()?;
        draft.publish().map(drop)
    }

    fn prune(&self, dir: &Path) -> Result<(), StoreError> {
        let names = files::names(self.disk.as_ref(), dir)?;
        let mut positions: Vec<_> = names.iter().filter_map(|name| snapshots::position_of(name)).collect();
        positions.sort_unstable_by_key(|position| (position.index, position.term));
        let surplus = positions.len().saturating_sub(self.count);
        positions[..surplus]
            .iter()
            .try_for_each(|position| files::remove_file(self.disk.as_ref(), &dir.join(snapshots::file_name(*position))))
    }
}

/// The folders of peers in the archive of a snapshot folder. Folders with other names are somebody else's.
pub(super) fn peer_folders(disk: &dyn Disk, snapshot_dir: &Path) -> Result<Vec<PeerFolder>, StoreError> {
    let root = snapshot_dir.join(FOLDER);
    let mut folders = Vec::new();
    for cluster_name in files::names(disk, &root)? {
        let Some(cluster) = parse_cluster(&cluster_name) else { continue };
        let dir = root.join(&cluster_name);
        for name in files::names(disk, &dir)? {
            if let Some(incarnation) = snapshots::parse_folder_name(&name) {
                folders.push(PeerFolder { cluster, incarnation, dir: dir.join(name) });
            }
        }
    }
    Ok(folders)
}

fn parse_cluster(name: &str) -> Option<ClusterId> {
    let cluster = ClusterId(u128::from_str_radix(name, 16).ok()?);
    (cluster.to_string() == name).then_some(cluster)
}

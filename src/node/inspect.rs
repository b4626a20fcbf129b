//! The files of a stopped node with the names that the node gave: the store knows a peer's description only as bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::codec;
use crate::node::lifecycle::PeerRecord;
use crate::store::{CheckedSnapshot, Components, StoreCheck, StoreError, StoredLog, StoredPeer};
use crate::types::Incarnation;

/// Where a node keeps snapshots if it is not told otherwise.
#[must_use]
pub fn default_snapshot_dir(log_dir: &Path) -> PathBuf {
    log_dir.join("snapshots")
}

/// What the files of a node hold.
#[derive(Debug)]
pub struct NodeCheck {
    /// The files.
    pub store: StoreCheck,
    /// What the node knows of each peer in the log.
    pub records: BTreeMap<Incarnation, PeerRecord>,
}

impl NodeCheck {
    /// Checks all files of a node that does not run. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while the node runs, [`StoreError::NothingThere`]. What is damaged is in the store's check.
    pub fn run(log_dir: &Path, snapshot_dir: &Path) -> Result<Self, StoreError> {
        let mut check = Self { store: StoreCheck::run(log_dir, snapshot_dir)?, records: BTreeMap::new() };
        check.records();
        check.components(log_dir);
        check.snapshots();
        Ok(check)
    }

    fn records(&mut self) {
        let Some(log) = &self.store.log else { return };
        let path = log.path.clone();
        let stored: Vec<StoredPeer> = self.store.peers.iter().map(|peer| peer.stored.clone()).collect();
        for peer in stored {
            match read_record(&path, &peer) {
                Ok(record) => drop(self.records.insert(peer.incarnation, record)),
                Err(error) => self.store.add_damage(&path, error),
            }
        }
    }

    /// Every peer's component must be there. One that is there and damaged has been told already.
    fn components(&mut self, log_dir: &Path) {
        for record in self.records.values() {
            let path = Components::path_in(log_dir, record.genesis.component);
            if !path.exists() && self.store.damage.iter().all(|damaged| damaged.path != path) {
                self.store.add_damage(&path, StoreError::ComponentMissing { path: path.clone() });
            }
        }
    }

    /// A peer's snapshots must be of its cluster. Their backend may be another than the one that it was created with: that
    /// which it has moved to since.
    fn snapshots(&mut self) {
        let records = &self.records;
        let is_foreign = |found: &mut CheckedSnapshot| {
            records.get(&found.incarnation).is_some_and(|record| found.header.cluster != record.genesis.cluster)
        };
        let foreign: Vec<_> = self.store.snapshots.extract_if(.., is_foreign).collect();
        for CheckedSnapshot { path, header, .. } in foreign {
            let reason = format!("it is of cluster {}", header.cluster);
            self.store.add_damage(&path, StoreError::Corrupt { path: path.clone(), reason });
        }
    }
}

/// The log of a node that does not run, and its peers.
pub struct NodeLog {
    /// The log.
    pub log: StoredLog,
    /// The peers in it, as the node knows them.
    pub peers: Vec<(StoredPeer, PeerRecord)>,
}

impl NodeLog {
    /// Opens the log, and reads and checks all of it. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]: that it is in use, not there, or damaged.
    pub fn open(log_dir: &Path) -> Result<Self, StoreError> {
        let log = StoredLog::open(log_dir)?;
        let named = |peer: &StoredPeer| Ok((peer.clone(), read_record(log.path(), peer)?));
        let peers = log.peers().iter().map(named).collect::<Result<_, StoreError>>()?;
        Ok(Self { log, peers })
    }
}

fn read_record(log: &Path, peer: &StoredPeer) -> Result<PeerRecord, StoreError> {
    codec::decode(&peer.record).map_err(|error| StoreError::Corrupt {
        path: log.to_owned(),
        reason: format!("the record of peer {} cannot be read: {error}", peer.incarnation),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::machine::Genesis;
    use crate::raft::{Configuration, SnapshotMeta, Write, WriteToken};
    use crate::settings::Settings;
    use crate::store::{Completion, DurableSink, SnapshotHeader, Store, StoreOptions};
    use crate::types::{ClusterId, Digest, Index, LogPosition, Term};

    struct Ignore;

    impl DurableSink for Ignore {
        fn durable(&mut self, _completions: Vec<Completion>) {}
        fn failed(&mut self, error: StoreError) {
            panic!("{error}");
        }
    }

    const COMPONENT: &[u8] = b"a component";

    fn record(cluster: u128) -> PeerRecord {
        let (config, settings) = (Bytes::new(), Settings::default());
        let genesis = Genesis { cluster: ClusterId(cluster), component: Digest::of(COMPONENT), config, settings };
        PeerRecord { peer: format!("kv{cluster}@127.0.0.1:7400").parse().unwrap(), genesis, introduction: None }
    }

    /// The files of a node with two peers, the second with the snapshot of cluster `of`.
    fn files(records: [Bytes; 2], of: u128) -> TempDir {
        files_with_snapshot_by(records, of, COMPONENT)
    }

    /// The same with a snapshot that this component has written.
    fn files_with_snapshot_by(records: [Bytes; 2], of: u128, component: &[u8]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            log_dir: folder.path().to_owned(),
            snapshot_dir: default_snapshot_dir(folder.path()),
            node: "127.0.0.1:7400".parse().unwrap(),
            cache_bytes: 1 << 20,
            max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
            snapshot_backup_count: 0,
        };
        let (store, _) = Store::open(options, Box::new(Ignore)).unwrap();
        store.components().put(Digest::of(COMPONENT), COMPONENT).unwrap();
        for (incarnation, record) in (1..).map(Incarnation).zip(records) {
            store.create_peer(incarnation, record, Write::bootstrap(Configuration::default(), 0));
        }
        let position = LogPosition::new(Term(1), Index(1));
        let meta = SnapshotMeta { position, time_ms: 0, configuration: Configuration::default() };
        let (backend, chain) = (Digest::of(component), Digest::default());
        let header = SnapshotHeader { cluster: ClusterId(of), meta: meta.clone(), backend, chain, host: Bytes::new() };
        store.snapshots().create(Incarnation(2), &header).unwrap().finish().unwrap();
        store.write(Incarnation(2), Write { snapshot: Some(meta), ..Write::new(WriteToken(1)) });
        store.close();
        folder
    }

    fn check(folder: &TempDir) -> NodeCheck {
        NodeCheck::run(folder.path(), &default_snapshot_dir(folder.path())).unwrap()
    }

    fn only_damage(folder: &TempDir) -> (PathBuf, String) {
        let NodeCheck { store: StoreCheck { damage, .. }, .. } = check(folder);
        let [damaged] = damage.as_slice() else { panic!("{damage:?}") };
        (damaged.path.clone(), damaged.error.to_string())
    }

    #[test]
    fn peers_have_their_names() {
        let folder = files([record(1).encode(), record(2).encode()], 2);
        let checked = check(&folder);
        assert!(checked.store.damage.is_empty(), "{:?}", checked.store.damage);
        assert_eq!(checked.records, [(Incarnation(1), record(1)), (Incarnation(2), record(2))].into());
        let log = NodeLog::open(folder.path()).unwrap();
        assert_eq!(log.peers.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), [record(1), record(2)]);
    }

    #[test]
    fn a_snapshot_by_the_component_that_a_cluster_was_moved_to_is_whole() {
        let folder = files_with_snapshot_by([record(1).encode(), record(2).encode()], 2, b"its successor");
        let checked = check(&folder);
        assert!(checked.store.damage.is_empty(), "{:?}", checked.store.damage);
        assert_eq!(checked.store.snapshots.len(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_damage_of_the_log() {
        let folder = files([Bytes::from_static(b"\xff"), record(2).encode()], 2);
        let (path, error) = only_damage(&folder);
        assert_eq!(path, folder.path().join("log.redb"));
        assert!(error.contains("the record of peer 1 cannot be read"), "{error}");
        assert_eq!(check(&folder).records.len(), 1);
        assert!(matches!(NodeLog::open(folder.path()), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn a_component_that_peers_need_and_a_snapshot_of_another_cluster_are_named() {
        let folder = files([record(1).encode(), record(2).encode()], 1);
        let (path, error) = only_damage(&folder);
        assert!(path.ends_with("snapshots/0000000000000002/1-1.snap"), "{}", path.display());
        assert!(error.contains(&format!("it is of cluster {}", ClusterId(1))), "{error}");

        let folder = files([record(1).encode(), record(2).encode()], 2);
        let component = Components::path_in(folder.path(), Digest::of(COMPONENT));
        std::fs::remove_file(&component).unwrap();
        let (path, error) = only_damage(&folder);
        assert_eq!(path, component);
        assert!(error.contains("there is no component"), "{error}");
    }
}

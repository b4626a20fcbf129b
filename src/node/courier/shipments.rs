//! How far the snapshots are that come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::SnapshotProgress;
use crate::types::Incarnation;

/// Whether a snapshot comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    In,
    Out,
}

/// The peer of this node, and the other.
type Key = (Direction, Incarnation, Incarnation);

/// All that are on their way. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Shipments {
    under_way: Arc<Mutex<BTreeMap<Key, SnapshotProgress>>>,
}

/// One that is on its way, until it is dropped.
pub(super) struct Shipment {
    shipments: Shipments,
    key: Key,
}

impl Shipments {
    /// One is on its way now: a peer of this node sends it to another, or receives it from there.
    pub(super) fn begin(
        &self,
        direction: Direction,
        peer: Incarnation,
        other: Incarnation,
        progress: SnapshotProgress,
    ) -> Shipment {
        let key = (direction, peer, other);
        self.lock().insert(key, progress);
        Shipment { shipments: self.clone(), key }
    }

    /// Those of a peer of this node, with the other peer.
    pub(super) fn of(&self, direction: Direction, peer: Incarnation) -> Vec<(Incarnation, SnapshotProgress)> {
        let range = (direction, peer, Incarnation(0))..=(direction, peer, Incarnation(u64::MAX));
        self.lock().range(range).map(|((_, _, other), progress)| (*other, *progress)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, SnapshotProgress>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shipment {
    pub(super) fn add(&self, bytes: u64) {
        if let Some(progress) = self.shipments.lock().get_mut(&self.key) {
            progress.done_bytes += bytes;
        }
    }
}

impl Drop for Shipment {
    fn drop(&mut self) {
        self.shipments.lock().remove(&self.key);
    }
}

//! Which snapshots of its machine a peer takes for its own.

use bytes::Bytes;
use zraft::raft::{ConfigValues, MemStorage, SnapshotMeta, Write};
use zraft::types::{Incarnation, Index, LogPosition, Term};

use crate::peer::{Peer, configuration};

/// The only peer of its cluster has committed an entry of term 1, an empty one of term 2, and five commands. Its machine
/// was given what `max_apply_bytes` allows.
fn peer(max_apply_bytes: usize) -> Peer {
    let mut disk = MemStorage::default();
    disk.write(&Write::bootstrap(configuration(1), 0)).unwrap();
    let values = ConfigValues { max_apply_bytes, ..ConfigValues::default() };
    let mut peer = Peer::start(Incarnation(1), &values, disk, 1);
    while peer.raft.propose(vec![Bytes::from_static(b"data"); 5], 0).is_err() {
        peer.raft.tick(0);
        settle(&mut peer);
    }
    settle(&mut peer);
    assert_eq!(peer.raft.status().commit, Index(7));
    peer
}

fn settle(peer: &mut Peer) {
    peer.pump();
    while peer.persist_one() || peer.read_one() {
        peer.pump();
    }
}

/// Tells the peer of a snapshot, and whether it says anything to the disk.
fn take(peer: &mut Peer, term: u64, index: u64, keep: u64) -> bool {
    let position = LogPosition::new(Term(term), Index(index));
    peer.raft.snapshot_taken(SnapshotMeta { position, time_ms: 0, configuration: configuration(1) }, keep);
    peer.pump();
    peer.persist_one()
}

#[test]
fn one_is_of_no_use_that_is_not_newer_or_not_of_this_log() {
    let mut peer = peer(1 << 20);
    assert!(take(&mut peer, 2, 5, 3));
    let taken = peer.raft.status();
    assert_eq!((taken.snapshot.index, taken.first), (Index(5), Index(3)));
    assert!(!take(&mut peer, 2, 5, 0), "the same");
    assert!(!take(&mut peer, 2, 4, 0), "an older one");
    assert!(!take(&mut peer, 1, 6, 0), "of another log");
    assert!(!take(&mut peer, 2, 9, 0), "beyond the log");
    assert_eq!(peer.raft.status(), taken);
    assert!(take(&mut peer, 2, 6, 0));
    assert_eq!(peer.raft.status().first, Index(7));
}

#[test]
fn one_is_of_no_use_before_the_machine_was_given_its_entries() {
    let mut peer = peer(1);
    assert!(!take(&mut peer, 2, 2, 0), "only the first entry is given, which is larger than the limit");
    assert!(take(&mut peer, 1, 1, 0));
    assert_eq!(peer.raft.status().snapshot.index, Index(1));
}

//! What the clocks of leaders do to a log: see `docs/heritage.md`.

use bytes::Bytes;
use zraft::raft::{ConfigValues, Entry, MemStorage, Write};
use zraft::types::Incarnation;

use crate::peer::{Peer, configuration};

/// Leads a cluster of one with this clock, and writes.
fn lead(peer: &mut Peer, clock_ms: u64) {
    for _ in 0..100 {
        peer.raft.tick(clock_ms);
        peer.pump();
        while peer.persist_one() {}
        peer.pump();
        if peer.raft.is_leader() {
            break;
        }
    }
    peer.raft.propose(vec![Bytes::from_static(b"x")], clock_ms).expect("it leads");
    peer.pump();
    while peer.persist_one() {}
}

/// In zraft_lib time was the leader's wall clock: a leader ahead of the last let all sessions expire, and one behind it
/// turned time back.
#[test]
fn time_does_not_go_back_with_a_leader_whose_clock_is_behind() {
    let mut disk = MemStorage::default();
    disk.write(&Write::bootstrap(configuration(1), 100)).unwrap();
    let mut peer = Peer::start(Incarnation(1), &ConfigValues::default(), disk, 1);
    for (life, clock_ms) in [(2, 5_000), (3, 10), (4, 0), (5, 6_000)] {
        lead(&mut peer, clock_ms);
        peer.restart(&ConfigValues::default(), life);
    }
    let times: Vec<_> = peer.disk.entries().map(|Entry { time_ms, .. }| *time_ms).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!((times[0], times.last()), (100, Some(&6_000)), "and it goes on with one that is ahead again");
    assert!(times.iter().filter(|time| **time == 5_000).count() >= 5, "meanwhile it stands: {times:?}");
}

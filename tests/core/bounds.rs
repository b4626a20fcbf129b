//! What the core takes before it says that it is too much.

use std::collections::BTreeMap;

use zraft::raft::{ConfigValues, Configuration, Envelope, MemStorage, MembershipError, Message, ReadError, Write};
use zraft::types::{Incarnation, Term};

use crate::peer::{Peer, configuration, peers};

fn start(voters: u64) -> Peer {
    let mut disk = MemStorage::default();
    disk.write(&Write::bootstrap(configuration(voters), 0)).unwrap();
    let mut peer = Peer::start(Incarnation(1), &ConfigValues::default(), disk, 1);
    peer.pump();
    peer
}

/// The leader of a cluster of one.
fn leader() -> Peer {
    let mut peer = start(1);
    while !peer.raft.is_leader() || peer.raft.status().commit < peer.raft.status().last.index {
        peer.raft.tick(0);
        peer.pump();
        while peer.persist_one() {
            peer.pump();
        }
    }
    peer
}

#[test]
fn a_cluster_grows_to_the_largest_size_and_no_further() {
    let most = Configuration::MAX_VOTERS as u64;
    let voters = |count: u64| -> BTreeMap<_, _> { peers(1..=count) };
    let mut peer = leader();
    let refused = peer.raft.propose_membership(voters(most + 1), 0).unwrap_err();
    assert_eq!(refused, MembershipError::TooMany(Configuration::MAX_VOTERS + 1));
    peer.raft.propose_membership(voters(most), 0).unwrap();
}

#[test]
fn a_follower_forwards_as_many_reads_as_may_wait_and_no_more() {
    let mut peer = start(3);
    let heartbeat = Message::Heartbeat { commit: peer.raft.status().commit, round: 1 };
    peer.raft.step(Envelope { from: Incarnation(2), to: Incarnation(1), term: Term(2), message: heartbeat }, 0);
    let taken = std::iter::repeat_with(|| peer.raft.read_index()).take_while(Result::is_ok).count();
    assert_eq!(taken, zraft::raft::MAX_WAITING_READS);
    assert_eq!(peer.raft.read_index(), Err(ReadError::TooManyReads));
}

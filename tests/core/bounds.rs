//! What the core takes before it says that it is too much.

use std::collections::BTreeMap;

use bytes::Bytes;
use zraft::raft::{
    AppendReply, ConfigValues, Configuration, Entry, Envelope, MAX_WAITING_READS, MemStorage, MembershipError, Message,
    ProposeError, ReadError, Write,
};
use zraft::types::{Incarnation, Term};

use crate::peer::{Peer, configuration, peers};

fn start(voters: u64, values: &ConfigValues) -> Peer {
    let mut disk = MemStorage::default();
    disk.write(&Write::bootstrap(configuration(voters), 0)).unwrap();
    let mut peer = Peer::start(Incarnation(1), values, disk, 1);
    peer.pump();
    peer
}

/// The leader of a cluster of one.
fn leader(values: &ConfigValues) -> Peer {
    let mut peer = start(1, values);
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
    let mut peer = leader(&ConfigValues::default());
    let refused = peer.raft.propose_membership(voters(most + 1), 0).unwrap_err();
    assert_eq!(refused, MembershipError::TooMany(Configuration::MAX_VOTERS + 1));
    peer.raft.propose_membership(voters(most), 0).unwrap();
}

#[test]
fn a_follower_forwards_as_many_reads_as_may_wait_and_no_more() {
    let mut peer = start(3, &ConfigValues::default());
    let heartbeat = Message::Heartbeat { commit: peer.raft.status().commit, round: 1 };
    peer.raft.step(Envelope { from: Incarnation(2), to: Incarnation(1), term: Term(2), message: heartbeat }, 0);
    let taken = (0..=MAX_WAITING_READS).take_while(|_| peer.raft.read_index().is_ok()).count();
    assert_eq!(taken, MAX_WAITING_READS);
    assert_eq!(peer.raft.read_index(), Err(ReadError::TooManyReads));
}

#[test]
fn a_leader_lets_as_many_reads_wait_and_no_more() {
    let mut peer = leader(&ConfigValues::default());
    let taken = (0..=MAX_WAITING_READS).take_while(|_| peer.raft.read_index().is_ok()).count();
    assert_eq!(taken, MAX_WAITING_READS);
    peer.pump();
    assert_eq!(peer.reads.len(), taken);
    assert!(peer.raft.read_index().is_ok());
}

#[test]
fn proposals_are_counted_to_the_byte_until_they_are_committed() {
    let max_uncommitted_bytes = 3 * (Entry::OVERHEAD_BYTES + 8);
    let mut peer = leader(&ConfigValues { max_uncommitted_bytes, ..ConfigValues::default() });
    let propose = |peer: &mut Peer, count: usize| {
        let data = vec![Bytes::from_static(b"12345678"); count];
        let result = peer.raft.propose(data, 0);
        peer.pump();
        result.map(|range| range.end().0 - range.start().0 + 1)
    };
    assert_eq!(propose(&mut peer, 1), Ok(1));
    assert_eq!(propose(&mut peer, 2), Ok(2), "three fit");
    assert_eq!(propose(&mut peer, 1), Err(ProposeError::TooMuchUncommitted));
    peer.persist_one();
    assert_eq!(propose(&mut peer, 2), Err(ProposeError::TooMuchUncommitted), "the first alone is committed");
    assert_eq!(propose(&mut peer, 1), Ok(1));
    while peer.persist_one() {}
    assert_eq!(propose(&mut peer, 4), Ok(4), "too much, but alone");
    assert_eq!(propose(&mut peer, 1), Err(ProposeError::TooMuchUncommitted));
}

#[test]
fn what_is_on_its_way_to_a_follower_is_seen_and_bounded() {
    let values = ConfigValues { max_inflight_messages: 2, ..ConfigValues::default() };
    let mut peer = start(2, &values);
    let step = |peer: &mut Peer, message: Message| {
        let envelope = Envelope { from: Incarnation(2), to: Incarnation(1), term: peer.raft.term(), message };
        peer.raft.step(envelope, 0);
        peer.pump();
        while peer.persist_one() {
            peer.pump();
        }
    };
    while !peer.raft.is_leader() {
        peer.raft.tick(0);
        peer.pump();
        let next = peer.raft.term().next();
        let grant = Message::PreVoteReply { granted: true };
        peer.raft.step(Envelope { from: Incarnation(2), to: Incarnation(1), term: next, message: grant }, 0);
        step(&mut peer, Message::VoteReply { granted: true });
    }
    let noop = peer.raft.status().last.index;
    step(&mut peer, Message::AppendReply(AppendReply::Accepted { matched: noop }));
    let bytes = Entry::OVERHEAD_BYTES + 8;
    for on_their_way in [1, 2, 2] {
        peer.raft.propose(vec![Bytes::from_static(b"12345678")], 0).unwrap();
        peer.pump();
        let status = peer.raft.status().followers[0];
        assert_eq!((status.inflight_messages, status.inflight_bytes), (on_their_way, on_their_way * bytes));
    }
}

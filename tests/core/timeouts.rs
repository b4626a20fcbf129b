//! Election timeouts are spread, so that split votes are rare (thesis section 3.4).

use std::collections::BTreeSet;

use zraft::raft::{ConfigValues, Envelope, MemStorage, Message, Write};
use zraft::types::Incarnation;

use crate::peer::{Peer, configuration};

const PEERS: u64 = 5;
const ROUNDS: usize = 1000;

/// A peer of five that hears nobody. Every request for votes that it sends ends one timeout.
struct Alone(Peer);

impl Alone {
    fn start(seed: u64) -> Self {
        let mut disk = MemStorage::default();
        disk.write(&Write::bootstrap(configuration(PEERS), 0)).unwrap();
        let mut peer = Peer::start(Incarnation(1), &ConfigValues::default(), disk, seed);
        peer.pump();
        Self(peer)
    }

    /// The ticks until it asks for votes again: first as a follower, then as one who has asked in vain.
    fn timeout(&mut self) -> u32 {
        let asks = |envelope: &Envelope| matches!(envelope.message, Message::PreVote { .. });
        let peer = &mut self.0;
        peer.outbox.clear();
        let mut asks_after_tick = |_: &u32| {
            peer.raft.tick(0);
            peer.pump();
            peer.outbox.iter().any(asks)
        };
        (1..100).find(&mut asks_after_tick).expect("it asks for votes in the end")
    }
}

/// The share of rounds in which more than one peer is the first, in percent.
fn conflicts(mut round: impl FnMut() -> Vec<u32>) -> usize {
    let conflict = |timeouts: Vec<u32>| {
        let first = timeouts.iter().min().copied();
        timeouts.into_iter().filter(|timeout| Some(*timeout) == first).count() > 1
    };
    (0..ROUNDS).filter(|_| conflict(round())).count() * 100 / ROUNDS
}

#[test]
fn timeouts_are_spread_from_one_to_two_election_timeouts() {
    let election = ConfigValues::default().election_ticks;
    let all: BTreeSet<_> = (election..2 * election).collect();
    let of_followers: BTreeSet<_> = (0..ROUNDS as u64).map(|seed| Alone::start(seed).timeout()).collect();
    assert_eq!(of_followers, all);
    let mut candidate = Alone::start(1);
    let of_candidates: BTreeSet<_> = (0..ROUNDS).map(|_| candidate.timeout()).collect();
    assert_eq!(of_candidates, all);
}

/// With ten values for five peers the first is alone in 77 rounds of 100.
#[test]
fn one_peer_is_mostly_the_first() {
    let mut next = 0;
    let followers = conflicts(|| {
        next += PEERS;
        (next..next + PEERS).map(|seed| Alone::start(seed).timeout()).collect()
    });
    assert!((15..30).contains(&followers), "{followers} % of the rounds of followers");
    let mut peers: Vec<_> = (1..=PEERS).map(Alone::start).collect();
    let candidates = conflicts(|| peers.iter_mut().map(Alone::timeout).collect());
    assert!((15..30).contains(&candidates), "{candidates} % of the rounds of candidates");
}

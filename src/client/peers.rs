//! Which peer of a cluster to ask.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::SessionOptions;
use crate::types::{NodeAddr, PeerId};

/// The peers of a cluster as a client knows them: who leads, and who has failed of late.
pub(super) struct Peers {
    peers: Vec<Known>,
    options: SessionOptions,
    leader: Option<PeerId>,
    /// Where the search for a peer goes on.
    next: usize,
}

/// What is known of a peer.
struct Known {
    id: PeerId,
    failed_at: Option<Instant>,
    /// When it last answered: a failure that began before says nothing any more.
    answered_at: Option<Instant>,
    /// It has failed in such a way that its node may be gone.
    is_lost: bool,
}

impl Known {
    fn new(id: PeerId) -> Self {
        Self { id, failed_at: None, answered_at: None, is_lost: false }
    }

    fn has_failed_within(&self, window: Duration) -> bool {
        self.failed_at.is_some_and(|at| at.elapsed() < window)
    }
}

impl Peers {
    pub(super) fn new(peers: Vec<PeerId>, options: SessionOptions) -> Self {
        Self { peers: peers.into_iter().map(Known::new).collect(), options, leader: None, next: 0 }
    }

    /// The leader if one is known, or else the next peer that has not just failed; if all have, the next one.
    pub(super) fn choose(&mut self) -> Option<PeerId> {
        if let Some(leader) = &self.leader {
            return Some(leader.clone());
        }
        let count = self.peers.len();
        let mut order = (0..count).map(|step| (self.next + step) % count);
        let has_not_failed = |at: &usize| !self.peers[*at].has_failed_within(self.options.fail_timeout);
        let chosen = order.clone().find(has_not_failed).or_else(|| order.next())?;
        self.next = chosen + 1;
        Some(self.peers[chosen].id.clone())
    }

    /// The same, once the losses of connections are noticed. Who has just lost one is asked only after the others: it may be
    /// gone. All are looked at, since a loss counts from when it is noticed: one of long ago must not make a peer that has been
    /// restarted, and is named as the leader now, one that has just failed.
    pub(super) fn choose_unless_lost(&mut self, mut has_lost: impl FnMut(&NodeAddr) -> bool) -> Option<PeerId> {
        let ids = self.peers.iter().map(|peer| &peer.id);
        let lost: Vec<_> = ids.filter(|peer| has_lost(peer.node())).cloned().collect();
        lost.iter().for_each(|peer| self.attempt_failed((peer, Instant::now()), true));
        self.choose()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// The leader, as far as known.
    pub(super) fn leader(&self) -> Option<&PeerId> {
        self.leader.as_ref()
    }

    /// A peer has answered. One that did what only the leader can is the leader.
    pub(super) fn succeeded(&mut self, peer: &PeerId, is_leader: bool) {
        let known = self.known(peer);
        (known.failed_at, known.is_lost, known.answered_at) = (None, false, Some(Instant::now()));
        if is_leader && self.leader.as_ref() != Some(peer) {
            self.leader = Some(peer.clone());
        }
    }

    /// What is known of a peer, from now on also of one that was not.
    fn known(&mut self, peer: &PeerId) -> &mut Known {
        let at = self.peers.iter().position(|known| known.id == *peer).unwrap_or_else(|| {
            self.peers.push(Known::new(peer.clone()));
            self.peers.len() - 1
        });
        &mut self.peers[at]
    }

    /// A peer is found to be of no use now.
    pub(super) fn failed(&mut self, peer: &PeerId) {
        self.attempt_failed((peer, Instant::now()), false);
    }

    /// An attempt at a peer that began then has failed. It may have taken long, and says nothing of a peer that has answered
    /// meanwhile, or may be back: it counts from its beginning. `is_lost`: the peer's node may be gone.
    pub(super) fn attempt_failed(&mut self, (peer, began): (&PeerId, Instant), is_lost: bool) {
        let known = self.known(peer);
        if known.answered_at.is_some_and(|answered| answered > began) {
            return;
        }
        known.is_lost |= is_lost;
        known.failed_at = known.failed_at.max(Some(began));
        if self.leader.as_ref() == Some(peer) {
            self.leader = None;
        }
    }

    /// A peer names another as the leader. It is followed unless it has just failed; one whose node may be gone, only once that
    /// is connected again: those that name it may not know yet.
    pub(super) fn follow(&mut self, leader: PeerId, is_connected: impl FnOnce(&NodeAddr) -> bool) -> bool {
        let fail_timeout = self.options.leader_fail_timeout;
        let known = self.known(&leader);
        let is_usable =
            if known.is_lost { is_connected(leader.node()) } else { !known.has_failed_within(fail_timeout) };
        self.leader = is_usable.then_some(leader);
        is_usable
    }

    pub(super) fn lost_leader(&mut self) {
        self.leader = None;
    }

    /// Whether every peer is among the attempts that have failed.
    pub(super) fn all_failed<E>(&self, attempts: &[(PeerId, E)]) -> bool {
        self.peers.iter().all(|peer| attempts.iter().any(|(failed, _)| *failed == peer.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> PeerId {
        format!("{name}@{name}:7400").parse().unwrap()
    }

    fn peers(fail_timeout: Duration) -> Peers {
        let options = SessionOptions { fail_timeout, leader_fail_timeout: fail_timeout, ..SessionOptions::default() };
        Peers::new(vec![peer("a"), peer("b"), peer("c")], options)
    }

    fn chosen(peers: &mut Peers, count: usize) -> String {
        (0..count).map(|_| peers.choose().unwrap().name().to_owned()).collect()
    }

    #[test]
    fn without_a_leader_peers_take_turns() {
        assert_eq!(chosen(&mut peers(Duration::MAX), 5), "abcab");
    }

    #[test]
    fn a_peer_that_failed_is_passed_over_while_others_are_left() {
        let mut peers = peers(Duration::MAX);
        peers.failed(&peer("b"));
        assert_eq!(chosen(&mut peers, 4), "acac");
        peers.failed(&peer("a"));
        peers.failed(&peer("c"));
        assert_eq!(chosen(&mut peers, 3), "abc", "all have failed: any may be back");
        peers.succeeded(&peer("b"), false);
        assert_eq!(chosen(&mut peers, 2), "bb");
    }

    #[test]
    fn a_failure_is_forgotten_after_a_while() {
        let mut peers = peers(Duration::ZERO);
        peers.failed(&peer("b"));
        assert_eq!(chosen(&mut peers, 3), "abc");
    }

    #[test]
    fn an_attempt_that_took_long_says_nothing_of_a_peer_that_is_back() {
        let mut peers = peers(Duration::from_millis(500));
        let began = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        peers.attempt_failed((&peer("b"), began), false);
        assert!(peers.follow(peer("b"), |_| false), "it was gone a second ago");
        peers.succeeded(&peer("b"), true);
        peers.attempt_failed((&peer("b"), began), false);
        assert_eq!(chosen(&mut peers, 2), "bb", "it has answered since");
        peers.failed(&peer("b"));
        assert!(!peers.follow(peer("b"), |_| true));
    }

    #[test]
    fn the_leader_is_asked_first_until_it_fails() {
        let mut peers = peers(Duration::MAX);
        peers.succeeded(&peer("b"), false);
        assert_eq!(chosen(&mut peers, 1), "a", "who answers a read need not lead");
        peers.succeeded(&peer("b"), true);
        assert_eq!(chosen(&mut peers, 3), "bbb");
        peers.failed(&peer("b"));
        assert_eq!(chosen(&mut peers, 2), "ca");
        assert!(!peers.follow(peer("b"), |_| true), "what others say of a peer that has just failed is likely old");
        assert!(peers.follow(peer("d"), |_| false), "a leader that was not given is taken in");
        assert_eq!(chosen(&mut peers, 2), "dd");
    }

    #[test]
    fn a_loss_counts_from_when_it_happened_and_not_from_when_its_peer_is_to_lead() {
        let mut peers = peers(Duration::MAX);
        let mut lost = vec!["c:7400".to_owned(), "b:7400".to_owned()];
        // Told once for each connection.
        let mut has_lost = |node: &NodeAddr| {
            let at = lost.iter().position(|lost| lost == node.as_str());
            at.map(|at| lost.remove(at)).is_some()
        };
        peers.succeeded(&peer("b"), true);
        assert_eq!(peers.choose_unless_lost(&mut has_lost), Some(peer("a")), "the leader and another are gone");
        peers.succeeded(&peer("c"), false);
        assert!(peers.follow(peer("c"), |_| false));
        assert_eq!(peers.choose_unless_lost(&mut has_lost), Some(peer("c")), "it is back, and leads");
        assert!(!peers.follow(peer("b"), |_| false), "who names it may not know that it is gone");
        assert!(peers.follow(peer("b"), |_| true), "its node is connected again");
    }

    #[test]
    fn all_have_failed_only_when_each_has() {
        let peers = peers(Duration::MAX);
        let failure = |name: &str| (peer(name), "failed");
        assert!(!peers.all_failed(&[failure("a"), failure("b"), failure("a")]));
        assert!(peers.all_failed(&[failure("c"), failure("a"), failure("b")]));
    }

    #[test]
    fn without_peers_there_is_nobody_to_ask() {
        let mut peers = Peers::new(vec![], SessionOptions::default());
        assert!(peers.choose().is_none());
    }
}

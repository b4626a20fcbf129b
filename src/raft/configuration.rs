//! Who belongs to a cluster, and the steps by which that changes (thesis chapter 4).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::raft::quorum::{self, Tally};
use crate::types::{Incarnation, PeerId};

/// The peers of a cluster. In effect from the moment it is in a peer's log (thesis section 4.1).
///
/// Any set of voters is changed into any other by entries of this kind, each only after the last is committed:
///
/// 1. *waiting*: the peers that are new get the log as `learners`, without a voice, until they have caught up
///    (thesis section 4.2.1); left out when nobody is new;
/// 2. *joint*: the old set (`outgoing`) and the new one (`voters`) decide together (thesis section 4.3);
/// 3. *settled*: the new set decides alone.
///
/// What is being changed to is thus in the log, and whoever leads next goes on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Who votes and counts for commitment, and where each lives.
    pub voters: BTreeMap<Incarnation, PeerId>,
    /// In a joint configuration the old voters: a majority of them is needed as well. Empty otherwise.
    pub outgoing: BTreeMap<Incarnation, PeerId>,
    /// Who gets the log and waits to become a voter.
    pub learners: BTreeMap<Incarnation, PeerId>,
    /// The voters that go when the learners become voters.
    pub leaving: BTreeSet<Incarnation>,
}

impl Configuration {
    /// The most voters that a cluster can be changed to. Every entry waits for more than half of them.
    pub const MAX_VOTERS: usize = 64;

    /// Nobody: what a peer knows that has not heard of its cluster yet.
    pub(super) const NOBODY: Self = Self {
        voters: BTreeMap::new(),
        outgoing: BTreeMap::new(),
        learners: BTreeMap::new(),
        leaving: BTreeSet::new(),
    };

    /// Settled: these peers decide, and no change is under way.
    #[must_use]
    pub fn of(voters: BTreeMap<Incarnation, PeerId>) -> Self {
        Self { voters, ..Self::NOBODY }
    }

    /// Whether no change is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_joint() && !self.is_waiting()
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether learners have to catch up before the voters change.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.learners.is_empty()
    }

    /// Whether the peer votes.
    #[must_use]
    pub fn is_voter(&self, peer: Incarnation) -> bool {
        self.voters.contains_key(&peer) || self.outgoing.contains_key(&peer)
    }

    /// Whether the peer belongs to the cluster: it votes or learns.
    #[must_use]
    pub fn contains(&self, peer: Incarnation) -> bool {
        self.is_voter(peer) || self.learners.contains_key(&peer)
    }

    /// Whether these peers can commit an entry by themselves: a majority, in a joint configuration of each set.
    #[must_use]
    pub fn has_quorum(&self, of: impl Fn(Incarnation) -> bool) -> bool {
        quorum::tally(self, |voter| Some(of(voter))) == Tally::Won
    }

    /// Where the peer lives.
    #[must_use]
    pub fn address(&self, peer: Incarnation) -> Option<&PeerId> {
        [&self.voters, &self.learners, &self.outgoing].into_iter().find_map(|peers| peers.get(&peer))
    }

    /// Every peer that votes.
    #[must_use]
    pub fn all_voters(&self) -> BTreeSet<Incarnation> {
        self.voters.keys().chain(self.outgoing.keys()).copied().collect()
    }

    /// Every peer that gets the log.
    #[must_use]
    pub fn members(&self) -> BTreeSet<Incarnation> {
        self.voters.keys().chain(self.outgoing.keys()).chain(self.learners.keys()).copied().collect()
    }

    /// The first step from a settled configuration to these voters. A peer's new address is in effect at once; when
    /// nothing but addresses changes, the first step is also the last.
    pub(super) fn begin(&self, new: &BTreeMap<Incarnation, PeerId>) -> Self {
        let is_new = |(id, _): &(&Incarnation, &PeerId)| !self.voters.contains_key(id);
        let entry = |(id, address): (&Incarnation, &PeerId)| (*id, address.clone());
        let learners: BTreeMap<_, _> = new.iter().filter(is_new).map(entry).collect();
        let leaving: BTreeSet<_> = self.voters.keys().filter(|id| !new.contains_key(id)).copied().collect();
        let moved = |(id, old): (&Incarnation, &PeerId)| (*id, new.get(id).unwrap_or(old).clone());
        let voters: BTreeMap<_, _> = self.voters.iter().map(moved).collect();
        if learners.is_empty() && !leaving.is_empty() {
            return Self { voters, leaving, ..Self::NOBODY }.joined();
        }
        Self { voters, outgoing: BTreeMap::new(), learners, leaving }
    }

    /// From waiting to joint: the learners become voters, and who leaves decides for the last time.
    pub(super) fn joined(&self) -> Self {
        let stays = self.voters.iter().filter(|(id, _)| !self.leaving.contains(id));
        let voters = stays.chain(&self.learners).map(|(id, address)| (*id, address.clone())).collect();
        Self { voters, outgoing: self.voters.clone(), ..Self::NOBODY }
    }

    /// From joint to settled; from waiting back to what it was.
    pub(super) fn settled(&self) -> Self {
        Self::of(self.voters.clone())
    }

    /// Whether a leader makes such a configuration.
    pub(super) fn is_sound(&self) -> bool {
        let has_one_purpose = !(self.is_joint() && self.is_waiting());
        let learners_are_new = self.learners.keys().all(|id| !self.voters.contains_key(id));
        let leavers_are_there = self.leaving.iter().all(|id| self.voters.contains_key(id));
        let leaves_in_time = self.leaving.is_empty() || self.is_waiting();
        !self.voters.is_empty() && has_one_purpose && learners_are_new && leavers_are_there && leaves_in_time
    }

    /// About what it takes when encoded, and not less.
    pub(super) fn size_bytes(&self) -> usize {
        /// An incarnation, encoded.
        const ID_BYTES: usize = 9;
        /// What separates a name, an address and their lengths.
        const TEXT_BYTES: usize = 4;
        let peers = [&self.voters, &self.outgoing, &self.learners].into_iter().flat_map(BTreeMap::values);
        let peer_bytes = |peer: &PeerId| ID_BYTES + TEXT_BYTES + peer.name().len() + peer.node().as_str().len();
        peers.map(peer_bytes).sum::<usize>() + self.leaving.len() * ID_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peers(ids: impl IntoIterator<Item = u64>) -> BTreeMap<Incarnation, PeerId> {
        ids.into_iter().map(|id| (Incarnation(id), format!("p{id}@h:1").parse().unwrap())).collect()
    }

    fn ids(peers: &BTreeMap<Incarnation, PeerId>) -> Vec<u64> {
        peers.keys().map(|id| id.0).collect()
    }

    #[test]
    fn new_peers_learn_first_then_both_sets_decide_then_the_new_one() {
        let old = Configuration::of(peers([1, 2, 3]));
        let waiting = old.begin(&peers([2, 3, 4]));
        assert_eq!((ids(&waiting.voters), ids(&waiting.learners)), (vec![1, 2, 3], vec![4]));
        assert!(waiting.is_waiting() && !waiting.is_joint() && !waiting.is_settled() && waiting.is_sound());
        let joint = waiting.joined();
        assert_eq!((ids(&joint.voters), ids(&joint.outgoing)), (vec![2, 3, 4], vec![1, 2, 3]));
        assert!(joint.is_joint() && !joint.is_waiting() && !joint.is_settled() && joint.is_sound());
        assert_eq!(joint.members().len(), 4);
        assert_eq!(joint.settled(), Configuration::of(peers([2, 3, 4])));
        assert_eq!(waiting.settled(), old);
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_set() {
        let joint = Configuration::of(peers([1, 2, 3])).begin(&peers([2, 3, 4])).joined();
        let can_commit = |ids: &[u64]| joint.has_quorum(|peer| ids.contains(&peer.0));
        assert!(can_commit(&[2, 3]) && can_commit(&[1, 2, 4]));
        assert!(!can_commit(&[1, 2]) && !can_commit(&[3, 4]) && !can_commit(&[]));
    }

    #[test]
    fn nobody_waits_when_nobody_is_new() {
        let joint = Configuration::of(peers([1, 2, 3])).begin(&peers([3]));
        assert_eq!((ids(&joint.voters), ids(&joint.outgoing)), (vec![3], vec![1, 2, 3]));
    }

    #[test]
    fn a_new_address_needs_one_step() {
        let old = Configuration::of(peers([1, 2]));
        let mut new = old.voters.clone();
        new.insert(Incarnation(2), "moved@h:2".parse().unwrap());
        assert_eq!(old.begin(&new), Configuration::of(new));
    }

    #[test]
    fn its_size_is_about_what_it_takes() {
        let name = |id: u64| format!("{}@{}:1", "n".repeat(PeerId::MAX_NAME_LEN), "h".repeat(10 * id as usize));
        let long = |id: u64| (Incarnation(u64::MAX - id), name(id).parse().unwrap());
        let waiting = Configuration::of((1..=5).map(long).collect()).begin(&(4..=6).map(long).collect());
        for configuration in [waiting.joined(), waiting, Configuration::of(peers(1..=3)), Configuration::NOBODY] {
            let (size, encoded) = (configuration.size_bytes(), crate::codec::encode(&configuration).len());
            assert!(encoded <= size + 4, "{encoded} bytes with the four counts, {size} without");
            assert!(size <= 2 * encoded, "{encoded} bytes are counted as {size}");
        }
    }

    proptest! {
        #[test]
        fn every_step_is_sound_and_majorities_of_neighbours_intersect(
            old in prop::collection::btree_set(0_u64..6, 1..6),
            new in prop::collection::btree_set(0_u64..6, 1..6),
        ) {
            let (old, new) = (peers(old), peers(new));
            let mut steps = vec![Configuration::of(old.clone()), Configuration::of(old.clone()).begin(&new)];
            while let Some(last) = steps.last().filter(|last| !last.is_settled()) {
                let next = if last.is_waiting() { last.joined() } else { last.settled() };
                steps.push(next);
            }
            prop_assert_eq!(ids(&steps.last().unwrap().voters), ids(&new));
            for step in &steps {
                prop_assert!(step.is_sound(), "{:?}", step);
            }
            let quorums = |of: &Configuration| {
                let of = of.clone();
                (0_u64..1 << 6).filter(move |set| {
                    let majority = |peers: &BTreeMap<Incarnation, PeerId>| {
                        peers.is_empty() || peers.keys().filter(|id| set & (1 << id.0) != 0).count() * 2 > peers.len()
                    };
                    majority(&of.voters) && majority(&of.outgoing)
                })
            };
            for pair in steps.windows(2) {
                for quorum in quorums(&pair[0]) {
                    prop_assert!(quorums(&pair[1]).all(|other| other & quorum != 0), "{:?}", pair);
                }
            }
        }
    }
}

//! Majorities. Any two of them share a voter, which is what carries promises from one leader to the next (thesis
//! section 3.6.3). In a joint configuration a quorum is a majority of each set (section 4.3).

use std::collections::BTreeMap;

use crate::raft::Configuration;
use crate::types::{Incarnation, PeerId};

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tally {
    /// Votes that are still out decide.
    Open,
    /// A quorum said yes.
    Won,
    /// No quorum can say yes any more.
    Lost,
}

/// Counts votes: `vote` tells what a voter has said, if anything. A joint election needs both majorities.
pub(super) fn tally(configuration: &Configuration, vote: impl Fn(Incarnation) -> Option<bool>) -> Tally {
    let incoming = majority_tally(&configuration.voters, &vote);
    let outgoing = if configuration.is_joint() { majority_tally(&configuration.outgoing, &vote) } else { Tally::Won };
    match (incoming, outgoing) {
        (Tally::Won, Tally::Won) => Tally::Won,
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        (Tally::Open, _) | (_, Tally::Open) => Tally::Open,
    }
}

/// The largest value that a quorum has reached; none when nobody votes. In a joint configuration both majorities
/// have reached it.
pub(super) fn reached<T: Ord>(configuration: &Configuration, value: impl Fn(Incarnation) -> T) -> Option<T> {
    let incoming = majority_reached(&configuration.voters, &value)?;
    let outgoing = majority_reached(&configuration.outgoing, &value);
    Some(match outgoing {
        Some(outgoing) => incoming.min(outgoing),
        None => incoming,
    })
}

fn majority_tally(voters: &BTreeMap<Incarnation, PeerId>, vote: impl Fn(Incarnation) -> Option<bool>) -> Tally {
    let (mut yes, mut no) = (0, 0);
    for voter in voters.keys() {
        match vote(*voter) {
            Some(true) => yes += 1,
            Some(false) => no += 1,
            None => {}
        }
    }
    let quorum = voters.len() / 2 + 1;
    if yes >= quorum {
        Tally::Won
    } else if voters.len() - no < quorum {
        Tally::Lost
    } else {
        Tally::Open
    }
}

fn majority_reached<T: Ord>(voters: &BTreeMap<Incarnation, PeerId>, value: impl Fn(Incarnation) -> T) -> Option<T> {
    let mut values: Vec<_> = voters.keys().map(|voter| value(*voter)).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    let quorum = values.len() / 2 + 1;
    values.into_iter().nth(quorum - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The voters in the set of the bits of `incoming`, and the outgoing ones in that of `outgoing`.
    fn configuration(incoming: u32, outgoing: u32) -> Configuration {
        let peers = |set: u32| {
            let ids = (0..VOTERS).filter(|voter| has(set, *voter));
            ids.map(|id| (Incarnation(id as u64), format!("p{id}@h:1").parse().unwrap())).collect()
        };
        Configuration { voters: peers(incoming), outgoing: peers(outgoing), ..Configuration::default() }
    }

    const VOTERS: usize = 7;

    /// Every set of peers that holds more than half of each set of voters, as bit masks.
    fn quorums(incoming: u32, outgoing: u32) -> impl Iterator<Item = u32> {
        let majority = |set: u32, of: u32| of == 0 || (set & of).count_ones() * 2 > of.count_ones();
        (1..1_u32 << VOTERS).filter(move |set| majority(*set, incoming) && majority(*set, outgoing))
    }

    fn has(set: u32, voter: usize) -> bool {
        set & (1 << voter) != 0
    }

    fn sets() -> impl Strategy<Value = (u32, u32)> {
        (1..1_u32 << VOTERS, prop_oneof![Just(0), 1..1_u32 << VOTERS])
    }

    proptest! {
        #[test]
        fn a_value_is_reached_when_some_quorum_has_it(
            (incoming, outgoing) in sets(),
            values in prop::array::uniform7(0_u64..6),
        ) {
            let least = |set: u32| {
                let voters = (0..VOTERS).filter(|voter| has(set & (incoming | outgoing), *voter));
                voters.map(|voter| values[voter]).min().unwrap()
            };
            let brute = quorums(incoming, outgoing).map(least).max();
            prop_assert_eq!(reached(&configuration(incoming, outgoing), |voter| values[voter.0 as usize]), brute);
        }

        #[test]
        fn an_election_is_decided_when_no_quorum_can_change_it(
            (incoming, outgoing) in sets(),
            votes in prop::array::uniform7(prop::option::of(any::<bool>())),
        ) {
            let some_quorum = |fits: fn(Option<bool>) -> bool| {
                let all_fit = |set: u32| (0..VOTERS).all(|voter| !has(set, voter) || fits(votes[voter]));
                quorums(incoming, outgoing).any(all_fit)
            };
            let brute = if some_quorum(|vote| vote == Some(true)) {
                Tally::Won
            } else if some_quorum(|vote| vote != Some(false)) {
                Tally::Open
            } else {
                Tally::Lost
            };
            prop_assert_eq!(tally(&configuration(incoming, outgoing), |voter| votes[voter.0 as usize]), brute);
        }
    }

    #[test]
    fn learners_and_leavers_change_nothing() {
        let mut with = configuration(0b111, 0);
        with.learners = configuration(0b111_1000, 0).voters;
        with.leaving = [Incarnation(0)].into();
        assert_eq!(reached(&with, |voter| if voter.0 > 2 { 9 } else { 1 }), Some(1));
        assert_eq!(tally(&with, |voter| Some(voter.0 > 2)), Tally::Lost);
        assert_eq!(reached(&configuration(0, 0), |_| 1), None);
    }
}

//! Majorities. Any two of them share a voter, which is what carries promises from one leader to the next (thesis
//! section 3.6.3).

use crate::raft::Configuration;
use crate::types::Incarnation;

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

/// Counts votes: `vote` tells what a voter has said, if anything.
pub(super) fn tally(configuration: &Configuration, vote: impl Fn(Incarnation) -> Option<bool>) -> Tally {
    let votes: Vec<_> = configuration.voters.keys().map(|voter| vote(*voter)).collect();
    let yes = votes.iter().filter(|vote| **vote == Some(true)).count();
    let no = votes.iter().filter(|vote| **vote == Some(false)).count();
    let quorum = votes.len() / 2 + 1;
    if yes >= quorum {
        Tally::Won
    } else if votes.len() - no < quorum {
        Tally::Lost
    } else {
        Tally::Open
    }
}

/// The largest value that a quorum has reached; none when nobody votes.
pub(super) fn reached<T: Ord>(configuration: &Configuration, value: impl Fn(Incarnation) -> T) -> Option<T> {
    let mut values: Vec<_> = configuration.voters.keys().map(|voter| value(*voter)).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    let quorum = values.len() / 2 + 1;
    values.into_iter().nth(quorum - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn configuration(voters: usize) -> Configuration {
        let address = |id: usize| format!("p{id}@h:1").parse().unwrap();
        Configuration { voters: (0..voters).map(|id| (Incarnation(id as u64), address(id))).collect() }
    }

    /// Every set of voters that is more than half of them, as bit masks.
    fn quorums(voters: usize) -> impl Iterator<Item = u32> {
        (0..1_u32 << voters).filter(move |set| set.count_ones() as usize * 2 > voters)
    }

    fn has(set: u32, voter: usize) -> bool {
        set & (1 << voter) != 0
    }

    proptest! {
        #[test]
        fn a_value_is_reached_when_some_quorum_has_it(values in prop::collection::vec(0_u64..6, 0..8)) {
            let brute = quorums(values.len())
                .map(|set| (0..values.len()).filter(|voter| has(set, *voter)).map(|voter| values[voter]).min().unwrap())
                .max();
            prop_assert_eq!(reached(&configuration(values.len()), |voter| values[voter.0 as usize]), brute);
        }

        #[test]
        fn an_election_is_decided_when_no_quorum_can_change_it(
            votes in prop::collection::vec(prop::option::of(any::<bool>()), 0..8),
        ) {
            let some_quorum = |fits: fn(Option<bool>) -> bool| {
                quorums(votes.len()).any(|set| (0..votes.len()).all(|voter| !has(set, voter) || fits(votes[voter])))
            };
            let brute = if some_quorum(|vote| vote == Some(true)) {
                Tally::Won
            } else if some_quorum(|vote| vote != Some(false)) {
                Tally::Open
            } else {
                Tally::Lost
            };
            prop_assert_eq!(tally(&configuration(votes.len()), |voter| votes[voter.0 as usize]), brute);
        }
    }
}

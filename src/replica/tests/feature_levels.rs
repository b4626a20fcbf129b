//! The level is raised once all members support more, and not before.

use super::*;
use crate::feature_level::FeatureLevel;
use crate::protocol::UpgradeRefusal;
use crate::raft::Upgrade;

impl Hands {
    fn tells(&mut self, from: Incarnation, level: FeatureLevel) {
        let report = Report { applied: None, mark: None, trial: None, needs_after: None, level };
        let rider = Some(Rider::Report(report));
        self.hear_with(from, self.replica.raft().term().0, Message::HeartbeatReply { round: 0 }, rider);
        self.settle();
    }

    /// A tick, and what becomes of what was proposed.
    fn go_on(&mut self) -> FeatureLevel {
        self.tick();
        self.replicate();
        self.work();
        self.replica.feature_level()
    }
}

fn leader() -> Hands {
    let mut hands = Hands::leader();
    hands.replica.levels.own = FeatureLevel::UPGRADES;
    hands.replicate();
    hands.work();
    hands
}

#[test]
fn the_level_is_what_all_members_support() {
    let mut hands = leader();
    let last = hands.last();
    assert_eq!(hands.go_on(), FeatureLevel::FIRST, "nobody has told");
    hands.tells(TWO, FeatureLevel::UPGRADES);
    assert_eq!(hands.go_on(), FeatureLevel::FIRST, "one has not told");
    hands.tells(THREE, FeatureLevel::FIRST);
    assert_eq!(hands.go_on(), FeatureLevel::FIRST, "one is old");
    assert_eq!(hands.last(), last);
    hands.tells(THREE, FeatureLevel(7));
    assert_eq!(hands.go_on(), FeatureLevel::UPGRADES, "not more than all support");
    assert_eq!(hands.go_on(), FeatureLevel::UPGRADES);
    assert_eq!(hands.last(), last.next(), "it is proposed once");
    assert_eq!(hands.replica.feature_level_of(THREE), Some(FeatureLevel(7)));
}

#[test]
fn what_was_told_in_an_earlier_term_does_not_count() {
    let mut hands = leader();
    for other in [TWO, THREE] {
        hands.tells(other, FeatureLevel::UPGRADES);
    }
    let term = hands.replica.raft().term().next();
    hands.hear(TWO, term.0, Message::Heartbeat { commit: Index::ZERO, round: 1 });
    hands.win();
    hands.replicate();
    hands.work();
    assert_eq!(hands.replica.feature_level_of(TWO), None);
    assert_eq!(hands.go_on(), FeatureLevel::FIRST);
}

#[test]
fn a_cluster_that_has_not_the_level_is_not_upgraded() {
    let mut hands = leader();
    let upgrade = Upgrade { from: Digest::of(b"old"), to: Digest::of(b"new"), migration: None };
    let now = hands.now();
    hands.replica.upgrade(Ticket(1), upgrade, FOREVER_MS, now);
    hands.settle();
    let (needs, has) = (FeatureLevel::UPGRADES, FeatureLevel::FIRST);
    let by = [TWO, THREE].map(|other| hands.replica.raft().address(other).unwrap().clone()).into();
    let refused = RequestError::NotUpgraded(UpgradeRefusal::NotYet { needs, has, by });
    assert_eq!(hands.answer(1), Some(&Err(refused)));
    assert!(hands.replica.raft().upgrades().is_empty());
}

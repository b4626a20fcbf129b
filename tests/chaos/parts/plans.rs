//! The plan of faults, and what the router's rules do to packets.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::plan::{Kind, Plan};
use crate::rules::{Effect, Rules};

const RUN: Duration = Duration::from_secs(180);

#[test]
fn a_seed_plans_the_same_again_and_each_kind_comes_once_before_any_comes_twice() {
    let first_round = |seed| {
        let mut plan = Plan::new(seed, Kind::ALL.to_vec(), RUN);
        Kind::ALL.map(|_| plan.next(&[]).expect("nothing is on that a fault could not be on with"))
    };
    assert_eq!(first_round(1), first_round(1));
    assert_ne!(first_round(1), first_round(2));
    let kinds: BTreeSet<_> = first_round(1).iter().map(|planned| planned.kind).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
}

#[test]
fn what_did_not_bite_comes_again_behind_the_next() {
    let mut plan = Plan::new(1, Kind::ALL.to_vec(), RUN);
    let first = plan.next(&[]).unwrap();
    plan.again(first.kind);
    assert_ne!(plan.next(&[]).unwrap().kind, first.kind);
    let again = plan.next(&[]).unwrap();
    assert_eq!(again.kind, first.kind);
    assert_ne!(again.seed, first.seed, "it would choose the same");
}

#[test]
fn two_nodes_never_lose_data_at_once_and_a_restart_of_all_meets_only_faults_of_the_network() {
    let losses = [Kind::Wipe, Kind::BitFlip, Kind::FsyncError];
    for (left, right) in losses.iter().flat_map(|left| losses.map(|right| (*left, right))) {
        assert!(!left.goes_with(right), "{left:?} with {right:?}");
    }
    for kind in Kind::ALL {
        assert!(!kind.goes_with(kind));
        assert!(Kind::ALL.iter().all(|other| kind.goes_with(*other) == other.goes_with(kind)), "{kind:?}");
        assert!(kind.name().parse() == Ok(kind));
    }
    let beside = Kind::ALL.into_iter().filter(|kind| kind.goes_with(Kind::RestartAll)).count();
    assert_eq!(beside, 8, "partitions and bad paths");
    assert!(!Kind::PowerCut.goes_with(Kind::Wipe));
}

#[test]
fn a_cut_of_one_direction_leaves_the_other() {
    let (rules, mut random) = (Rules::new(3), ChaCha8Rng::seed_from_u64(1));
    let cut = rules.begin(Effect::Cut, vec![(0, 1)]);
    assert!(rules.decide((0, 1), &mut random).copies.is_empty());
    assert_eq!(rules.decide((1, 0), &mut random).copies, [Duration::ZERO]);
    assert_eq!(cut.bites(), 1);
    rules.stop(&cut);
    assert_eq!(rules.decide((0, 1), &mut random).copies, [Duration::ZERO]);
    assert_eq!(cut.bites(), 1);
}

#[test]
fn effects_add_up_and_each_counts_what_it_did() {
    let (rules, mut random) = (Rules::new(3), ChaCha8Rng::seed_from_u64(1));
    let by = Duration::from_millis(10);
    let delay = rules.begin(Effect::Delay { by, jitter: Duration::ZERO }, rules.everywhere());
    let repeat = rules.begin(Effect::Repeat { percent: 100, within: Duration::ZERO }, rules.everywhere());
    let loss = rules.begin(Effect::Lose { percent: 30 }, rules.everywhere());
    let fates: Vec<_> = (0..1000).map(|_| rules.decide((0, rules.clients()), &mut random)).collect();
    let lost = fates.iter().filter(|fate| fate.copies.is_empty()).count();
    assert!((250..350).contains(&lost), "{lost} of 1000");
    assert!(fates.iter().all(|fate| fate.copies.is_empty() || fate.copies == [by, Duration::ZERO]));
    assert_eq!((delay.bites(), repeat.bites(), loss.bites()), (1000, 1000, lost as u64));
}

//! How far the machine may go, and what becomes of entries that a backend dies of.

use super::*;
use crate::feature_level::FeatureLevel;
use crate::machine::{Budget, Died, Ruling};
use crate::protocol::{BackendFault, GuestFault};
use crate::raft::Verdict;

fn fault() -> BackendFault {
    BackendFault { kind: GuestFault::Trap, message: "told to".to_owned() }
}

fn verdict(on: u64, ruling: &Ruling) -> Payload {
    Payload::Verdict(Verdict { on: Index(on), ruling: ruling.encode() })
}

fn judgement(judged: u64, verdict: u64, trial: Option<u64>) -> Option<Rider> {
    let (judged, verdict, trial) = (Index(judged), Index(verdict), trial.map(Index));
    Some(Rider::Judgement(Judgement { judged, verdict, trial, outcast: None }))
}

fn trial(on: u64, has_passed: bool) -> Rider {
    Rider::Report(Report {
        applied: None,
        mark: None,
        trial: Some((Index(on), has_passed)),
        needs_after: None,
        level: FeatureLevel::FIRST,
    })
}

/// A run that the machine was given: its entries' indexes, the budget and the rulings.
type Given = (Vec<u64>, Budget, Vec<(Index, Ruling)>);

impl Hands {
    fn runs(&self) -> Vec<Given> {
        let run = |job: &Job| match job {
            Job::Apply(Run { entries, rulings }) => {
                let indexes = entries.iter().map(|entry| entry.index.0).collect();
                Some((indexes, rulings.budget, rulings.rulings.clone()))
            }
            _ => None,
        };
        self.jobs.iter().filter_map(run).collect()
    }

    fn dies_of(&mut self, on: u64, budget: Budget) {
        self.jobs.clear();
        self.replica.died(Died { on: Index(on), budget, fault: fault() });
        self.settle();
    }

    /// The verdicts in the log.
    fn verdicts(&self) -> Vec<(u64, Ruling)> {
        let of = |entry: &Entry| match &entry.payload {
            Payload::Verdict(Verdict { on, ruling }) => Some((on.0, Ruling::decode(ruling).unwrap())),
            _ => None,
        };
        self.disk.entries().filter_map(of).collect()
    }

    /// What rides on a message to `TWO`.
    fn rider(&self) -> Option<Rider> {
        self.replica.rider(TWO)
    }

    /// What this follower says to its leader of a trial.
    fn trial(&self) -> Option<(Index, bool)> {
        let Some(Rider::Report(report)) = self.rider() else { panic!("a follower says how it stands") };
        report.trial
    }

    /// A follower that has entries 2 to 5 of term 2 and has applied the first two.
    fn following() -> Self {
        let mut hands = Self::follower();
        let entries = (2..=5).map(|index| entry(2, index, Payload::Data(data("a")))).collect();
        let prev = LogPosition::new(Term(1), Index(1));
        let append = Message::Append { prev, entries, commit: Index(5) };
        hands.hear_with(TWO, 2, append, judgement(2, 0, None));
        hands.settle();
        hands.work();
        hands
    }

    /// A leader with four entries of an older term, and its own first, which is committed.
    fn heir() -> Self {
        let mut hands = Self::following();
        hands.win();
        hands.replicate();
        hands
    }
}

#[test]
fn a_follower_applies_what_is_judged_and_no_more() {
    let mut hands = Hands::following();
    assert_eq!(hands.replica.machine().0, Index(2));
    let heartbeat = Message::Heartbeat { commit: Index(5), round: 1 };
    hands.hear_with(TWO, 2, heartbeat, judgement(4, 0, None));
    hands.settle();
    assert_eq!(hands.runs(), [(vec![3, 4], Budget::Relaxed, vec![])]);
}

#[test]
fn a_follower_waits_for_the_verdict_on_what_is_judged() {
    let mut hands = Hands::following();
    let skip = Ruling::Skip(fault());
    hands.hear_with(TWO, 2, Message::Heartbeat { commit: Index(5), round: 1 }, judgement(5, 6, None));
    hands.settle();
    assert_eq!(hands.runs(), []);
    let prev = LogPosition::new(Term(2), Index(5));
    let append = Message::Append { prev, entries: vec![entry(2, 6, verdict(4, &skip))], commit: Index(6) };
    hands.hear_with(TWO, 2, append, None);
    hands.settle();
    assert_eq!(hands.runs(), [(vec![3, 4, 5], Budget::Relaxed, vec![(Index(4), skip)])]);
}

#[test]
fn a_new_leader_applies_nothing_before_it_knows_all_verdicts() {
    let mut hands = Hands::following();
    hands.win();
    hands.tick();
    assert_eq!((hands.runs(), hands.rider()), (vec![], None));
    hands.replicate();
    assert_eq!(hands.runs(), [(vec![3, 4, 5, 6], Budget::Configured, vec![])]);
    assert_eq!(hands.rider(), judgement(2, 0, None));
}

#[test]
fn what_a_leader_has_made_and_its_backend_dies_of_is_skipped() {
    let mut hands = Hands::alone(settings());
    hands.write(1, "a");
    hands.write(2, "b");
    hands.settle();
    let first = hands.last().0 - 1;
    hands.dies_of(first, Budget::Configured);
    assert_eq!(hands.verdicts(), [(first, Ruling::Skip(fault()))]);
    let skipped = vec![(Index(first), Ruling::Skip(fault()))];
    assert_eq!(hands.runs(), [(vec![first, first + 1, first + 2], Budget::Configured, skipped)]);
    let outcome = Outcome::Written(Err(CommandError::Fault(fault())));
    let position = LogPosition::new(Term(hands.term()), Index(first));
    hands.replica.applied(vec![Applied { position, outcome, changed: vec![], chain: chain_at(Index(first)) }]);
    hands.settle();
    assert_eq!(hands.answer(1), Some(&Err(RequestError::Skipped { index: Index(first), fault: fault() })));
}

#[test]
fn nothing_behind_an_entry_is_applied_before_its_verdict_is_committed() {
    let mut hands = Hands::heir();
    hands.work();
    hands.write(1, "a");
    hands.settle();
    hands.replicate();
    hands.dies_of(7, Budget::Configured);
    hands.write(2, "b");
    hands.settle();
    assert_eq!((hands.verdicts(), hands.runs()), (vec![(7, Ruling::Skip(fault()))], vec![]));
    hands.replicate();
    assert_eq!(hands.runs()[0].0, [7, 8, 9]);
}

#[test]
fn what_a_former_leader_has_made_is_tried_again_and_kept() {
    let mut hands = Hands::heir();
    hands.dies_of(3, Budget::Configured);
    assert_eq!(hands.runs(), [(vec![3], Budget::Relaxed, vec![])]);
    assert_eq!(hands.verdicts(), [], "it is not known how the trial ends");
    hands.work();
    assert_eq!(hands.replica.machine().0, Index(2), "nobody is told before the verdict is committed");
    assert_eq!(hands.verdicts(), [(3, Ruling::Keep)]);
    hands.query(1);
    hands.settle();
    assert_eq!(hands.queries(), Vec::<Vec<u64>>::new(), "nor may the state be read");
    hands.replicate();
    assert_eq!(hands.replica.machine().0, Index(3));
    assert_eq!(hands.runs()[0], (vec![4, 5, 6, 7], Budget::Configured, vec![]));
}

#[test]
fn what_a_majority_fails_on_is_skipped() {
    let mut hands = Hands::heir();
    hands.dies_of(3, Budget::Configured);
    hands.dies_of(3, Budget::Relaxed);
    assert_eq!((hands.verdicts(), hands.rider()), (vec![], judgement(2, 0, Some(3))));
    let failed = trial(3, false);
    let reply = Message::HeartbeatReply { round: 0 };
    hands.hear_with(THREE, hands.term() - 1, reply.clone(), Some(failed));
    hands.settle();
    assert_eq!(hands.verdicts(), [], "that was about an earlier leader's");
    hands.hear_with(THREE, hands.term(), reply, Some(failed));
    hands.settle();
    assert_eq!(hands.verdicts(), [(3, Ruling::Skip(fault()))]);
}

#[test]
fn who_passes_takes_over() {
    let mut hands = Hands::heir();
    hands.dies_of(3, Budget::Configured);
    hands.dies_of(3, Budget::Relaxed);
    let passed = trial(3, true);
    hands.hear_with(TWO, hands.term(), Message::HeartbeatReply { round: 0 }, Some(passed));
    hands.settle();
    let appointed = |envelope: &&Envelope| envelope.message == Message::TimeoutNow;
    assert_eq!(hands.messages.iter().filter(appointed).map(|envelope| envelope.to).collect::<Vec<_>>(), [TWO]);
    assert_eq!(hands.verdicts(), []);
}

/// Seed 1079 of the simulation, in a cluster of four: the leader was given the same entry again and again.
#[test]
fn what_a_former_leader_has_made_is_tried_also_while_it_is_not_known_where_the_majority_is() {
    let mut hands = Hands::heir();
    let wrong = HashChain(Digest::of(b"wrong"));
    for (from, at, chain) in [(THREE, 2, wrong), (TWO, 4, chain_at(Index(4)))] {
        let report = Report {
            applied: Some((Index(at), chain)),
            mark: None,
            trial: None,
            needs_after: None,
            level: FeatureLevel::FIRST,
        };
        hands.hear_with(from, hands.term(), Message::HeartbeatReply { round: 0 }, Some(Rider::Report(report)));
    }
    hands.dies_of(3, Budget::Configured);
    assert_eq!(hands.runs(), [(vec![3], Budget::Relaxed, vec![])]);
}

#[test]
fn a_follower_tries_what_it_is_asked_to_and_goes_back_if_that_is_skipped() {
    let mut hands = Hands::following();
    let heartbeat = Message::Heartbeat { commit: Index(5), round: 1 };
    hands.hear_with(TWO, 2, heartbeat.clone(), judgement(2, 0, Some(3)));
    hands.settle();
    assert_eq!(hands.trial(), None);
    assert_eq!(hands.runs(), [(vec![3], Budget::Relaxed, vec![])]);
    hands.work();
    assert_eq!(hands.replica.machine(), (Index(2), chain_at(Index(2))));
    assert_eq!(hands.trial(), Some((Index(3), true)));
    let skip = verdict(3, &Ruling::Skip(fault()));
    let prev = LogPosition::new(Term(2), Index(5));
    let append = Message::Append { prev, entries: vec![entry(2, 6, skip)], commit: Index(6) };
    hands.hear_with(TWO, 2, append, judgement(6, 6, None));
    hands.settle();
    let [Job::Rewind(Index(2), chain), Job::Apply(run), ..] = &hands.jobs[..] else { panic!("{:?}", hands.jobs) };
    assert_eq!((*chain, run.rulings.rulings.len()), (chain_at(Index(2)), 1));
}

#[test]
fn what_came_of_a_trial_is_of_no_interest_once_a_snapshot_has_taken_its_place() {
    let mut hands = Hands::following();
    let heartbeat = Message::Heartbeat { commit: Index(5), round: 1 };
    hands.hear_with(TWO, 2, heartbeat, judgement(2, 0, Some(3)));
    hands.settle();
    assert_eq!(hands.runs(), [(vec![3], Budget::Relaxed, vec![])]);
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 9) });
    let position = LogPosition::new(Term(2), Index(3));
    let (outcome, changed, chain) = (Outcome::Nothing, vec![], HashChain(Digest::of(b"perhaps skipped")));
    hands.replica.applied(vec![Applied { position, outcome, changed, chain }]);
    assert_eq!(hands.replica.machine(), (Index(2), chain_at(Index(2))), "nobody is told");
    hands.replica.restored(&meta(2, 9), 0, chain_at(Index(9)), vec![], AccessControl::default(), FeatureLevel::FIRST);
    hands.forget();
    hands.hear_entries(TWO, 2, (2, 9), vec![entry(2, 10, Payload::Noop)], 10);
    assert_eq!(hands.runs(), [(vec![10], Budget::Relaxed, vec![])], "and it goes on");
}

#[test]
fn a_trial_that_a_dead_machine_never_reports_does_not_outlive_its_snapshot() {
    let mut hands = Hands::following();
    let heartbeat = Message::Heartbeat { commit: Index(5), round: 1 };
    hands.hear_with(TWO, 2, heartbeat, judgement(2, 0, Some(3)));
    hands.settle();
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 9) });
    hands.replica.restored(&meta(2, 9), 0, chain_at(Index(9)), vec![], AccessControl::default(), FeatureLevel::FIRST);
    hands.forget();
    hands.hear_entries(TWO, 2, (2, 9), vec![entry(2, 10, Payload::Noop)], 10);
    assert_eq!(hands.runs(), [(vec![10], Budget::Relaxed, vec![])]);
}

#[test]
fn a_follower_that_fails_says_so_and_tries_no_more() {
    let mut hands = Hands::following();
    let heartbeat = Message::Heartbeat { commit: Index(5), round: 1 };
    hands.hear_with(TWO, 2, heartbeat.clone(), judgement(2, 0, Some(3)));
    hands.settle();
    hands.dies_of(3, Budget::Relaxed);
    hands.hear_with(TWO, 2, heartbeat, judgement(2, 0, Some(3)));
    hands.settle();
    assert_eq!(hands.trial(), Some((Index(3), false)));
    assert_eq!(hands.runs(), []);
}

#[test]
fn who_cannot_apply_what_is_judged_gets_a_snapshot_and_stops_if_that_is_no_help() {
    let mut hands = Hands::following();
    hands.hear_with(TWO, 2, Message::Heartbeat { commit: Index(5), round: 1 }, judgement(4, 0, None));
    hands.settle();
    hands.dies_of(3, Budget::Relaxed);
    assert_eq!((hands.replica.quarantine(), hands.runs()), (Some(Index(3)), vec![]));
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 2) });
    hands.jobs.clear();
    hands.replica.restored(&meta(2, 2), 0, chain_at(Index(2)), vec![], AccessControl::default(), FeatureLevel::FIRST);
    hands.settle();
    hands.replica.died(Died { on: Index(3), budget: Budget::Relaxed, fault: fault() });
    let stop = hands.replica.effects(hands.now()).stop.unwrap();
    assert!(stop.contains("died of entry 3"), "{stop}");
}

//! A machine is given no upgrade whose component is missing; and no trigger outlives one.

use super::*;
use crate::feature_level::FeatureLevel;
use crate::machine::{Budget, Died, Ruling};
use crate::protocol::{BackendFault, GuestFault, TriggerReason, UpgradeRefusal, UpgradeStatus};
use crate::raft::{Upgrade, Verdict};

fn component(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn upgrade() -> Upgrade {
    Upgrade { from: component("old"), to: component("new"), migration: None }
}

impl Hands {
    /// What a replica asks for with its effects; the rest is carried out.
    fn settle_and_take_component(&mut self) -> Option<Digest> {
        self.settle();
        self.components.pop()
    }

    /// An upgrade in a cluster whose peers all support that.
    fn upgrade(&mut self, ticket: u64) {
        let now = self.now();
        self.replica.levels.cluster = FeatureLevel::UPGRADES;
        self.replica.upgrade(Ticket(ticket), upgrade(), FOREVER_MS, now);
    }

    fn given(&self) -> Vec<u64> {
        let indexes = |job: &Job| match job {
            Job::Apply(run) => run.entries.iter().map(|entry| entry.index.0).collect(),
            _ => vec![],
        };
        self.jobs.iter().flat_map(indexes).collect()
    }

    /// The machine says what came of the upgrade.
    fn tell(&mut self, on: Index, outcome: Outcome) {
        let position = LogPosition::new(self.replica.raft().term(), on);
        self.replica.applied(vec![Applied { position, outcome, changed: vec![], chain: chain_at(on) }]);
        self.settle();
    }
}

fn upgraded() -> Outcome {
    Outcome::Upgraded { component: component("new"), version: "2".to_owned() }
}

#[test]
fn the_machine_waits_for_a_missing_component_and_goes_on_with_it() {
    let mut hands = Hands::alone(settings());
    hands.write(1, "before");
    hands.settle();
    hands.upgrade(2);
    hands.write(3, "behind");
    assert_eq!(hands.settle_and_take_component(), Some(component("new")));
    let on = hands.replica.raft().upgrades()[0].0;
    assert!(!hands.given().contains(&on.0), "{:?}", hands.given());
    hands.work();
    hands.tick();
    assert_eq!(hands.settle_and_take_component(), None, "it is asked for once");
    assert!(hands.answer(1).is_some_and(Result::is_ok) && hands.answer(3).is_none());

    hands.replica.component_ready(component("another"));
    hands.settle();
    assert!(hands.given().is_empty());
    hands.replica.component_ready(component("new"));
    hands.settle();
    assert_eq!(hands.given().first(), Some(&on.0));
    hands.tell(on, upgraded());
    assert_eq!(hands.answer(2), Some(&Ok((on, Ok(Bytes::from("2"))))));
    assert_eq!(hands.replica.moved_to(), Some(component("new")));
    assert_eq!(hands.replica.latest_upgrade(), Some(&UpgradeStatus { index: on, result: Ok("2".to_owned()) }));
}

#[test]
fn what_is_ruled_to_be_skipped_needs_no_component() {
    let mut hands = Hands::follower();
    let fault = BackendFault { kind: GuestFault::Trap, message: "told to".to_owned() };
    let entry = |index, payload| Entry { term: Term(1), index: Index(index), time_ms: 5, payload };
    let ruling = Ruling::Skip(fault).encode();
    let entries =
        vec![entry(2, Payload::Upgrade(upgrade())), entry(3, Payload::Verdict(Verdict { on: Index(2), ruling }))];
    hands.hear_entries(TWO, 1, (1, 1), entries, 2);
    assert_eq!(hands.settle_and_take_component(), Some(component("new")), "the verdict is not committed");
    assert_eq!(hands.given(), [1]);
    let heartbeat = Message::Heartbeat { commit: Index(3), round: 1 };
    hands.hear(TWO, 1, heartbeat);
    assert_eq!(hands.given(), [1, 2, 3]);
}

#[test]
fn a_backend_that_dies_of_the_state_is_ruled_out_and_who_waits_is_told() {
    let mut hands = Hands::alone(settings());
    hands.upgrade(1);
    hands.settle();
    hands.replica.component_ready(component("new"));
    hands.settle();
    let on = hands.replica.raft().upgrades()[0].0;
    hands.jobs.clear();
    let fault = BackendFault { kind: GuestFault::Trap, message: "told to".to_owned() };
    hands.replica.died(Died { on, budget: Budget::Configured, fault: fault.clone() });
    hands.settle();
    let Some(Job::Apply(run)) = hands.jobs.iter().find(|job| matches!(job, Job::Apply(_))) else { panic!("no run") };
    assert_eq!(run.rulings.on(on), Some(&Ruling::Skip(fault.clone())));
    let refusal = UpgradeRefusal::Fault(fault);
    hands.tell(on, Outcome::NotUpgraded(refusal.clone()));
    assert_eq!(hands.answer(1), Some(&Err(RequestError::NotUpgraded(refusal.clone()))));
    assert_eq!(hands.replica.moved_to(), None);
    assert_eq!(hands.replica.latest_upgrade(), Some(&UpgradeStatus { index: on, result: Err(refusal) }));
}

#[test]
fn no_trigger_outlives_an_upgrade_but_those_that_know_of_it() {
    let (mut hands, _) = Hands::with_session(10_000);
    hands.ask(1, SessionRequest::Query { id: TriggerId(1), request: data("a"), watch: true });
    hands.work();
    let since = hands.last();
    let behind = Index(since.0 + 100);
    hands.ask(1, SessionRequest::Rearm { id: TriggerId(2), keys: vec![data("a")], since: behind });
    hands.told(1);
    hands.upgrade(1);
    hands.settle();
    hands.replica.component_ready(component("new"));
    hands.settle();
    hands.jobs.clear();
    let on = hands.replica.raft().upgrades()[0].0;
    hands.tell(on, upgraded());
    let in_doubt = |id| SessionEvent::Fired { id: TriggerId(id), reason: TriggerReason::LeaderChanged };
    assert_eq!(hands.told(1), [in_doubt(1)]);
    // Nor does one that is armed again as of before it.
    hands.ask(1, SessionRequest::Rearm { id: TriggerId(3), keys: vec![data("b")], since });
    assert_eq!(hands.told(1), [in_doubt(3)]);
    hands.ask(1, SessionRequest::Rearm { id: TriggerId(4), keys: vec![data("b")], since: on });
    assert_eq!(hands.told(1), []);
}

#[test]
fn who_cannot_get_a_component_that_others_have_used_takes_their_state() {
    let mut hands = Hands::follower();
    let entry = |index, payload| Entry { term: Term(1), index: Index(index), time_ms: 5, payload };
    hands.hear_entries(TWO, 1, (1, 1), vec![entry(2, Payload::Upgrade(upgrade()))], 1);
    hands.replica.component_missing(component("new"));
    assert_eq!(hands.replica.quarantine(), None, "nobody is known to have applied it");
    hands.hear(TWO, 1, Message::Heartbeat { commit: Index(2), round: 1 });
    hands.replica.component_missing(component("another"));
    assert_eq!(hands.replica.quarantine(), None);
    hands.replica.component_missing(component("new"));
    assert_eq!(hands.replica.quarantine(), Some(Index(2)));
    // Those may have left meanwhile, and taken it along.
    hands.replica.component_ready(component("another"));
    assert_eq!(hands.replica.quarantine(), Some(Index(2)));
    hands.replica.component_ready(component("new"));
    assert_eq!(hands.replica.quarantine(), None, "nothing is wrong with its own state");
}

#[test]
fn a_change_that_would_leave_only_who_is_behind_an_upgrade_is_refused() {
    let mut hands = Hands::serving();
    hands.upgrade(1);
    hands.settle();
    hands.replica.component_ready(component("new"));
    hands.replicate();
    hands.settle();
    let on = hands.replica.raft().upgrades()[0].0;
    hands.tell(on, upgraded());
    let has_applied = |index| {
        Rider::Report(Report {
            applied: Some((index, chain_at(index))),
            mark: None,
            trial: None,
            needs_after: None,
            level: FeatureLevel::UPGRADES,
        })
    };
    let voters = BTreeMap::from([(TWO, address(TWO).expect("a peer"))]);
    hands.hear_with(TWO, hands.term(), Message::HeartbeatReply { round: 0 }, Some(has_applied(on.prev())));
    let now = hands.now();
    assert_eq!(hands.replica.change_members(voters.clone(), now), Err(MembershipError::Diverged));
    hands.hear_with(TWO, hands.term(), Message::HeartbeatReply { round: 0 }, Some(has_applied(on)));
    assert!(hands.replica.change_members(voters, now).is_ok());
}

#[test]
fn a_component_that_is_found_does_not_mend_a_state_that_differs() {
    let mut hands = Hands::follower();
    hands.hear_entries(TWO, 1, (1, 1), vec![entry(1, 2, Payload::Noop)], 2);
    hands.replica.machine_missing(component("old"));
    hands.replica.enter_quarantine(Index(1));
    hands.replica.component_ready(component("old"));
    assert_eq!(hands.replica.quarantine(), Some(Index(1)));
}

#[test]
fn an_upgrade_that_was_proposed_twice_has_ended_as_the_first() {
    let mut hands = Hands::alone(settings());
    assert!(hands.replica.knows_component());
    hands.upgrade(1);
    hands.upgrade(2);
    assert!(!hands.replica.knows_component(), "it waits in the log");
    hands.settle();
    hands.replica.component_ready(component("new"));
    hands.settle();
    let [(first, _), (second, _)] = hands.replica.raft().upgrades()[..] else { panic!("two were proposed") };
    hands.tell(first, upgraded());
    assert!(!hands.replica.knows_component());
    let changed = UpgradeRefusal::Changed { now: component("new") };
    hands.tell(second, Outcome::NotUpgraded(changed.clone()));
    assert!(hands.replica.knows_component());
    assert_eq!(hands.answer(2), Some(&Err(RequestError::NotUpgraded(changed))));
    assert_eq!(hands.replica.latest_upgrade(), Some(&UpgradeStatus { index: first, result: Ok("2".to_owned()) }));
}

#[test]
fn a_new_leader_does_not_know_what_its_cluster_runs_before_it_has_applied_all_of_its_predecessors() {
    let mut hands = Hands::follower();
    hands.hear_entries(TWO, 1, (1, 1), vec![entry(1, 2, Payload::Upgrade(upgrade()))], 1);
    hands.work();
    assert!(!hands.replica.knows_component(), "it does not lead");
    hands.win();
    assert!(!hands.replica.knows_component());
    hands.replicate();
    hands.replica.component_ready(component("new"));
    hands.settle();
    hands.work();
    assert!(hands.replica.knows_component());

    let mut hands = Hands::leader();
    assert!(!hands.replica.knows_component(), "it has yet to apply an entry of its own term");
    hands.replicate();
    hands.work();
    assert!(hands.replica.knows_component());
}

#[test]
fn whose_own_snapshot_is_of_no_use_takes_the_state_of_others() {
    let mut hands = Hands::follower();
    hands.replica.machine_missing(component("old"));
    assert_eq!(hands.replica.quarantine(), None, "nobody is known to have another");
    hands.hear_entries(TWO, 1, (1, 1), vec![entry(1, 2, Payload::Noop)], 2);
    hands.replica.machine_missing(component("old"));
    assert_eq!(hands.replica.quarantine(), Some(Index::ZERO));
    hands.replica.component_ready(component("old"));
    assert_eq!(hands.replica.quarantine(), None);
    let mut alone = Hands::alone(settings());
    alone.replica.machine_missing(component("old"));
    assert_eq!(alone.replica.quarantine(), None, "a leader is not outvoted");
}

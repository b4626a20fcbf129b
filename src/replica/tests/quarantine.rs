//! What becomes of a replica that has parted from the others.

use super::*;
use crate::feature_level::FeatureLevel;

fn report(applied: u64, chain: HashChain, needs_after: Option<u64>) -> Option<Rider> {
    let applied = Some((Index(applied), chain));
    Some(Rider::Report(Report {
        applied,
        mark: None,
        trial: None,
        needs_after: needs_after.map(Index),
        level: FeatureLevel::FIRST,
    }))
}

fn wrong() -> HashChain {
    HashChain(Digest::of(b"wrong"))
}

impl Hands {
    fn reports(&mut self, from: Incarnation, rider: Option<Rider>) {
        self.hear_with(from, self.term(), Message::HeartbeatReply { round: 0 }, rider);
        self.settle();
    }

    fn outcast(&self, to: Incarnation) -> Option<(Index, HashChain)> {
        let Some(Rider::Judgement(judgement)) = self.replica.rider(to) else { panic!("a leader says what is judged") };
        judgement.outcast
    }

    fn snapshots_to(&self, to: Incarnation) -> Vec<Index> {
        let position = |envelope: &Envelope| match &envelope.message {
            Message::Snapshot { meta } if envelope.to == to => Some(meta.position.index),
            _ => None,
        };
        self.snapshots.iter().filter_map(position).collect()
    }
}

/// A replica that applies much at once, as after a restart, does not remember where it was found to differ.
#[test]
fn who_differs_is_told_of_the_latest_entry_and_not_of_one_that_is_long_past() {
    let mut hands = Hands::serving();
    let first = hands.last();
    hands.reports(THREE, report(first.0, wrong(), None));
    hands.reports(TWO, report(first.0, chain_at(first), None));
    assert_eq!(hands.outcast(THREE), Some((first, chain_at(first))));
    for count in 0..100 {
        hands.write(count, "a");
        hands.settle();
        hands.replicate();
        hands.work();
    }
    assert_eq!(hands.outcast(THREE), None, "the leader does not remember either");
    let last = hands.last();
    hands.reports(TWO, report(last.0, chain_at(last), None));
    hands.reports(THREE, report(last.0, wrong(), None));
    assert_eq!(hands.outcast(THREE), Some((last, chain_at(last))));
}

/// It was made again from a snapshot so old that the leader remembers no chain of then.
#[test]
fn who_is_earlier_than_where_it_differed_differs_no_more() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(TWO, report(at.0, chain_at(at), None));
    hands.reports(THREE, report(at.0, wrong(), None));
    assert!(hands.outcast(THREE).is_some());
    hands.reports(THREE, report(0, wrong(), None));
    assert_eq!(hands.outcast(THREE), None);
    hands.reports(TWO, report(at.0, wrong(), None));
    assert!(hands.replica.raft().is_leader(), "the third may yet agree");
}

/// It was made again, and had applied much when it was next heard: what it said last the leader does not remember any more.
#[test]
fn who_agrees_at_a_mark_behind_where_it_differed_differs_no_more() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(TWO, report(at.0, chain_at(at), None));
    hands.reports(THREE, report(at.0, wrong(), None));
    for count in 0..200 {
        hands.write(count, "a");
        hands.settle();
        hands.replicate();
        hands.work();
    }
    let [mark, forgotten] = [Index(64), Index(70)];
    assert!(mark > at);
    let told = Report {
        applied: Some((forgotten, chain_at(forgotten))),
        mark: Some((mark, chain_at(mark))),
        trial: None,
        needs_after: None,
        level: FeatureLevel::FIRST,
    };
    hands.reports(THREE, Some(Rider::Report(told)));
    hands.reports(TWO, report(hands.last().0, wrong(), None));
    assert!(hands.replica.raft().is_leader(), "one of two others differs");
}

#[test]
fn a_change_that_would_give_the_majority_to_who_differs_is_refused() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(TWO, report(at.0, chain_at(at), None));
    hands.reports(THREE, report(at.0, wrong(), None));
    let now = hands.now();
    const ONE: Incarnation = Incarnation(1);
    let voters = |ids: &[Incarnation]| ids.iter().map(|id| (*id, address(*id).expect("a peer"))).collect();
    let refused = Err(MembershipError::Diverged);
    assert_eq!(hands.replica.change_members(voters(&[ONE, THREE]), now), refused);
    assert_eq!(hands.replica.change_members(voters(&[THREE]), now), refused);
    assert!(hands.replica.change_members(voters(&[ONE, TWO]), now).is_ok(), "who differs may leave");
}

#[test]
fn a_change_that_would_leave_only_who_waits_for_the_state_of_others_is_refused() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(THREE, report(at.0, chain_at(at), Some(3)));
    let now = hands.now();
    let voters = BTreeMap::from([(THREE, address(THREE).expect("a peer"))]);
    assert_eq!(hands.replica.change_members(voters.clone(), now), Err(MembershipError::Diverged));
    hands.reports(THREE, report(at.0, chain_at(at), None));
    assert!(hands.replica.change_members(voters, now).is_ok());
}

#[test]
fn who_differs_from_a_majority_is_told_and_served_a_snapshot() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(THREE, report(at.0, wrong(), None));
    assert_eq!(hands.outcast(THREE), None, "it is not known what the third says");
    hands.reports(TWO, report(at.0, chain_at(at), None));
    assert_eq!((hands.outcast(THREE), hands.outcast(TWO)), (Some((at, chain_at(at))), None));

    hands.reports(THREE, report(at.0, wrong(), Some(0)));
    hands.write(1, "a");
    hands.settle();
    hands.replicate();
    assert!(matches!(hands.jobs[..], [Job::SnapshotAsIs(_), ..]), "{:?}", hands.jobs);
    hands.work();
    assert_eq!(hands.snapshots_to(THREE), [], "there is none");
    let meta = hands.wanted.pop().expect("one is wanted soon");
    hands.replica.snapshot_taken(meta.clone(), 0);
    hands.settle();
    assert_eq!(hands.snapshots_to(THREE), [meta.position.index]);
    hands.reports(THREE, report(meta.position.index.0, chain_at(meta.position.index), None));
    assert_eq!(hands.outcast(THREE), None, "its state is right again");
}

#[test]
fn while_it_is_not_known_where_the_majority_is_nothing_is_applied() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(THREE, report(at.0, wrong(), None));
    hands.write(1, "a");
    hands.settle();
    hands.replicate();
    assert!(!hands.jobs.iter().any(|job| matches!(job, Job::Apply(_))));
    hands.reports(TWO, report(at.0, chain_at(at), None));
    assert!(hands.jobs.iter().any(|job| matches!(job, Job::Apply(_))));
}

#[test]
fn a_leader_that_differs_from_the_majority_steps_aside() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(THREE, report(at.0, wrong(), None));
    hands.reports(TWO, report(at.0, wrong(), None));
    assert_eq!((hands.replica.raft().is_leader(), hands.replica.quarantine()), (false, Some(at)));
    hands.query(1);
    hands.settle();
    assert_eq!(hands.answer(1), Some(&Err(RequestError::Quarantined)));
}

#[test]
fn what_an_earlier_leader_heard_counts_no_more() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.reports(THREE, report(at.0, wrong(), None));
    hands.hear(TWO, hands.term() + 1, Message::Heartbeat { commit: Index(1), round: 1 });
    hands.win();
    hands.replicate();
    assert!(hands.jobs.iter().any(|job| matches!(job, Job::Apply(_))));
}

#[test]
fn who_is_told_that_it_differs_applies_and_answers_nothing_before_it_has_a_snapshot() {
    let mut hands = Hands::follower();
    let entries = (2..=5).map(|index| entry(2, index, Payload::Data(data("a")))).collect();
    let told = |outcast| {
        let (judged, verdict, trial) = (Index(5), Index::ZERO, None);
        Some(Rider::Judgement(Judgement { judged, verdict, trial, outcast }))
    };
    let append = Message::Append { prev: LogPosition::new(Term(1), Index(1)), entries, commit: Index(5) };
    hands.hear_with(TWO, 2, append, told(None));
    hands.settle();
    hands.work();
    hands.query(1);
    hands.settle();
    let heartbeat = Message::Heartbeat { commit: Index(5), round: 1 };
    hands.hear_with(TWO, 2, heartbeat.clone(), told(Some((Index(4), chain_at(Index(4))))));
    assert_eq!(hands.replica.quarantine(), None, "it does not differ there");
    hands.hear_with(TWO, 2, heartbeat, told(Some((Index(4), wrong()))));
    hands.settle();
    assert_eq!(hands.replica.quarantine(), Some(Index(4)));
    assert_eq!(hands.answer(1), Some(&Err(RequestError::Quarantined)));
    hands.hear_entries(TWO, 2, (2, 5), vec![entry(2, 6, Payload::Noop)], 6);
    assert_eq!(hands.jobs, []);

    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 4) });
    let [Job::Restore(restored), Job::Apply(run)] = &hands.jobs[..] else { panic!("{:?}", hands.jobs) };
    assert_eq!((restored, run.entries[0].index), (&meta(2, 4), Index(5)));
    assert_eq!(hands.replica.quarantine(), None);
    hands.work();
    assert_eq!(hands.replica.machine().0, Index(6));
}

#[test]
fn nobody_is_told_what_a_wrong_machine_still_reports() {
    let mut hands = Hands::serving();
    let at = hands.last();
    hands.write(1, "a");
    hands.settle();
    hands.replicate();
    hands.reports(THREE, report(at.0, wrong(), None));
    hands.reports(TWO, report(at.0, wrong(), None));
    assert_eq!(hands.replica.quarantine(), Some(at));
    assert!(hands.jobs.iter().any(|job| matches!(job, Job::Apply(_))), "given out before");
    hands.work();
    let answer = BackendAnswer { reply: Ok(Bytes::from_static(b"wrong")), watched: vec![] };
    hands.replica.answered(vec![QueryAnswer { asker: Asker::Client(Ticket(2)), index: at, result: Ok(answer) }]);
    hands.settle();
    assert_eq!((hands.answer(1), hands.answer(2)), (None, Some(&Err(RequestError::Quarantined))));
    assert_eq!(hands.replica.machine().0, at);

    let newer = at.next().next();
    hands.hear(TWO, hands.term() + 1, Message::Snapshot { meta: meta(hands.term() + 1, newer.0) });
    assert_eq!(hands.answer(1), Some(&Err(RequestError::Unknown)));
    assert!(!hands.replica.is_past(at), "the machine may yet be made as it was");
    hands.work();
    assert!(hands.replica.is_past(newer) && !hands.replica.is_past(newer.next()));
}

//! Reads share confirmations, wait for the entries they need, and outlive lost questions.

use super::*;

fn questions_to(hands: &Hands, to: Incarnation) -> Vec<raft::ReadId> {
    let question = |envelope: &Envelope| match envelope.message {
        Message::ReadIndex { id } if envelope.to == to => Some(id),
        _ => None,
    };
    hands.messages.iter().filter_map(question).collect()
}

/// A follower of `TWO` in term 2.
fn follower() -> Hands {
    let mut hands = Hands::follower();
    hands.hear_entries(TWO, 2, (1, 1), vec![entry(2, 2, Payload::Noop)], 2);
    hands.work();
    hands.forget();
    hands
}

#[test]
fn reads_that_come_together_share_one_confirmation_and_later_ones_do_not() {
    let mut hands = Hands::serving();
    (1..=3).for_each(|ticket| hands.query(ticket));
    hands.settle();
    let [first] = hands.heartbeat_rounds()[..] else { panic!("{:?}", hands.messages) };
    hands.query(4);
    hands.settle();
    assert_eq!(hands.queries(), Vec::<Vec<u64>>::new(), "not confirmed");
    hands.hear(TWO, hands.term(), Message::HeartbeatReply { round: first });
    assert_eq!(hands.queries(), [[1, 2, 3]]);
    let [_, second] = hands.heartbeat_rounds()[..] else { panic!("{:?}", hands.messages) };
    hands.hear(TWO, hands.term(), Message::HeartbeatReply { round: second });
    assert_eq!(hands.queries(), [vec![1, 2, 3], vec![4]]);
}

#[test]
fn many_reads_are_given_out_in_several_jobs() {
    let mut hands = Hands::serving();
    let count = 2 * Replica::MAX_QUERIES_PER_JOB as u64 + 1;
    (0..count).for_each(|ticket| hands.query(ticket));
    hands.settle();
    let [round] = hands.heartbeat_rounds()[..] else { panic!("{:?}", hands.messages) };
    hands.hear(TWO, hands.term(), Message::HeartbeatReply { round });
    let jobs = hands.queries();
    let most = Replica::MAX_QUERIES_PER_JOB;
    assert_eq!(jobs.iter().map(Vec::len).collect::<Vec<_>>(), [most, most, 1]);
    assert!(jobs.concat().into_iter().eq(0..count), "in the order in which they came");
}

#[test]
fn a_read_is_given_out_behind_the_entries_that_it_needs() {
    let mut hands = follower();
    hands.query(1);
    hands.settle();
    let [id] = questions_to(&hands, TWO)[..] else { panic!("one question") };
    hands.hear(TWO, 2, Message::ReadIndexReply { id, index: Index(4) });
    hands.hear_entries(TWO, 2, (2, 2), vec![entry(2, 3, Payload::Noop), entry(2, 4, Payload::Noop)], 3);
    assert_eq!(hands.queries(), Vec::<Vec<u64>>::new(), "entry 4 is not committed here");
    hands.hear(TWO, 2, Message::Heartbeat { commit: Index(4), round: 1 });
    let [Job::Apply(third), Job::Apply(fourth), Job::Query(..)] = &hands.jobs[..] else { panic!("{:?}", hands.jobs) };
    assert_eq!((third.entries.last().unwrap().index, fourth.entries.last().unwrap().index), (Index(3), Index(4)));
}

#[test]
fn a_read_is_given_out_behind_the_snapshot_that_it_needs() {
    let mut hands = follower();
    hands.query(1);
    hands.settle();
    let [id] = questions_to(&hands, TWO)[..] else { panic!("one question") };
    hands.hear(TWO, 2, Message::ReadIndexReply { id, index: Index(9) });
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 9) });
    assert!(matches!(hands.jobs[..], [Job::Restore(_), Job::Query(..)]), "{:?}", hands.jobs);
}

#[test]
fn a_new_leader_reads_nothing_before_an_entry_of_its_term_is_committed() {
    let mut hands = Hands::leader();
    hands.query(1);
    hands.settle();
    let round = *hands.heartbeat_rounds().last().unwrap();
    hands.hear(TWO, hands.term(), Message::HeartbeatReply { round });
    assert_eq!(hands.queries(), Vec::<Vec<u64>>::new());
    hands.replicate();
    assert_eq!(hands.queries(), [[1]]);
    assert!(matches!(hands.jobs[..], [Job::Apply(_), Job::Query(..)]), "{:?}", hands.jobs);
}

#[test]
fn a_question_that_a_change_of_leader_lost_is_asked_anew() {
    let mut hands = follower();
    hands.query(1);
    hands.settle();
    hands.hear(THREE, 3, Message::Heartbeat { commit: Index(2), round: 1 });
    let [old] = questions_to(&hands, TWO)[..] else { panic!("one question") };
    let [new] = questions_to(&hands, THREE)[..] else { panic!("one question") };
    assert_ne!(old, new);
    hands.hear(THREE, 3, Message::ReadIndexReply { id: old, index: Index(2) });
    assert_eq!(hands.queries(), Vec::<Vec<u64>>::new(), "an answer to the old question");
    hands.hear(THREE, 3, Message::ReadIndexReply { id: new, index: Index(2) });
    assert_eq!(hands.queries(), [[1]]);
}

#[test]
fn a_question_that_stays_unanswered_is_asked_anew_and_answered_once() {
    let mut hands = follower();
    hands.query(1);
    for round in 1..=u64::from(ELECTION_TICKS) + 1 {
        hands.tick();
        hands.hear(TWO, 2, Message::Heartbeat { commit: Index(2), round });
    }
    let ids = questions_to(&hands, TWO);
    assert_eq!(ids.len(), 2, "{ids:?}");
    for id in ids {
        hands.hear(TWO, 2, Message::ReadIndexReply { id, index: Index(2) });
    }
    assert_eq!(hands.queries(), [[1]]);
}

#[test]
fn a_leader_that_is_not_answered_asks_anew() {
    let mut hands = Hands::serving();
    hands.query(1);
    hands.settle();
    hands.hear(TWO, hands.term() + 1, Message::Heartbeat { commit: Index(1), round: 1 });
    assert_eq!(questions_to(&hands, TWO).len(), 1, "now of the new leader");
}

#[test]
fn reads_wait_for_a_leader_until_their_deadline() {
    let mut hands = Hands::follower();
    hands.query_by(1, 2 * TICK_MS);
    hands.query(2);
    hands.tick();
    assert_eq!(hands.answers, BTreeMap::new());
    hands.tick();
    assert_eq!(hands.answers, [(Ticket(1), Err(RequestError::NoLeader))].into());
    hands.hear(TWO, 2, Message::Heartbeat { commit: Index(1), round: 1 });
    assert_eq!(questions_to(&hands, TWO).len(), 1);
}

#[test]
fn a_read_that_is_not_confirmed_by_its_deadline_found_no_leader() {
    let mut hands = Hands::serving();
    hands.query_by(1, hands.now_ms + TICK_MS);
    hands.settle();
    hands.tick();
    assert_eq!(hands.answers, [(Ticket(1), Err(RequestError::NoLeader))].into());
    let round = *hands.heartbeat_rounds().last().unwrap();
    hands.hear(TWO, hands.term(), Message::HeartbeatReply { round });
    assert!(hands.queries().iter().all(Vec::is_empty), "{:?}", hands.jobs);
}

#[test]
fn a_confirmed_read_that_the_machine_does_not_reach_in_time_is_not_blamed_on_the_leader() {
    let mut hands = follower();
    hands.query_by(1, hands.now_ms + TICK_MS);
    hands.settle();
    let [id] = questions_to(&hands, TWO)[..] else { panic!("one question") };
    hands.hear(TWO, 2, Message::ReadIndexReply { id, index: Index(9) });
    hands.tick();
    assert_eq!(hands.answers, [(Ticket(1), Err(RequestError::Overloaded))].into());
    hands.hear(TWO, 2, Message::Snapshot { meta: meta(2, 9) });
    assert_eq!(hands.queries(), Vec::<Vec<u64>>::new());
}

#[test]
fn reads_count_as_waiting_until_the_machine_has_answered_them() {
    let mut hands = Hands::alone(settings());
    let most = Replica::MAX_WAITING as u64;
    (0..most).for_each(|ticket| hands.query(ticket));
    hands.settle();
    assert_eq!(hands.queries().concat().len() as u64, most, "all are with the machine");
    hands.query(most);
    hands.settle();
    assert_eq!(hands.answers, [(Ticket(most), Err(RequestError::Overloaded))].into());
    hands.work();
    hands.query(most + 1);
    hands.settle();
    assert_eq!(hands.queries(), [[most + 1]]);
}

//! Writes are answered once, and with what is known of them.

use super::*;

fn appended_to_two(hands: &Hands) -> Vec<Vec<Bytes>> {
    let commands = |entries: &[Entry]| {
        let data = entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Data(data) => Some(data.clone()),
            Payload::Noop | Payload::Membership(_) | Payload::Verdict(_) | Payload::Upgrade(_) => None,
        });
        data.collect::<Vec<_>>()
    };
    let append = |envelope: &Envelope| match &envelope.message {
        Message::Append { entries, .. } if envelope.to == TWO => Some(commands(entries)),
        _ => None,
    };
    hands.messages.iter().filter_map(append).filter(|commands| !commands.is_empty()).collect()
}

fn overloaded() -> Option<WriteResult> {
    Some(Err(RequestError::Overloaded))
}

#[test]
fn a_write_is_answered_with_the_outcome_of_its_entry_once_that_is_applied() {
    let mut hands = Hands::leader();
    hands.write(1, "a");
    hands.write(2, "b");
    hands.settle();
    assert_eq!(hands.answer(1), None, "not replicated");
    hands.replicate();
    assert_eq!(hands.answer(1), None, "not applied");
    hands.work();
    assert_eq!(hands.answer(1), Some(&Ok((Index(3), Ok(data("a"))))));
    assert_eq!(hands.answer(2), Some(&Ok((Index(4), Ok(data("b"))))));
}

#[test]
fn a_refusal_is_an_outcome() {
    let mut hands = Hands::alone(settings());
    hands.write(1, "a");
    hands.settle();
    let position = LogPosition::new(Term(hands.term()), hands.last());
    let outcome = Outcome::Written(Err(CommandError::Refused("no".to_owned())));
    hands.replica.applied(vec![Applied { position, outcome, changed: vec![], chain: HashChain::default() }]);
    hands.settle();
    assert_eq!(hands.answer(1), Some(&Ok((position.index, Err("no".to_owned())))));
}

#[test]
fn writes_that_come_together_travel_together() {
    let mut hands = Hands::leader();
    hands.replicate();
    hands.forget();
    hands.write(1, "a");
    hands.write(2, "b");
    hands.write(3, "c");
    hands.settle();
    assert_eq!(appended_to_two(&hands), [[data("a"), data("b"), data("c")]]);
}

#[test]
fn of_what_does_not_fit_with_what_is_uncommitted_as_much_is_taken_as_fits() {
    let max_uncommitted_bytes = 3 * (Entry::OVERHEAD_BYTES + 1);
    let mut hands = Hands::new(3, settings(), ConfigValues { max_uncommitted_bytes, ..values() });
    hands.win();
    hands.write(1, "a");
    hands.settle();
    hands.write(2, "b");
    hands.write(3, "c");
    hands.write(4, "d");
    hands.settle();
    assert_eq!(hands.answers, [(Ticket(4), Err(RequestError::Overloaded))].into());
    hands.replicate();
    hands.work();
    assert_eq!(hands.answer(3), Some(&Ok((Index(5), Ok(data("c"))))));
    hands.write(5, "e");
    hands.settle();
    assert_eq!(hands.answer(5), None, "there is room again");
}

#[test]
fn a_batch_is_never_larger_than_what_may_be_uncommitted_but_for_a_single_write() {
    let max_uncommitted_bytes = 2 * (Entry::OVERHEAD_BYTES + 1);
    let mut hands = Hands::new(3, settings(), ConfigValues { max_uncommitted_bytes, ..values() });
    hands.win();
    hands.write(1, "a");
    hands.write(2, "b");
    hands.write(3, "c");
    hands.settle();
    assert_eq!(hands.answers, [(Ticket(3), Err(RequestError::Overloaded))].into());
    hands.replicate();
    hands.work();
    hands.write(4, &"large".repeat(max_uncommitted_bytes));
    hands.write(5, "e");
    hands.settle();
    assert_eq!((hands.answer(4).cloned(), hands.answer(5).cloned()), (None, overloaded()));
}

#[test]
fn room_for_new_writes_comes_back_however_they_ended() {
    let max_uncommitted_bytes = Entry::OVERHEAD_BYTES + 1;
    let mut hands = Hands::new(3, settings(), ConfigValues { max_uncommitted_bytes, ..values() });
    hands.win();
    // By a deadline.
    hands.write_by(1, "a", hands.now_ms);
    hands.tick();
    assert_eq!(hands.answer(1).cloned(), overloaded());
    // By a lost office.
    hands.write(2, "b");
    hands.hear(TWO, hands.term() + 1, Message::Heartbeat { commit: Index(1), round: 1 });
    assert!(matches!(hands.answer(2), Some(Err(RequestError::NotLeader { .. }))));
    hands.win();
    hands.write(3, "c");
    hands.settle();
    assert_eq!(hands.answer(3), None);
}

#[test]
fn too_many_waiting_writes_are_refused() {
    let mut hands = Hands::leader();
    let most = Replica::MAX_WAITING as u64;
    (0..most).for_each(|ticket| hands.write(ticket, "a"));
    hands.settle();
    hands.write(most, "a");
    hands.settle();
    assert_eq!(hands.answers, [(Ticket(most), Err(RequestError::Overloaded))].into());
    hands.replicate();
    hands.work();
    hands.write(most + 1, "a");
    hands.settle();
    assert_eq!(hands.answers.len() as u64, most + 1);
    assert_eq!(hands.answer(most + 1), None);
}

#[test]
fn who_does_not_lead_names_the_leader_if_it_knows() {
    let mut hands = Hands::follower();
    hands.write(1, "a");
    hands.hear(TWO, 2, Message::Heartbeat { commit: Index(1), round: 1 });
    hands.write(2, "b");
    hands.settle();
    assert_eq!(hands.answer(1), Some(&Err(RequestError::NotLeader { leader: None })));
    assert_eq!(hands.answer(2), Some(&Err(RequestError::NotLeader { leader: address(TWO) })));
}

#[test]
fn a_write_that_was_not_proposed_before_the_office_is_lost_names_the_new_leader() {
    let mut hands = Hands::leader();
    hands.write(1, "a");
    hands.hear(THREE, hands.term() + 1, Message::Heartbeat { commit: Index(1), round: 1 });
    assert_eq!(hands.answer(1), Some(&Err(RequestError::NotLeader { leader: address(THREE) })));
}

#[test]
fn a_write_whose_place_another_leader_took_was_not_applied() {
    let mut hands = Hands::leader();
    hands.write(1, "a");
    hands.settle();
    let term = hands.term() + 1;
    let others = vec![entry(term, 2, Payload::Noop), entry(term, 3, Payload::Data(data("other")))];
    hands.hear_entries(TWO, term, (1, 1), others, 2);
    hands.work();
    assert_eq!(hands.answer(1), None, "the other's entry may still be replaced");
    hands.hear(TWO, term, Message::Heartbeat { commit: Index(3), round: 1 });
    hands.work();
    assert_eq!(hands.answer(1), Some(&Err(RequestError::NotApplied)));
}

#[test]
fn a_write_that_another_leader_commits_is_answered_with_its_outcome() {
    let mut hands = Hands::leader();
    let term = hands.term();
    hands.write(1, "a");
    hands.settle();
    hands.hear_entries(TWO, term + 1, (term, 3), vec![entry(term + 1, 4, Payload::Noop)], 4);
    hands.work();
    assert_eq!(hands.answer(1), Some(&Ok((Index(3), Ok(data("a"))))));
}

#[test]
fn writes_of_two_terms_at_one_index_each_get_their_answer() {
    let mut hands = Hands::leader();
    hands.write(1, "a");
    hands.write(2, "b");
    hands.settle();
    let term = hands.term() + 1;
    hands.hear_entries(TWO, term, (1, 1), vec![entry(term, 2, Payload::Noop)], 1);
    hands.win();
    hands.write(3, "c");
    hands.settle();
    assert_eq!(hands.last(), Index(4), "where the second write stood");
    assert_eq!(hands.answers, BTreeMap::new(), "a third peer may hold the replaced entries and commit them");
    hands.replicate();
    hands.work();
    assert_eq!(hands.answer(1), Some(&Err(RequestError::NotApplied)));
    assert_eq!(hands.answer(2), Some(&Err(RequestError::NotApplied)));
    assert_eq!(hands.answer(3), Some(&Ok((Index(4), Ok(data("c"))))));
}

#[test]
fn a_former_write_that_comes_to_pass_after_all_is_told_from_the_one_in_its_place() {
    let mut hands = Hands::leader();
    let first_term = hands.term();
    hands.write(1, "a");
    hands.write(2, "b");
    hands.settle();
    hands.hear_entries(TWO, first_term + 1, (1, 1), vec![entry(first_term + 1, 2, Payload::Noop)], 1);
    hands.win();
    hands.write(3, "c");
    hands.settle();
    // The third peer had the entries of the first term, and wins.
    let old = [Payload::Noop, Payload::Data(data("a")), Payload::Data(data("b"))];
    let mut entries: Vec<_> = (2..).zip(old).map(|(index, payload)| entry(first_term, index, payload)).collect();
    let term = hands.term() + 1;
    entries.push(entry(term, 5, Payload::Noop));
    hands.hear_entries(THREE, term, (1, 1), entries, 5);
    hands.work();
    assert_eq!(hands.answer(1), Some(&Ok((Index(3), Ok(data("a"))))));
    assert_eq!(hands.answer(2), Some(&Ok((Index(4), Ok(data("b"))))));
    assert_eq!(hands.answer(3), Some(&Err(RequestError::NotApplied)));
}

#[test]
fn a_write_is_unknown_at_its_deadline_and_not_answered_again() {
    let mut hands = Hands::leader();
    hands.write_by(1, "a", hands.now_ms + 2 * TICK_MS);
    hands.settle();
    hands.tick();
    assert_eq!(hands.answer(1), None);
    hands.tick();
    assert_eq!(hands.answer(1), Some(&Err(RequestError::Unknown)));
    hands.replicate();
    hands.work();
    assert_eq!(hands.replica.machine().0, Index(3), "it was applied");
}

#[test]
fn a_write_that_a_snapshot_skips_is_unknown_and_those_behind_it_go_on_waiting() {
    let mut hands = Hands::leader();
    hands.write(1, "a");
    hands.write(2, "b");
    hands.settle();
    let term = hands.term() + 1;
    hands.hear(TWO, term, Message::Snapshot { meta: meta(term, 3) });
    assert_eq!(hands.answers, [(Ticket(1), Err(RequestError::Unknown))].into());
    hands.hear_entries(TWO, term, (term, 3), vec![entry(term, 4, Payload::Noop)], 4);
    hands.work();
    assert_eq!(hands.answer(2), Some(&Err(RequestError::NotApplied)));
}

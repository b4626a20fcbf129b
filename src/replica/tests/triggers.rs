//! Triggers fire once, for a change behind what their query has read, and before whoever waits hears of that index.

use super::*;
use crate::feature_level::FeatureLevel;
use crate::protocol::{MAX_TRIGGERS, MAX_WATCHED_BYTES, TriggerReason};

const TIMEOUT_MS: u64 = 10_000;

fn query(id: u64, key: &str, watch: bool) -> SessionRequest {
    SessionRequest::Query { id: TriggerId(id), request: data(key), watch }
}

fn rearm(id: u64, key: &str, since: Index) -> SessionRequest {
    SessionRequest::Rearm { id: TriggerId(id), keys: vec![data(key)], since }
}

fn fired(id: u64) -> SessionEvent {
    SessionEvent::Fired { id: TriggerId(id), reason: TriggerReason::DataChanged }
}

fn fired_in_doubt(id: u64) -> SessionEvent {
    SessionEvent::Fired { id: TriggerId(id), reason: TriggerReason::LeaderChanged }
}

fn answered(id: u64, index: Index, key: &str, watch: bool) -> SessionEvent {
    let watched = if watch { vec![data(key)] } else { vec![] };
    SessionEvent::Answered { id: TriggerId(id), index, result: Ok(Ok(data(key))), watched }
}

impl Hands {
    fn change(&mut self, key: &str) -> Index {
        let ticket = 1000 + self.last().0;
        self.write(ticket, key);
        self.settle();
        self.work();
        self.last()
    }

    fn ask_and_work(&mut self, request: SessionRequest) {
        self.ask(1, request);
        self.work();
    }
}

#[test]
fn a_trigger_comes_once_and_before_the_reply_of_the_entry_that_fires_it() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    let before = hands.last();
    hands.ask_and_work(query(1, "a", true));
    assert_eq!(hands.told(1), [answered(1, before, "a", true)]);
    hands.change("b");
    assert_eq!(hands.told(1), []);
    hands.ask_quietly(1, command(1, "a"));
    hands.ask_quietly(1, command(2, "a"));
    hands.settle();
    hands.work();
    let last = hands.last().0;
    assert_eq!(hands.told(1), [fired(1), written(1, last - 1, "a"), written(2, last, "a")]);
}

#[test]
fn a_query_that_does_not_watch_arms_nothing() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    let before = hands.last();
    hands.ask_and_work(query(1, "a", false));
    hands.change("a");
    assert_eq!(hands.told(1), [answered(1, before, "a", false)]);
}

#[test]
fn a_change_behind_the_answer_fires_and_one_before_does_not() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    let before = hands.change("a");
    hands.ask(1, query(1, "a", true));
    let [Job::Query(_, queries)] = &mut hands.jobs[..] else { panic!("{:?}", hands.jobs) };
    let queries = std::mem::take(queries);
    hands.forget();
    // The machine answers, and has applied the next entry before its answer is reported.
    hands.answer_queries_at(before, queries);
    hands.settle();
    assert_eq!(hands.told(1), [answered(1, before, "a", true)], "changed before");
    hands.change("a");
    assert_eq!(hands.told(1), [fired(1)]);
}

#[test]
fn an_answer_that_is_older_than_the_latest_change_fires_at_once() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    let before = hands.last();
    hands.ask(1, query(1, "a", true));
    let Some(Job::Query(_, queries)) = hands.jobs.pop() else { panic!("{:?}", hands.jobs) };
    hands.change("a");
    hands.answer_queries_at(before, queries);
    hands.settle();
    assert_eq!(hands.told(1), [answered(1, before, "a", true), fired(1)]);
    hands.change("a");
    assert_eq!(hands.told(1), []);
}

#[test]
fn a_query_that_failed_arms_nothing() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    hands.ask(1, query(1, "a", true));
    let Some(Job::Query(_, queries)) = hands.jobs.pop() else { panic!("{:?}", hands.jobs) };
    let (asker, index) = (queries[0].asker, hands.last());
    let fault = RequestError::BackendFault { message: "died".to_owned() };
    hands.replica.answered(vec![QueryAnswer { asker, index, result: Err(fault.clone()) }]);
    hands.change("a");
    let answered = SessionEvent::Answered { id: TriggerId(1), index, result: Err(fault), watched: vec![] };
    assert_eq!(hands.told(1), [answered]);
}

#[test]
fn what_a_session_owns_is_said_to_have_changed_before_its_end() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    hands.open(2, TIMEOUT_MS);
    hands.ask(2, query(7, "owned", true));
    hands.ask(1, query(8, "owned", true));
    hands.work();
    hands.events.clear();
    hands.ask_and_work(SessionRequest::Close);
    assert_eq!(hands.told(2), [fired(7)]);
    assert_eq!(hands.told(1), [fired(8), SessionEvent::Ended(SessionEnd::Closed)]);
}

#[test]
fn a_trigger_is_armed_again_in_silence_or_fires_for_what_it_missed_or_in_doubt() {
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    let early = hands.change("a");
    let late = hands.change("b");
    hands.ask(1, rearm(1, "a", early));
    hands.ask(1, rearm(2, "b", early));
    hands.ask(1, rearm(3, "b", late));
    assert_eq!(hands.told(1), [fired(2)]);
    // On a new stream nothing is armed by itself.
    hands.attach(2, resume(session));
    hands.events.clear();
    hands.ask(2, rearm(1, "a", early));
    hands.change("a");
    hands.change("b");
    assert_eq!(hands.told(2), [fired(1)]);
    let at = meta(hands.term(), hands.last().0);
    let terms = SessionTerms { identity: "me".to_owned(), secret: SECRET.digest(), timeout_ms: TIMEOUT_MS };
    hands.replica.restored(
        &at,
        0,
        chain_at(at.position.index),
        vec![(session, terms)],
        AccessControl::default(),
        FeatureLevel::FIRST,
    );
    hands.ask(2, rearm(4, "c", late));
    hands.ask(2, rearm(5, "c", at.position.index));
    assert_eq!(hands.told(2), [fired_in_doubt(4)]);
}

#[test]
fn a_trigger_that_is_disarmed_is_silent() {
    let (mut hands, _) = Hands::with_session(TIMEOUT_MS);
    hands.ask_and_work(query(1, "a", true));
    hands.ask_and_work(query(2, "a", true));
    hands.ask(1, SessionRequest::Disarm { id: TriggerId(1) });
    hands.events.clear();
    hands.change("a");
    assert_eq!(hands.told(1), [fired(2)]);
}

#[test]
fn the_triggers_of_a_stream_that_is_no_more_are_silent() {
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    hands.ask_and_work(query(1, "a", true));
    hands.ask(1, query(2, "b", true));
    hands.replica.detach(LinkId(1));
    hands.events.clear();
    hands.work();
    hands.resume(2, session);
    hands.change("a");
    hands.change("b");
    assert_eq!(hands.events, []);
}

#[test]
fn the_triggers_of_a_stream_are_bounded() {
    let too_much = [SessionEvent::Detached(RequestError::TooMuch)];
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    let last = hands.last();
    // One armed again takes its own place, and one that has fired leaves it.
    (0..MAX_TRIGGERS as u64).for_each(|id| hands.ask_quietly(1, rearm(id, "a", last)));
    hands.ask(1, rearm(0, "b", last));
    hands.change("b");
    hands.ask(1, rearm(5000, "a", last));
    assert_eq!(hands.told(1), [fired(0)]);
    hands.ask(1, rearm(5001, "a", last));
    assert_eq!(hands.told(1), too_much);
    hands.resume(2, session);
    let large = "k".repeat(MAX_WATCHED_BYTES / 2);
    hands.ask(2, rearm(1, &large, last));
    hands.ask(2, rearm(2, &large, last));
    hands.ask(2, SessionRequest::Disarm { id: TriggerId(2) });
    hands.ask(2, rearm(3, &large, last));
    assert_eq!(hands.told(2), []);
    // A query that would watch too much is told so, and watches nothing; its stream goes on.
    hands.ask(2, query(4, "k", true));
    hands.work();
    let told = hands.told(2);
    let [SessionEvent::Answered { id: TriggerId(4), result: Err(RequestError::TooMuch), .. }] = &told[..] else {
        panic!("{told:?}")
    };
    hands.change("k");
    assert_eq!(hands.told(2), []);
    hands.ask(2, rearm(4, "k", last));
    assert_eq!(hands.told(2), too_much);
}

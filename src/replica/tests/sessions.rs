//! Sessions live by signs of their clients, on one stream at a time, and end by entries of the log alone.

use super::*;
use crate::feature_level::FeatureLevel;
use crate::protocol::{MAX_SESSION_TIMEOUT_MS, MAX_TRIGGERS, MIN_SESSION_TIMEOUT_MS, SessionRefusal};

const TIMEOUT_MS: u64 = 300;

/// A leader of three that has settled, with a session on stream 1.
fn leader_with_session(timeout_ms: u64) -> (Hands, SessionId) {
    let mut hands = Hands::leader();
    hands.replicate();
    hands.work();
    hands.attach(1, open(timeout_ms));
    hands.replicate();
    hands.work();
    let [SessionEvent::Attached { session }] = hands.told(1)[..] else { panic!("attached") };
    hands.forget();
    (hands, session)
}

impl Hands {
    /// `TWO` answers the latest heartbeat, and so the leader goes on to lead.
    fn confirm(&mut self) {
        if let Some(round) = self.heartbeat_rounds().pop() {
            self.hear(TWO, self.term(), Message::HeartbeatReply { round });
        }
    }

    fn pass_as_leader(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.tick();
            self.confirm();
        }
    }

    fn lose_office(&mut self) {
        self.hear(TWO, self.term() + 1, Message::Heartbeat { commit: Index(1), round: 1 });
        assert!(!self.replica.raft().is_leader());
    }

    fn is_attached(&mut self, link: u64, session: SessionId) -> bool {
        self.told(link).contains(&SessionEvent::Attached { session })
    }
}

fn not_leader(leader: Option<PeerId>) -> SessionEvent {
    SessionEvent::Detached(RequestError::NotLeader { leader })
}

fn expiries(entries: &[Entry]) -> Vec<SessionId> {
    let session = |entry: &Entry| match &entry.payload {
        Payload::Data(data) => match Command::decode(data) {
            Ok(Command::ExpireSession { session }) => Some(session),
            _ => None,
        },
        _ => None,
    };
    entries.iter().filter_map(session).collect()
}

/// The sessions that entries for `TWO` expire.
fn expiries_sent(hands: &Hands) -> Vec<SessionId> {
    let sent = |envelope: &Envelope| match &envelope.message {
        Message::Append { entries, .. } if envelope.to == TWO => expiries(entries),
        _ => vec![],
    };
    hands.messages.iter().flat_map(sent).collect()
}

#[test]
fn a_session_is_attached_once_its_entry_is_applied_and_is_named_by_it() {
    let mut hands = Hands::leader();
    hands.attach(1, open(TIMEOUT_MS));
    hands.replicate();
    assert_eq!(hands.told(1), [], "not applied");
    hands.work();
    assert_eq!(hands.told(1), [SessionEvent::Attached { session: SessionId(hands.last().0) }]);
    assert_eq!(hands.replica.session_count(), 1);
}

#[test]
fn a_timeout_out_of_bounds_is_refused() {
    let mut hands = Hands::alone(settings());
    for (link, timeout_ms) in [(1, MIN_SESSION_TIMEOUT_MS - 1), (2, MAX_SESSION_TIMEOUT_MS + 1)] {
        hands.attach(link, open(timeout_ms));
        let [SessionEvent::Detached(RequestError::Invalid { .. })] = hands.told(link)[..] else { panic!("{link}") };
    }
    hands.open(3, MIN_SESSION_TIMEOUT_MS);
    hands.open(4, MAX_SESSION_TIMEOUT_MS);
}

#[test]
fn who_does_not_lead_sends_clients_to_the_leader() {
    let mut hands = Hands::follower();
    hands.hear_entries(TWO, 2, (1, 1), vec![], 1);
    hands.attach(1, open(TIMEOUT_MS));
    hands.attach(2, resume(SessionId(5)));
    assert_eq!(hands.told(1), [not_leader(address(TWO))]);
    assert_eq!(hands.told(2), [not_leader(address(TWO))]);
    hands.ask(1, ping(1));
    assert_eq!(hands.told(1), [], "that stream is no more");
}

#[test]
fn nothing_may_be_asked_before_a_stream_is_attached() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.attach(2, resume(session));
    hands.attach(3, open(TIMEOUT_MS));
    for link in [2, 3] {
        hands.ask(link, ping(1));
        let [SessionEvent::Detached(RequestError::Invalid { .. })] = hands.told(link)[..] else { panic!("{link}") };
    }
    hands.confirm();
    hands.replicate();
    hands.work();
    assert_eq!(hands.events, []);
    assert_eq!(hands.replica.session_count(), 2, "what was opened is open, until its timeout");
}

#[test]
fn a_refused_opening_says_why() {
    let mut hands = Hands::alone(settings());
    hands.attach(1, open(TIMEOUT_MS));
    let position = LogPosition::new(Term(hands.term()), hands.last());
    let outcome = Outcome::Refused(SessionRefusal::TooManySessions);
    hands.replica.applied(vec![Applied { position, outcome, changed: vec![], chain: HashChain::default() }]);
    hands.settle();
    let error = RequestError::NotOpened(SessionRefusal::TooManySessions);
    assert_eq!(hands.told(1), [SessionEvent::Detached(error)]);
}

#[test]
fn a_session_is_resumed_by_who_has_opened_it_and_leaves_its_former_stream() {
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    hands.attach_as(2, "somebody else", resume(session));
    hands.attach(3, SessionStart::Resume { session, secret: SessionSecret(43) });
    let not_yours = || SessionEvent::Detached(RequestError::NotYourSession);
    assert_eq!((hands.told(2), hands.told(3)), (vec![not_yours()], vec![not_yours()]));
    hands.ask(1, ping(1));
    assert_eq!(hands.told(1), [pong(1)], "nothing has happened to its stream");
    hands.attach(4, resume(session));
    assert_eq!(hands.told(1), [SessionEvent::Detached(RequestError::Superseded)]);
    assert!(hands.is_attached(4, session));
    hands.ask(1, command(1, "a"));
    hands.work();
    assert_eq!(hands.told(1), [], "it is forgotten");
    hands.ask(4, command(1, "b"));
    hands.work();
    assert_eq!(hands.told(4), [written(1, hands.last().0, "b")]);
}

#[test]
fn a_session_that_is_not_there_has_ended() {
    let mut hands = Hands::alone(settings());
    hands.attach(1, resume(SessionId(99)));
    assert_eq!(hands.told(1), [SessionEvent::Ended(SessionEnd::Expired)]);
}

#[test]
fn a_session_is_looked_for_in_the_state_of_now() {
    let (mut hands, _) = leader_with_session(TIMEOUT_MS);
    hands.attach(2, open(TIMEOUT_MS));
    hands.replicate();
    // Committed, not applied.
    let session = SessionId(hands.last().0);
    hands.attach(3, resume(session));
    hands.replica.detach(LinkId(2));
    assert_eq!(hands.told(3), [], "a majority is yet to be asked");
    hands.confirm();
    assert_eq!(hands.told(3), [], "the entry that opens it is not applied");
    hands.work();
    assert!(hands.is_attached(3, session));
}

#[test]
fn a_ping_is_answered_after_a_round_of_heartbeats_begun_since_it_came() {
    let (mut hands, _) = leader_with_session(TIMEOUT_MS);
    hands.ask(1, ping(1));
    let [first] = hands.heartbeat_rounds()[..] else { panic!("{:?}", hands.messages) };
    hands.ask(1, ping(2));
    hands.ask(1, ping(3));
    assert_eq!(hands.told(1), []);
    hands.hear(TWO, hands.term(), Message::HeartbeatReply { round: first });
    assert_eq!(hands.told(1), [pong(1)]);
    hands.confirm();
    assert_eq!(hands.told(1), [pong(2), pong(3)]);
}

#[test]
fn commands_are_answered_in_order_with_their_entries() {
    let (mut hands, _) = leader_with_session(TIMEOUT_MS);
    (1..=3).for_each(|seq| hands.ask_quietly(1, command(seq, "a")));
    hands.settle();
    let last = hands.last().0;
    assert_eq!(hands.told(1), []);
    hands.replicate();
    hands.work();
    assert_eq!(hands.told(1), [written(1, last - 2, "a"), written(2, last - 1, "a"), written(3, last, "a")]);
}

#[test]
fn a_session_that_is_not_heard_of_ends_by_an_entry_and_not_before_it_is_applied() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.pass_as_leader(TIMEOUT_MS);
    assert_eq!(expiries_sent(&hands), []);
    hands.pass_as_leader(TIMEOUT_MS);
    assert_eq!(expiries_sent(&hands), [session], "once");
    assert_eq!(hands.told(1), [], "not committed");
    hands.replicate();
    assert_eq!(hands.told(1), [], "not applied");
    hands.work();
    assert_eq!(hands.told(1), [SessionEvent::Ended(SessionEnd::Expired)]);
    assert_eq!(hands.replica.session_count(), 0);
}

#[test]
fn a_ping_is_not_answered_while_the_expiry_of_its_session_is_in_the_log() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.pass_as_leader(2 * TIMEOUT_MS);
    hands.ask(1, ping(1));
    hands.confirm();
    hands.attach(2, resume(session));
    hands.confirm();
    assert_eq!(hands.events, [(LinkId(1), SessionEvent::Detached(RequestError::Superseded))], "not even attached");
    hands.replicate();
    assert_eq!(hands.told(2), [], "not applied");
    hands.work();
    assert_eq!(hands.told(2), [SessionEvent::Ended(SessionEnd::Expired)]);
}

#[test]
fn every_request_is_a_sign_of_life() {
    let keys = vec![data("a")];
    let (id, since) = (TriggerId(1), Index(1));
    let requests = [
        command(1, "a"),
        SessionRequest::Query { id, request: data("a"), watch: false },
        SessionRequest::Rearm { id, keys, since },
        SessionRequest::Disarm { id },
        ping(1),
    ];
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    for request in requests {
        hands.pass(TIMEOUT_MS - TICK_MS);
        hands.ask(1, request);
        hands.work();
    }
    hands.pass(TIMEOUT_MS);
    hands.replica.detach(LinkId(1));
    hands.resume(2, session);
    hands.pass(TIMEOUT_MS);
    assert_eq!(hands.replica.session_count(), 1);
    hands.pass(2 * TICK_MS);
    hands.work();
    assert_eq!(hands.told(2), [SessionEvent::Ended(SessionEnd::Expired)]);
}

#[test]
fn a_lost_stream_ends_no_session() {
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    hands.ask_quietly(1, command(1, "a"));
    hands.replica.detach(LinkId(1));
    hands.settle();
    hands.work();
    hands.pass(TIMEOUT_MS);
    assert_eq!((hands.last(), hands.events.len()), (Index(session.0 + 1), 0), "the command has run, and nothing else");
    hands.resume(2, session);
}

#[test]
fn a_new_leader_gives_every_session_its_full_time_and_a_follower_expires_none() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.pass_as_leader(TIMEOUT_MS);
    hands.lose_office();
    assert_eq!(hands.told(1), [not_leader(address(TWO))]);
    for round in 2..100 {
        hands.tick();
        hands.hear(TWO, hands.term(), Message::Heartbeat { commit: Index(1), round });
    }
    hands.win();
    hands.replicate();
    hands.work();
    hands.pass_as_leader(TIMEOUT_MS);
    assert_eq!(expiries_sent(&hands), []);
    hands.pass_as_leader(2 * TICK_MS);
    assert_eq!(expiries_sent(&hands), [session]);
}

#[test]
fn a_leader_that_stood_still_gives_every_session_its_full_time() {
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    hands.now_ms += 10 * TIMEOUT_MS;
    hands.tick();
    hands.pass(TIMEOUT_MS);
    assert_eq!(hands.last(), Index(session.0));
    hands.pass(TICK_MS);
    assert_eq!(hands.last(), Index(session.0 + 1));
    let [Job::Apply(run)] = &hands.jobs[..] else { panic!("{:?}", hands.jobs) };
    assert_eq!(expiries(&run.entries), [session]);
}

#[test]
fn an_expiry_that_was_lost_with_an_earlier_office_does_not_hide_the_one_in_the_log() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.pass_as_leader(2 * TIMEOUT_MS);
    assert_eq!(expiries_sent(&hands), [session]);
    // Another leader's entry takes its place, and is not yet applied as this one leads again.
    let (term, before) = (hands.term(), session.0);
    let noop = entry(term + 1, before + 1, Payload::Noop);
    hands.hear_entries(TWO, term + 1, (term, before), vec![noop], before);
    hands.win();
    hands.replicate();
    let jobs = std::mem::take(&mut hands.jobs);
    hands.pass_as_leader(TIMEOUT_MS + 2 * TICK_MS);
    assert_eq!(expiries_sent(&hands), [session], "anew");
    hands.attach(2, resume(session));
    hands.confirm();
    hands.jobs = jobs;
    hands.work();
    assert_eq!(hands.told(2), [], "the session is about to end");
    hands.replicate();
    hands.work();
    assert_eq!(hands.told(2), [SessionEvent::Ended(SessionEnd::Expired)]);
}

#[test]
fn a_stream_that_met_an_expiry_which_found_no_room_may_come_again() {
    let values = ConfigValues { max_uncommitted_bytes: 400, ..values() };
    let mut hands = Hands::new(3, settings(), values);
    hands.win();
    hands.replicate();
    hands.work();
    hands.attach(1, open(TIMEOUT_MS));
    hands.replicate();
    hands.work();
    let [SessionEvent::Attached { session }] = hands.told(1)[..] else { panic!("attached") };
    // What is uncommitted leaves no room.
    hands.write(1, &"large".repeat(70));
    hands.settle();
    hands.pass_as_leader(TIMEOUT_MS);
    hands.now_ms += TICK_MS;
    let now = hands.now();
    hands.replica.tick(now);
    hands.ask(1, ping(1));
    assert_eq!(hands.told(1), [SessionEvent::Detached(RequestError::Overloaded)]);
    hands.attach(2, resume(session));
    hands.replicate();
    hands.work();
    hands.confirm();
    hands.confirm();
    assert!(hands.is_attached(2, session));
}

#[test]
fn all_streams_end_with_an_office() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.attach(2, open(TIMEOUT_MS));
    hands.attach(3, resume(session));
    hands.ask_quietly(1, command(1, "a"));
    hands.ask_quietly(1, ping(1));
    hands.ask_quietly(1, SessionRequest::Query { id: TriggerId(1), request: data("a"), watch: true });
    hands.settle();
    hands.lose_office();
    for link in 1..=3 {
        assert_eq!(hands.told(link), [not_leader(address(TWO))], "{link}");
    }
    hands.win();
    hands.replicate();
    hands.work();
    hands.confirm();
    hands.work();
    assert_eq!(hands.events, [], "streams do not come back");
}

#[test]
fn a_client_ends_its_session() {
    let (mut hands, session) = Hands::with_session(TIMEOUT_MS);
    hands.ask_quietly(1, command(1, "a"));
    hands.ask_quietly(1, SessionRequest::Close);
    hands.ask_quietly(1, command(2, "b"));
    hands.settle();
    hands.work();
    assert_eq!(hands.told(1), [written(1, session.0 + 1, "a"), SessionEvent::Ended(SessionEnd::Closed)]);
    hands.attach(2, resume(session));
    assert_eq!(hands.told(2), [SessionEvent::Ended(SessionEnd::Expired)]);
}

#[test]
fn who_asks_for_too_much_loses_the_stream_and_not_the_session() {
    let too_much = || vec![SessionEvent::Detached(RequestError::TooMuch)];
    let settings = Settings { max_unacknowledged: 2, ..settings() };
    let mut hands = Hands::alone(settings);
    let session = hands.open(1, TIMEOUT_MS);
    (1..=2).for_each(|seq| hands.ask_quietly(1, command(seq, "a")));
    hands.settle();
    hands.work();
    assert_eq!(hands.told(1).len(), 2);
    (3..=5).for_each(|seq| hands.ask_quietly(1, command(seq, "a")));
    hands.settle();
    hands.work();
    assert_eq!(hands.told(1), too_much());
    hands.resume(2, session);
    let query = |id| SessionRequest::Query { id: TriggerId(id), request: data("a"), watch: false };
    (0..=MAX_TRIGGERS as u64).for_each(|id| hands.ask_quietly(2, query(id)));
    hands.settle();
    assert_eq!(hands.told(2), too_much());
    hands.work();
    hands.resume(3, session);
    assert_eq!(hands.events, []);
}

#[test]
fn the_pings_of_one_stream_do_not_take_the_room_of_others() {
    let (mut hands, _) = leader_with_session(TIMEOUT_MS);
    let most = Links::MAX_PINGS as u64;
    (0..most).for_each(|number| hands.ask_quietly(1, ping(number)));
    hands.settle();
    hands.confirm();
    assert_eq!(hands.told(1).len() as u64, most);
    (0..=most).for_each(|number| hands.ask_quietly(1, ping(number)));
    hands.settle();
    assert_eq!(hands.told(1), [SessionEvent::Detached(RequestError::TooMuch)]);
}

#[test]
fn sessions_come_with_a_snapshot() {
    let mut hands = Hands::alone(settings());
    let terms = SessionTerms { identity: "me".to_owned(), secret: SECRET.digest(), timeout_ms: TIMEOUT_MS };
    let at = meta(hands.term(), hands.last().0);
    hands.replica.restored(
        &at,
        0,
        chain_at(at.position.index),
        vec![(SessionId(2), terms)],
        AccessControl::default(),
        FeatureLevel::FIRST,
    );
    hands.resume(1, SessionId(2));
    assert_eq!(hands.replica.session_count(), 1);
}

/// Seed 4821 of the simulation: a leader's machine was still being made when the expiry was proposed.
#[test]
fn an_expiry_in_the_log_is_not_forgotten_when_the_machine_is_made_from_a_snapshot() {
    let (mut hands, session) = leader_with_session(TIMEOUT_MS);
    hands.pass_as_leader(2 * TIMEOUT_MS);
    assert_eq!(expiries_sent(&hands), [session]);
    let terms = SessionTerms { identity: "me".to_owned(), secret: SECRET.digest(), timeout_ms: TIMEOUT_MS };
    let at = meta(hands.term(), hands.replica.machine().0.0);
    hands.replica.restored(
        &at,
        0,
        chain_at(at.position.index),
        vec![(session, terms)],
        AccessControl::default(),
        FeatureLevel::FIRST,
    );
    hands.attach(2, resume(session));
    hands.confirm();
    assert_eq!(hands.told(2), [], "not attached");
    hands.replicate();
    hands.work();
    assert_eq!(hands.told(2), [SessionEvent::Ended(SessionEnd::Expired)]);
}

//! What clients with sessions are told, against the history.

use zraft::machine::Key;
use zraft::protocol::{
    CommandError, CommandReply, RequestError, SessionEnd, SessionEvent, SessionRefusal, TriggerId, TriggerReason,
};
use zraft::replica::LinkId;
use zraft::types::Index;

use super::Sim;
use super::backend::{KeyState, words};
use super::clients::incarnation;
use super::sessions::{SessionClient, Trigger};

/// How many pings a replica lets wait on a stream.
const MAX_PINGS: usize = 64;

impl Sim {
    pub(super) fn on_stream_lost(&mut self, number: usize, link: LinkId) {
        self.streams.remove(&link);
        self.leave_stream(number);
    }

    pub(super) fn on_event(&mut self, number: usize, link: LinkId, event: SessionEvent) {
        let now = self.now;
        let stream = self.stream(number);
        stream.heard_at = now;
        let is_about_streams =
            matches!(event, SessionEvent::Attached { .. } | SessionEvent::Ended(_) | SessionEvent::Detached(_));
        assert!(stream.is_attached || is_about_streams, "{event:?} on a stream that is not attached");
        match event {
            SessionEvent::Attached { session } => {
                assert!(!stream.is_attached, "attached twice");
                stream.is_attached = true;
                let is_new = self.sessions[number].session.replace(session).is_none();
                self.count(if is_new { "session: opened" } else { "session: resumed" });
                self.go_on(number, link);
            }
            SessionEvent::Written { seq, result } => self.on_written(number, seq, result),
            SessionEvent::Answered { id, index, result, watched } => {
                let reply = result.expect("no query fails here").expect("the backend refuses no query");
                self.on_answered(number, id, index, &reply, watched);
            }
            SessionEvent::Fired { id, reason } => self.on_fired(number, id, reason),
            SessionEvent::Pong { number: ping } => {
                let (_, floor) = stream.pings.remove(&ping).expect("a ping is answered once");
                let is_rude = stream.is_rude;
                self.count("ping: answered");
                if !is_rude {
                    self.know_armed(number);
                }
                self.check_fired(number, floor);
            }
            SessionEvent::Ended(end) => self.on_ended(number, link, end),
            SessionEvent::Detached(error) => {
                self.streams.remove(&link);
                self.on_detached(number, error);
            }
        }
    }

    /// The triggers of a client are armed, as it knows by an answer to what was sent behind.
    fn know_armed(&mut self, number: usize) {
        for trigger in self.sessions[number].triggers.values_mut() {
            if !trigger.is_first && !std::mem::replace(&mut trigger.is_known, true) {
                *self.counts.entry("trigger: armed again in silence").or_default() += 1;
            }
        }
    }

    /// A client that is told of an index has been told of what has happened to its triggers before.
    fn check_fired(&self, number: usize, index: Index) {
        let armed = self.sessions[number].triggers.iter().filter(|(_, trigger)| trigger.is_first || trigger.is_known);
        for (id, trigger) in armed {
            let change = self.promises.first_change(&trigger.keys, trigger.since);
            let change = change.into_iter().chain(self.promises.first_upgrade(trigger.since)).min();
            assert!(
                change.is_none_or(|change| change > index),
                "{id:?} on {:?} since {} has not fired for {change:?}, and its client is told of {index}",
                trigger.keys,
                trigger.since,
            );
        }
    }

    /// An event of this index has come on a stream.
    fn told(&mut self, number: usize, index: Index) {
        // Triggers of one index may come in any order.
        self.check_fired(number, index.prev());
        let told = &mut self.stream(number).told;
        assert!(index >= *told, "a client is told of {index}, and was told of {told} before");
        *told = index;
        self.witness.know(index);
    }

    fn on_written(&mut self, number: usize, seq: u64, result: Result<(Index, CommandReply), SessionRefusal>) {
        let client = &mut self.sessions[number];
        let stream = client.stream.as_mut().expect("a stream");
        assert_eq!(stream.in_flight.pop_front(), Some(seq), "commands are answered in the order they were sent");
        let session = client.session.expect("attached");
        match result {
            Ok((index, reply)) => {
                self.know_armed(number);
                self.promises.answered(session, seq, index, &reply);
                self.on_reply(number, seq, index, reply);
            }
            Err(SessionRefusal::AlreadyAcknowledged) => {
                assert!(seq <= client.said_acked && !client.pending.contains_key(&seq), "the client has not said so");
                self.count("session: already acknowledged");
            }
            Err(SessionRefusal::OutOfOrder { expected }) => {
                assert!(client.pending.contains_key(&seq) && expected < seq, "{seq} is in order: {expected} is next");
                stream.must_resend = true;
                self.count("session: out of order");
            }
            Err(SessionRefusal::TooManyUnacknowledged) => {
                assert!(client.pending.contains_key(&seq), "a reply is not remembered before it is acknowledged");
                stream.must_resend = true;
                self.count("session: too many unacknowledged");
            }
            Err(SessionRefusal::Expired | SessionRefusal::TooManySessions | SessionRefusal::TooManyOfIdentity) => {
                panic!("not on an attached stream")
            }
        }
    }

    fn on_reply(&mut self, number: usize, seq: u64, index: Index, reply: CommandReply) {
        self.check_fired(number, index);
        let client = &mut self.sessions[number];
        let stream = client.stream.as_mut().expect("a stream");
        let Some(pending) = client.pending.remove(&seq) else {
            assert_eq!(client.answered[&seq], (index, reply), "the reply to {seq} is another than before");
            return self.count("session: the same reply again");
        };
        assert!(stream.written < index, "{seq} has run at {index}, and one before it at {}", stream.written);
        stream.written = index;
        let is_own = seq >= stream.first_own_seq;
        self.witness.session_acknowledged(pending.number, index);
        match (pending.operation, &reply) {
            (Some(operation), Ok(reply)) => self.history.returned(operation, KeyState::of(&words(reply))),
            (Some(operation), Err(_)) => self.history.nothing(operation),
            (None, _) => {}
        }
        if matches!(&reply, Err(CommandError::Fault(_))) {
            *self.counts.entry("session: skipped by a verdict").or_default() += 1;
        }
        client.answered.insert(seq, (index, reply));
        self.count("session: answered");
        if is_own {
            self.told(number, index);
        }
        self.witness.know(index);
    }

    fn on_answered(&mut self, number: usize, id: TriggerId, index: Index, reply: &Key, watched: Vec<Key>) {
        let question = self.sessions[number].questions.remove(&id).expect("a query is answered once");
        self.count("session: query answered");
        self.know_armed(number);
        self.witness.read(question.floor, index, &question.keys, reply);
        for (place, operation) in question.operations.into_iter().enumerate() {
            if let Some(operation) = operation {
                self.history.returned(operation, KeyState::of(&words(reply)[2 + KeyState::WORDS * place..]));
            }
        }
        self.check_fired(number, index);
        self.told(number, index);
        let keys: Vec<_> = question.keys.iter().map(|key| Key::copy_from_slice(&[*key])).collect();
        if question.watch {
            assert_eq!(watched, keys);
            let trigger = Trigger { keys, since: index, is_first: true, is_known: true };
            self.sessions[number].triggers.insert(id, trigger);
        } else {
            assert!(watched.is_empty());
        }
    }

    fn on_fired(&mut self, number: usize, id: TriggerId, reason: TriggerReason) {
        let Some(trigger) = self.sessions[number].triggers.remove(&id) else {
            assert!(self.stream(number).disarmed.remove(&id), "{id:?} fires again, or was never armed");
            return self.count("trigger: fires as it is disarmed");
        };
        match reason {
            TriggerReason::DataChanged => {
                let change = self.promises.first_change(&trigger.keys, trigger.since);
                let change =
                    change.unwrap_or_else(|| panic!("{id:?} fires, and nothing changed since {}", trigger.since));
                if trigger.is_first || trigger.is_known {
                    self.count("trigger: data-changed");
                    self.told(number, change);
                } else {
                    self.count("trigger: data-changed, armed again");
                    self.witness.know(change);
                }
            }
            TriggerReason::LeaderChanged if let Some(upgrade) = self.promises.first_upgrade(trigger.since) => {
                self.count("trigger: leader-changed by an upgrade");
                if trigger.is_first || trigger.is_known {
                    self.told(number, upgrade);
                }
            }
            TriggerReason::LeaderChanged => {
                assert!(!trigger.is_first && !trigger.is_known, "{id:?} is known to be armed");
                self.count("trigger: leader-changed");
            }
            TriggerReason::SessionExpired => panic!("an end is told as an end"),
        }
    }

    fn on_ended(&mut self, number: usize, link: LinkId, end: SessionEnd) {
        self.streams.remove(&link);
        let is_attached = self.stream(number).is_attached;
        let session = self.sessions[number].session.expect("only what was opened ends");
        let (index, true_end) = self.promises.end_of(session);
        if is_attached {
            assert_eq!(end, true_end);
            self.check_fired(number, index);
            self.told(number, index);
        }
        self.count(match true_end {
            SessionEnd::Closed => "session: ended as closed",
            SessionEnd::Expired => "session: ended as expired",
        });
        assert!(self.sessions[number].is_closing || true_end == SessionEnd::Expired, "nobody has closed it");
        self.forget_session(number);
    }

    /// Whatever has not run by now never will.
    fn forget_session(&mut self, number: usize) {
        let new = self.new_session_client(number);
        let SessionClient { pending, questions, triggers, .. } = std::mem::replace(&mut self.sessions[number], new);
        for pending in pending.into_values() {
            if self.witness.never_if_not_placed(pending.number) {
                self.count("session: command never run");
                pending.operation.into_iter().for_each(|operation| self.history.nothing(operation));
            } else {
                self.count("session: command run, never answered");
            }
        }
        for operation in questions.into_values().flat_map(|question| question.operations).flatten() {
            self.history.nothing(operation);
        }
        for _ in triggers {
            self.count("trigger: session-expired");
        }
    }

    fn on_detached(&mut self, number: usize, error: RequestError) {
        let stream = self.sessions[number].stream.take().expect("a stream");
        match error {
            RequestError::NotLeader { leader } => {
                let target = leader.map_or_else(|| self.any_node(), |leader| incarnation(&leader));
                self.sessions[number].target = target;
            }
            RequestError::Invalid { .. } => assert!(stream.is_rude),
            RequestError::NotYourSession => panic!("a client is refused its session"),
            RequestError::TooMuch => assert!(stream.pings.len() >= MAX_PINGS, "a client has done no wrong"),
            RequestError::NotOpened(_) | RequestError::NotApplied | RequestError::Unknown => {}
            RequestError::Overloaded | RequestError::Superseded => {}
            error => panic!("a stream is ended with '{error}'"),
        }
    }

    /// In the end nobody waits, and every change of what is watched was told.
    pub(super) fn check_sessions(&self) {
        for (number, client) in self.sessions.iter().enumerate() {
            assert!(client.is_settled(), "{} waits for its session {:?}", client.identity, client.session);
            self.check_fired(number, self.witness.last());
        }
    }
}

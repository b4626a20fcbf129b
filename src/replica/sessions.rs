//! What a replica does for the clients of sessions.

use bytes::Bytes;

use crate::access::AccessControl;
use crate::machine::{BackendAnswer, Command, Key, Outcome, SessionTerms};
use crate::planted::{self, Bug};
use crate::protocol::{
    CommandReply, MAX_SESSION_TIMEOUT_MS, MAX_TRIGGERS, MAX_WATCHED_BYTES, MIN_SESSION_TIMEOUT_MS, RequestError,
    SessionEvent, SessionRefusal, SessionRequest, SessionStart, TriggerId, TriggerReason,
};
use crate::replica::links::Asked;
use crate::replica::writes::Waiter;
use crate::replica::{Asker, LinkId, Now, Query, Replica, Wanted};
use crate::types::{Index, PeerId, SessionId};

/// Nobody waits for longer than their stream lasts.
const NO_DEADLINE_MS: u64 = u64::MAX;

impl Replica {
    /// A client wants to use a session on a new stream. `identity` is the one in its certificate.
    pub fn attach(&mut self, link: LinkId, identity: &str, start: SessionStart, now: Now) {
        self.clock.now_ms = now.monotonic_ms;
        let leader = self.leader();
        if !self.raft.is_leader() {
            self.stir();
            return self.links.refuse(link, RequestError::NotLeader { leader });
        }
        self.lead_sessions(leader);
        if !self.links.has_room() {
            return self.links.refuse(link, RequestError::Overloaded);
        }
        match start {
            SessionStart::Open { timeout_ms, secret } => {
                let allowed = MIN_SESSION_TIMEOUT_MS..=MAX_SESSION_TIMEOUT_MS;
                if !allowed.contains(&timeout_ms) {
                    let (least, most) = allowed.into_inner();
                    let reason = format!("a session's timeout is between {least} and {most} ms, not {timeout_ms}");
                    return self.links.refuse(link, RequestError::Invalid { reason });
                }
                let terms = SessionTerms { identity: identity.to_owned(), secret: secret.digest(), timeout_ms };
                self.links.opening(link);
                self.propose(link, Waiter::Opening(link), &Command::OpenSession(terms));
            }
            SessionStart::Resume { session, secret } => {
                self.links.resuming(link, identity.to_owned(), session, secret);
            }
        }
    }

    /// A client asks something on its session's stream. What comes before [`SessionEvent::Attached`] ends the stream.
    pub fn ask(&mut self, link: LinkId, request: SessionRequest, now: Now) {
        self.clock.now_ms = now.monotonic_ms;
        let Some(session) = self.links.heard(link, now.monotonic_ms) else {
            let reason = "nothing may be asked of a session before it is attached".to_owned();
            return self.end_link(link, RequestError::Invalid { reason });
        };
        match request {
            SessionRequest::Write { seq, acked_up_to, is_ephemeral, data } => {
                if !self.links.admit(link, Asked::Write, self.settings.max_unacknowledged) {
                    return self.end_link(link, RequestError::TooMuch);
                }
                let command = Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data };
                self.propose(link, Waiter::Session(link, seq), &command);
            }
            SessionRequest::Query { id, request, watch } => self.session_query(link, id, request, watch),
            SessionRequest::Rearm { id, keys, .. } if !self.make_room((link, id), &keys) => {
                self.end_link(link, RequestError::TooMuch);
            }
            SessionRequest::Rearm { id, keys, since } => {
                let misses_changes = planted::has(Bug::TriggerLostAtLeaderChange);
                let since = if misses_changes { self.applied } else { since };
                self.arm((link, id), keys, since);
            }
            SessionRequest::Disarm { id } => self.disarm((link, id)),
            SessionRequest::Ping { number } => self.session_ping(link, number),
            SessionRequest::Close => {
                self.propose(link, Waiter::Closing(link), &Command::CloseSession { session });
            }
        }
    }

    /// A stream has ended. Its session goes on until its timeout.
    pub fn detach(&mut self, link: LinkId) {
        self.links.remove(link);
        self.forget_link(link);
    }

    /// How many sessions are open, as of the last entry applied.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.links.len()
    }

    fn session_query(&mut self, link: LinkId, id: TriggerId, request: Bytes, watch: bool) {
        if self.reads.len() >= Self::MAX_WAITING {
            self.end_link(link, RequestError::Overloaded);
        } else if self.links.admit(link, Asked::Query, self.settings.max_unacknowledged) {
            let asker = Asker::Session { link, id, watch };
            let client = self.links.client_of(link).map(str::to_owned);
            self.reads.add(Query { asker, client, wanted: Wanted::Answer(request), deadline_ms: NO_DEADLINE_MS });
        } else {
            self.end_link(link, RequestError::TooMuch);
        }
    }

    fn session_ping(&mut self, link: LinkId, number: u64) {
        if self.links.waiting() >= Self::MAX_WAITING {
            self.end_link(link, RequestError::Overloaded);
        } else if self.links.admit(link, Asked::Ping, self.settings.max_unacknowledged) {
            self.links.ping(link, number);
        } else {
            self.end_link(link, RequestError::TooMuch);
        }
    }

    /// Proposes something for a stream.
    fn propose(&mut self, link: LinkId, waiter: Waiter, command: &Command) {
        let data = command.encode();
        if self.writes.has_room_for(&data) {
            self.writes.add(waiter, data, NO_DEADLINE_MS);
        } else {
            self.end_link(link, RequestError::Overloaded);
        }
    }

    /// Ends a stream from this side. Its session goes on.
    pub fn end_link(&mut self, link: LinkId, error: RequestError) {
        if self.links.contains(link) {
            self.links.refuse(link, error);
            self.forget_link(link);
        }
    }

    fn forget_link(&mut self, gone: LinkId) {
        self.triggers.forget(gone);
        self.reads.forget(|query| matches!(query.asker, Asker::Session { link, .. } if link == gone));
    }

    /// A write for a session has settled.
    pub(super) fn session_settled(&mut self, waiter: Waiter, result: Result<(Index, Outcome), RequestError>) {
        match (waiter, result) {
            (Waiter::Opening(link), Ok((index, Outcome::Opened(_)))) => {
                self.links.opened_by(link, SessionId(index.0), self.clock.now_ms);
            }
            (Waiter::Opening(link), Ok((_, Outcome::Refused(refusal)))) => {
                self.end_link(link, RequestError::NotOpened(refusal));
            }
            (Waiter::Opening(link), Ok((_, Outcome::Denied(denied)))) => {
                self.end_link(link, RequestError::AccessDenied(denied));
            }
            (Waiter::Session(link, seq), Ok((_, Outcome::Answered { index, reply, .. }))) => {
                self.written(link, seq, Ok((index, reply)));
            }
            // Whoever has such a stream has been told of the end.
            (Waiter::Session(..), Ok((_, Outcome::Refused(SessionRefusal::Expired)))) => {}
            (Waiter::Session(link, seq), Ok((_, Outcome::Refused(refusal)))) => self.written(link, seq, Err(refusal)),
            (Waiter::Closing(_) | Waiter::Expiring(_), Ok(_)) => {}
            (Waiter::Expiring(session), Err(RequestError::Overloaded)) => {
                // Whoever has come on this stream meanwhile was told nothing.
                if let Some(link) = self.links.not_expired(session) {
                    self.end_link(link, RequestError::Overloaded);
                }
            }
            // From an earlier term of office: this one has begun anew, and may have proposed the end itself.
            (Waiter::Expiring(_), Err(_)) => {}
            (Waiter::Opening(link) | Waiter::Session(link, _) | Waiter::Closing(link), Err(error)) => {
                self.end_link(link, error);
            }
            (waiter, result) => unreachable!("{waiter:?} does not wait for {result:?}"),
        }
    }

    fn written(&mut self, link: LinkId, seq: u64, result: Result<(Index, CommandReply), SessionRefusal>) {
        if self.links.answered(link, Asked::Write).is_some() {
            self.links.tell(link, SessionEvent::Written { seq, result });
        }
    }

    /// An entry was applied: sessions come and go by it.
    pub(super) fn session_outcome(&mut self, index: Index, outcome: &Outcome) {
        match outcome {
            Outcome::Opened(terms) => self.links.opened(SessionId(index.0), terms.clone(), self.clock.now_ms),
            Outcome::Ended { session, end } | Outcome::Orphaned { session, end, .. } => {
                if let Some(link) = self.links.ended(*session, *end) {
                    self.forget_link(link);
                }
            }
            Outcome::Nothing
            | Outcome::Written(_)
            | Outcome::Answered { .. }
            | Outcome::Refused(_)
            | Outcome::AccessSet(_)
            | Outcome::AccessNotSet(_)
            | Outcome::Denied(_)
            | Outcome::Upgraded { .. }
            | Outcome::NotUpgraded(_)
            | Outcome::Level(_) => {}
        }
    }

    /// The access list is another from an entry on: who may not read any more is served on no stream, and hears of no
    /// trigger. The session ends by its timeout, unless its client may read again before.
    pub(super) fn set_access(&mut self, access: AccessControl) {
        self.access = access;
        for (link, denied) in self.links.denied(&self.access.list) {
            self.end_link(link, RequestError::AccessDenied(denied));
        }
    }

    /// An entry has changed keys: fires the triggers on them.
    pub(super) fn fire(&mut self, index: Index, changed: Vec<Key>) {
        let fired = self.triggers.changed(index, changed);
        self.tell_fired(fired, TriggerReason::DataChanged);
    }

    /// Triggers have fired, whose keys took so many bytes.
    pub(super) fn tell_fired(&mut self, fired: Vec<((LinkId, TriggerId), usize)>, reason: TriggerReason) {
        for ((link, id), freed_bytes) in fired {
            self.links.unwatch(link, freed_bytes);
            self.links.tell(link, SessionEvent::Fired { id, reason });
        }
    }

    /// Makes room for a trigger, unless its stream has too many or they watch too much.
    fn make_room(&mut self, name: (LinkId, TriggerId), keys: &[Key]) -> bool {
        self.disarm(name);
        let size_bytes = keys.iter().map(Key::len).sum();
        self.triggers.count(name.0) < MAX_TRIGGERS && self.links.watch(name.0, size_bytes, MAX_WATCHED_BYTES)
    }

    /// Arms a trigger that knows of the state after `since`, or fires it. There is room for it.
    fn arm(&mut self, (link, id): (LinkId, TriggerId), keys: Vec<Key>, since: Index) {
        let size_bytes = keys.iter().map(Key::len).sum();
        if let Some(reason) = self.triggers.arm((link, id), keys, since) {
            self.links.unwatch(link, size_bytes);
            self.links.tell(link, SessionEvent::Fired { id, reason });
        }
    }

    fn disarm(&mut self, name: (LinkId, TriggerId)) {
        let freed_bytes = self.triggers.disarm(name);
        self.links.unwatch(name.0, freed_bytes);
    }

    /// The machine has answered a query of a session. What it has applied since is yet to be reported, so a trigger that
    /// is armed here misses nothing.
    pub(super) fn session_answered(
        &mut self,
        (link, id): (LinkId, TriggerId),
        watch: bool,
        index: Index,
        result: Result<BackendAnswer, RequestError>,
    ) {
        if self.links.answered(link, Asked::Query).is_none() {
            return;
        }
        let (result, watched) = match result {
            // Were the stream ended, its client would only ask the same again.
            Ok(answer) if watch && !self.make_room((link, id), &answer.watched) => {
                (Err(RequestError::TooMuch), Vec::new())
            }
            Ok(answer) => (Ok(answer.reply), if watch { answer.watched } else { Vec::new() }),
            Err(error) => (Err(error), Vec::new()),
        };
        let arms = watch && result.is_ok();
        self.links.tell(link, SessionEvent::Answered { id, index, result, watched: watched.clone() });
        if arms {
            self.arm((link, id), watched, index);
        }
    }

    /// Answers what has waited to be known as true now.
    pub(super) fn serve_checks(&mut self) {
        for link in self.links.serve(self.applied, &self.access.list, self.clock.now_ms) {
            self.forget_link(link);
        }
    }

    pub(super) fn lead_sessions(&mut self, leader: Option<PeerId>) {
        if self.links.lead(&self.raft, leader, self.clock.now_ms) {
            self.triggers.forget_all();
            self.reads.forget(|query| matches!(query.asker, Asker::Session { .. }));
        }
    }

    /// Expires sessions, or grants them their time anew after a stall.
    pub(super) fn tick_sessions(&mut self, stalled_ms: u64) {
        if stalled_ms >= self.clock.election_timeout_ms {
            self.links.grant_anew(self.clock.now_ms);
        }
        for session in self.links.expire(self.clock.now_ms) {
            let data = Command::ExpireSession { session }.encode();
            if self.writes.has_room_for(&data) {
                self.writes.add(Waiter::Expiring(session), data, NO_DEADLINE_MS);
            } else {
                self.links.not_expired(session);
            }
        }
    }
}

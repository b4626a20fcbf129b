//! The sessions of a cluster as its leader serves them: who is heard of, on which stream, and which have not been heard of
//! for too long.
//!
//! The machine knows which sessions there are; this keeps a copy as of the last entry applied. When a client was last
//! heard of is known to the leader alone and is not in the log, so that clients which are merely there cost no entries. A
//! new leader, and one that stood still for an election timeout, grants every session its full timeout again.

use std::collections::BTreeMap;

use crate::access::{self, Access, AccessDenied, AccessList};
use crate::machine::SessionTerms;
use crate::protocol::{MAX_TRIGGERS, RequestError, SessionEnd, SessionEvent, SessionSecret};
use crate::raft::{Raft, ReadId, ReadReady};
use crate::replica::LinkId;
use crate::replica::confirm::Confirming;
use crate::types::{Index, PeerId, SessionId, Term};

/// The sessions of one replica, and the streams on which clients use them.
///
/// - A stream is for one session, and a session is served on one stream at most, the latest.
/// - Only a leader has streams; all of them end with its term.
/// - Nobody is told that a session is alive while its expiry is in the log and not applied.
#[derive(Default)]
pub(super) struct Links {
    open: BTreeMap<SessionId, Open>,
    links: BTreeMap<LinkId, Link>,
    checks: Confirming<Check>,
    /// The term in which this replica leads, if it does.
    leads: Option<Term>,
    events: Vec<(LinkId, SessionEvent)>,
}

/// An open session.
struct Open {
    terms: SessionTerms,
    heard_at_ms: u64,
    is_expiring: bool,
    link: Option<LinkId>,
}

/// A stream.
struct Link {
    state: State,
    /// Writes that were not answered.
    writes: u64,
    /// Queries that were not answered.
    queries: usize,
    /// Pings that were not answered.
    pings: usize,
    /// Bytes of the keys that its triggers watch.
    watched_bytes: usize,
}

enum State {
    /// The entry that opens its session is on its way.
    Opening,
    /// Its session is looked for.
    Resuming { identity: String, session: SessionId, secret: SessionSecret },
    /// It serves a session.
    Attached(SessionId),
}

/// What is answered once it is known to be true now.
struct Check {
    link: LinkId,
    /// The number of a ping; none for a stream that waits to be attached.
    ping: Option<u64>,
}

/// What a stream may have waiting, of all kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Write,
    Query,
    Ping,
}

impl Links {
    /// Most streams of one replica.
    const MAX_LINKS: usize = 1 << 16;

    /// Most pings that may wait on a stream: more would take the room of others.
    pub(super) const MAX_PINGS: usize = 64;

    /// Takes the events that are to be sent, in order.
    pub(super) fn take_events(&mut self) -> Vec<(LinkId, SessionEvent)> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn tell(&mut self, link: LinkId, event: SessionEvent) {
        if self.links.contains_key(&link) {
            self.events.push((link, event));
        }
    }

    /// Ends a stream for a reason.
    pub(super) fn refuse(&mut self, link: LinkId, error: RequestError) {
        self.events.push((link, SessionEvent::Detached(error)));
        self.remove(link);
    }

    pub(super) fn contains(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// Whether another stream may come.
    pub(super) fn has_room(&self) -> bool {
        self.links.len() < Self::MAX_LINKS
    }

    /// A stream for a session that is to be opened.
    pub(super) fn opening(&mut self, link: LinkId) {
        self.links.insert(link, Link::new(State::Opening));
    }

    /// A stream for a session that should be there.
    pub(super) fn resuming(&mut self, link: LinkId, identity: String, session: SessionId, secret: SessionSecret) {
        self.links.insert(link, Link::new(State::Resuming { identity, session, secret }));
        self.checks.add(Check { link, ping: None });
    }

    /// The session that a stream serves, which counts as heard of.
    pub(super) fn heard(&mut self, link: LinkId, now_ms: u64) -> Option<SessionId> {
        let session = self.session_of(link)?;
        if let Some(open) = self.open.get_mut(&session) {
            open.heard_at_ms = now_ms;
        }
        Some(session)
    }

    fn session_of(&self, link: LinkId) -> Option<SessionId> {
        match self.links.get(&link)?.state {
            State::Attached(session) => Some(session),
            State::Opening | State::Resuming { .. } => None,
        }
    }

    /// Counts a request in, unless the stream has too many waiting.
    pub(super) fn admit(&mut self, link: LinkId, asked: Asked, max_writes: u64) -> bool {
        let Some(link) = self.links.get_mut(&link) else { return false };
        match asked {
            Asked::Write if link.writes < max_writes => link.writes += 1,
            Asked::Query if link.queries < MAX_TRIGGERS => link.queries += 1,
            Asked::Ping if link.pings < Self::MAX_PINGS => link.pings += 1,
            Asked::Write | Asked::Query | Asked::Ping => return false,
        }
        true
    }

    /// Counts a request out. None if the stream has gone.
    pub(super) fn answered(&mut self, link: LinkId, asked: Asked) -> Option<()> {
        let link = self.links.get_mut(&link)?;
        match asked {
            Asked::Write => link.writes -= 1,
            Asked::Query => link.queries -= 1,
            Asked::Ping => link.pings -= 1,
        }
        Some(())
    }

    /// Counts the keys of a trigger in, unless those of the stream take too much.
    pub(super) fn watch(&mut self, link: LinkId, size_bytes: usize, max_bytes: usize) -> bool {
        let Some(link) = self.links.get_mut(&link) else { return false };
        let fits = link.watched_bytes + size_bytes <= max_bytes;
        link.watched_bytes += if fits { size_bytes } else { 0 };
        fits
    }

    /// Counts the keys of a trigger out.
    pub(super) fn unwatch(&mut self, link: LinkId, size_bytes: usize) {
        if let Some(link) = self.links.get_mut(&link) {
            link.watched_bytes -= size_bytes;
        }
    }

    pub(super) fn ping(&mut self, link: LinkId, number: u64) {
        self.checks.add(Check { link, ping: Some(number) });
    }

    /// How many checks wait.
    pub(super) fn waiting(&self) -> usize {
        self.checks.len()
    }

    /// Forgets a stream. Its session goes on.
    pub(super) fn remove(&mut self, link: LinkId) {
        self.checks.extract(|check| check.link == link);
        if let Some(Link { state: State::Attached(session), .. }) = self.links.remove(&link)
            && let Some(open) = self.open.get_mut(&session).filter(|open| open.link == Some(link))
        {
            open.link = None;
        }
    }

    pub(super) fn ask(&mut self, raft: &mut Raft) {
        self.checks.ask(raft);
    }

    pub(super) fn lost(&mut self, ids: &[ReadId]) {
        self.checks.lost(ids);
    }

    pub(super) fn confirmed(&mut self, reads: &[ReadReady]) {
        self.checks.confirmed(reads);
    }

    /// Answers what waits for the machine to reach `applied`. Returns the stream that another has taken over from, if
    /// one has.
    pub(super) fn serve(&mut self, applied: Index, access: &AccessList, now_ms: u64) -> Vec<LinkId> {
        let mut superseded = Vec::new();
        for Check { link, ping } in self.checks.take(applied) {
            match (ping, self.session_of(link)) {
                (Some(number), Some(session)) => {
                    self.answered(link, Asked::Ping);
                    // Whoever is being expired will hear of the end.
                    if self.open.get(&session).is_some_and(|open| !open.is_expiring) {
                        self.tell(link, SessionEvent::Pong { number });
                    }
                }
                (None, None) => superseded.extend(self.resume(link, access, now_ms)),
                (Some(_), None) | (None, Some(_)) => {}
            }
        }
        superseded
    }

    /// Attaches a stream to the session it is for. Returns the one that served it before.
    fn resume(&mut self, link: LinkId, access: &AccessList, now_ms: u64) -> Option<LinkId> {
        let state = &self.links.get(&link)?.state;
        let State::Resuming { identity, session, secret } = state else { return None };
        let session = *session;
        let Some(open) = self.open.get(&session) else {
            self.end(link, SessionEnd::Expired);
            return None;
        };
        if !open.terms.is_owner(identity, *secret) {
            self.refuse(link, RequestError::NotYourSession);
            return None;
        }
        if let Err(denied) = access.check_identity(identity, Access::Read) {
            self.refuse(link, RequestError::AccessDenied(denied));
            return None;
        }
        let before = open.link;
        if let Some(before) = before {
            self.refuse(before, RequestError::Superseded);
        }
        self.attach(link, session, now_ms);
        before
    }

    /// The stream serves the session from now on.
    fn attach(&mut self, link: LinkId, session: SessionId, now_ms: u64) {
        let (Some(of_link), Some(open)) = (self.links.get_mut(&link), self.open.get_mut(&session)) else { return };
        of_link.state = State::Attached(session);
        open.link = Some(link);
        if !open.is_expiring {
            open.heard_at_ms = now_ms;
            self.tell(link, SessionEvent::Attached { session });
        }
    }

    fn end(&mut self, link: LinkId, end: SessionEnd) {
        self.tell(link, SessionEvent::Ended(end));
        self.remove(link);
    }

    /// A session was opened, by a client on this stream if there is one.
    pub(super) fn opened(&mut self, session: SessionId, terms: SessionTerms, now_ms: u64) {
        self.open.insert(session, Open { terms, heard_at_ms: now_ms, is_expiring: false, link: None });
    }

    /// The client whose session a stream serves; none if it is somebody who may do everything.
    pub(super) fn client_of(&self, link: LinkId) -> Option<&str> {
        let open = self.open.get(&self.session_of(link)?)?;
        access::client_of(&open.terms.identity)
    }

    /// The streams of those who may not read by this list.
    pub(super) fn denied(&self, access: &AccessList) -> Vec<(LinkId, AccessDenied)> {
        let of = |open: &Open| Some((open.link?, access.check_identity(&open.terms.identity, Access::Read).err()?));
        self.open.values().filter_map(of).collect()
    }

    /// The session that the client on a stream has opened is there.
    pub(super) fn opened_by(&mut self, link: LinkId, session: SessionId, now_ms: u64) {
        self.attach(link, session, now_ms);
    }

    /// A session has ended. Returns the stream that it was served on.
    pub(super) fn ended(&mut self, session: SessionId, end: SessionEnd) -> Option<LinkId> {
        let link = self.open.remove(&session)?.link?;
        self.end(link, end);
        Some(link)
    }

    /// The sessions are these now, as a snapshot has them. What this leader has proposed about them stands.
    pub(super) fn restored(&mut self, sessions: impl IntoIterator<Item = (SessionId, SessionTerms)>, now_ms: u64) {
        let before = std::mem::take(&mut self.open);
        for (session, terms) in sessions {
            let is_expiring = before.get(&session).is_some_and(|open| open.is_expiring);
            self.open.insert(session, Open { terms, heard_at_ms: now_ms, is_expiring, link: None });
        }
    }

    /// Follows leadership: all streams end with it, and every session's time begins anew. Tells whether that is so.
    pub(super) fn lead(&mut self, raft: &Raft, leader: Option<PeerId>, now_ms: u64) -> bool {
        let leads = raft.is_leader().then(|| raft.term());
        if leads == self.leads {
            return false;
        }
        self.leads = leads;
        // What a former leader has proposed is applied before anything is asked of this one.
        self.open.values_mut().for_each(|open| open.is_expiring = false);
        self.grant_anew(now_ms);
        self.open.values_mut().for_each(|open| open.link = None);
        let ended = std::mem::take(&mut self.links).into_keys();
        let event = SessionEvent::Detached(RequestError::NotLeader { leader });
        self.events.extend(ended.map(|link| (link, event.clone())));
        self.checks = Confirming::default();
        true
    }

    /// Every session has its full timeout again.
    pub(super) fn grant_anew(&mut self, now_ms: u64) {
        self.open.values_mut().for_each(|open| open.heard_at_ms = now_ms);
    }

    /// The sessions that were not heard of for their timeout, which are being expired from now on.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<SessionId> {
        if self.leads.is_none() {
            return Vec::new();
        }
        let is_late = |open: &Open| now_ms.saturating_sub(open.heard_at_ms) > open.terms.timeout_ms;
        let late = self.open.iter_mut().filter(|(_, open)| !open.is_expiring && is_late(open));
        late.map(|(session, open)| {
            open.is_expiring = true;
            *session
        })
        .collect()
    }

    /// The expiry of a session was not proposed; it is tried again. Returns the session's stream.
    pub(super) fn not_expired(&mut self, session: SessionId) -> Option<LinkId> {
        let open = self.open.get_mut(&session)?;
        open.is_expiring = false;
        open.link
    }

    /// Whether there is neither a session nor a stream for one.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.links.is_empty()
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

impl Link {
    fn new(state: State) -> Self {
        Self { state, writes: 0, queries: 0, pings: 0, watched_bytes: 0 }
    }
}

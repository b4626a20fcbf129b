//! What a client keeps of its session: what waits for an answer, what is armed, and when it was last known to live.
//!
//! It knows no socket and no clock: calls and events come with the time, frames and answers are taken out. So all of a
//! session's promises are tested without a network, in `tests/model.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::client::session::pulse::{Pulse, Turn};
use crate::client::session::watches::Watches;
use crate::client::session::writes::Writes;
use crate::client::session::{Ending, Notice, SessionFailure};
use crate::client::{Watched, Written};
use crate::protocol::{
    CommandError, CommandReply, MAX_TRIGGERS, RequestError, SessionEvent, SessionRefusal, SessionRequest, TriggerId,
    TriggerReason,
};
use crate::types::{Index, SessionId};

/// A session, as its client knows it.
///
/// - Every call that was taken in, and not forgotten, is completed once: by its answer, or by the session's end.
/// - At most [`MAX_TRIGGERS`] triggers are asked for, armed, or fired and not noticed: so notices are bounded.
/// - After the end nothing is sent.
#[derive(Debug)]
pub(super) struct State {
    session: Option<SessionId>,
    is_attached: bool,
    writes: Writes,
    next_id: u64,
    queries: BTreeMap<TriggerId, Query>,
    unsent_queries: BTreeSet<TriggerId>,
    watches: Watches,
    pulse: Pulse,
    close: Option<Close>,
    ending: Option<Ending>,
    completions: VecDeque<Completion>,
    notices: VecDeque<Notice>,
}

#[derive(Debug)]
struct Query {
    request: Bytes,
    watch: bool,
}

/// The wish to end the session.
#[derive(Debug)]
struct Close {
    is_sent: bool,
}

/// A call is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    Write { seq: u64, result: Result<Written, SessionFailure> },
    Query { id: TriggerId, result: Result<Watched, SessionFailure> },
}

/// What is to be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Trigger,
    Ping,
    Write(u64),
    Query(TriggerId),
    Close,
}

impl State {
    pub(super) fn new(timeout_ms: u64) -> Self {
        Self {
            session: None,
            is_attached: false,
            writes: Writes::default(),
            next_id: 1,
            queries: BTreeMap::new(),
            unsent_queries: BTreeSet::new(),
            watches: Watches::default(),
            pulse: Pulse::new(timeout_ms),
            close: None,
            ending: None,
            completions: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// Which session it is; nothing before it is open.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Why it is over, if it is.
    pub(super) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.pulse.is_suspended()
    }

    /// Takes a write in and returns its number.
    pub(super) fn write(&mut self, data: Bytes, is_ephemeral: bool) -> Result<u64, SessionFailure> {
        self.check_open()?;
        Ok(self.writes.add(data, is_ephemeral))
    }

    /// Takes a query in and returns its number, which becomes its trigger's if it is to `watch`.
    pub(super) fn query(&mut self, request: Bytes, watch: bool) -> Result<TriggerId, SessionFailure> {
        self.check_open()?;
        if watch && self.triggers() >= MAX_TRIGGERS {
            return Err(SessionFailure::TooManyTriggers);
        }
        let id = TriggerId(self.next_id);
        self.next_id += 1;
        self.queries.insert(id, Query { request, watch });
        self.unsent_queries.insert(id);
        Ok(id)
    }

    fn check_open(&self) -> Result<(), SessionFailure> {
        match &self.ending {
            Some(ending) => Err(SessionFailure::Ended(ending.clone())),
            None if self.close.is_some() => Err(SessionFailure::Ended(Ending::Closed)),
            None => Ok(()),
        }
    }

    /// Triggers that are asked for, armed, or fired and not noticed.
    fn triggers(&self) -> usize {
        let asked_for = self.queries.values().filter(|query| query.watch).count();
        let fired = self.notices.iter().filter(|notice| matches!(notice, Notice::Fired { .. })).count();
        asked_for + self.watches.len() + fired
    }

    /// Nobody waits for a query any more. True if it is not on its way, and so need not be sent.
    pub(super) fn forget_query(&mut self, id: TriggerId) -> bool {
        let is_unsent = self.unsent_queries.remove(&id);
        if is_unsent {
            self.queries.remove(&id);
        }
        is_unsent
    }

    /// Gives a trigger up. A notice of it that waits is withdrawn.
    pub(super) fn disarm(&mut self, id: TriggerId) {
        self.watches.give_up(id);
        self.notices.retain(|notice| !matches!(notice, Notice::Fired { trigger, .. } if *trigger == id));
    }

    /// Ends the session once all writes are answered.
    pub(super) fn close(&mut self) {
        self.close.get_or_insert(Close { is_sent: false });
    }

    /// A node serves the session on a new stream, which was asked for at `asked_at_ms`.
    pub(super) fn attached(&mut self, session: SessionId, asked_at_ms: u64, now_ms: u64) {
        self.session = Some(session);
        self.is_attached = true;
        self.pulse.confirmed(asked_at_ms);
        self.tick(now_ms);
    }

    /// The stream has ended, as its node says for a reason. Whatever was not answered goes to the next one.
    pub(super) fn detached(&mut self, error: Option<&RequestError>, now_ms: u64) {
        match error {
            Some(RequestError::TooMuch) => self.writes.narrow(),
            Some(RequestError::DiskFull { .. }) => self.writes.hold(now_ms),
            _ => {}
        }
        self.is_attached = false;
        self.writes.detached();
        self.unsent_queries = self.queries.keys().copied().collect();
        self.watches.detached();
        self.pulse.detached();
        self.close.iter_mut().for_each(|close| close.is_sent = false);
    }

    /// A node says something on the session's stream.
    pub(super) fn received(&mut self, event: SessionEvent, now_ms: u64) {
        match event {
            SessionEvent::Written { seq, result } => self.written(seq, result),
            SessionEvent::Answered { id, index, result, watched } => self.answered(id, index, result, watched),
            SessionEvent::Fired { id, reason } => {
                if self.watches.fired(id) {
                    self.notices.push_back(Notice::Fired { trigger: id, reason });
                }
            }
            SessionEvent::Pong { number } => self.pulse.pong(number),
            SessionEvent::Ended(end) => self.end(end.into()),
            SessionEvent::Detached(error) => self.detached(Some(&error), now_ms),
            // Said once, and taken in as the stream was made.
            SessionEvent::Attached { .. } => {}
        }
        self.tick(now_ms);
    }

    fn written(&mut self, seq: u64, result: Result<(Index, CommandReply), SessionRefusal>) {
        let result = match result {
            Ok((index, Ok(reply))) => Ok(Written { index, reply }),
            Ok((_, Err(CommandError::Refused(reason)))) => Err(SessionFailure::Refused(reason)),
            Ok((index, Err(CommandError::Fault(fault)))) => Err(SessionFailure::Skipped { index, fault }),
            Ok((_, Err(CommandError::Denied(denied)))) => Err(SessionFailure::Denied(denied)),
            Err(SessionRefusal::OutOfOrder { .. }) => return self.writes.send_again(seq),
            Err(SessionRefusal::TooManyUnacknowledged) => {
                self.writes.narrow();
                return self.writes.send_again(seq);
            }
            Err(SessionRefusal::Expired) => return self.end(Ending::Expired),
            Err(SessionRefusal::AlreadyAcknowledged) => Err(SessionFailure::ReplyLost),
            Err(refusal) => Err(SessionFailure::NotRun(refusal)),
        };
        let has_run = matches!(
            result,
            Ok(_) | Err(SessionFailure::Refused(_) | SessionFailure::Skipped { .. } | SessionFailure::Denied(_))
        );
        // A reply may come twice: to a write sent on two streams.
        let Some(sent_at_ms) = self.writes.answered(seq) else { return };
        if has_run {
            self.pulse.confirmed(sent_at_ms);
        }
        self.completions.push_back(Completion::Write { seq, result });
    }

    fn answered(
        &mut self,
        id: TriggerId,
        index: Index,
        result: Result<Result<Bytes, String>, RequestError>,
        watched: Vec<Bytes>,
    ) {
        self.unsent_queries.remove(&id);
        let Some(query) = self.queries.remove(&id) else { return };
        let is_armed = query.watch && result.is_ok();
        let result = match result {
            Ok(Ok(reply)) => Ok(Watched { index, reply, trigger: id }),
            Ok(Err(refusal)) => Err(SessionFailure::Refused(refusal)),
            Err(error) => Err(SessionFailure::Failed(error)),
        };
        if is_armed && result.is_err() {
            self.watches.unwanted(id);
        } else if is_armed && !self.watches.arm(id, watched, index) {
            return self.completions.push_back(Completion::Query { id, result: Err(SessionFailure::TooManyTriggers) });
        }
        self.completions.push_back(Completion::Query { id, result });
    }

    /// The session is over: whatever waits is told so, and every trigger fires.
    pub(super) fn end(&mut self, ending: Ending) {
        if self.ending.is_some() {
            return;
        }
        let writes = self.writes.end(&ending).map(|(seq, failure)| Completion::Write { seq, result: Err(failure) });
        self.completions.extend(writes);
        let queries = std::mem::take(&mut self.queries).into_keys();
        let failure = SessionFailure::Ended(ending.clone());
        self.completions.extend(queries.map(|id| Completion::Query { id, result: Err(failure.clone()) }));
        self.unsent_queries.clear();
        let triggers = self.watches.end().into_iter();
        let reason = TriggerReason::SessionExpired;
        self.notices.extend(triggers.map(|trigger| Notice::Fired { trigger, reason }));
        self.notices.push_back(Notice::Ended(ending.clone()));
        self.is_attached = false;
        self.ending = Some(ending);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now_ms: u64) {
        if self.ending.is_some() {
            return;
        }
        let (notice, withdrawn) = match self.pulse.turn(now_ms) {
            Some(Turn::Suspended) => (Notice::Suspended, Notice::Resumed),
            Some(Turn::Resumed) => (Notice::Resumed, Notice::Suspended),
            None => return,
        };
        // Who has not noticed one turn need not know of two.
        match self.notices.iter().position(|waiting| *waiting == withdrawn) {
            Some(at) => drop(self.notices.remove(at)),
            None => self.notices.push_back(notice),
        }
    }

    /// Whether somebody waits for an answer.
    fn is_busy(&self) -> bool {
        !self.writes.is_empty() || !self.queries.is_empty() || self.close.is_some()
    }

    /// Whether the stream gives no sign of life, and another should be tried.
    pub(super) fn is_stalled(&self, now_ms: u64) -> bool {
        self.is_attached && self.pulse.is_stalled(now_ms)
    }

    /// When time will make a difference.
    pub(super) fn deadline_ms(&self, now_ms: u64) -> Option<u64> {
        if self.ending.is_some() {
            return None;
        }
        let of_writes = self.writes.deadline_ms(now_ms).filter(|_| self.is_attached);
        self.pulse.deadline_ms(self.is_attached, self.is_busy()).into_iter().chain(of_writes).min()
    }

    fn next_to_send(&self, now_ms: u64) -> Option<Next> {
        if !self.is_attached {
            None
        } else if self.watches.has_to_send() {
            Some(Next::Trigger)
        } else if self.pulse.is_ping_due(self.is_busy(), now_ms) {
            Some(Next::Ping)
        } else if let Some(seq) = self.writes.next_to_send(now_ms) {
            Some(Next::Write(seq))
        } else if let Some(id) = self.unsent_queries.first() {
            Some(Next::Query(*id))
        } else {
            let may_close = self.writes.is_empty() && self.close.as_ref().is_some_and(|close| !close.is_sent);
            may_close.then_some(Next::Close)
        }
    }

    /// The next frame for the stream.
    pub(super) fn send(&mut self, now_ms: u64) -> Option<SessionRequest> {
        match self.next_to_send(now_ms)? {
            Next::Trigger => self.watches.send(),
            Next::Ping => Some(SessionRequest::Ping { number: self.pulse.ping(now_ms) }),
            Next::Write(seq) => self.writes.send(seq, now_ms),
            Next::Query(id) => {
                self.unsent_queries.remove(&id);
                let Query { request, watch } = self.queries.get(&id)?;
                Some(SessionRequest::Query { id, request: request.clone(), watch: *watch })
            }
            Next::Close => {
                self.close = Some(Close { is_sent: true });
                Some(SessionRequest::Close)
            }
        }
    }

    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    pub(super) fn has_notice(&self) -> bool {
        !self.notices.is_empty()
    }

    pub(super) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }
}

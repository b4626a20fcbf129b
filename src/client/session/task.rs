//! The task that owns a session: it brings calls and events to [`State`], and frames, answers and notices away from it. It
//! keeps a stream to whoever leads the cluster.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::client::alarm::Alarm;
use crate::client::peers::Peers;
use crate::client::session::link::{AttachError, Happened, Link};
use crate::client::session::state::{Completion, State};
use crate::client::session::{Ending, Notice, SessionFailure};
use crate::client::{Client, SessionOptions, Watched, Written};
use crate::protocol::{RequestError, SessionEvent, SessionSecret, SessionStart, TriggerId};
use crate::types::{PeerId, SessionId};

/// What the owner of a session asks of it.
pub(super) enum Call {
    Write { data: Bytes, is_ephemeral: bool, caller: Caller<Written> },
    Query { request: Bytes, watch: bool, caller: Caller<Watched> },
    Disarm(TriggerId),
    Close,
}

/// Who waits for an answer, and what the call takes until it has one.
pub(super) struct Caller<T> {
    pub(super) answer: oneshot::Sender<Result<T, SessionFailure>>,
    pub(super) _room: Vec<OwnedSemaphorePermit>,
}

/// How a session is, for those who wait for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) session: Option<SessionId>,
    pub(super) is_suspended: bool,
    /// Why nothing can be asked of it any more.
    pub(super) failure: Option<SessionFailure>,
    /// What the last attempt to reach the cluster failed of, until it is reached.
    pub(super) trouble: Option<String>,
}

/// A session, as it is to be.
pub(super) struct Wanted {
    pub(super) client: Client,
    pub(super) peers: Vec<PeerId>,
    pub(super) options: SessionOptions,
    pub(super) timeout_ms: u64,
    pub(super) secret: SessionSecret,
}

pub(super) struct Task {
    wanted: Wanted,
    peers: Peers,
    state: State,
    line: Line,
    started: Instant,
    calls: mpsc::Receiver<Call>,
    notices: mpsc::Sender<Notice>,
    status: watch::Sender<Status>,
    writers: BTreeMap<u64, Caller<Written>>,
    readers: BTreeMap<TriggerId, Caller<Watched>>,
    /// Who could not be reached since the session was asked for: kept until it is open.
    failed: Vec<(PeerId, String)>,
    /// Attempts since the session was last served.
    attempts: u32,
    alarm: Alarm,
}

/// The way to the cluster.
enum Line {
    Down,
    Dialing(Pin<Box<dyn Future<Output = Dialed> + Send>>),
    Up(Box<Link>),
}

/// Who was dialed from when on, and what has come of it.
type Dialed = (PeerId, Instant, Result<Box<Link>, AttachError>);

enum News {
    Dialed(Dialed),
    Link(Happened),
}

/// When to try the next peer.
enum Retry {
    AtOnce,
    Later,
}

impl Task {
    /// Longest pause between attempts to reach the cluster.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    pub(super) fn new(
        wanted: Wanted,
        calls: mpsc::Receiver<Call>,
        notices: mpsc::Sender<Notice>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            peers: Peers::new(wanted.peers.clone(), wanted.options),
            state: State::new(wanted.timeout_ms),
            wanted,
            line: Line::Down,
            started: Instant::now(),
            calls,
            notices,
            status,
            writers: BTreeMap::new(),
            readers: BTreeMap::new(),
            failed: Vec::new(),
            attempts: 0,
            alarm: Alarm::new(),
        }
    }

    /// Runs until the session is over and that was noticed, or its owner has dropped it.
    pub(super) async fn run(mut self) {
        self.dial(Duration::ZERO);
        while !self.is_done() {
            let now_ms = self.now_ms();
            self.send(now_ms);
            let deadline = self.state.deadline_ms(now_ms).map(|at| self.started + Duration::from_millis(at));
            tokio::select! {
                call = self.calls.recv() => match call {
                    Some(call) => self.take_all(call),
                    None => return,
                },
                news = self.line.next() => self.learn(news),
                // An error means that nobody wants to know.
                _ = async { drop(self.notices.reserve().await) }, if self.state.has_notice() => {
                    let _ = self.state.next_notice().map(|notice| self.notices.try_send(notice));
                }
                () = until(&mut self.alarm, deadline) => {}
            }
            self.settle();
        }
    }

    fn is_done(&self) -> bool {
        let has_failed = self.status.borrow().failure.is_some();
        has_failed && !self.state.has_notice()
    }

    fn now_ms(&self) -> u64 {
        self.ms(Instant::now())
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Sends what there is to send, as far as there is room.
    fn send(&mut self, now_ms: u64) {
        let Line::Up(link) = &mut self.line else { return };
        let mut has_sent = false;
        while link.has_room()
            && let Some(request) = self.state.send(now_ms)
        {
            link.send(&request);
            has_sent = true;
        }
        if has_sent {
            link.write();
        }
    }

    /// Takes a call, and others that wait: they are sent together.
    fn take_all(&mut self, call: Call) {
        self.take(call);
        for _ in 1..Link::MAX_FRAMES {
            let Ok(call) = self.calls.try_recv() else { return };
            self.take(call);
        }
    }

    fn take(&mut self, call: Call) {
        match call {
            Call::Write { data, is_ephemeral, caller } => match self.state.write(data, is_ephemeral) {
                Ok(seq) => drop(self.writers.insert(seq, caller)),
                Err(failure) => drop(caller.answer.send(Err(failure))),
            },
            Call::Query { request, watch, caller } => match self.state.query(request, watch) {
                Ok(id) => drop(self.readers.insert(id, caller)),
                Err(failure) => drop(caller.answer.send(Err(failure))),
            },
            Call::Disarm(trigger) => self.state.disarm(trigger),
            Call::Close => self.state.close(),
        }
    }

    fn learn(&mut self, news: News) {
        let now_ms = self.now_ms();
        match news {
            News::Dialed((peer, _, Ok(link))) => {
                self.peers.succeeded(&peer, true);
                self.failed.clear();
                self.state.attached(link.session, self.ms(link.asked_at), now_ms);
                self.line = Line::Up(link);
            }
            News::Dialed((peer, began, Err(AttachError::Call(error)))) => {
                self.pass_over((&peer, began), error.is_loss(), error.to_string())
            }
            News::Dialed((peer, _, Err(AttachError::Refused(error)))) => self.refused(&peer, error),
            News::Dialed((_, _, Err(AttachError::Ended(end)))) => self.state.end(end.into()),
            News::Link(Happened::Event(SessionEvent::Detached(error))) => {
                let Some(peer) = self.hang_up(Some(&error)) else { return };
                self.refused(&peer, error);
            }
            News::Link(Happened::Event(event)) => {
                if std::mem::take(&mut self.attempts) > 0 {
                    self.say_trouble(None);
                }
                self.state.received(event, now_ms);
            }
            News::Link(Happened::Room) => {}
            News::Link(Happened::Lost(reason)) => {
                let Some(peer) = self.hang_up(None) else { return };
                self.pass_over((&peer, Instant::now()), true, reason);
            }
        }
    }

    /// Lets go of the stream. Returns whose it was.
    fn hang_up(&mut self, error: Option<&RequestError>) -> Option<PeerId> {
        self.state.detached(error, self.now_ms());
        match std::mem::replace(&mut self.line, Line::Down) {
            Line::Up(link) => Some(link.peer),
            Line::Down | Line::Dialing(_) => None,
        }
    }

    /// A peer says no: for good, or it knows who may say yes.
    fn refused(&mut self, peer: &PeerId, error: RequestError) {
        let reason = error.to_string();
        let retry = match error {
            RequestError::NotYourSession
            | RequestError::PermissionDenied { .. }
            | RequestError::AccessDenied(_)
            | RequestError::Invalid { .. }
            | RequestError::NotOpened(_) => return self.give_up(error),
            RequestError::NoSuchPeer { .. } | RequestError::PeerStopped { .. } => {
                return self.pass_over((peer, Instant::now()), false, reason);
            }
            RequestError::NotLeader { leader: Some(leader) } if self.follow(&leader) => Retry::AtOnce,
            RequestError::NotLeader { .. } => {
                self.peers.lost_leader();
                Retry::Later
            }
            RequestError::NoLeader | RequestError::Stopping => {
                self.peers.failed(peer);
                Retry::Later
            }
            _ => Retry::Later,
        };
        self.redial(retry, format!("{peer}: {reason}"));
    }

    /// Whether a peer that another names as the leader is to be asked. Its node is dialed if not: it may be back.
    fn follow(&mut self, leader: &PeerId) -> bool {
        let client = &self.wanted.client;
        let is_usable = self.peers.follow(leader.clone(), |node| client.is_connected(node));
        if !is_usable {
            client.dial(leader.node());
        }
        is_usable
    }

    fn give_up(&mut self, error: RequestError) {
        match self.state.session() {
            Some(_) => self.state.end(Ending::Refused(error)),
            None => self.fail(SessionFailure::Failed(error)),
        }
    }

    /// What began then with a peer has failed: another is tried.
    fn pass_over(&mut self, (peer, began): (&PeerId, Instant), is_lost: bool, reason: String) {
        self.peers.attempt_failed((peer, began), is_lost);
        if self.state.session().is_none() {
            self.failed.retain(|(failed, _)| failed != peer);
            self.failed.push((peer.clone(), reason.clone()));
            if self.peers.all_failed(&self.failed) {
                let lines: Vec<_> = self.failed.iter().map(|(peer, reason)| format!("{peer}: {reason}")).collect();
                return self.fail(SessionFailure::AllFailed(lines.join("; ")));
            }
        }
        self.redial(Retry::AtOnce, format!("{peer}: {reason}"));
    }

    fn redial(&mut self, retry: Retry, trouble: String) {
        self.say_trouble(Some(trouble));
        self.forget_readers();
        self.attempts = self.attempts.saturating_add(1);
        let pause = match retry {
            // Peers may each take another for the leader: nobody is asked over and over without a pause.
            Retry::AtOnce if !(self.attempts as usize).is_multiple_of(self.peers.len()) => Duration::ZERO,
            Retry::AtOnce | Retry::Later => self.pause(),
        };
        self.dial(pause);
    }

    /// Grows with each round of attempts, but not so far that a session would expire of it.
    fn pause(&self) -> Duration {
        let rounds = self.attempts / u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        let most = Self::MAX_PAUSE.min(Duration::from_millis(self.wanted.timeout_ms) / 4);
        self.wanted.options.retry_pause.saturating_mul(1 << rounds.min(10)).min(most)
    }

    fn dial(&mut self, pause: Duration) {
        let client = &self.wanted.client;
        let Some(peer) = self.peers.choose_unless_lost(|node| client.has_lost(node)) else {
            return self.fail(SessionFailure::NoPeers);
        };
        let secret = self.wanted.secret;
        let start = match self.state.session() {
            Some(session) => SessionStart::Resume { session, secret },
            None => SessionStart::Open { timeout_ms: self.wanted.timeout_ms, secret },
        };
        let (client, timeout) = (self.wanted.client.clone(), self.wanted.options.attempt_timeout);
        self.line = Line::Dialing(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let result = Link::attach(&client, peer.clone(), start, timeout).await.map(Box::new);
            (peer, began, result)
        }));
    }

    /// Queries of callers that have gone are not sent again.
    fn forget_readers(&mut self) {
        let state = &mut self.state;
        self.readers.retain(|id, caller| !(caller.answer.is_closed() && state.forget_query(*id)));
    }

    /// No session was opened.
    fn fail(&mut self, failure: SessionFailure) {
        self.line = Line::Down;
        self.status.send_modify(|status| status.failure = Some(failure));
    }

    fn say_trouble(&mut self, trouble: Option<String>) {
        self.status.send_if_modified(|status| {
            let has_changed = status.trouble != trouble;
            status.trouble = trouble;
            has_changed
        });
    }

    /// Does what is due after anything has happened.
    fn settle(&mut self) {
        let now_ms = self.now_ms();
        self.state.tick(now_ms);
        if self.state.is_stalled(now_ms)
            && let Some(peer) = self.hang_up(None)
        {
            self.pass_over((&peer, Instant::now()), false, "the node does not answer".to_owned());
        }
        while let Some(completion) = self.state.next_completion() {
            self.complete(completion);
        }
        if self.state.ending().is_some() {
            self.line = Line::Down;
        }
        if self.notices.is_closed() {
            while self.state.next_notice().is_some() {}
        }
        self.publish();
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Write { seq, result } => {
                if let Some(caller) = self.writers.remove(&seq) {
                    // Who has stopped waiting does not want the reply; the write has run all the same.
                    let _ = caller.answer.send(result);
                }
            }
            Completion::Query { id, result } => {
                if let Some(caller) = self.readers.remove(&id)
                    && caller.answer.send(result).is_err()
                {
                    self.state.disarm(id);
                }
            }
        }
    }

    fn publish(&mut self) {
        let (session, is_suspended, ending) = (self.state.session(), self.state.is_suspended(), self.state.ending());
        let is_news = |status: &Status| {
            let has_ended = ending.is_some() && status.failure.is_none();
            has_ended || (status.session, status.is_suspended) != (session, is_suspended)
        };
        // To look is cheaper than to ask for a change, and there hardly ever is one.
        if is_news(&self.status.borrow()) {
            self.status.send_modify(|status| {
                (status.session, status.is_suspended) = (session, is_suspended);
                status.failure = status.failure.take().or_else(|| ending.cloned().map(SessionFailure::Ended));
            });
        }
    }
}

impl Line {
    /// Waits for what happens next. Cancel safe.
    async fn next(&mut self) -> News {
        match self {
            Self::Down => std::future::pending().await,
            Self::Dialing(dialing) => News::Dialed(dialing.await),
            Self::Up(link) => News::Link(link.next().await),
        }
    }
}

async fn until(alarm: &mut Alarm, deadline: Option<Instant>) {
    match deadline {
        Some(at) => alarm.at(at).await,
        None => std::future::pending().await,
    }
}

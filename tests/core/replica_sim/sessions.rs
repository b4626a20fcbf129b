//! Clients with sessions, as the protocol's words have them and nothing else: they number their commands, send again
//! what was not answered, arm their triggers again, and believe no more than they were told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;
use rand::seq::IteratorRandom;
use zraft::machine::Key;
use zraft::protocol::{CommandReply, MIN_SESSION_TIMEOUT_MS, SessionRequest, SessionSecret, SessionStart, TriggerId};
use zraft::replica::LinkId;
use zraft::types::{Incarnation, Index, SessionId};

use super::backend::{ALL_KEYS, command, is_refused, key_of};
use super::history::{Call, OperationId};
use super::{STEP_MS, Sim};

const MAX_SESSION_TIMEOUT_MS: u64 = 2000;
/// Steps without an answer after which a client may give a stream up.
const PATIENCE_STEPS: u64 = 60;
/// Queries that wait, and triggers, at a time.
const MAX_TRIGGERS: usize = 4;

pub struct SessionClient {
    pub identity: String,
    pub secret: SessionSecret,
    pub timeout_ms: u64,
    pub session: Option<SessionId>,
    pub stream: Option<Attachment>,
    pub target: Incarnation,
    /// It does nothing until then.
    pub silent_until: u64,
    pub is_closing: bool,
    pub next_seq: u64,
    /// What it has said to have.
    pub said_acked: u64,
    /// Commands that were not answered.
    pub pending: BTreeMap<u64, Pending>,
    pub answered: BTreeMap<u64, (Index, CommandReply)>,
    pub questions: BTreeMap<TriggerId, Question>,
    pub triggers: BTreeMap<TriggerId, Trigger>,
    pub last_name: u64,
}

/// A stream, as its client sees it.
pub struct Attachment {
    pub link: LinkId,
    pub is_attached: bool,
    /// It has asked before it was attached.
    pub is_rude: bool,
    /// The commands sent and not answered here.
    pub in_flight: VecDeque<u64>,
    /// Commands from this on were not sent on other streams.
    pub first_own_seq: u64,
    /// A command was refused that must be sent again, when all in flight are answered.
    pub must_resend: bool,
    /// When each was sent, and what clients knew then.
    pub pings: BTreeMap<u64, (u64, Index)>,
    pub pinged_at: u64,
    pub heard_at: u64,
    /// The index that the client was told of here.
    pub told: Index,
    /// The entry that has run the latest command answered here.
    pub written: Index,
    pub disarmed: BTreeSet<TriggerId>,
}

pub struct Pending {
    pub number: u64,
    pub is_ephemeral: bool,
    pub operation: Option<OperationId>,
}

pub struct Question {
    pub keys: Vec<u8>,
    pub watch: bool,
    pub floor: Index,
    pub operations: Vec<Option<OperationId>>,
}

pub struct Trigger {
    pub keys: Vec<Key>,
    pub since: Index,
    /// It was armed on the stream of now by its query, and not again.
    pub is_first: bool,
    /// It is known to be armed again.
    pub is_known: bool,
}

impl Attachment {
    /// Since when the client has heard nothing, and is owed something.
    fn waits_since(&self) -> Option<u64> {
        let asked_at = match self.pings.values().next() {
            Some((sent_at, _)) => *sent_at,
            None if self.is_attached => return None,
            None => 0,
        };
        Some(asked_at.max(self.heard_at))
    }
}

impl SessionClient {
    pub fn new(name: String, secret: u128, timeout_ms: u64, target: Incarnation) -> Self {
        Self {
            identity: name,
            secret: SessionSecret(secret),
            timeout_ms,
            session: None,
            stream: None,
            target,
            silent_until: 0,
            is_closing: false,
            next_seq: 1,
            said_acked: 0,
            pending: BTreeMap::new(),
            answered: BTreeMap::new(),
            questions: BTreeMap::new(),
            triggers: BTreeMap::new(),
            last_name: 0,
        }
    }

    pub fn name(&mut self) -> u64 {
        self.last_name += 1;
        self.last_name
    }

    /// It has the replies to all commands up to this.
    pub fn acked_up_to(&self) -> u64 {
        self.pending.keys().next().copied().unwrap_or(self.next_seq) - 1
    }

    /// A stream serves its session.
    pub fn is_open(&self) -> bool {
        self.session.is_some() && self.stream.as_ref().is_some_and(|stream| stream.is_attached)
    }

    pub fn is_settled(&self) -> bool {
        let is_heard = |stream: &Attachment| stream.is_attached && stream.in_flight.is_empty();
        match (self.session, &self.stream) {
            (None, stream) => stream.is_none(),
            (Some(_), Some(stream)) => {
                is_heard(stream) && self.pending.is_empty() && self.questions.is_empty() && !self.is_closing
            }
            (Some(_), None) => false,
        }
    }
}

impl Sim {
    pub(super) fn new_session_client(&mut self, client: usize) -> SessionClient {
        self.last_link += 1;
        let (name, secret) = (format!("client {client} {}", self.last_link), self.rng.random());
        let most = if self.rng.random_bool(0.3) { 4 * MIN_SESSION_TIMEOUT_MS } else { MAX_SESSION_TIMEOUT_MS };
        let timeout_ms = self.rng.random_range(MIN_SESSION_TIMEOUT_MS..=most);
        let target = self.any_node();
        SessionClient::new(name, secret, timeout_ms, target)
    }

    /// A client that is silent reads nothing, as if its process stood still.
    pub(super) fn listens(&self, client: usize, link: LinkId) -> bool {
        let client = &self.sessions[client];
        client.silent_until <= self.now && client.stream.as_ref().is_some_and(|stream| stream.link == link)
    }

    pub(super) fn run_session_client(&mut self, number: usize) {
        let client = &self.sessions[number];
        if client.silent_until > self.now {
            return;
        }
        match &client.stream {
            None if client.session.is_none() && self.is_healed => {}
            None => {
                if self.rng.random_bool(0.2) {
                    self.connect(number);
                }
            }
            Some(stream) => {
                let (link, is_attached) = (stream.link, stream.is_attached);
                let waits_since = stream.waits_since().unwrap_or(self.now);
                if waits_since + PATIENCE_STEPS < self.now && self.rng.random_bool(0.02) {
                    self.count("stream: given up");
                    self.leave_stream(number);
                } else if !self.is_healed && self.rng.random_bool(0.003) {
                    self.count("stream: lost");
                    self.leave_stream(number);
                } else if is_attached {
                    self.use_session(number, link);
                }
            }
        }
        if !self.is_healed && self.rng.random_bool(0.003) {
            self.mistreat(number);
        }
    }

    pub(super) fn connect(&mut self, number: usize) {
        let target = self.sessions[number].target;
        if self.down.contains(&target) || self.rng.random_bool(0.1) {
            self.sessions[number].target = self.any_node();
            return;
        }
        let client = &self.sessions[number];
        let (identity, secret, timeout_ms) = (client.identity.clone(), client.secret, client.timeout_ms);
        let start = match client.session {
            None => SessionStart::Open { timeout_ms, secret },
            Some(session) => SessionStart::Resume { session, secret },
        };
        let link = self.open_stream(Some(number), target, &identity, start);
        let stream = Attachment {
            link,
            is_attached: false,
            is_rude: false,
            in_flight: VecDeque::new(),
            first_own_seq: self.sessions[number].next_seq,
            must_resend: false,
            pings: BTreeMap::new(),
            pinged_at: 0,
            heard_at: self.now,
            told: Index::ZERO,
            written: Index::ZERO,
            disarmed: BTreeSet::new(),
        };
        self.sessions[number].stream = Some(stream);
        if !self.is_healed && self.rng.random_bool(0.02) {
            self.stream(number).is_rude = true;
            self.ping(number, link);
        }
    }

    pub(super) fn stream(&mut self, number: usize) -> &mut Attachment {
        self.sessions[number].stream.as_mut().expect("a stream")
    }

    pub(super) fn leave_stream(&mut self, number: usize) {
        if let Some(stream) = self.sessions[number].stream.take() {
            self.abandon(stream.link);
        }
        if self.rng.random_bool(0.3) {
            self.sessions[number].target = self.any_node();
        }
    }

    fn ping(&mut self, number: usize, link: LinkId) {
        let (name, floor, now) = (self.sessions[number].name(), self.witness.known(), self.now);
        let stream = self.stream(number);
        stream.pings.insert(name, (now, floor));
        stream.pinged_at = now;
        self.send(link, SessionRequest::Ping { number: name });
    }

    fn use_session(&mut self, number: usize, link: LinkId) {
        let client = &self.sessions[number];
        let stream = client.stream.as_ref().expect("a stream");
        if (self.now - stream.pinged_at) * STEP_MS * 4 >= client.timeout_ms {
            self.ping(number, link);
        }
        if self.stream(number).must_resend && self.stream(number).in_flight.is_empty() {
            self.send_pending(number, link);
        }
        if self.is_healed || self.sessions[number].is_closing {
            return;
        }
        let max_pending = usize::try_from(self.plan.genesis.settings.max_unacknowledged).expect("few");
        let client = &self.sessions[number];
        let stream = client.stream.as_ref().expect("a stream");
        let may_send = stream.in_flight.len() < max_pending;
        let may_write = may_send && client.pending.len() < max_pending && !stream.must_resend;
        if may_write && self.rng.random_bool(0.12) && self.history.may_append(key_of(self.tickets + 1, false)) {
            self.write_in_session(number, link);
        } else if may_send && self.rng.random_bool(0.01) {
            self.repeat_a_command(number, link);
        } else if self.rng.random_bool(0.05) {
            self.ask_in_session(number, link);
        } else if self.rng.random_bool(0.002) {
            self.count("session: close");
            self.sessions[number].is_closing = true;
            self.send(link, SessionRequest::Close);
        }
        if self.rng.random_bool(0.004)
            && let Some(id) = self.sessions[number].triggers.keys().copied().choose(&mut self.rng)
        {
            self.count("trigger: disarmed");
            self.sessions[number].triggers.remove(&id);
            self.stream(number).disarmed.insert(id);
            self.send(link, SessionRequest::Disarm { id });
        }
    }

    /// What the world does to a client, and others to its session.
    fn mistreat(&mut self, number: usize) {
        let client = &self.sessions[number];
        let (identity, secret, target) = (client.identity.clone(), client.secret, client.target);
        let link = client.stream.as_ref().map(|stream| stream.link);
        match (self.rng.random_range(0..4), client.session, link) {
            (0, Some(_), _) => {
                self.count("session: silent");
                let timeout_steps = self.sessions[number].timeout_ms / STEP_MS;
                self.sessions[number].silent_until = self.now + self.rng.random_range(0..=3 * timeout_steps);
            }
            (1, _, Some(link)) => {
                self.count("stream: stalled");
                let steps = self.rng.random_range(0..150);
                self.stall(link, steps);
            }
            (2, Some(session), _) => self.try_as_impostor(target, "somebody else", session, secret),
            (3, Some(session), _) => {
                self.try_as_impostor(target, &identity, session, SessionSecret(secret.0.wrapping_add(1)));
            }
            _ => {}
        }
    }

    fn write_in_session(&mut self, number: usize, link: LinkId) {
        self.count("session: write");
        self.tickets += 1;
        let (written, is_ephemeral) = (self.tickets, self.rng.random_bool(0.5));
        let is_checked = !is_ephemeral && !is_refused(written);
        let key = key_of(written, is_ephemeral);
        let operation = is_checked.then(|| self.history.call(key, Call::Append(written)));
        let client = &mut self.sessions[number];
        let seq = client.next_seq;
        client.next_seq += 1;
        client.pending.insert(seq, Pending { number: written, is_ephemeral, operation });
        // A lazy client does not say at once what it has.
        let acked_up_to = self.rng.random_range(self.sessions[number].said_acked..=self.sessions[number].acked_up_to());
        self.send_command(number, link, seq, acked_up_to, command(written), is_ephemeral);
    }

    fn send_command(&mut self, number: usize, link: LinkId, seq: u64, acked_up_to: u64, data: Key, is_ephemeral: bool) {
        self.sessions[number].said_acked = acked_up_to.max(self.sessions[number].said_acked);
        self.stream(number).in_flight.push_back(seq);
        self.send(link, SessionRequest::Write { seq, acked_up_to, is_ephemeral, data });
    }

    /// Sends a command again that was answered. What it carries does not matter: it must not run.
    fn repeat_a_command(&mut self, number: usize, link: LinkId) {
        let Some(seq) = self.sessions[number].answered.keys().copied().choose(&mut self.rng) else { return };
        let said_acked = self.sessions[number].said_acked;
        self.tickets += 1;
        let data = command(self.tickets);
        self.send_command(number, link, seq, said_acked, data, false);
    }

    fn ask_in_session(&mut self, number: usize, link: LinkId) {
        let client = &self.sessions[number];
        if client.questions.len() + client.triggers.len() >= MAX_TRIGGERS {
            return;
        }
        self.count("session: query");
        let id = TriggerId(self.sessions[number].name());
        let count = self.rng.random_range(1..3);
        let keys = ALL_KEYS.into_iter().choose_multiple(&mut self.rng, count);
        let owned = key_of(0, true);
        let operations = keys.iter().map(|key| (*key < owned).then(|| self.history.call(*key, Call::Read))).collect();
        let question = Question { keys, watch: self.rng.random(), floor: self.witness.known(), operations };
        let request =
            SessionRequest::Query { id, request: Key::copy_from_slice(&question.keys), watch: question.watch };
        self.sessions[number].questions.insert(id, question);
        self.send(link, request);
    }

    fn send_pending(&mut self, number: usize, link: LinkId) {
        self.stream(number).must_resend = false;
        let client = &self.sessions[number];
        let acked_up_to = client.acked_up_to();
        let pending = client.pending.iter();
        let pending = pending.map(|(seq, command)| (*seq, command.number, command.is_ephemeral));
        for (seq, written, is_ephemeral) in pending.collect::<Vec<_>>() {
            self.count("session: command sent again");
            self.send_command(number, link, seq, acked_up_to, command(written), is_ephemeral);
        }
    }

    /// A stream serves the session: goes on where the last one has ended.
    pub(super) fn go_on(&mut self, number: usize, link: LinkId) {
        let now = self.now;
        self.stream(number).pinged_at = now;
        let rearm = |(id, trigger): (&TriggerId, &mut Trigger)| {
            (trigger.is_first, trigger.is_known) = (false, false);
            SessionRequest::Rearm { id: *id, keys: trigger.keys.clone(), since: trigger.since }
        };
        for request in self.sessions[number].triggers.iter_mut().map(rearm).collect::<Vec<_>>() {
            self.count("trigger: armed again");
            self.send(link, request);
        }
        self.send_pending(number, link);
        let ask = |(id, question): (&TriggerId, &Question)| SessionRequest::Query {
            id: *id,
            request: Key::copy_from_slice(&question.keys),
            watch: question.watch,
        };
        for request in self.sessions[number].questions.iter().map(ask).collect::<Vec<_>>() {
            self.send(link, request);
        }
        if self.sessions[number].is_closing {
            self.send(link, SessionRequest::Close);
        }
    }
}

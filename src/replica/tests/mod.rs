//! One replica in the hands of a test, which plays the disk, the machine and the other peers.

mod access;
mod feature_levels;
mod judge;
mod quarantine;
mod reads;
mod sessions;
mod snapshots;
mod triggers;
mod upgrades;
mod writes;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::feature_level::FeatureLevel;
use crate::machine::{BackendAnswer, BackendReply, Command, Key, Outcome, Run};
use crate::protocol::{SessionEnd, SessionEvent, SessionRequest, SessionSecret, SessionStart, TriggerId};
use crate::raft::{
    AppendReply, ConfigValues, Configuration, Envelope, HardState, MemStorage, Message, Payload, RoleName,
    Write as DiskWrite,
};
use crate::types::{Digest, LogPosition, Term};

const ME: Incarnation = Incarnation(1);
const TWO: Incarnation = Incarnation(2);
const THREE: Incarnation = Incarnation(3);
const TICK_MS: u64 = 10;
const ELECTION_TICKS: u32 = 10;
const FOREVER_MS: u64 = u64::MAX;

type WriteResult = Result<(Index, BackendReply), RequestError>;

fn configuration(count: u64) -> Configuration {
    let voter = |id: u64| (Incarnation(id), format!("p{id}@host:1").parse().unwrap());
    Configuration::of((1..=count).map(voter).collect())
}

fn address(id: Incarnation) -> Option<PeerId> {
    configuration(3).address(id).cloned()
}

fn settings() -> Settings {
    Settings { max_log_count: 1000, kept_log_count: 2, ..Settings::default() }
}

fn data(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    Entry { term: Term(term), index: Index(index), time_ms: 0, payload }
}

fn meta(term: u64, index: u64) -> SnapshotMeta {
    let position = LogPosition::new(Term(term), Index(index));
    SnapshotMeta { position, time_ms: 0, configuration: configuration(3) }
}

/// A chain that names an index.
fn chain_at(index: Index) -> HashChain {
    HashChain(Digest::of(&index.0.to_le_bytes()))
}

/// The replica, and what it has asked for.
struct Hands {
    replica: Replica,
    disk: MemStorage,
    now_ms: u64,
    messages: Vec<Envelope>,
    jobs: Vec<Job>,
    snapshots: Vec<Envelope>,
    /// Snapshots of the own machine that were asked for and not looked at.
    wanted: Vec<SnapshotMeta>,
    answers: BTreeMap<Ticket, WriteResult>,
    events: Vec<(LinkId, SessionEvent)>,
    /// The components that were asked for.
    components: Vec<Digest>,
}

impl Hands {
    /// A peer of a new cluster.
    fn new(peers: u64, settings: Settings, values: ConfigValues) -> Self {
        let mut disk = MemStorage::default();
        disk.write(&DiskWrite::bootstrap(configuration(peers), 0)).unwrap();
        let config = raft::Config::new(values).unwrap();
        // Nothing is proposed but what a test asks for.
        let replica = Replica::new(ME, config, settings, disk.restored(), TICK_MS, 7);
        let replica = replica.with_feature_level(FeatureLevel::FIRST);
        Self {
            replica,
            disk,
            now_ms: 0,
            messages: vec![],
            jobs: vec![],
            snapshots: vec![],
            wanted: vec![],
            answers: BTreeMap::new(),
            events: vec![],
            components: vec![],
        }
    }

    /// The leader of a cluster of one, with nothing left to do.
    fn alone(settings: Settings) -> Self {
        let mut hands = Self::new(1, settings, values());
        hands.tick_until(RoleName::Leader);
        hands.work();
        hands.forget();
        hands
    }

    fn follower() -> Self {
        Self::new(3, settings(), values())
    }

    /// The leader of a cluster of three, in the term after the latest. The others have not heard of its entries.
    fn leader() -> Self {
        let mut hands = Self::follower();
        hands.win();
        hands
    }

    /// A leader that has applied all.
    fn serving() -> Self {
        let mut hands = Self::leader();
        hands.replicate();
        hands.work();
        hands.forget();
        hands
    }

    /// Wins an election by the vote of `TWO`.
    fn win(&mut self) {
        self.tick_until(RoleName::PreCandidate);
        let term = self.replica.raft().term().next();
        self.hear(TWO, term.0, Message::PreVoteReply { granted: true });
        self.hear(TWO, term.0, Message::VoteReply { granted: true });
        assert!(self.replica.raft().is_leader());
        self.forget();
    }

    fn forget(&mut self) {
        self.messages.clear();
        self.jobs.clear();
    }

    fn term(&self) -> u64 {
        self.replica.raft().term().0
    }

    fn last(&self) -> Index {
        self.replica.raft().status().last.index
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.now_ms, monotonic_ms: self.now_ms }
    }

    /// Carries out all that is wanted but the machine's jobs. The disk is fast.
    fn settle(&mut self) {
        loop {
            let effects = self.replica.effects(self.now());
            if effects == Effects::default() && !self.replica.has_effects() {
                return;
            }
            if let Some(write) = effects.write {
                self.disk.write(&write).unwrap();
                self.replica.persisted(write.token);
            }
            for read in effects.log_reads {
                self.replica.log_read(read, self.disk.read(&read));
            }
            assert_eq!(effects.stop, None);
            self.messages.extend(effects.messages.into_iter().map(|message| message.envelope));
            self.jobs.extend(effects.jobs);
            self.snapshots.extend(effects.snapshots);
            for Answer { ticket, result } in effects.answers {
                assert!(self.answers.insert(ticket, result).is_none(), "{ticket:?} is answered twice");
            }
            self.events.extend(effects.events);
            self.components.extend(effects.component);
        }
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        self.replica.tick(self.now());
        self.settle();
    }

    fn tick_until(&mut self, role: RoleName) {
        for _ in 0..10 * ELECTION_TICKS {
            if self.replica.raft().status().role == role {
                return;
            }
            self.tick();
        }
        panic!("still not a {role}");
    }

    fn hear(&mut self, from: Incarnation, term: u64, message: Message) {
        self.hear_quietly(from, term, message);
        self.settle();
    }

    /// Hears something without being asked what is to be done.
    fn hear_quietly(&mut self, from: Incarnation, term: u64, message: Message) {
        // A leader that has applied what is committed.
        let rider = match message {
            Message::Append { commit, .. } | Message::Heartbeat { commit, .. } => {
                Some(Rider::Judgement(Judgement { judged: commit, verdict: Index::ZERO, trial: None, outcast: None }))
            }
            _ => None,
        };
        self.hear_with(from, term, message, rider);
    }

    fn hear_with(&mut self, from: Incarnation, term: u64, message: Message, rider: Option<Rider>) {
        let (now, envelope) = (self.now(), Envelope { from, to: ME, term: Term(term), message });
        self.replica.step(PeerMessage { envelope, rider }, now);
    }

    /// A leader's entries, behind the one at `prev`.
    fn hear_entries(&mut self, from: Incarnation, term: u64, prev: (u64, u64), entries: Vec<Entry>, commit: u64) {
        let prev = LogPosition::new(Term(prev.0), Index(prev.1));
        self.hear(from, term, Message::Append { prev, entries, commit: Index(commit) });
    }

    /// `TWO` has everything that this leader has.
    fn replicate(&mut self) {
        let matched = self.last();
        self.hear(TWO, self.term(), Message::AppendReply(AppendReply::Accepted { matched }));
    }

    fn write(&mut self, ticket: u64, text: &str) {
        self.write_by(ticket, text, FOREVER_MS);
    }

    fn write_by(&mut self, ticket: u64, text: &str, deadline_ms: u64) {
        self.replica.write(Ticket(ticket), data(text), deadline_ms);
    }

    fn query(&mut self, ticket: u64) {
        self.query_by(ticket, FOREVER_MS);
    }

    fn query_by(&mut self, ticket: u64, deadline_ms: u64) {
        self.replica.query(Ticket(ticket), None, Wanted::Answer(Bytes::new()), deadline_ms);
    }

    /// Has the machine do its jobs; it answers a command and a query with the same bytes, which name what the one changes
    /// and the other depends on. Snapshots are left undone.
    fn work(&mut self) {
        while !self.jobs.is_empty() {
            for job in std::mem::take(&mut self.jobs) {
                match job {
                    Job::Apply(Run { entries, .. }) => self.apply(&entries),
                    Job::Rewind(..) => {}
                    Job::Restore(meta) => self.replica.restored(
                        &meta,
                        0,
                        chain_at(meta.position.index),
                        vec![],
                        AccessControl::default(),
                        FeatureLevel::FIRST,
                    ),
                    Job::Query(_, queries) => self.answer_queries(queries),
                    Job::Snapshot(meta) | Job::SnapshotAsIs(meta) => self.wanted.push(meta),
                }
            }
            self.settle();
        }
    }

    fn apply(&mut self, entries: &[Entry]) {
        let applied = |entry: &Entry| {
            let (outcome, changed) = outcome(entry);
            Applied { position: entry.position(), outcome, changed, chain: chain_at(entry.index) }
        };
        self.replica.applied(entries.iter().map(applied).collect());
    }

    fn answer_queries(&mut self, queries: Vec<Query>) {
        let index = self.replica.machine().0;
        self.answer_queries_at(index, queries);
    }

    fn answer_queries_at(&mut self, index: Index, queries: Vec<Query>) {
        let answer = |query: Query| {
            let Wanted::Answer(request) = query.wanted else { panic!("{query:?}") };
            let result = Ok(BackendAnswer { reply: Ok(request.clone()), watched: vec![request] });
            QueryAnswer { asker: query.asker, index, result }
        };
        self.replica.answered(queries.into_iter().map(answer).collect());
    }

    fn answer(&self, ticket: u64) -> Option<&WriteResult> {
        self.answers.get(&Ticket(ticket))
    }

    /// The tickets of each query job so far.
    fn queries(&self) -> Vec<Vec<u64>> {
        let ticket = |query: &Query| match query.asker {
            Asker::Client(ticket) => ticket.0,
            Asker::Session { .. } => panic!("no session has asked"),
        };
        let tickets = |job: &Job| match job {
            Job::Query(_, queries) => Some(queries.iter().map(ticket).collect()),
            _ => None,
        };
        self.jobs.iter().filter_map(tickets).collect()
    }

    fn heartbeat_rounds(&self) -> Vec<u64> {
        let round = |envelope: &Envelope| match envelope.message {
            Message::Heartbeat { round, .. } if envelope.to == TWO => Some(round),
            _ => None,
        };
        self.messages.iter().filter_map(round).collect()
    }
}

/// What comes of an entry, and what it changes. All sessions are open, and own one thing.
fn outcome(entry: &Entry) -> (Outcome, Vec<Key>) {
    let Payload::Data(data) = &entry.payload else { return (Outcome::Nothing, vec![]) };
    let ended = |session, end| (Outcome::Ended { session, end }, vec![Key::from_static(b"owned")]);
    match Command::decode(data) {
        Ok(Command::OpenSession(terms)) => (Outcome::Opened(terms), vec![]),
        Ok(Command::SessionWrite { session, seq, data, .. }) => {
            (Outcome::Answered { session, seq, index: entry.index, reply: Ok(data.clone()) }, vec![data])
        }
        Ok(Command::CloseSession { session }) => ended(session, SessionEnd::Closed),
        Ok(Command::ExpireSession { session }) => ended(session, SessionEnd::Expired),
        Ok(Command::SetAccess { list, .. }) => {
            (Outcome::AccessSet(AccessControl { list, set_at: entry.index }), vec![])
        }
        Ok(Command::RaiseLevel { level }) => (Outcome::Level(level), vec![]),
        Ok(Command::Write { .. } | Command::WriteBy { .. }) | Err(_) => {
            (Outcome::Written(Ok(data.clone())), vec![data.clone()])
        }
    }
}

/// The streams of clients.
impl Hands {
    fn attach(&mut self, link: u64, start: SessionStart) {
        self.attach_as(link, "me", start);
    }

    fn attach_as(&mut self, link: u64, identity: &str, start: SessionStart) {
        let now = self.now();
        self.replica.attach(LinkId(link), identity, start, now);
        self.settle();
    }

    /// The leader of a cluster of one, with a session on stream 1.
    fn with_session(timeout_ms: u64) -> (Self, SessionId) {
        let mut hands = Self::alone(settings());
        let session = hands.open(1, timeout_ms);
        (hands, session)
    }

    fn open(&mut self, link: u64, timeout_ms: u64) -> SessionId {
        self.attach(link, open(timeout_ms));
        self.work();
        let [SessionEvent::Attached { session }] = self.told(link)[..] else { panic!("attached") };
        session
    }

    fn resume(&mut self, link: u64, session: SessionId) {
        self.attach(link, resume(session));
        assert_eq!(self.told(link), [SessionEvent::Attached { session }]);
    }

    fn ask_quietly(&mut self, link: u64, request: SessionRequest) {
        let now = self.now();
        self.replica.ask(LinkId(link), request, now);
    }

    fn ask(&mut self, link: u64, request: SessionRequest) {
        self.ask_quietly(link, request);
        self.settle();
    }

    /// What a stream was told since the last time.
    fn told(&mut self, link: u64) -> Vec<SessionEvent> {
        let is_its = |(of, _): &mut (LinkId, SessionEvent)| *of == LinkId(link);
        self.events.extract_if(.., is_its).map(|(_, event)| event).collect()
    }

    /// Lets so much time pass, tick by tick.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.tick();
        }
    }
}

const SECRET: SessionSecret = SessionSecret(42);

fn open(timeout_ms: u64) -> SessionStart {
    SessionStart::Open { timeout_ms, secret: SECRET }
}

fn resume(session: SessionId) -> SessionStart {
    SessionStart::Resume { session, secret: SECRET }
}

fn command(seq: u64, text: &str) -> SessionRequest {
    SessionRequest::Write { seq, acked_up_to: 0, is_ephemeral: false, data: data(text) }
}

fn ping(number: u64) -> SessionRequest {
    SessionRequest::Ping { number }
}

fn pong(number: u64) -> SessionEvent {
    SessionEvent::Pong { number }
}

fn written(seq: u64, index: u64, text: &str) -> SessionEvent {
    SessionEvent::Written { seq, result: Ok((Index(index), Ok(data(text)))) }
}

fn values() -> ConfigValues {
    ConfigValues { election_ticks: ELECTION_TICKS, ..ConfigValues::default() }
}

#[test]
fn what_the_machine_reached_and_its_chain_are_said_together() {
    let mut hands = Hands::alone(settings());
    hands.write(1, "a");
    hands.settle();
    hands.work();
    let last = hands.last();
    assert_eq!(hands.replica.machine(), (last, chain_at(last)));
}

#[test]
fn a_restarted_replica_says_nothing_of_its_machine_before_it_knows_the_chain() {
    let mut restored = Restored::default();
    let mut write = DiskWrite::new(WriteToken(1));
    write.hard_state = Some(HardState { term: Term(2), vote: None, commit: Index(9) });
    write.snapshot = Some(meta(2, 9));
    write.discard_through = Some(meta(2, 9).position);
    restored.replay(&write).unwrap();
    let mut replica = Replica::new(ME, raft::Config::default(), settings(), restored, TICK_MS, 7);
    assert_eq!(replica.machine(), (Index::ZERO, HashChain::default()));
    replica.restored(&meta(2, 9), 0, chain_at(Index(9)), vec![], AccessControl::default(), FeatureLevel::FIRST);
    assert_eq!(replica.machine(), (Index(9), chain_at(Index(9))));
    assert_eq!(replica.raft().status().applied, Index(9));
}

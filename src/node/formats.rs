//! The bytes of what is kept on disk and sent over the network, as they were agreed on: `formats.golden`.
//!
//! The codec writes no names and no versions, so another field of a type is another format, which nobody notices who
//! compiles it. A test that fails here says that something of it has changed. What is on disk or in the log then gets a
//! new version or a new variant at the end of its enum, what is sent a new name for ALPN ([`Protocol::alpn`]); and
//! `UPDATE_GOLDENFILES=1 cargo test --lib node::formats` writes the file anew. The rounds of the log have such a test in
//! `store::format`.
//!
//! [`Protocol::alpn`]: crate::transport::Protocol::alpn

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use serde::Serialize;

use crate::access::{Access, AccessControl, AccessDenied, AccessList, AccessRefusal};
use crate::codec;
use crate::feature_level::FeatureLevel;
use crate::machine::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, Budget, Command, Fault, Genesis, HashChain,
    Key, Machine, Moment, NoOthers, Origin, Ruling, Rulings, SessionTerms, StartError, StateReader,
};
use crate::node::frames::{
    BulkReply, BulkRequest, ClusterSpec, NodeFrame, PeerFrame, SnapshotOffer, Standing, StandingFrame,
};
use crate::node::lifecycle::PeerRecord;
use crate::node::standing::Introduction;
use crate::protocol::{
    BackendFault, CanaryDifference, CanaryEnd, CanaryReport, ChangeMembers, ChangeRefusal, CreateCluster,
    FollowerStatus, GuestFault, MachineStatus, Membership, NodeStatus, PeerFailure, PeerStatus, Reply, Request,
    RequestError, RunCanary, Sending, SessionEnd, SessionEvent, SessionRefusal, SessionRequest, SessionSecret,
    SessionStart, SnapshotProgress, TriggerId, TriggerReason, UpgradeCluster, UpgradeRefusal, UpgradeStatus,
};
use crate::raft::{
    AppendReply, Configuration, Entry, Envelope, Message, Payload, ReadId, SnapshotMeta, Upgrade, Verdict,
};
use crate::replica::{Judgement, PeerMessage, Report, Rider};
use crate::settings::{Budgets, Settings};
use crate::store::{SnapshotHeader, SnapshotIdentity};
use crate::transport::Protocol;
use crate::types::{ClusterId, Digest, Incarnation, Index, LogPosition, PeerId, RoleName, SessionId, Term};

/// Names and bytes, a line each.
#[derive(Default)]
struct Golden(String);

impl Golden {
    fn add(&mut self, name: &str, value: &impl Serialize) {
        self.add_bytes(name, &codec::encode(value));
    }

    fn add_bytes(&mut self, name: &str, bytes: &[u8]) {
        write!(self.0, "{name} ").unwrap();
        bytes.iter().for_each(|byte| write!(self.0, "{byte:02x}").unwrap());
        self.0.push('\n');
    }

    /// Each of several values of a type.
    fn add_each<T: Serialize>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        for (number, value) in values.into_iter().enumerate() {
            self.add(&format!("{name}.{number}"), &value);
        }
    }

    fn check(self, path: &Path) {
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            return std::fs::write(path, self.0).unwrap();
        }
        let agreed = std::fs::read_to_string(path).unwrap();
        for (line, agreed) in self.0.lines().zip(agreed.lines()) {
            assert_eq!(line, agreed, "this format has changed: see the top of {}", file!());
        }
        assert_eq!(self.0.lines().count(), agreed.lines().count(), "there are more or fewer formats: see {}", file!());
    }
}

const CLUSTER: ClusterId = ClusterId(0x1234);
const ONE: Incarnation = Incarnation(1);
const TWO: Incarnation = Incarnation(2);
const DIGEST: Digest = Digest([0xdd; 32]);
const CHAIN: Digest = Digest([0xcc; 32]);
const AT: LogPosition = LogPosition { term: Term(3), index: Index(9) };

fn text(bytes: &'static str) -> Bytes {
    Bytes::from_static(bytes.as_bytes())
}

fn name(text: &str) -> String {
    text.to_owned()
}

fn peer() -> PeerId {
    "kv@host:7400".parse().unwrap()
}

fn peer_named(name: &str) -> PeerId {
    format!("{name}@host:7400").parse().unwrap()
}

fn configuration() -> Configuration {
    Configuration {
        voters: BTreeMap::from([(ONE, peer())]),
        outgoing: BTreeMap::from([(TWO, peer())]),
        learners: BTreeMap::from([(Incarnation(3), peer())]),
        leaving: BTreeSet::from([TWO]),
    }
}

fn meta() -> SnapshotMeta {
    SnapshotMeta { position: AT, time_ms: 1_000, configuration: configuration() }
}

fn access() -> AccessList {
    let named = [("a", Access::Read), ("b", Access::Write), ("c", Access::Admin)];
    AccessList { default: None, named: named.map(|(client, access)| (name(client), access)).into() }
}

fn fault() -> BackendFault {
    BackendFault { kind: GuestFault::BrokenContract, message: name("m") }
}

/// All values differ, so that fields which have changed places are noticed too.
fn settings() -> Settings {
    Settings {
        max_log_count: 11,
        min_log_percent: 12,
        kept_log_count: 13,
        max_sessions: 14,
        max_sessions_per_identity: 15,
        max_unacknowledged: 16,
        budgets: Budgets { apply_fuel: 17, query_fuel: 18, chunk_fuel: 19, memory_bytes: 20 },
    }
}

fn genesis() -> Genesis {
    Genesis { cluster: CLUSTER, component: DIGEST, config: text("config"), settings: settings() }
}

fn introduction() -> Introduction {
    Introduction { term: Term(3), peers: BTreeMap::from([(ONE, peer())]) }
}

fn entries() -> Vec<Entry> {
    let verdict = Verdict { on: Index(2), ruling: text("r") };
    let upgrade = Upgrade { from: DIGEST, to: CHAIN, migration: Some(text("m")) };
    let payloads = [
        Payload::Noop,
        Payload::Membership(configuration()),
        Payload::Data(text("d")),
        Payload::Verdict(verdict),
        Payload::Upgrade(upgrade),
    ];
    let entry =
        |(number, payload): (u64, _)| Entry { term: Term(3), index: Index(1 + number), time_ms: 1_000, payload };
    (0..).zip(payloads).map(entry).collect()
}

fn commands() -> [Command; 8] {
    let (session, terms) = (SessionId(2), SessionTerms { identity: name("i"), secret: DIGEST, timeout_ms: 5_000 });
    [
        Command::Write { data: text("d") },
        Command::OpenSession(terms),
        Command::SessionWrite { session, seq: 1, acked_up_to: 0, is_ephemeral: true, data: text("d") },
        Command::CloseSession { session },
        Command::ExpireSession { session },
        Command::WriteBy { client: name("c"), data: text("d") },
        Command::SetAccess { by: Some(name("c")), expected: Index(4), list: access() },
        Command::RaiseLevel { level: FeatureLevel::UPGRADES },
    ]
}

/// What a machine keeps beside the backend's state: a session with a reply that waits, and an access list.
fn host_part() -> Bytes {
    let [_, open, write, _, _, _, set, raise] = commands();
    let set = match set {
        Command::SetAccess { list, .. } => Command::SetAccess { by: None, expected: Index::ZERO, list },
        other => other,
    };
    let entry = |(number, command): (u64, Command)| {
        let payload = Payload::Data(command.encode());
        Entry { term: Term(1), index: Index(1 + number), time_ms: 1_000, payload }
    };
    let entries: Vec<_> = (0..).zip([Command::Write { data: text("d") }, open, write, set, raise]).map(entry).collect();
    let mut machine = Machine::start(genesis(), &Nothing).unwrap();
    machine.apply(&entries, &Rulings::default(), &mut NoOthers).unwrap();
    machine.snapshot_head(meta()).host.encode()
}

/// A backend without a state, which answers everything.
struct Nothing;

impl BackendFactory for Nothing {
    fn init(&self, _at: Moment, _config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::new(Self))
    }

    fn restore(
        &self,
        _at: Moment,
        _origin: &Origin,
        _chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::new(Self))
    }
}

impl Backend for Nothing {
    fn version(&mut self) -> Result<String, Fault> {
        Ok(name("nothing 1"))
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        let outcome = |_| BackendOutcome { reply: Ok(text("reply")), changed: Vec::new() };
        Ok(commands.iter().map(outcome).collect())
    }

    fn query(&mut self, _at: Moment, _request: &[u8]) -> Result<BackendAnswer, Fault> {
        Ok(BackendAnswer { reply: Ok(text("answer")), watched: Vec::new() })
    }

    fn expire_session(&mut self, _at: Moment, _session: u64) -> Result<Vec<Key>, Fault> {
        Ok(Vec::new())
    }

    fn read_state(&mut self, _at: Moment, _budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        Ok(Box::new(std::iter::empty::<Bytes>()))
    }
}

#[test]
fn what_is_on_disk_is_as_it_was_agreed_on() {
    let mut golden = Golden::default();
    golden.add("PeerRecord", &PeerRecord { peer: peer(), genesis: genesis(), introduction: Some(introduction()) });
    golden.add_each("Command", commands());
    golden.add_each("Ruling", [Ruling::Keep, Ruling::Skip(fault())]);
    let (cluster, chain) = (CLUSTER, CHAIN);
    golden.add("SnapshotHeader", &SnapshotHeader { cluster, meta: meta(), backend: DIGEST, chain, host: text("h") });
    golden.add_bytes("HostPart", &host_part());
    golden.check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/formats/disk.golden"));
}

fn messages() -> Vec<Message> {
    let (prev, commit, id) = (AT, Index(8), ReadId(7));
    vec![
        Message::PreVote { last: AT },
        Message::PreVoteReply { granted: true },
        Message::Vote { last: AT, appointed: true },
        Message::VoteReply { granted: true },
        Message::Append { prev, entries: entries(), commit },
        Message::AppendReply(AppendReply::Accepted { matched: commit }),
        Message::AppendReply(AppendReply::Rejected { prev: commit, hint: AT }),
        Message::Heartbeat { commit, round: 4 },
        Message::TimeoutNow,
        Message::HeartbeatReply { round: 4 },
        Message::ReadIndex { id },
        Message::ReadIndexReply { id, index: commit },
        Message::Snapshot { meta: meta() },
        Message::Quiesce { last: AT, round: 5 },
        Message::QuiesceReply { round: 5 },
    ]
}

fn frame(message: Message, rider: Option<Rider>) -> PeerFrame {
    let envelope = Envelope { from: ONE, to: TWO, term: Term(3), message };
    PeerFrame { cluster: CLUSTER, message: PeerMessage { envelope, rider }, is_disk_full: true }
}

fn failures() -> Vec<PeerFailure> {
    vec![PeerFailure { peer: peer(), reason: name("why") }]
}

#[test]
fn what_nodes_say_to_each_other_is_as_it_was_agreed_on() {
    let mut golden = Golden::default();
    let alpn = [Protocol::Peer, Protocol::Bulk, Protocol::Snapshot].map(Protocol::alpn);
    golden.add("alpn", &alpn);
    golden.add_each("NodeFrame.message", messages().into_iter().map(|message| NodeFrame::Peer(frame(message, None))));
    let (mark, trial) = (Some((Index(4), HashChain(DIGEST))), Some((Index(5), true)));
    let judgement = Judgement { judged: Index(3), verdict: Index(2), trial: Some(Index(5)), outcast: mark };
    let applied = Some((Index(7), HashChain(CHAIN)));
    let report = Report { applied, mark, trial, needs_after: Some(Index(6)), level: FeatureLevel::UPGRADES };
    let ridden = [Rider::Judgement(judgement), Rider::Report(report)];
    golden.add_each("NodeFrame.rider", ridden.map(|rider| NodeFrame::Peer(frame(Message::TimeoutNow, Some(rider)))));
    let standing = |content| NodeFrame::Standing(StandingFrame { cluster: CLUSTER, from: ONE, to: TWO, content });
    golden.add_each("NodeFrame.standing", [Standing::Question, Standing::Left { term: Term(3) }].map(standing));
    golden.add("NodeFrame.alive", &NodeFrame::Alive { life: 0x77, is_disk_full: true });
    let spec = ClusterSpec {
        cluster: CLUSTER,
        peers: vec![(ONE, peer())],
        component: DIGEST,
        config: text("config"),
        settings: settings(),
        access: access(),
        time_ms: 1_000,
        introduction: Some(introduction()),
    };
    let requests = [
        BulkRequest::WhereSnapshots,
        BulkRequest::Prepare(spec),
        BulkRequest::Start(ONE),
        BulkRequest::Discard(vec![ONE]),
        BulkRequest::Component(genesis()),
        BulkRequest::WantComponent(genesis()),
    ];
    golden.add_each("BulkRequest", requests);
    let node = peer().node().clone();
    let replies =
        [BulkReply::Done, BulkReply::Failed(failures()), BulkReply::Refused(name("r")), BulkReply::SnapshotsAt(node)];
    golden.add_each("BulkReply", replies);
    let identity = SnapshotIdentity { position: AT, size_bytes: 1_000, checksum: 0x0102_0304 };
    golden.add("SnapshotOffer", &SnapshotOffer { frame: frame(Message::Snapshot { meta: meta() }, None), identity });
    golden.check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/formats/nodes.golden"));
}

fn node_status() -> NodeStatus {
    let progress = SnapshotProgress { index: Index(9), began_at_bytes: 1, done_bytes: 2, total_bytes: 3 };
    let machine = MachineStatus { applied: Index(6), agrees: Index(5), differs: Some(Index(6)) };
    let follower = FollowerStatus {
        peer: peer(),
        matched: Index(8),
        behind: 1,
        sending: Sending::Snapshot,
        machine: Some(machine),
        level: Some(FeatureLevel::UPGRADES),
    };
    let status = PeerStatus {
        peer: peer(),
        incarnation: ONE,
        cluster: CLUSTER,
        component: DIGEST,
        upgrade: Some(UpgradeStatus { index: Index(3), result: Ok(name("kv 2")) }),
        level: FeatureLevel::FIRST,
        role: RoleName::Leader,
        term: Term(3),
        leader: Some(peer()),
        members: vec![peer()],
        joining: vec![peer_named("joins")],
        leaving: vec![peer_named("leaves")],
        followers: vec![follower],
        last: Index(9),
        first: Index(1),
        commit: Index(8),
        applied: Index(7),
        chain: CHAIN,
        snapshot: Index(5),
        snapshot_time_ms: Some(1_000),
        snapshot_bytes: Some(2_000),
        triggers: 1,
        sessions: 2,
        is_asleep: true,
        has_machine: false,
        receiving: Some(progress),
        sending: vec![(peer(), progress)],
        refused: 3,
        quarantine: Some(Index(4)),
        stopped: Some(name("why")),
    };
    let (node, version, engine) = (peer().node().clone(), name("v"), name("e"));
    NodeStatus { node, version, engine, is_disk_full: true, starting: 4, peers: vec![status] }
}

fn requests() -> Vec<Request> {
    let (peer_name, timeout_ms, secret) = (|| name("kv"), 1_000, SessionSecret(0x55));
    let session = |start| Request::Session { peer: name("kv"), start };
    vec![
        Request::Write { peer: peer_name(), data: text("d"), timeout_ms },
        Request::Query { peer: peer_name(), request: text("q"), timeout_ms },
        Request::Status,
        session(SessionStart::Open { timeout_ms, secret }),
        session(SessionStart::Resume { session: SessionId(2), secret }),
        Request::Create(CreateCluster {
            peers: vec![peer()],
            component: DIGEST,
            component_size_bytes: 100,
            config: text("config"),
            settings: settings(),
            access: access(),
        }),
        Request::Members { peer: peer_name() },
        Request::ChangeMembers {
            peer: peer_name(),
            change: ChangeMembers { new: vec![peer()], old: Vec::new() },
            timeout_ms,
        },
        Request::Access { peer: peer_name(), timeout_ms },
        Request::SetAccess { peer: peer_name(), expected: Index(4), list: access(), timeout_ms },
        Request::Delete { peer: peer_name(), is_forced: true },
        Request::Transfer { peer: peer_name(), to: Some(peer()), timeout_ms },
        Request::Upgrade { peer: peer_name(), upgrade: upgrade(), timeout_ms },
        Request::Canary {
            peer: peer_name(),
            canary: RunCanary { upgrade: upgrade(), max_commands: 1000, max_ms: 60_000 },
        },
    ]
}

fn upgrade() -> UpgradeCluster {
    UpgradeCluster { component: DIGEST, component_size_bytes: 100, migration: Some(text("m")) }
}

fn canary(end: CanaryEnd) -> CanaryReport {
    let difference = CanaryDifference { index: Index(9), present: name("one"), canary: name("another") };
    CanaryReport { from: Index(8), commands: 2, differing: 1, differences: vec![difference], end }
}

fn replies() -> Vec<Reply> {
    let index = Index(9);
    let membership = Membership {
        leader: peer(),
        index,
        peers: vec![peer()],
        joining: vec![peer_named("joins")],
        leaving: vec![peer_named("leaves")],
    };
    vec![
        Reply::Written { index, reply: Err(name("no")) },
        Reply::Answered { reply: Ok(text("yes")) },
        Reply::Status(node_status()),
        Reply::Created { cluster: CLUSTER },
        Reply::Members(membership),
        Reply::MembersChanged,
        Reply::Access(AccessControl { list: access(), set_at: index }),
        Reply::AccessSet { set_at: index },
        Reply::Deleted,
        Reply::Transferred { leader: peer() },
        Reply::Upgraded { index: Some(index) },
        Reply::Canary(canary(CanaryEnd::Done)),
        Reply::Canary(canary(CanaryEnd::NotUpgraded(UpgradeRefusal::Refused(name("why"))))),
        Reply::Canary(canary(CanaryEnd::Died { on: index, fault: fault() })),
        Reply::Canary(canary(CanaryEnd::FellBehind)),
        Reply::Canary(canary(CanaryEnd::Interrupted(name("why")))),
        Reply::Failed(RequestError::NotLeader { leader: Some(peer()) }),
        Reply::Failed(RequestError::NoLeader),
        Reply::Failed(RequestError::Overloaded),
        Reply::Failed(RequestError::NotApplied),
        Reply::Failed(RequestError::DiskFull { nodes: vec![peer().node().clone()] }),
        Reply::Failed(RequestError::Unknown),
        Reply::Failed(RequestError::NoSuchPeer { name: name("kv"), node: peer().node().clone() }),
        Reply::Failed(RequestError::PeerStopped { reason: name("why") }),
        Reply::Failed(RequestError::Quarantined),
        Reply::Failed(RequestError::BackendFault { message: name("m") }),
        Reply::Failed(RequestError::Skipped { index, fault: fault() }),
        Reply::Failed(RequestError::PermissionDenied { identity: name("i") }),
        Reply::Failed(RequestError::AccessDenied(AccessDenied { client: name("c"), needed: Access::Write })),
        Reply::Failed(RequestError::AccessNotSet(AccessRefusal::Changed { now: index })),
        Reply::Failed(RequestError::Invalid { reason: name("why") }),
        Reply::Failed(RequestError::NotCreated { failures: failures() }),
        Reply::Failed(RequestError::NotChanged(ChangeRefusal::NotJoined { failures: failures() })),
        Reply::Failed(RequestError::NotDeleted { failures: failures() }),
        Reply::Failed(RequestError::PartlyDeleted { failures: failures() }),
        Reply::Failed(RequestError::NotUpgraded(UpgradeRefusal::Changed { now: DIGEST })),
        Reply::Failed(RequestError::NotTransferred { to: peer(), reason: name("why") }),
        Reply::Failed(RequestError::NotYourSession),
        Reply::Failed(RequestError::Superseded),
        Reply::Failed(RequestError::NotOpened(SessionRefusal::TooManySessions)),
        Reply::Failed(RequestError::TooMuch),
        Reply::Failed(RequestError::Stopping),
    ]
}

fn session_requests() -> Vec<SessionRequest> {
    let (id, seq) = (TriggerId(7), 3);
    vec![
        SessionRequest::Write { seq, acked_up_to: 2, is_ephemeral: true, data: text("d") },
        SessionRequest::Query { id, request: text("q"), watch: true },
        SessionRequest::Rearm { id, keys: vec![text("k")], since: Index(9) },
        SessionRequest::Disarm { id },
        SessionRequest::Ping { number: 4 },
        SessionRequest::Close,
    ]
}

fn session_events() -> Vec<SessionEvent> {
    let (id, index, seq) = (TriggerId(7), Index(9), 3);
    vec![
        SessionEvent::Attached { session: SessionId(2) },
        SessionEvent::Written { seq, result: Ok((index, Ok(text("r")))) },
        SessionEvent::Written { seq, result: Err(SessionRefusal::OutOfOrder { expected: 2 }) },
        SessionEvent::Answered { id, index, result: Ok(Ok(text("a"))), watched: vec![text("k")] },
        SessionEvent::Fired { id, reason: TriggerReason::SessionExpired },
        SessionEvent::Pong { number: 4 },
        SessionEvent::Ended(SessionEnd::Expired),
        SessionEvent::Detached(RequestError::Superseded),
    ]
}

#[test]
fn what_clients_and_nodes_say_is_as_it_was_agreed_on() {
    let mut golden = Golden::default();
    golden.add("alpn", &Protocol::Client.alpn());
    golden.add_each("Request", requests());
    golden.add_each("Reply", replies());
    golden.add_each("SessionRequest", session_requests());
    golden.add_each("SessionEvent", session_events());
    golden.check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/node/formats/clients.golden"));
}

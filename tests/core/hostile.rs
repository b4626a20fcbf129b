//! Whatever a peer is told, it neither panics nor forgets what it has promised.

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zraft::raft::{
    AppendReply, ConfigValues, Configuration, Entry, Envelope, MemStorage, Message, Payload, ReadId, SnapshotMeta,
    Verdict, Write,
};
use zraft::types::{Incarnation, Index, LogPosition, Term};

use crate::peer::{Machine, Peer, configuration, peers};

const RUNS: u64 = 300;
const MESSAGES: usize = 300;

struct Liar(ChaCha8Rng);

impl Liar {
    /// Mostly plausible numbers, sometimes those at the edge.
    fn number(&mut self) -> u64 {
        match self.0.random_range(0..20) {
            0 => u64::MAX,
            1 => u64::MAX / 2 + self.0.random_range(0..2),
            _ => self.0.random_range(0..12),
        }
    }

    fn position(&mut self) -> LogPosition {
        LogPosition::new(Term(self.number()), Index(self.number()))
    }

    fn entries(&mut self, prev: LogPosition) -> Vec<Entry> {
        let mut index = prev.index.0;
        (0..self.0.random_range(0..4))
            .map(|_| {
                index = if self.0.random_bool(0.05) { self.number() } else { index.wrapping_add(1) };
                let term = if self.0.random_bool(0.3) { Term(self.number()) } else { prev.term };
                let payload = match self.0.random_range(0..12) {
                    0 => Payload::Membership(Configuration::default()),
                    1 => Payload::Membership(configuration(4)),
                    2 => Payload::Membership(self.configuration()),
                    3 => Payload::Verdict(Verdict { on: Index(self.number()), ruling: Bytes::new() }),
                    _ => Payload::Data(Bytes::from_static(b"lie")),
                };
                Entry { term, index: Index(index), time_ms: 5, payload }
            })
            .collect()
    }

    fn configuration(&mut self) -> Configuration {
        let mut some = || {
            let set: u64 = self.0.random_range(0..32);
            peers((1..6).filter(|id| set & (1 << (id - 1)) != 0))
        };
        let (voters, outgoing, learners, leaving) = (some(), some(), some(), some());
        let leaving = leaving.into_keys().collect();
        match self.0.random_range(0..3) {
            0 => Configuration { voters, outgoing, ..Configuration::default() },
            1 => Configuration { voters, learners, ..Configuration::default() },
            _ => Configuration { voters, outgoing, learners, leaving },
        }
    }

    fn message(&mut self) -> Message {
        let (position, index, id) = (self.position(), Index(self.number()), ReadId(self.number()));
        let granted = self.0.random();
        match self.0.random_range(0..17) {
            0 => Message::PreVote { last: position },
            1 => Message::PreVoteReply { granted },
            2 => Message::Vote { last: position, appointed: granted },
            3 => Message::VoteReply { granted },
            4 | 5 => Message::Append { prev: position, entries: self.entries(position), commit: index },
            6 => Message::AppendReply(AppendReply::Accepted { matched: index }),
            7 => Message::AppendReply(AppendReply::Rejected { prev: index, hint: position }),
            8 => Message::Heartbeat { commit: index, round: self.number() },
            9 => Message::HeartbeatReply { round: self.number() },
            10 => Message::ReadIndex { id },
            11 => Message::ReadIndexReply { id, index },
            12 => Message::TimeoutNow,
            14 => Message::Quiesce { last: position, round: self.number() },
            15 => Message::QuiesceReply { round: self.number() },
            13 => Message::Snapshot { meta: SnapshotMeta { position, time_ms: 9, configuration: configuration(2) } },
            _ => Message::Snapshot {
                meta: SnapshotMeta { position, time_ms: 9, configuration: Configuration::default() },
            },
        }
    }

    fn envelope(&mut self, peer: &Peer) -> Envelope {
        let near = peer.raft.term().0.saturating_add(self.0.random_range(0..3)).saturating_sub(1);
        let term = if self.0.random_bool(0.9) { near } else { self.number() };
        let to = Incarnation(if self.0.random_bool(0.95) { 1 } else { self.number() });
        let from = Incarnation(self.0.random_range(1..6));
        Envelope { from, to, term: Term(term), message: self.message() }
    }
}

#[test]
fn no_message_makes_a_peer_panic_or_break_its_word() {
    let mut refused = 0;
    for seed in 0..RUNS {
        let mut liar = Liar(ChaCha8Rng::seed_from_u64(seed));
        let mut disk = MemStorage::default();
        disk.write(&Write::bootstrap(configuration(3), 0)).expect("the first write fits");
        let mut peer = Peer::start(Incarnation(1), &ConfigValues::default(), disk, seed);
        for _ in 0..MESSAGES {
            let before = peer.raft.status();
            let envelope = liar.envelope(&peer);
            if let Message::Snapshot { meta } = &envelope.message {
                let machine = Machine { position: meta.position, time_ms: 0, digest: 0 };
                peer.files.insert(meta.position.index, machine);
            }
            peer.raft.step(envelope, 0);
            if liar.0.random_bool(0.3) {
                peer.raft.tick(0);
                let _ = peer.raft.propose(vec![Bytes::from_static(b"true")], 0);
                let _ = peer.raft.read_index();
                let _ = peer.raft.transfer(Incarnation(liar.0.random_range(1..6)));
                let _ = peer.raft.propose_membership(liar.configuration().voters, 0);
            }
            peer.pump();
            while liar.0.random_bool(0.7) && peer.persist_one() {
                peer.pump();
            }
            while peer.read_one() {
                peer.pump();
            }
            let after = peer.raft.status();
            assert!(after.term >= before.term && after.commit >= before.commit, "{before:?} {after:?}");
            assert!(after.last.index >= after.commit && after.last.index.0 < u64::MAX / 2 + 1000);
        }
        refused += peer.raft.status().refused;
    }
    assert!(refused > RUNS, "hardly anything was refused");
}

#[test]
fn lies_are_counted_and_change_nothing() {
    let mut disk = MemStorage::default();
    disk.write(&Write::bootstrap(configuration(3), 0)).expect("the first write fits");
    let mut peer = Peer::start(Incarnation(1), &ConfigValues::default(), disk, 1);
    let entry = |term, index| Entry { term: Term(term), index: Index(index), time_ms: 0, payload: Payload::Noop };
    let prev = LogPosition::new(Term(1), Index(1));
    let append = |prev, entries, commit| Message::Append { prev, entries, commit: Index(commit) };
    let joint_and_waiting = Configuration { outgoing: peers([1]), learners: peers([4]), ..configuration(3) };
    let meta = SnapshotMeta { position: prev, time_ms: 0, configuration: joint_and_waiting.clone() };
    let unsound = Entry { payload: Payload::Membership(joint_and_waiting), ..entry(1, 2) };
    let verdict = |on| Payload::Verdict(Verdict { on: Index(on), ruling: Bytes::new() });
    let on_itself = Entry { payload: verdict(2), ..entry(1, 2) };
    let lies = [
        (1, append(prev, vec![unsound], 1)),
        (1, append(prev, vec![on_itself], 1)),
        (1, Message::Snapshot { meta }),
        (u64::MAX, Message::Heartbeat { commit: Index(1), round: 1 }),
        (1, append(prev, vec![], u64::MAX)),
        (1, append(prev, vec![entry(1, 3)], 1)),
        (1, append(prev, vec![entry(1, 2), entry(1, 2)], 1)),
        (1, append(prev, vec![entry(2, 2)], 1)),
        (3, append(prev, vec![entry(3, 2), entry(2, 3)], 1)),
        (1, Message::Snapshot { meta: SnapshotMeta { position: prev, time_ms: 0, configuration: configuration(0) } }),
    ];
    let before = peer.raft.status();
    for (count, (term, message)) in (1..).zip(lies) {
        peer.raft.step(Envelope { from: Incarnation(2), to: Incarnation(1), term: Term(term), message }, 0);
        assert_eq!(peer.raft.status(), zraft::raft::Status { refused: count, ..before.clone() });
    }
    // These need a look at the own state, after the sender has been heard as the leader.
    let lies = [
        (Incarnation(2), Message::Heartbeat { commit: Index(2), round: 1 }),
        (Incarnation(3), Message::Heartbeat { commit: Index(1), round: 1 }),
        (Incarnation(2), append(LogPosition::ZERO, vec![entry(0, 1)], 1)),
    ];
    let refused = peer.raft.status().refused;
    for (count, (from, message)) in (refused + 1..).zip(lies) {
        peer.raft.step(Envelope { from, to: Incarnation(1), term: Term(1), message }, 0);
        assert_eq!(peer.raft.status().refused, count);
        assert_eq!(peer.raft.status().last, before.last);
    }
}

#[test]
fn what_is_not_meant_for_a_peer_or_comes_from_a_stranger_changes_nothing() {
    let mut disk = MemStorage::default();
    disk.write(&Write::bootstrap(configuration(3), 0)).expect("the first write fits");
    let mut peer = Peer::start(Incarnation(1), &ConfigValues::default(), disk, 1);
    let last = LogPosition::new(Term(9), Index(9));
    let vote = Message::Vote { last, appointed: true };
    let strays = [
        (2, 3, vote.clone()),
        (1, 1, vote),
        // A stranger's request may be right, its answer cannot be.
        (7, 1, Message::VoteReply { granted: false }),
        (7, 1, Message::PreVoteReply { granted: false }),
        (7, 1, Message::HeartbeatReply { round: 0 }),
        (7, 1, Message::AppendReply(AppendReply::Accepted { matched: Index(1) })),
        (7, 1, Message::ReadIndex { id: ReadId(1) }),
    ];
    let before = peer.raft.status();
    for (from, to, message) in strays {
        let envelope = Envelope { from: Incarnation(from), to: Incarnation(to), term: Term(9), message };
        peer.raft.step(envelope.clone(), 0);
        peer.pump();
        assert_eq!((peer.raft.status(), peer.outbox.len()), (before.clone(), 0), "{envelope:?}");
    }
}

//! Random clusters under random faults, checked after every step against what Raft promises. Everything follows from
//! a seed: `SIM_SEED=<seed>` runs one again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zraft::raft::{AppendReply, ConfigValues, Entry, Envelope, MemStorage, Message, ReadId, Write};
use zraft::types::{Incarnation, Index, LogPosition, Term};

use crate::peer::{Job, Machine, Peer, configuration};

const SEEDS: u64 = 200;
const STEPS: u64 = 1000;
/// Steps within which a healed cluster must be of one mind.
const HEALED_STEPS: u64 = 400;

/// A message on its way, and the snapshot's bytes that travel with it.
struct Travelling {
    due: u64,
    envelope: Envelope,
    file: Option<Machine>,
}

#[derive(Default)]
struct Faults {
    counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// What must hold, remembered over the whole run.
#[derive(Default)]
struct Promises {
    leaders: BTreeMap<Term, Incarnation>,
    votes: BTreeMap<(Incarnation, Term), Incarnation>,
    /// Every entry ever written, by position, with the position before it (Log Matching).
    entries: BTreeMap<LogPosition, (Entry, Option<Term>)>,
    committed: BTreeMap<Index, Term>,
    machines: BTreeMap<Index, Machine>,
    terms: BTreeMap<Incarnation, Term>,
    commits: BTreeMap<Incarnation, Index>,
    reads: BTreeMap<(Incarnation, ReadId), Index>,
}

struct Sim {
    rng: ChaCha8Rng,
    values: ConfigValues,
    peers: BTreeMap<Incarnation, Peer>,
    down: BTreeSet<Incarnation>,
    /// Disks that do nothing until a step.
    stalled: BTreeMap<Incarnation, u64>,
    /// Processes that stand still until a step, while messages for them queue up.
    paused: BTreeMap<Incarnation, u64>,
    blocked: BTreeSet<(Incarnation, Incarnation)>,
    network: Vec<Travelling>,
    now: u64,
    loss: f64,
    faults: Faults,
    promises: Promises,
    proposals: u64,
    lives: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = *[1, 2, 3, 3, 4, 5, 5].iter().choose(&mut rng).expect("not empty");
        let values = ConfigValues {
            election_ticks: 10,
            heartbeat_ticks: 2,
            max_append_bytes: 150,
            max_inflight_messages: 4,
            max_inflight_bytes: 400,
            max_uncommitted_bytes: 2000,
            max_apply_bytes: 200,
            cached_log_bytes: 200,
            lease_ticks: 0,
            max_promotion_lag: 5,
        };
        let mut sim = Self {
            loss: if rng.random() { 0.0 } else { rng.random_range(0.0..0.3) },
            rng,
            values,
            peers: BTreeMap::new(),
            down: BTreeSet::new(),
            stalled: BTreeMap::new(),
            paused: BTreeMap::new(),
            blocked: BTreeSet::new(),
            network: Vec::new(),
            now: 0,
            faults: Faults::default(),
            promises: Promises::default(),
            proposals: 0,
            lives: seed << 20,
        };
        for id in (1..=count).map(Incarnation) {
            let mut disk = MemStorage::default();
            let bootstrap = Write::bootstrap(configuration(count), 0);
            disk.write(&bootstrap).expect("the first write fits");
            sim.promises.entries.insert(bootstrap.entries[0].position(), (bootstrap.entries[0].clone(), Some(Term(0))));
            let life = sim.next_life();
            sim.peers.insert(id, Peer::start(id, &sim.values, disk, life));
        }
        sim
    }

    fn next_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    fn clock_ms(&mut self) -> u64 {
        (1000 + self.now).saturating_sub(self.rng.random_range(0..200))
    }

    fn step(&mut self, faulty: bool) {
        self.now += 1;
        if faulty {
            self.inject_faults();
        }
        self.deliver();
        let runs = |id: &Incarnation| !self.down.contains(id) && !self.is_paused(*id);
        let ids: Vec<_> = self.peers.keys().copied().filter(runs).collect();
        for id in ids {
            self.run_peer(id, faulty);
        }
    }

    fn is_paused(&self, id: Incarnation) -> bool {
        self.paused.get(&id).is_some_and(|until| *until > self.now)
    }

    /// A client reads; the answer must know everything that is committed now.
    fn read(&mut self, id: Incarnation) {
        let committed = self.promises.committed.keys().last().copied().unwrap_or_default();
        let peer = self.peers.get_mut(&id).expect("a peer");
        if let Ok(read) = peer.raft.read_index() {
            assert!(self.promises.reads.insert((id, read), committed).is_none(), "a read's name is used once");
        }
    }

    fn run_peer(&mut self, id: Incarnation, faulty: bool) {
        let clock_ms = self.clock_ms();
        let slow = faulty && self.rng.random_bool(0.3);
        let stalled = self.stalled.get(&id).is_some_and(|until| *until > self.now);
        let peer = self.peers.get_mut(&id).expect("a peer");
        if self.rng.random_bool(0.9) {
            peer.raft.tick(clock_ms);
        }
        if self.rng.random_bool(0.3) {
            let count = self.rng.random_range(1..4);
            let data = (0..count).map(|part| Bytes::from(format!("{}.{part}", self.proposals))).collect();
            self.proposals += u64::from(peer.raft.propose(data, clock_ms).is_ok());
        }
        if self.rng.random_bool(0.1) {
            self.read(id);
        }
        self.settle(id);
        let peer = self.peers.get_mut(&id).expect("a peer");
        if !slow {
            for _ in 0..self.rng.random_range(0..4) * u32::from(!stalled) {
                peer.persist_one();
            }
            for _ in 0..self.rng.random_range(0..3) {
                peer.read_one();
            }
            for _ in 0..self.rng.random_range(0..3) {
                peer.work_one();
            }
            self.promises.check_machine(&peer.machine);
        }
        if peer.jobs.is_empty() && self.rng.random_bool(0.02) {
            peer.take_snapshot(self.rng.random_range(0..10));
            self.faults.count("compaction");
        }
        self.settle(id);
    }

    /// Lets the peer speak, checks what it says and does, and puts its messages on their way.
    fn settle(&mut self, id: Incarnation) {
        let peer = self.peers.get_mut(&id).expect("a peer");
        let writes_before = peer.writes.len();
        peer.pump();
        let peer = &self.peers[&id];
        for write in peer.writes.iter().skip(writes_before) {
            self.promises.check_write(peer, write);
        }
        for envelope in &peer.outbox {
            self.promises.check_message(peer, envelope);
        }
        self.promises.check_jobs(peer);
        self.promises.check_peer(&self.peers, peer);
        let peer = self.peers.get_mut(&id).expect("a peer");
        for read in std::mem::take(&mut peer.reads) {
            let at_least = self.promises.reads.remove(&(id, read.id)).expect("a read is answered once");
            assert!(read.index >= at_least, "a stale read: {read:?} < {at_least}");
        }
        for lost in std::mem::take(&mut peer.reads_lost) {
            self.promises.reads.remove(&(id, lost)).expect("a read is lost once");
            self.faults.count("lost read");
        }
        peer.statuses.clear();
        let messages: Vec<_> = std::mem::take(&mut peer.outbox).into_iter().map(|envelope| (envelope, None)).collect();
        let files = &peer.files;
        let with_file = |envelope: Envelope| {
            let Message::Snapshot { meta } = &envelope.message else { panic!("not a snapshot") };
            let file = files.get(&meta.position.index).cloned();
            (envelope, file)
        };
        let snapshots: Vec<_> = std::mem::take(&mut peer.snapshots).into_iter().map(with_file).collect();
        for (envelope, file) in messages.into_iter().chain(snapshots) {
            let due = self.now + if self.rng.random_bool(0.2) { self.rng.random_range(0..30) } else { 1 };
            if self.rng.random_bool(0.03) {
                self.faults.count("duplicate");
                let due = self.now + self.rng.random_range(0..60);
                self.network.push(Travelling { due, envelope: envelope.clone(), file: file.clone() });
            }
            self.network.push(Travelling { due, envelope, file });
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let paused: Vec<_> = self.peers.keys().copied().filter(|id| self.is_paused(*id)).collect();
        let mut due: Vec<_> = self
            .network
            .extract_if(.., |travelling| travelling.due <= now && !paused.contains(&travelling.envelope.to))
            .collect();
        // Whatever is due on one step comes in any order.
        while !due.is_empty() {
            let Travelling { envelope, file, .. } = due.swap_remove(self.rng.random_range(0..due.len()));
            let (from, to) = (envelope.from, envelope.to);
            let lost = self.rng.random_bool(self.loss) || self.blocked.contains(&(from, to)) || self.down.contains(&to);
            if matches!(envelope.message, Message::Snapshot { .. }) && !self.down.contains(&from) {
                self.faults.count(if lost { "lost snapshot" } else { "snapshot" });
                self.peers.get_mut(&from).expect("a peer").raft.snapshot_sent(to, !lost);
                self.settle(from);
            }
            if lost {
                self.faults.count("lost message");
                continue;
            }
            let clock_ms = self.clock_ms();
            if self.rng.random_bool(0.02) {
                self.read(to);
                self.settle(to);
            }
            let peer = self.peers.get_mut(&to).expect("a peer");
            if let (Some(file), Message::Snapshot { meta }) = (file, &envelope.message) {
                peer.files.insert(meta.position.index, file);
            }
            peer.raft.step(envelope, clock_ms);
            self.settle(to);
        }
    }

    fn inject_faults(&mut self) {
        let ids: Vec<_> = self.peers.keys().copied().collect();
        if self.rng.random_bool(0.01) {
            let share: f64 = self.rng.random();
            for id in &ids {
                if self.rng.random_bool(share) {
                    self.crash(*id);
                }
            }
        }
        if self.rng.random_bool(0.05)
            && let Some(id) = self.down.iter().copied().choose(&mut self.rng)
        {
            self.restart(id);
        }
        if self.rng.random_bool(0.01) {
            self.faults.count("partition");
            let (one_way, side) = (self.rng.random_bool(0.3), self.rng.random_range(0..1_u64 << ids.len()));
            let in_side = |id: &Incarnation| side & (1 << (id.0 - 1)) != 0;
            for (a, b) in ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))) {
                if in_side(&a) && !in_side(&b) {
                    self.blocked.insert((a, b));
                    if !one_way {
                        self.blocked.insert((b, a));
                    }
                }
            }
        }
        if self.rng.random_bool(0.03)
            && let Some(id) = ids.iter().copied().choose(&mut self.rng)
        {
            self.faults.count("stalled disk");
            self.stalled.insert(id, self.now + self.rng.random_range(0..100));
        }
        if self.rng.random_bool(0.02) {
            let leader = ids.iter().copied().find(|id| self.peers[id].raft.is_leader());
            if let Some(id) = leader.or_else(|| ids.iter().copied().choose(&mut self.rng)) {
                self.faults.count("pause");
                self.paused.insert(id, self.now + self.rng.random_range(0..60));
            }
        }
        if self.rng.random_bool(0.02) {
            self.blocked.clear();
        }
    }

    /// A crash keeps the writes that happened to reach the disk, reported or not.
    fn crash(&mut self, id: Incarnation) {
        if !self.down.insert(id) {
            return;
        }
        self.faults.count("crash");
        let peer = self.peers.get_mut(&id).expect("a peer");
        for _ in 0..self.rng.random_range(0..=peer.writes.len()) {
            let write = peer.writes.pop_front().expect("counted");
            peer.disk.write(&write).expect("writes fit the disk");
        }
        peer.writes.iter().for_each(|_| self.faults.count("lost write"));
        self.promises.reads.retain(|(reader, _), _| *reader != id);
    }

    fn restart(&mut self, id: Incarnation) {
        self.down.remove(&id);
        let life = self.next_life();
        let peer = self.peers.get_mut(&id).expect("a peer");
        peer.restart(&self.values, life);
        self.promises.commits.remove(&id);
        self.promises.check_restart(peer);
        self.settle(id);
    }

    fn heal(&mut self) {
        self.blocked.clear();
        self.stalled.clear();
        self.paused.clear();
        self.loss = 0.0;
        for id in std::mem::take(&mut self.down) {
            self.restart(id);
        }
    }

    /// With all faults gone, the cluster finds a leader, commits, and everybody applies the same.
    fn check_liveness(&mut self) {
        self.heal();
        let target = self.promises.committed.keys().last().copied().unwrap_or_default();
        (0..HEALED_STEPS).for_each(|_| self.step(false));
        let leaders = self.peers.values().filter(|peer| peer.raft.is_leader()).count();
        assert_eq!(leaders, 1, "a healed cluster has one leader");
        for peer in self.peers.values() {
            let status = peer.raft.status();
            assert!(peer.machine.position.index > target, "no progress beyond {target}: {status:?}");
            assert_eq!(status.refused, 0, "correct peers talk no nonsense");
        }
        let waiting = self.promises.reads.len();
        assert!(waiting < 100, "{waiting} reads were never answered");
    }
}

impl Promises {
    fn check_machine(&mut self, machine: &Machine) {
        if machine.position != LogPosition::ZERO {
            let known = self.machines.entry(machine.position.index).or_insert_with(|| machine.clone());
            assert_eq!(known, machine, "machines at equal indexes are equal");
        }
    }

    /// Log Matching: an entry's position determines its content and the entry before it, and so all before it.
    fn check_write(&mut self, peer: &Peer, write: &Write) {
        for entry in &write.entries {
            let restored = peer.written.restored();
            let before =
                restored.term_at(entry.index.prev()).filter(|_| restored.term_at(entry.index) == Some(entry.term));
            let known = self.entries.entry(entry.position()).or_insert_with(|| (entry.clone(), before));
            assert_eq!(&known.0, entry, "entries at equal positions are equal");
            if let (Some(known), Some(before)) = (known.1, before) {
                assert_eq!(known, before, "logs that agree on an entry agree on the one before it");
            }
        }
    }

    /// Nothing is said before what it implies is durable; one vote a term, over all lives.
    fn check_message(&mut self, peer: &Peer, envelope: &Envelope) {
        let durable = peer.disk.restored();
        let voted_for = match envelope.message {
            Message::VoteReply { granted: true } => envelope.to,
            Message::Vote { .. } => envelope.from,
            Message::AppendReply(AppendReply::Accepted { matched }) => {
                assert!(durable.last >= matched && durable.hard_state.term >= envelope.term, "accepted too early");
                return;
            }
            _ => return,
        };
        assert!(durable.hard_state.term >= envelope.term, "a vote before its term is durable");
        if durable.hard_state.term == envelope.term {
            assert_eq!(durable.hard_state.vote, Some(voted_for), "a vote before it is durable");
        }
        let vote = *self.votes.entry((peer.id, envelope.term)).or_insert(voted_for);
        assert_eq!(vote, voted_for, "one vote a term");
    }

    /// Only what is committed and durable here is given to the machine.
    fn check_jobs(&self, peer: &Peer) {
        let durable = peer.disk.restored();
        for job in &peer.jobs {
            if let Job::Apply(entries) = job
                && let Some(last) = entries.last()
            {
                let term = durable.term_at(last.index);
                assert!(durable.base.index > last.index || term == Some(last.term), "applied before it is durable");
            }
        }
    }

    fn check_peer(&mut self, peers: &BTreeMap<Incarnation, Peer>, peer: &Peer) {
        let status = peer.raft.status();
        let log = peer.written.restored();
        let term_before = self.terms.insert(peer.id, status.term).unwrap_or_default();
        let commit_before = self.commits.insert(peer.id, status.commit).unwrap_or_default();
        assert!(status.term >= term_before && status.commit >= commit_before, "terms and commits do not go back");
        let ordered = [status.first.prev(), status.snapshot.index, status.commit, status.last.index];
        assert!(ordered.is_sorted() && status.applied <= status.commit, "{status:?}");
        for index in log.base.index.next().0..=status.commit.0 {
            let (index, term) = (Index(index), log.term_at(Index(index)).expect("committed entries are in the log"));
            let is_new = !self.committed.contains_key(&index);
            let known = *self.committed.entry(index).or_insert(term);
            assert_eq!(known, term, "a committed entry is the same everywhere");
            if is_new {
                let holds = |peer: &&Peer| {
                    let disk = peer.disk.restored();
                    disk.base.index >= index || disk.term_at(index) == Some(term)
                };
                let holders = peers.values().filter(holds).count();
                assert!(holders * 2 > peers.len(), "{index} is committed and durable on {holders} peers only");
            }
        }
        if peer.raft.is_leader() {
            let leader = *self.leaders.entry(status.term).or_insert(peer.id);
            assert_eq!(leader, peer.id, "one leader a term");
            if status.commit > commit_before && commit_before > Index::ZERO {
                let of = log.term_at(status.commit);
                assert!(of == Some(status.term), "only entries of the own term are counted");
            }
            // Leader Completeness. A leader that is out of date misses only what later terms committed.
            let later = self.leaders.range(status.term.next()..).next().is_some();
            let missing =
                |(index, term): (&Index, &Term)| *index > log.base.index && log.term_at(*index) != Some(*term);
            let misses = !later && self.committed.iter().rev().take(50).any(missing);
            assert!(!misses, "a leader has every committed entry");
        }
    }

    fn check_restart(&mut self, peer: &Peer) {
        let restored = peer.disk.restored();
        let last_vote = self.votes.range((peer.id, Term(0))..=(peer.id, Term(u64::MAX))).next_back();
        assert!(last_vote.is_none_or(|((_, term), _)| restored.hard_state.term >= *term), "a vote is forgotten");
        // What was never said may be forgotten.
        self.terms.insert(peer.id, restored.hard_state.term);
        self.check_machine(&peer.machine);
    }
}

fn run(seed: u64, steps: u64) -> (Sim, Machine) {
    let mut sim = Sim::new(seed);
    (0..steps).for_each(|_| sim.step(true));
    sim.check_liveness();
    let machine = sim.peers[&Incarnation(1)].machine.clone();
    (sim, machine)
}

#[test]
fn random_clusters_keep_their_promises() {
    let seeds = match std::env::var("SIM_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("SIM_SEED is a number"),
        Err(_) => 0..SEEDS,
    };
    let all = seeds.end - seeds.start == SEEDS;
    let mut faults = Faults::default();
    let mut committed = 0;
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed, STEPS))) {
            Ok((sim, _)) => {
                committed += sim.promises.committed.len();
                sim.faults.counts.iter().for_each(|(what, count)| *faults.counts.entry(what).or_default() += count);
            }
            Err(panic) => {
                eprintln!("failed with SIM_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{committed} entries committed; {:?}", faults.counts);
    let wanted = ["compaction", "crash", "duplicate", "lost message", "lost read", "lost snapshot", "lost write"];
    for fault in wanted.into_iter().chain(["partition", "pause", "snapshot", "stalled disk"]) {
        assert!(!all || faults.counts.get(fault).is_some_and(|count| *count > 20), "hardly any {fault}");
    }
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    assert_eq!(run(7, 300).1, run(7, 300).1);
}

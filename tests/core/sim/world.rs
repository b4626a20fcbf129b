//! The cluster, its clients, the network and the disks, one step at a time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zraft::raft::{
    AppendReply, ConfigValues, Entry, Envelope, LogRead, MemStorage, Message, Restored, SnapshotMeta, Write,
};
use zraft::types::{Incarnation, LogPosition};

use crate::peer::{Machine, Peer, configuration};
use crate::sim::faults::Counts;
use crate::sim::neighbours::Neighbours;
use crate::sim::promises::Promises;
use crate::words::said;

/// Of so many seeds one has real stores under its peers.
const SEEDS_PER_STORE: u64 = 10;

/// A message on its way, and the snapshot's bytes that travel with it.
pub struct Travelling {
    pub sent: u64,
    pub due: u64,
    pub envelope: Envelope,
    pub file: Option<Machine>,
}

/// A real store under a peer. `Peer::disk` then says what must be in it.
pub trait HostStore {
    /// Makes writes durable, as one round.
    fn write(&mut self, writes: &[Write]);
    fn read(&mut self, read: &LogRead) -> Vec<Entry>;
    /// Makes a snapshot durable.
    fn save(&mut self, meta: &SnapshotMeta, machine: &Machine);
    fn load(&mut self, position: LogPosition) -> Machine;
    /// The host dies while it makes writes durable.
    fn crash(&mut self, writes: &[Write]);
    /// The host is back; returns what the store has kept.
    fn restart(&mut self) -> (Restored, Vec<Entry>);
}

/// A peer, and what is wrong with its host.
pub struct Host {
    pub peer: Peer,
    pub store: Option<Box<dyn HostStore>>,
    pub is_down: bool,
    /// Until when the process stands still, while messages for it queue up.
    pub paused_until: u64,
    /// Until when the disk does nothing.
    pub stalled_until: u64,
    /// Until when the disk finishes a write only now and then.
    pub slow_until: u64,
    /// Ticks of this host in a step.
    pub tick_rate: f64,
    /// By how much its wall clock is ahead.
    pub clock_offset_ms: u64,
    /// Another for each start of the process.
    pub life: u64,
}

impl Host {
    pub fn new(peer: Peer, store: Option<Box<dyn HostStore>>, life: u64) -> Self {
        Self {
            peer,
            store,
            is_down: false,
            paused_until: 0,
            stalled_until: 0,
            slow_until: 0,
            tick_rate: 1.0,
            clock_offset_ms: 0,
            life,
        }
    }
}

#[cfg(feature = "store")]
fn new_store(id: Incarnation, first: Write, luck: u64) -> Option<Box<dyn HostStore>> {
    Some(Box::new(super::store::Store::new(id, first, luck)))
}

#[cfg(not(feature = "store"))]
fn new_store(_: Incarnation, _: Write, _: u64) -> Option<Box<dyn HostStore>> {
    None
}

impl Host {
    /// Makes the oldest writes durable in the store; the peer is yet to be told.
    fn write_through(&mut self, count: usize) {
        let writes: Vec<Write> = self.peer.writes.iter().take(count).cloned().collect();
        if let Some(store) = self.store.as_mut().filter(|_| !writes.is_empty()) {
            store.write(&writes);
        }
    }

    /// The store gives the same answer that the peer is about to get.
    fn check_read(&mut self) {
        if let (Some(store), Some(read)) = (&mut self.store, self.peer.log_reads.front()) {
            assert_eq!(store.read(read), self.peer.disk.read(read));
        }
    }

    /// Writes the snapshot that the peer is about to take.
    fn save_snapshot(&mut self) {
        let Some(store) = &mut self.store else { return };
        let Machine { position, time_ms, .. } = self.peer.machine;
        let configuration = self.peer.raft.configuration_at(position.index);
        store.save(&SnapshotMeta { position, time_ms, configuration }, &self.peer.machine);
    }

    /// The host dies with `count` of its writes on their way to the disk. Returns how many have got there.
    pub fn crash(&mut self, count: usize) -> usize {
        let Some(store) = &mut self.store else { return count };
        let writes: Vec<Write> = self.peer.writes.iter().take(count).cloned().collect();
        store.crash(&writes);
        let (restored, entries) = store.restart();
        let mut disk = self.peer.disk.clone();
        for kept in 0..=count {
            if restored == *disk.state() && disk.entries().eq(&entries) {
                store.crash(&[]);
                return kept;
            }
            let next = writes.get(kept).unwrap_or_else(|| panic!("{restored:?} after {:?}", self.peer.disk.state()));
            disk.write(next).expect("writes fit the disk");
        }
        unreachable!("the last of the writes was looked at");
    }

    /// What a store gives back is what there was after the crash, and so is the snapshot.
    pub fn restart(&mut self, values: &ConfigValues, life: u64) {
        (self.is_down, self.life) = (false, life);
        self.peer.restart(values, life);
        if let Some(store) = &mut self.store {
            let (restored, entries) = store.restart();
            assert_eq!(restored, *self.peer.disk.state());
            assert!(entries.iter().eq(self.peer.disk.entries()), "the log of {} differs", self.peer.id);
            if let Some(meta) = &restored.snapshot {
                assert_eq!(store.load(meta.position), self.peer.machine);
            }
        }
    }
}

/// Everything that happens, as a number, and in words if wanted.
pub struct Trace {
    pub digest: u64,
    tell: bool,
}

impl Trace {
    pub fn note(&mut self, words: &[u64], tell: impl FnOnce() -> String) {
        for word in words {
            self.digest = (self.digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
        if self.tell {
            println!("{}", tell());
        }
    }
}

pub struct Sim {
    pub rng: ChaCha8Rng,
    pub values: ConfigValues,
    pub hosts: BTreeMap<Incarnation, Host>,
    pub blocked: BTreeSet<(Incarnation, Incarnation)>,
    pub network: Vec<Travelling>,
    /// When the newest message that has arrived was sent, from each peer to each other.
    newest: BTreeMap<(Incarnation, Incarnation), u64>,
    pub now: u64,
    pub loss: f64,
    /// How often things go wrong, between 0 and 1.
    pub wildness: f64,
    /// No more faults.
    pub is_calm: bool,
    /// Clients have stopped.
    pub is_quiet: bool,
    pub counts: Counts,
    pub promises: Promises,
    pub trace: Trace,
    pub neighbours: Neighbours,
    /// Until when clients want nothing.
    idle_until: u64,
    proposals: u64,
    lives: u64,
    has_stores: bool,
}

impl Sim {
    pub fn new(seed: u64, tell: bool) -> Self {
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
            quiesce_ticks: if rng.random() { rng.random_range(2..20) } else { 0 },
            lease_ticks: if rng.random_bool(0.15) { 6 } else { 0 },
            max_promotion_lag: 5,
        };
        let mut sim = Self {
            loss: if rng.random() { 0.0 } else { rng.random_range(0.0..0.3) },
            wildness: rng.random_range(0.1..1.0) * if values.quiesce_ticks > 0 { 0.5 } else { 1.0 },
            rng,
            values,
            hosts: BTreeMap::new(),
            blocked: BTreeSet::new(),
            network: Vec::new(),
            newest: BTreeMap::new(),
            now: 0,
            is_calm: false,
            is_quiet: false,
            counts: Counts::default(),
            promises: Promises::new(Write::bootstrap(configuration(count), 0)),
            trace: Trace { digest: seed, tell },
            neighbours: Neighbours::default(),
            idle_until: 0,
            proposals: 0,
            lives: seed << 20,
            has_stores: seed.is_multiple_of(SEEDS_PER_STORE),
        };
        for id in (1..=count).map(Incarnation) {
            sim.add_peer(id, Write::bootstrap(configuration(count), 0));
        }
        sim
    }

    /// Adds a peer whose disk begins with a write.
    pub fn add_peer(&mut self, id: Incarnation, first: Write) {
        let life = self.next_life();
        let mut disk = MemStorage::default();
        disk.write(&first).expect("the first write fits");
        let store = if self.has_stores { new_store(id, first, life) } else { None };
        self.hosts.insert(id, Host::new(Peer::start(id, &self.values, disk, life), store, life));
    }

    pub fn next_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    pub fn host(&mut self, id: Incarnation) -> &mut Host {
        self.hosts.get_mut(&id).expect("a host")
    }

    /// Whether reads by lease are on, and the clocks therefore good.
    pub fn has_leases(&self) -> bool {
        self.values.lease_ticks > 0
    }

    pub fn clock_ms(&mut self, id: Incarnation) -> u64 {
        (1000 + self.now + self.hosts[&id].clock_offset_ms).saturating_sub(self.rng.random_range(0..200))
    }

    pub fn step(&mut self) {
        self.now += 1;
        if !self.is_calm {
            self.inject_faults();
            if self.values.quiesce_ticks > 0 && self.rng.random_bool(0.02) {
                self.idle_until = self.now + self.rng.random_range(0..300);
            }
        }
        self.deliver();
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        for id in ids {
            let host = &self.hosts[&id];
            if !host.is_down && host.paused_until <= self.now {
                self.run_peer(id);
            }
        }
    }

    fn run_peer(&mut self, id: Incarnation) {
        self.tick(id);
        self.watch_neighbours(id);
        if !self.is_quiet && self.idle_until <= self.now {
            self.act_as_client(id);
        }
        self.settle(id);
        self.work(id);
        self.settle(id);
    }

    fn tick(&mut self, id: Incarnation) {
        let rate = self.hosts[&id].tick_rate;
        let ticks = rate as u32 + u32::from(self.rng.random_bool(rate.fract()));
        for _ in 0..ticks {
            let clock_ms = self.clock_ms(id);
            let raft = &mut self.host(id).peer.raft;
            let (led_before, slept_before) = (raft.is_leader(), raft.is_asleep());
            raft.tick(clock_ms);
            self.settle(id);
            self.count_sleep(id, slept_before);
            self.promises.check_tick(&self.hosts[&id].peer, &self.values, led_before, &mut self.counts);
        }
    }

    /// Time alone wakes nobody, and makes only leaders of one fall asleep.
    fn count_sleep(&mut self, id: Incarnation, slept_before: bool) {
        let raft = &self.hosts[&id].peer.raft;
        assert!(!slept_before || raft.is_asleep(), "time has woken {id}");
        if slept_before && raft.is_leader() {
            self.counts.count("tick of a leader that sleeps");
        }
    }

    fn act_as_client(&mut self, id: Incarnation) {
        let clock_ms = self.clock_ms(id);
        if self.rng.random_bool(0.3) && self.hosts[&id].peer.raft.is_leader() {
            let count = self.rng.random_range(1..4);
            let data = (0..count).map(|part| Bytes::from(format!("{}.{part}", self.proposals))).collect();
            self.proposals += u64::from(self.host(id).peer.raft.propose(data, clock_ms).is_ok());
        }
        if self.rng.random_bool(0.1) {
            self.read(id);
        }
    }

    /// A client reads; the answer must know everything that is committed now.
    fn read(&mut self, id: Incarnation) {
        let host = self.hosts.get_mut(&id).expect("a host");
        if let Ok(read) = host.peer.raft.read_index() {
            self.promises.read_started(id, read);
            let voters = host.peer.raft.configuration().voters.len();
            self.settle(id);
            let is_answered = self.promises.is_answered(id, read);
            if voters > 1 && is_answered && self.hosts[&id].peer.raft.is_leader() {
                self.counts.count("read by lease");
            }
        }
    }

    fn work(&mut self, id: Incarnation) {
        let host = self.hosts.get_mut(&id).expect("a host");
        let is_stalled = host.stalled_until > self.now;
        let is_slow = host.slow_until > self.now;
        let is_busy = !self.is_calm && self.rng.random_bool(0.3);
        let writes = match is_slow {
            true => u32::from(self.rng.random_bool(0.08)),
            false => self.rng.random_range(0..4),
        };
        let writes = writes * u32::from(!is_stalled && !is_busy);
        host.write_through(writes as usize);
        for _ in 0..writes {
            if host.peer.persist_one() {
                self.promises.persisted(id);
            }
        }
        // A healed leader can read for everybody who lags.
        let most_reads = if self.is_calm { 20 } else { 3 };
        for _ in 0..self.rng.random_range(0..most_reads) * u32::from(!is_busy) {
            host.check_read();
            host.peer.read_one();
        }
        for _ in 0..self.rng.random_range(0..3) * u32::from(!is_busy) {
            host.peer.work_one();
        }
        self.promises.check_machine(&host.peer.machine);
        if host.peer.jobs.is_empty() && host.peer.machine.position.index.0 > 0 && self.rng.random_bool(0.02) {
            host.save_snapshot();
            host.peer.take_snapshot(self.rng.random_range(0..10));
            self.counts.count("compaction");
        }
    }

    /// Lets the peer speak, checks what it says and does, and puts its messages on their way.
    pub fn settle(&mut self, id: Incarnation) {
        let host = self.hosts.get_mut(&id).expect("a host");
        let (writes_before, jobs_before) = (host.peer.writes.len(), host.peer.jobs.len());
        if !host.peer.raft.has_ready() {
            return;
        }
        host.peer.pump();
        self.promises.check(&self.hosts, id, writes_before, jobs_before, &mut self.counts);
        let peer = &mut self.hosts.get_mut(&id).expect("a host").peer;
        for read in peer.reads.drain(..) {
            self.promises.check_read(id, read);
        }
        for lost in peer.reads_lost.drain(..) {
            self.promises.read_lost(id, lost);
            self.counts.count("lost read");
        }
        for status in peer.statuses.drain(..) {
            let words = [self.now, id.0, status.role as u64, status.term.0];
            self.trace.note(&words, || format!("{:5} {id} is {} in term {}", words[0], status.role, status.term));
        }
        self.post(id);
    }

    fn post(&mut self, id: Incarnation) {
        let sent = self.now;
        let peer = &mut self.hosts.get_mut(&id).expect("a host").peer;
        let messages = peer.outbox.drain(..).map(|envelope| (envelope, None));
        let files = &peer.files;
        let with_file = |envelope: Envelope| {
            let Message::Snapshot { meta } = &envelope.message else { panic!("not a snapshot") };
            let file = files.get(&meta.position.index).cloned();
            (envelope, file)
        };
        for (envelope, file) in messages.chain(peer.snapshots.drain(..).map(with_file)) {
            let is_late = self.rng.random_bool(0.2);
            let delay = if is_late { self.rng.random_range(0..if self.is_calm { 5 } else { 30 }) } else { 1 };
            if self.rng.random_bool(0.03) {
                self.counts.count("duplicate");
                let due = sent + self.rng.random_range(0..60);
                self.network.push(Travelling { sent, due, envelope: envelope.clone(), file: file.clone() });
            }
            self.network.push(Travelling { sent, due: sent + delay, envelope, file });
        }
    }

    fn deliver(&mut self) {
        let (now, hosts) = (self.now, &self.hosts);
        let is_paused = |id: &Incarnation| hosts.get(id).is_some_and(|host| host.paused_until > now);
        let is_due = |message: &Travelling| message.due <= now && !is_paused(&message.envelope.to);
        // Whatever is due on one step comes in any order, so those that stay need not keep theirs.
        let (mut due, mut at) = (Vec::new(), 0);
        while let Some(message) = self.network.get(at) {
            if is_due(message) {
                due.push(self.network.swap_remove(at));
            } else {
                at += 1;
            }
        }
        while !due.is_empty() {
            let travelling = due.swap_remove(self.rng.random_range(0..due.len()));
            self.deliver_one(travelling);
        }
    }

    fn count_order(&mut self, sent: u64, from: Incarnation, to: Incarnation) {
        if sent + 1 < self.now {
            self.counts.count("delayed message");
        }
        let newest = self.newest.entry((from, to)).or_default();
        if sent < *newest {
            self.counts.count("overtaken message");
        }
        *newest = sent.max(*newest);
    }

    fn deliver_one(&mut self, Travelling { sent, envelope, file, .. }: Travelling) {
        let (from, to) = (envelope.from, envelope.to);
        let is_away = self.hosts.get(&to).is_none_or(|host| host.is_down);
        let lost = is_away || self.blocked.contains(&(from, to)) || self.rng.random_bool(self.loss);
        let words = message_words(&envelope, lost);
        let now = self.now;
        self.trace.note(&[now, from.0, to.0, envelope.term.0], String::new);
        self.trace.note(&words, || format!("{now:5} {}{}", if lost { "lost: " } else { "" }, said(&envelope)));
        if matches!(envelope.message, Message::Snapshot { .. }) && !self.hosts[&from].is_down {
            self.counts.count(if lost { "lost snapshot" } else { "snapshot" });
            self.host(from).peer.raft.snapshot_sent(to, !lost);
            self.settle(from);
        }
        if lost {
            return self.counts.count("lost message");
        }
        self.count_order(sent, from, to);
        if self.rng.random_bool(0.02) && !self.is_quiet && self.idle_until <= self.now {
            self.read(to);
        }
        let clock_ms = self.clock_ms(to);
        let host = self.host(to);
        if let (Some(file), Message::Snapshot { meta }) = (file, &envelope.message) {
            if let Some(store) = &mut host.store {
                store.save(meta, &file);
            }
            host.peer.files.insert(meta.position.index, file);
        }
        host.peer.raft.step(envelope, clock_ms);
        self.settle(to);
    }
}

/// A message in numbers.
fn message_words(envelope: &Envelope, lost: bool) -> [u64; 4] {
    let (kind, a, b) = match &envelope.message {
        Message::PreVote { last } => (0, last.term.0, last.index.0),
        Message::PreVoteReply { granted } => (1, u64::from(*granted), 0),
        Message::Vote { last, appointed } => (2 + u64::from(*appointed) * 100, last.term.0, last.index.0),
        Message::VoteReply { granted } => (3, u64::from(*granted), 0),
        Message::Append { prev, entries, commit } => (4 + 100 * commit.0, prev.index.0, entries.len() as u64),
        Message::AppendReply(AppendReply::Accepted { matched }) => (5, matched.0, 0),
        Message::AppendReply(AppendReply::Rejected { prev, hint }) => (6, prev.0, hint.index.0),
        Message::Heartbeat { commit, round } => (7, commit.0, *round),
        Message::HeartbeatReply { round } => (8, *round, 0),
        Message::TimeoutNow => (9, 0, 0),
        Message::ReadIndex { id } => (10, id.0, 0),
        Message::ReadIndexReply { id, index } => (11, id.0, index.0),
        Message::Snapshot { meta } => (12, meta.position.term.0, meta.position.index.0),
        Message::Quiesce { last, round } => (13 + 100 * round, last.term.0, last.index.0),
        Message::QuiesceReply { round } => (14, *round, 0),
    };
    [kind, a, b, u64::from(lost)]
}

//! Random clusters of whole replicas (Raft, waiting clients, sessions, machine) under random faults, with clients that
//! write, read and use sessions. What they are told is checked at once against the one history of the cluster, and some
//! of it, by itself, for linearizability. Everything follows from a seed. A run of any number of seeds, in parts if need
//! be:
//!
//! ```text
//! REPLICA_SIM_FROM=0 REPLICA_SIM_SEEDS=20000 REPLICA_SIM_STEPS=10000 \
//!     cargo test --release --no-default-features --test core replica_sim -- --nocapture
//! ```
//!
//! It prints how often everything has occurred, and a full run fails if something hardly did.

mod backend;
mod clients;
mod faults;
mod history;
mod idle;
mod membership;
mod node;
mod promises;
mod rest;
mod session_events;
mod sessions;
mod streams;
mod upgrades;
mod wanted;
mod witness;
mod wrong;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zraft::machine::{Genesis, Outcome, Ruling};
use zraft::raft::{Config, ConfigValues, Entry, MemStorage, Message, Payload, Write};
use zraft::replica::{LinkId, Now, PeerMessage, Replica, Report, Rider, Ticket};
use zraft::settings::Settings;
use zraft::types::{ClusterId, Digest, Incarnation, Index, LogPosition};

use crate::peer::configuration;
use clients::{Asked, Waiting};
use history::History;
use node::{Done, File, Node, Plan};
use promises::SessionPromises;
use rest::Quiet;
use sessions::SessionClient;
use streams::Stream;
use wanted::WANTED;
use witness::Witness;

/// The default run.
const SEEDS: u64 = 500;
const STEPS: u64 = 2000;
/// With so many seeds, everything must have occurred.
const SEEDS_FOR_ALL: u64 = 300;
/// The histories of one seed in so many are checked for linearizability.
const CHECKED_EVERY: u64 = 4;
/// Seeds after which a long run says where it is.
const REPORT_EVERY: u64 = 1000;
/// Steps within which a healed cluster serves, and every client has its answer.
const HEALED_STEPS: u64 = 400;
/// Steps within which a healed cluster has done what was begun: a change of its peers, and all that was committed. Who has
/// missed much is sent all of it, some entries a step, and applies as many.
const SETTLED_STEPS: u64 = 12_000;
const STEP_MS: u64 = 10;
const CLIENTS: usize = 5;
const SESSION_CLIENTS: usize = 4;
/// A write is answered this long after its deadline at the latest: ticks are not every step.
const ANSWER_SLACK_MS: u64 = 60 * STEP_MS;

/// A message on its way, and the snapshot's file that travels with it.
struct Travelling {
    due: u64,
    message: PeerMessage,
    file: Option<File>,
}

struct Sim {
    rng: ChaCha8Rng,
    plan: Plan,
    nodes: BTreeMap<Incarnation, Node>,
    down: BTreeSet<Incarnation>,
    stalled_disks: BTreeMap<Incarnation, u64>,
    slow_machines: BTreeMap<Incarnation, u64>,
    paused: BTreeMap<Incarnation, u64>,
    /// When each node was last paused.
    paused_at: BTreeMap<Incarnation, u64>,
    blocked: BTreeSet<(Incarnation, Incarnation)>,
    network: Vec<Travelling>,
    now: u64,
    loss: f64,
    /// How often faults strike, of how often they may.
    roughness: f64,
    /// How often a node acts at once on what has come.
    eagerness: f64,
    /// Where each client sends its requests.
    targets: [Incarnation; CLIENTS],
    waiting: BTreeMap<Ticket, Waiting>,
    tickets: u64,
    sessions: Vec<SessionClient>,
    streams: BTreeMap<LinkId, Stream>,
    last_link: u64,
    witness: Witness,
    promises: SessionPromises,
    history: History,
    counts: BTreeMap<&'static str, u64>,
    lives: u64,
    is_healed: bool,
    /// The node that has gone wrong, and the loss of messages before.
    wrong: Option<(Incarnation, f64)>,
    quiet_until: u64,
    quiet: Quiet,
    in_quarantine: BTreeSet<Incarnation>,
    /// The latest entry that is known to have set the access list.
    access_set_at: Index,
    /// The latest version that was made.
    version: u64,
    /// The backends that some replica was moved to, or was to be.
    tried: BTreeSet<Digest>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = if rng.random() { 3 } else { 5 };
        let plan = plan(&mut rng);
        Self::with(seed, rng, count, plan)
    }

    fn with(seed: u64, mut rng: ChaCha8Rng, count: u64, plan: Plan) -> Self {
        let mut sim = Self {
            loss: if rng.random() { 0.0 } else { rng.random_range(0.0..0.2) },
            eagerness: 0.3,
            roughness: if rng.random() { 1.0 } else { 0.15 },
            witness: Witness::new(&plan.genesis),
            promises: SessionPromises::new(plan.genesis.settings),
            history: History::default(),
            rng,
            plan,
            nodes: BTreeMap::new(),
            down: BTreeSet::new(),
            stalled_disks: BTreeMap::new(),
            slow_machines: BTreeMap::new(),
            paused: BTreeMap::new(),
            paused_at: BTreeMap::new(),
            blocked: BTreeSet::new(),
            network: Vec::new(),
            now: 0,
            targets: [Incarnation(1); CLIENTS],
            waiting: BTreeMap::new(),
            tickets: 0,
            sessions: Vec::new(),
            streams: BTreeMap::new(),
            last_link: 0,
            counts: BTreeMap::new(),
            lives: seed << 20,
            is_healed: false,
            wrong: None,
            quiet_until: 0,
            quiet: Quiet::default(),
            in_quarantine: BTreeSet::new(),
            access_set_at: Index::ZERO,
            version: 0,
            tried: BTreeSet::new(),
        };
        for id in (1..=count).map(Incarnation) {
            let mut disk = MemStorage::default();
            disk.write(&Write::bootstrap(configuration(count), 0)).expect("the first write fits");
            let components = BTreeSet::from([sim.plan.genesis.component]);
            sim.start(id, disk, BTreeMap::new(), components);
        }
        // A cluster with sessions does not fall asleep.
        if sim.plan.config.values().quiesce_ticks == 0 || sim.rng.random_bool(0.3) {
            sim.sessions = (0..SESSION_CLIENTS).map(|client| sim.new_session_client(client)).collect();
        }
        sim
    }

    fn start(
        &mut self,
        id: Incarnation,
        disk: MemStorage,
        files: BTreeMap<LogPosition, File>,
        components: BTreeSet<Digest>,
    ) {
        self.lives += 1;
        let clock_began_ms = self.rng.random_range(0..100_000);
        let node = Node::start(id, &self.plan, disk, files, components, (self.lives, clock_began_ms));
        self.nodes.insert(id, node);
        self.witness.check_node(&self.nodes[&id]);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The one true time.
    fn now_ms(&self) -> u64 {
        self.now * STEP_MS
    }

    /// A node's own clock.
    fn clock_ms(&self, node: Incarnation) -> u64 {
        self.nodes[&node].clock_began_ms + self.now_ms()
    }

    /// The wall clocks of nodes differ and jump.
    fn clocks(&mut self, node: Incarnation) -> Now {
        let wall_ms = (5000 + self.now_ms()).saturating_sub(self.rng.random_range(0..2000));
        Now { wall_ms, monotonic_ms: self.clock_ms(node) }
    }

    fn step(&mut self, is_faulty: bool) {
        self.now += 1;
        if is_faulty {
            self.inject_faults();
            if !self.are_clients_quiet() {
                (0..CLIENTS).for_each(|client| self.run_client(client));
            }
        } else if self.is_something_wrong() {
            self.restart_all();
        }
        (0..self.sessions.len()).for_each(|client| self.run_session_client(client));
        self.paused.retain(|_, until| *until > self.now);
        self.paused_at.extend(self.paused.keys().map(|id| (*id, self.now)));
        self.deliver();
        self.deliver_frames();
        let is_running = |id: &Incarnation| !self.down.contains(id) && !self.paused.contains_key(id);
        let running: Vec<_> = self.nodes.keys().copied().filter(is_running).collect();
        for id in running {
            self.run_node(id);
        }
        self.check_deadlines();
    }

    fn check_deadlines(&self) {
        for waiting in self.waiting.values() {
            let Asked::Write { number, .. } = waiting.asked else { continue };
            let paused_ms = self.nodes[&waiting.node].clock_began_ms
                + self.paused_at.get(&waiting.node).copied().unwrap_or_default() * STEP_MS;
            let latest_ms = waiting.deadline_ms.max(paused_ms) + ANSWER_SLACK_MS;
            let node = waiting.node;
            assert!(latest_ms >= self.clock_ms(node), "write {number} at {node} was not answered by its deadline");
        }
    }

    // Nodes.

    fn replica(&mut self, node: Incarnation) -> &mut Replica {
        &mut self.nodes.get_mut(&node).expect("a node").replica
    }

    fn run_node(&mut self, id: Incarnation) {
        let clocks = self.clocks(id);
        let is_over = |until: Option<&u64>| until.is_none_or(|until| *until <= self.now);
        let disk_works = is_over(self.stalled_disks.get(&id));
        let machine_works = is_over(self.slow_machines.get(&id));
        self.watch_others(id);
        if self.rng.random_bool(0.9) && !self.nodes[&id].replica.is_asleep() {
            self.replica(id).tick(clocks);
        }
        self.settle(id);
        self.rest(id);
        self.bring_components(id);
        // In a healed network nobody stands still for so long by chance that it counts as a fault.
        let least = u32::from(self.is_healed);
        for _ in 0..self.rng.random_range(least..4) * u32::from(disk_works) {
            self.nodes.get_mut(&id).expect("a node").persist_one();
        }
        for _ in 0..self.rng.random_range(0..3) {
            if self.nodes.get_mut(&id).expect("a node").read_one() {
                self.count("log read");
            }
        }
        for _ in 0..self.rng.random_range(0..4) * u32::from(machine_works) {
            self.work(id);
            if self.down.contains(&id) {
                return;
            }
        }
        for _ in 0..self.rng.random_range(least..6) {
            let before = self.nodes[&id].replica.machine().0;
            self.nodes.get_mut(&id).expect("a node").report_one();
            self.hear_told(id, before);
        }
        self.witness.check_node(&self.nodes[&id]);
        if self.rng.random_bool(0.8) {
            self.settle(id);
        }
    }

    /// What a replica tells of entries becomes history.
    fn hear_told(&mut self, id: Incarnation, before: Index) {
        let now_ms = self.now_ms();
        let node = self.nodes.get_mut(&id).expect("a node");
        let (is_wrong, told) = (node.is_wrong, node.told_since(before));
        for (entry, ruling, applied) in told.into_iter().filter(|_| !is_wrong) {
            if entry.index > self.witness.last() {
                self.count_verdict(&entry, &applied.outcome);
                self.count_change(&entry);
                self.count_upgrade(&entry, &applied.outcome);
            }
            if matches!(applied.outcome, Outcome::Upgraded { .. }) {
                let node = self.nodes.get_mut(&id).expect("a node");
                node.knows_changes_after = node.knows_changes_after.max(entry.index);
            }
            self.witness.applied(&entry, &applied, ruling.as_ref(), &mut self.promises, now_ms);
        }
    }

    fn count_verdict(&mut self, entry: &Entry, outcome: &Outcome) {
        if matches!(outcome, Outcome::Orphaned { .. }) {
            self.count("session: orphaned");
        }
        let Payload::Verdict(verdict) = &entry.payload else { return };
        let is_of_its_term = self.witness.term(verdict.on) == entry.term;
        self.count(match Ruling::decode(&verdict.ruling).expect("a ruling") {
            Ruling::Skip(_) if is_of_its_term => "verdict: skip",
            Ruling::Skip(_) => "verdict: skip by a majority",
            Ruling::Keep => "verdict: keep",
        });
    }

    fn work(&mut self, id: Incarnation) {
        let snapshots_fail = !self.is_healed && self.rng.random_bool(0.2);
        match self.nodes.get_mut(&id).expect("a node").work_one(snapshots_fail) {
            None => {}
            Some(Done::Applied(count, has_died)) => {
                if count > 1 {
                    self.count("several entries in one job");
                }
                if has_died {
                    self.count("backend: died");
                }
            }
            Some(Done::Woken) => self.count("machine: woken"),
            Some(Done::Rewound) => self.count("backend: rewound"),
            Some(Done::Stopped) => {
                self.count("wrong: found by itself");
                self.crash(id);
            }
            Some(Done::Declined) => self.count("read: asked anew after a death"),
            Some(Done::Answered(1)) => {}
            Some(Done::Answered(_)) => self.count("several queries in one job"),
            Some(Done::Restored(meta)) => {
                self.count("restore");
                let node = &self.nodes[&id];
                let machine = node.runner.machine().expect("just restored");
                assert_eq!(machine.applied(), meta.position);
                assert!(!node.is_machine_wrong, "nobody sends what is wrong");
                self.witness.check_restored(machine);
            }
            Some(Done::SnapshotTaken) => self.count("snapshot taken"),
            Some(Done::SnapshotFailed) => self.count("snapshot failed"),
        }
    }

    /// Carries out what a replica wants done.
    fn settle(&mut self, id: Incarnation) {
        let clocks = self.clocks(id);
        if self.is_wrong_leader(id) {
            return self.crash(id);
        }
        let node = self.nodes.get_mut(&id).expect("a node");
        let before = node.replica.machine().0;
        let effects = node.effects(clocks);
        assert_eq!(effects.stop, None, "{id} can do no more");
        self.hear_told(id, before);
        self.watch_quarantine(id);
        let mut unsent = Vec::new();
        for message in effects.messages {
            if let Some(Rider::Report(Report { trial: Some((_, has_passed)), .. })) = message.rider {
                self.count(if has_passed { "trial: passed" } else { "trial: failed" });
            }
            self.post(message, None);
        }
        for envelope in effects.snapshots {
            let Message::Snapshot { meta } = &envelope.message else { panic!("not a snapshot") };
            match self.nodes[&id].files.get(&meta.position).cloned() {
                Some(file) => self.post(PeerMessage { envelope, rider: None }, Some(file)),
                None => unsent.push(envelope.to),
            }
        }
        unsent.into_iter().for_each(|to| self.replica(id).snapshot_sent(to, false));
        for answer in effects.answers {
            self.on_answer(id, answer.ticket, answer.result);
        }
        for (link, event) in effects.events {
            self.say(link, event);
        }
    }

    // The network.

    fn post(&mut self, message: PeerMessage, file: Option<File>) {
        // A healed network loses no leader by being slow: an election timeout is ten steps at least.
        let latest = if self.is_healed { 3 } else { 30 };
        let due = self.now + if self.rng.random_bool(0.2) { self.rng.random_range(0..latest) } else { 1 };
        if self.rng.random_bool(0.03) {
            self.count("duplicate");
            let due = self.now + self.rng.random_range(0..60);
            self.network.push(Travelling { due, message: message.clone(), file: file.clone() });
        }
        self.network.push(Travelling { due, message, file });
    }

    /// Whatever is due on one step comes in any order.
    fn deliver(&mut self) {
        let now = self.now;
        let paused = &self.paused;
        let is_due = |travelling: &mut Travelling| {
            travelling.due <= now && !paused.contains_key(&travelling.message.envelope.to)
        };
        let mut due: Vec<_> = self.network.extract_if(.., is_due).collect();
        while !due.is_empty() {
            let Travelling { message, file, .. } = due.swap_remove(self.rng.random_range(0..due.len()));
            let (from, to) = (message.envelope.from, message.envelope.to);
            let is_lost =
                self.rng.random_bool(self.loss) || self.blocked.contains(&(from, to)) || self.down.contains(&to);
            if file.is_some() {
                self.count(if is_lost { "lost snapshot" } else { "snapshot arrives" });
                if !self.down.contains(&from) {
                    self.replica(from).snapshot_sent(to, !is_lost);
                }
            }
            if is_lost {
                self.count("lost message");
                continue;
            }
            let clocks = self.clocks(to);
            let node = self.nodes.get_mut(&to).expect("a node");
            if let (Some(file), Message::Snapshot { meta }) = (file, &message.envelope.message) {
                node.components.insert(file.component());
                node.files.insert(meta.position, file);
            }
            node.replica.step(message, clocks);
            if self.rng.random_bool(self.eagerness) {
                self.settle(to);
            }
        }
    }

    /// With all faults gone every client has its answer, all replicas agree, and new requests are served.
    fn check_liveness(&mut self) {
        self.heal();
        (0..HEALED_STEPS).for_each(|_| self.step(false));
        assert!(self.waiting.is_empty(), "never answered: {:?}", self.waiting.keys());
        let leader = self.settled_leader();
        let members = self.nodes[&leader].replica.raft().configuration().members();
        let answered = |sim: &Self| {
            let count = |what| sim.counts.get(what).copied().unwrap_or_default();
            let writes =
                ["write: answered", "write: refused", "write: skipped by a verdict", "write: denied"].map(count);
            (writes.iter().sum::<u64>(), count("read: answered"))
        };
        let (writes, reads) = answered(self);
        // Enough for a new snapshot everywhere, also where the last one failed.
        let max_log_count = self.plan.genesis.settings.max_log_count;
        for _ in 0..2 * max_log_count {
            self.ask_write(0, leader);
            // There may be room for one at a time.
            for _ in 0..HEALED_STEPS {
                self.step(false);
                if self.waiting.is_empty() {
                    break;
                }
            }
        }
        (0..50).for_each(|_| self.step(false));
        // Who was restarted may have much to apply again.
        let are_here = |sim: &Self| members.iter().all(|node| sim.nodes[node].applied() == sim.witness.last());
        for _ in 0..SETTLED_STEPS {
            if are_here(self) {
                break;
            }
            self.step(false);
        }
        members.iter().for_each(|node| self.ask_read(0, *node));
        let expected = (writes + 2 * max_log_count, reads + members.len() as u64);
        (0..100).for_each(|_| self.step(false));
        // A machine that dies of what it is asked is made again from far back.
        for _ in 0..HEALED_STEPS {
            if answered(self) == expected {
                break;
            }
            self.step(false);
        }
        self.check_sessions();
        assert_eq!(answered(self), expected, "a healed cluster serves");
        // Sessions may expire at any time.
        let is_settled = |sim: &Self, node: &Node| {
            let snapshot = node.replica.raft().status().snapshot.index;
            node.applied() == sim.witness.last() && !node.is_snapshot_overdue(sim.witness.log_bytes_behind(snapshot))
        };
        for _ in 0..HEALED_STEPS {
            if members.iter().all(|node| is_settled(self, &self.nodes[node])) {
                break;
            }
            self.step(false);
        }
        let members = || members.iter().map(|node| &self.nodes[node]);
        self.witness.check_end(members(), &self.promises);
        for node in members() {
            assert!(is_settled(self, node), "a snapshot is overdue: {:?}", node.replica.raft().status());
        }
    }
}

fn plan(rng: &mut ChaCha8Rng) -> Plan {
    let values = ConfigValues {
        election_ticks: 10,
        heartbeat_ticks: 2,
        quiesce_ticks: if rng.random() { rng.random_range(2..20) } else { 0 },
        max_append_bytes: 150,
        max_inflight_messages: 4,
        max_inflight_bytes: 400,
        max_uncommitted_bytes: if rng.random() { 500 } else { 5000 },
        max_apply_bytes: 300,
        cached_log_bytes: 300,
        ..ConfigValues::default()
    };
    let settings = Settings {
        max_log_count: rng.random_range(5..30),
        min_log_percent: [0, 50, 200][rng.random_range(0..3)],
        kept_log_count: rng.random_range(0..6),
        max_sessions: if rng.random() { 3 } else { 1000 },
        max_unacknowledged: rng.random_range(2..8),
        ..Settings::default()
    };
    let genesis = Genesis { cluster: ClusterId(7), component: backend::component(0), config: Bytes::new(), settings };
    Plan { config: Config::new(values).expect("a valid configuration"), genesis }
}

fn run(seed: u64, steps: u64) -> Sim {
    let mut sim = Sim::new(seed);
    (0..steps).for_each(|_| sim.step(true));
    sim.check_liveness();
    if seed.is_multiple_of(CHECKED_EVERY) {
        let checked = sim.history.check();
        *sim.counts.entry("operations checked for linearizability").or_default() += checked;
    }
    sim
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn whole_replicas_keep_their_promises_to_clients() {
    let from = number_from("REPLICA_SIM_FROM", 0);
    let (seeds, steps) = (number_from("REPLICA_SIM_SEEDS", SEEDS), number_from("REPLICA_SIM_STEPS", STEPS));
    let (start, mut counts, mut entries) = (Instant::now(), BTreeMap::<_, u64>::new(), 0);
    for seed in from..from + seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed, steps))) {
            Ok(sim) => {
                entries += sim.witness.last().0;
                sim.counts.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
            }
            Err(panic) => {
                eprintln!(
                    "failed with seed {seed}; again: REPLICA_SIM_FROM={seed} REPLICA_SIM_SEEDS=1 \
                     REPLICA_SIM_STEPS={steps} cargo test --no-default-features --test core replica_sim"
                );
                std::panic::resume_unwind(panic);
            }
        }
        let done = seed + 1 - from;
        if done == seeds || done.is_multiple_of(REPORT_EVERY) {
            let rate = done as f64 / start.elapsed().as_secs_f64();
            println!("{done} seeds of {steps} steps, {rate:.1} a second; next: REPLICA_SIM_FROM={}", seed + 1);
        }
    }
    println!("{entries} entries applied; {counts:#?}");
    for wanted in WANTED {
        let is_seen = counts.get(wanted).is_some_and(|count| *count > 20);
        assert!(seeds < SEEDS_FOR_ALL || is_seen, "hardly any '{wanted}'");
    }
}

#[test]
fn a_seed_gives_the_same_replicas_every_time() {
    let (one, other) = (run(7, 300), run(7, 300));
    assert_eq!(one.counts, other.counts);
    assert_eq!(one.witness.last_chain(), other.witness.last_chain());
}

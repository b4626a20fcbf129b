//! One replica with everything around it that a driver would own: a disk, a machine with its jobs, snapshot files, and
//! reports that take their time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use zraft::access::AccessControl;
use zraft::feature_level::FeatureLevel;
use zraft::machine::{
    Applied, BackendFactory, BackendSource, Died, Fault, Genesis, HashChain, HostPart, Machine, Past, Ran, Ruling, Run,
    RunError, Runner, SessionTerms, SnapshotHead,
};
use zraft::raft::{Config, Entry, LogRead, LogReadPurpose, MemStorage, SnapshotMeta, Write, WriteToken};
use zraft::replica::{Asker, Effects, Job, Now, Query, QueryAnswer, Replica, Ticket};
use zraft::types::{Digest, Incarnation, Index, LogPosition, SessionId};

use super::STEP_MS;
use super::backend::{NumbersFactory, VersionFactory};

/// How often the wait for a snapshot doubles at most while they fail.
const MAX_DOUBLINGS: u32 = 6;

/// What all nodes have in common.
#[derive(Clone)]
pub struct Plan {
    pub config: Config,
    pub genesis: Genesis,
}

/// A snapshot's file.
#[derive(Clone)]
pub struct File {
    /// It was written by a machine that had gone wrong.
    pub is_wrong: bool,
    head: SnapshotHead,
    chunks: Vec<Bytes>,
}

/// What the replica has not been told yet. Reports come in order.
enum Report {
    Persisted(WriteToken, Option<LogPosition>),
    Applied(Vec<Applied>),
    Died(Died),
    Restored {
        meta: SnapshotMeta,
        size_bytes: u64,
        chain: HashChain,
        sessions: Vec<(SessionId, SessionTerms)>,
        access: AccessControl,
        level: FeatureLevel,
    },
    Answered(Vec<QueryAnswer>),
    Declined(Vec<Query>),
    SnapshotTaken(SnapshotMeta, u64),
    SnapshotFailed,
}

impl Report {
    fn restored(meta: &SnapshotMeta, file: &File, machine: &Machine) -> Self {
        let (chain, sessions, access) = (machine.chain(), machine.sessions(), machine.access().clone());
        let (meta, size_bytes, level) = (meta.clone(), file.size_bytes(), machine.level());
        Self::Restored { meta, size_bytes, chain, sessions, access, level }
    }
}

/// What a job has done, for those who watch.
pub enum Done {
    Restored(SnapshotMeta),
    /// How many entries were applied, and whether the backend has died of the next.
    Applied(usize, bool),
    Rewound,
    /// The machine rested, and is there again.
    Woken,
    /// The machine is gone.
    Stopped,
    Answered(usize),
    Declined,
    SnapshotTaken,
    SnapshotFailed,
}

pub struct Node {
    pub id: Incarnation,
    pub replica: Replica,
    pub runner: Runner,
    plan: Plan,
    /// Makes its backends.
    pub factory: NumbersFactory,
    /// What the replica says of the machine is another than what the others say, or soon will be.
    pub is_wrong: bool,
    /// The machine's state is.
    pub is_machine_wrong: bool,
    /// The latest snapshot that the machine was made from, or has made.
    snapshot: Option<SnapshotMeta>,
    /// What the machine has applied, and the replica has not been heard to tell.
    untold: BTreeMap<Index, (Entry, Option<Ruling>, Applied)>,
    /// Who was answered from a state that had gone wrong, and has not been told.
    doubtful: BTreeSet<Ticket>,
    /// What survives a crash, together with `files`.
    pub disk: MemStorage,
    pub files: BTreeMap<LogPosition, File>,
    pub writes: VecDeque<Write>,
    pub jobs: VecDeque<Job>,
    log_reads: VecDeque<LogRead>,
    reports: VecDeque<Report>,
    /// A snapshot was asked for, and the replica has not been told what became of it.
    snapshot_in_progress: bool,
    /// Where the last was asked for, and how many have failed since the last that did not.
    snapshot_attempt: (Index, u32),
    /// Another for each start.
    pub life: u64,
    /// Its clock began to count at another moment than others.
    pub clock_began_ms: u64,
    /// The replica has not seen what entries up to this have changed.
    pub knows_changes_after: Index,
    /// The backends that it has; they survive a crash.
    pub components: BTreeSet<Digest>,
    /// The backend that the replica waits for.
    pub wanted: Option<Digest>,
    /// It is in quarantine because nobody has that.
    pub lacks_backend: bool,
    /// The backend of its snapshot, which was lost: there is no machine before it is found.
    pub lacking: Option<Digest>,
    /// What the replica is told of that machine then.
    made_later: Option<Report>,
}

impl Node {
    /// Starts with what is on the disk and in files, as a real node does.
    pub fn start(
        id: Incarnation,
        plan: &Plan,
        disk: MemStorage,
        files: BTreeMap<LogPosition, File>,
        components: BTreeSet<Digest>,
        (seed, clock_began_ms): (u64, u64),
    ) -> Self {
        let restored = disk.restored();
        let snapshot = restored.snapshot.clone();
        let factory = NumbersFactory::default();
        let file = snapshot.as_ref().map(|meta| &files[&meta.position]);
        let is_wrong = file.is_some_and(|file| file.is_wrong);
        let base = file.map_or(plan.genesis.component, File::component);
        let lacking = Some(base).filter(|base| !components.contains(base));
        let machine = match file {
            Some(file) => file.open(&factory, &BTreeSet::from([base])),
            None => Machine::start(plan.genesis.clone(), &factory.of(plan.genesis.component)).expect("numbers start"),
        };
        let start = snapshot.as_ref().zip(file).map(|(meta, file)| Report::restored(meta, file, &machine));
        let (made_later, start) = if lacking.is_some() { (start, None) } else { (None, start) };
        // Some lives are those of an older version.
        let level = if seed.is_multiple_of(4) { FeatureLevel::FIRST } else { FeatureLevel::NEWEST };
        let replica = Replica::new(id, plan.config.clone(), plan.genesis.settings, restored, STEP_MS, seed);
        Self {
            id,
            replica: replica.with_feature_level(level),
            runner: Runner::new(machine),
            plan: plan.clone(),
            factory,
            is_wrong,
            is_machine_wrong: is_wrong,
            snapshot,
            untold: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            disk,
            files,
            writes: VecDeque::new(),
            jobs: VecDeque::new(),
            log_reads: VecDeque::new(),
            reports: start.into_iter().collect(),
            snapshot_in_progress: false,
            snapshot_attempt: (Index::ZERO, 0),
            life: seed,
            clock_began_ms,
            knows_changes_after: Index::ZERO,
            components,
            wanted: None,
            lacks_backend: false,
            lacking,
            made_later,
        }
    }

    /// The backend that it begins with when it is started again.
    pub fn base(&self) -> Digest {
        let snapshot = self.disk.restored().snapshot;
        snapshot.map_or(self.plan.genesis.component, |meta| self.files[&meta.position].component())
    }

    /// What the files need: the backend of the snapshot, and those that the log moves to.
    pub fn components_in_use(&self) -> BTreeSet<Digest> {
        let written_by = self.files.values().map(|file| file.head.backend);
        let moved_to = self.replica.raft().upgrades().iter().map(|(_, component)| *component);
        written_by.chain(moved_to).chain([self.plan.genesis.component]).collect()
    }

    /// Whether the log moves on from the backend of the snapshot.
    pub fn is_snapshot_of_another_backend(&self) -> bool {
        let status = self.replica.raft().status();
        let base = self.files.get(&status.snapshot).map(|file| file.head.backend);
        let later = self.replica.raft().upgrades().iter().filter(|(index, _)| *index > status.snapshot.index);
        base.is_some() && later.count() > 0
    }

    /// The replica is told of a backend that it waits for; a machine that waits for it is made.
    pub fn bring(&mut self, component: Digest) {
        self.components.insert(component);
        if self.lacking.take_if(|lacking| *lacking == component).is_some() {
            self.reports.extend(self.made_later.take());
        }
        self.wanted.take_if(|wanted| *wanted == component);
        self.replica.component_ready(component);
    }

    /// Takes out what the replica wants done; what is not for the disk or the machine is left in the effects.
    pub fn effects(&mut self, now: Now) -> Effects {
        let mut effects = self.replica.effects(now);
        for job in &effects.jobs {
            let (Job::Snapshot(meta) | Job::SnapshotAsIs(meta)) = job else { continue };
            assert!(!self.snapshot_in_progress, "one snapshot at a time");
            self.snapshot_in_progress = true;
            self.snapshot_attempt.0 = meta.position.index;
        }
        if effects.component.is_some() {
            self.wanted = effects.component.take();
        }
        self.writes.extend(effects.write.take());
        self.jobs.extend(effects.jobs.drain(..));
        self.log_reads.extend(effects.log_reads.drain(..));
        effects
    }

    /// Makes the oldest write durable.
    pub fn persist_one(&mut self) {
        let Some(write) = self.writes.pop_front() else { return };
        self.disk.write(&write).expect("writes fit the disk");
        self.reports.push_back(Report::Persisted(write.token, write.snapshot.map(|meta| meta.position)));
    }

    /// Answers the oldest read of entries.
    pub fn read_one(&mut self) -> bool {
        let Some(read) = self.log_reads.pop_front() else { return false };
        self.replica.log_read(read, self.disk.read(&read));
        true
    }

    /// Whether the machine has done all that it was given, among it what was to go wrong, and the replica knows.
    pub fn has_done_its_jobs(&self) -> bool {
        let is_cursed = self.factory.is_cursed.load(Ordering::Relaxed);
        self.jobs.is_empty() && self.reports.is_empty() && !is_cursed
    }

    /// Whether a snapshot should have been taken: there was enough of a log, and more of it for each that failed.
    pub fn is_snapshot_overdue(&self, log_bytes: u64) -> bool {
        let (status, settings) = (self.replica.raft().status(), &self.plan.genesis.settings);
        let (attempt, failures) = self.snapshot_attempt;
        let since_last = status.applied.0 - attempt.max(status.snapshot.index).0;
        let least = settings.max_log_count << failures.saturating_sub(1).min(MAX_DOUBLINGS);
        let size_bytes = self.files.get(&status.snapshot).map_or(0, File::size_bytes);
        let is_due = since_last >= least && log_bytes * 100 >= size_bytes * settings.min_log_percent;
        is_due || self.snapshot_in_progress
    }

    /// The last entry that the machine has applied.
    pub fn applied(&self) -> Index {
        self.runner.applied()
    }

    /// The sessions whose ephemeral data was left behind.
    pub fn orphaned(&self) -> usize {
        self.runner.machine().map_or(0, Machine::orphaned)
    }

    /// Lets the machine do its oldest job.
    pub fn work_one(&mut self, snapshots_fail: bool) -> Option<Done> {
        if self.lacking.is_some() {
            // Of what it was given, only the state of others is of use.
            let restore = self.jobs.iter().position(|job| matches!(job, Job::Restore(_)))?;
            for job in self.jobs.drain(..restore) {
                if let Job::Query(_, queries) = job {
                    self.reports.push_back(Report::Declined(queries));
                }
            }
            (self.lacking, self.made_later) = (None, None);
        }
        if self.jobs.front().is_some_and(|job| !matches!(job, Job::Restore(_) | Job::Rewind(..)))
            && self.runner.is_resting()
        {
            let (runner, mut past) = self.runner_and_past();
            let woken = runner.wake(&mut past);
            return Some(if self.survives(&woken) { Done::Woken } else { Done::Stopped });
        }
        let (report, done) = match self.jobs.pop_front()? {
            Job::Restore(meta) => {
                self.factory.is_cursed.store(false, Ordering::Relaxed);
                let file = &self.files[&meta.position];
                let machine = file.open(&self.factory, &self.components);
                self.is_machine_wrong = file.is_wrong;
                let report = Report::restored(&meta, file, &machine);
                self.runner = Runner::new(machine);
                self.snapshot = Some(meta.clone());
                (report, Done::Restored(meta))
            }
            Job::Apply(run) => return Some(self.apply(&run).unwrap_or(Done::Stopped)),
            Job::Rewind(to, chain) => {
                let (runner, mut past) = self.runner_and_past();
                let rewound = runner.rewind((to, chain), &mut past);
                return Some(if self.survives(&rewound) { Done::Rewound } else { Done::Stopped });
            }
            Job::Query(at, queries) if self.runner.applied() < at || self.runner.machine().is_none() => {
                (Report::Declined(queries), Done::Declined)
            }
            Job::Query(at, queries) => {
                assert_eq!(self.runner.applied(), at, "nothing is read that may not be told");
                let answers: Vec<_> = queries.into_iter().map(|query| self.answer(&query)).collect();
                let count = answers.len();
                (Report::Answered(answers), Done::Answered(count))
            }
            Job::Snapshot(meta) | Job::SnapshotAsIs(meta) => match self.runner.machine_mut() {
                Some(machine) if !snapshots_fail && machine.applied() == meta.position => {
                    // What is still to go wrong is right so far.
                    let is_wrong = self.is_machine_wrong && !self.factory.is_cursed.load(Ordering::Relaxed);
                    let file = File::write(&meta, machine, is_wrong);
                    let size_bytes = file.size_bytes();
                    self.files.insert(meta.position, file);
                    self.runner.snapshot_taken(meta.position.index);
                    self.snapshot = Some(meta.clone());
                    (Report::SnapshotTaken(meta, size_bytes), Done::SnapshotTaken)
                }
                _ => (Report::SnapshotFailed, Done::SnapshotFailed),
            },
        };
        self.reports.push_back(report);
        Some(done)
    }

    fn runner_and_past(&mut self) -> (&mut Runner, NodePast<'_>) {
        let Self { runner, plan, factory, disk, files, snapshot, components, .. } = self;
        (runner, NodePast { plan, factory, disk, files, components, from: snapshot })
    }

    /// A machine that has gone wrong is not made again as it was; that stops its peer.
    fn survives<T>(&self, result: &Result<T, RunError<Infallible>>) -> bool {
        let is_known =
            matches!(result, Err(RunError::Diverged(_) | RunError::DiedAgain { .. })) && self.is_machine_wrong;
        assert!(result.is_ok() || is_known, "what was applied can be applied again");
        result.is_ok()
    }

    /// None if the machine is gone.
    fn apply(&mut self, run: &Run) -> Option<Done> {
        let (runner, mut past) = self.runner_and_past();
        let ran = runner.apply(run, &mut past);
        let Ran { applied, died } = if self.survives(&ran) { ran.ok()? } else { return None };
        for (entry, applied) in run.entries.iter().zip(&applied) {
            let ruling = run.rulings.on(entry.index).cloned();
            self.untold.insert(entry.index, (entry.clone(), ruling, applied.clone()));
        }
        let done = Done::Applied(applied.len(), died.is_some());
        if !applied.is_empty() {
            self.reports.push_back(Report::Applied(applied));
        }
        self.reports.extend(died.map(Report::Died));
        Some(done)
    }

    /// Whether somebody is told what may be wrong.
    pub fn is_doubtful(&mut self, ticket: Ticket) -> bool {
        self.doubtful.remove(&ticket) || self.is_wrong
    }

    /// What the replica has told since it was at `before`.
    pub fn told_since(&mut self, before: Index) -> Vec<(Entry, Option<Ruling>, Applied)> {
        let later = self.untold.split_off(&self.replica.machine().0.next());
        let told = std::mem::replace(&mut self.untold, later);
        told.into_values().filter(|(entry, ..)| entry.index > before).collect()
    }

    fn answer(&mut self, query: &Query) -> QueryAnswer {
        let machine = self.runner.machine_mut().expect("it is alive");
        let index = machine.applied().index;
        let result = match query.for_backend(machine) {
            Ok(request) => Ok(machine.query(request).expect("numbers die of no query")),
            Err(answer) => answer,
        };
        QueryAnswer { asker: query.asker, index, result }
    }

    /// Tells the replica the oldest report.
    pub fn report_one(&mut self) {
        let Some(report) = self.reports.pop_front() else { return };
        if matches!(report, Report::SnapshotTaken(..) | Report::SnapshotFailed) {
            self.snapshot_in_progress = false;
        }
        match report {
            Report::Persisted(token, snapshot) => {
                self.replica.persisted(token);
                let Some(position) = snapshot else { return };
                // Jobs given out earlier may still need older files.
                if self.replica.is_past(position.index) {
                    self.files.retain(|at, _| at.index >= position.index);
                }
            }
            Report::Applied(applied) => self.replica.applied(applied),
            Report::Died(died) => self.replica.died(died),
            Report::Declined(queries) => self.replica.declined(queries),
            Report::Restored { meta, size_bytes, chain, sessions, access, level } => {
                self.is_wrong = self.is_machine_wrong;
                self.knows_changes_after = meta.position.index;
                self.replica.restored(&meta, size_bytes, chain, sessions, access, level);
                // Nobody tells what a snapshot has taken the place of.
                self.untold = self.untold.split_off(&meta.position.index.next());
            }
            Report::Answered(answers) => {
                if self.is_wrong {
                    let ticket = |answer: &QueryAnswer| match answer.asker {
                        Asker::Client(ticket) => Some(ticket),
                        Asker::Session { .. } => None,
                    };
                    self.doubtful.extend(answers.iter().filter_map(ticket));
                }
                self.replica.answered(answers);
            }
            Report::SnapshotTaken(meta, size_bytes) => {
                self.snapshot_attempt.1 = 0;
                self.replica.snapshot_taken(meta, size_bytes);
            }
            Report::SnapshotFailed => {
                self.snapshot_attempt.1 += 1;
                self.replica.snapshot_failed();
            }
        }
    }
}

/// What a node's machine is made from again.
struct NodePast<'a> {
    plan: &'a Plan,
    factory: &'a NumbersFactory,
    disk: &'a MemStorage,
    files: &'a BTreeMap<LogPosition, File>,
    components: &'a BTreeSet<Digest>,
    from: &'a Option<SnapshotMeta>,
}

impl BackendSource for NodePast<'_> {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        assert!(self.components.contains(&component), "the machine is given an entry whose backend is missing");
        Ok(Arc::new(self.factory.of(component)))
    }
}

impl Past for NodePast<'_> {
    type Error = Infallible;

    fn begin(&mut self) -> Result<Machine, Infallible> {
        Ok(match self.from {
            Some(meta) => self.files[&meta.position].open(self.factory, self.components),
            None => Machine::start(self.plan.genesis.clone(), &self.first()).expect("numbers start"),
        })
    }

    fn entries(&mut self, from: Index, to: Index) -> Result<Option<Vec<Entry>>, Infallible> {
        let read = LogRead { purpose: LogReadPurpose::Apply, from, to, max_bytes: 200 };
        Ok(Some(self.disk.read(&read)).filter(|entries| !entries.is_empty()))
    }
}

impl NodePast<'_> {
    fn first(&self) -> VersionFactory {
        self.factory.of(self.plan.genesis.component)
    }
}

impl File {
    /// The backend that wrote it.
    pub fn component(&self) -> Digest {
        self.head.backend
    }

    /// The header says what it was told, the rest is the machine as it is.
    fn write(meta: &SnapshotMeta, machine: &mut Machine, is_wrong: bool) -> Self {
        let mut chunks = Vec::new();
        let mut sink = |chunk| {
            chunks.push(chunk);
            Ok(())
        };
        machine.write_snapshot(&mut sink).expect("numbers can be written");
        let mut head = machine.snapshot_head(meta.clone());
        head.host = HostPart::decode(&head.host.encode()).expect("a host part as it was written");
        Self { is_wrong, head, chunks }
    }

    /// Where it stands, and the hash chain there.
    pub fn at(&self) -> (Index, HashChain) {
        (self.head.meta.position.index, self.head.chain)
    }

    fn size_bytes(&self) -> u64 {
        let chunks = self.chunks.iter().map(Bytes::len).sum::<usize>();
        (self.head.host.encode().len() + chunks) as u64
    }

    fn open(&self, factory: &NumbersFactory, components: &BTreeSet<Digest>) -> Machine {
        assert!(components.contains(&self.head.backend), "a snapshot is kept and its backend is not");
        let (factory, mut chunks) = (factory.of(self.head.backend), self.chunks.iter().cloned());
        Machine::restore(self.head.clone(), &factory, &mut || Ok(chunks.next())).expect("numbers can be restored")
    }
}

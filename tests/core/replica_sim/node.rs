//! One replica with everything around it that a driver would own: a disk, a machine with its jobs, snapshot files, and
//! reports that take their time.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use zraft::machine::{Applied, Genesis, HashChain, HostPart, Machine, SessionTerms, SnapshotHead};
use zraft::raft::{Config, Entry, LogRead, MemStorage, SnapshotMeta, Write, WriteToken};
use zraft::replica::{Effects, Job, Now, Query, QueryAnswer, Replica};
use zraft::types::{Incarnation, Index, LogPosition, SessionId};

use super::STEP_MS;
use super::backend::NumbersFactory;

/// What all nodes have in common.
pub struct Plan {
    pub config: Config,
    pub genesis: Genesis,
}

/// A snapshot's file.
#[derive(Clone)]
pub struct File {
    head: SnapshotHead,
    chunks: Vec<Bytes>,
}

/// What the replica has not been told yet. Reports come in order.
enum Report {
    Persisted(WriteToken, Option<LogPosition>),
    Applied(Vec<Applied>, HashChain),
    Restored(SnapshotMeta, HashChain, Vec<(SessionId, SessionTerms)>),
    Answered(Vec<QueryAnswer>),
    SnapshotTaken(SnapshotMeta),
    SnapshotFailed,
}

/// What a job has done, for those who watch.
pub enum Done {
    Restored(SnapshotMeta),
    Applied(Vec<Entry>, Vec<Applied>),
    Answered(usize),
    SnapshotTaken,
    SnapshotFailed,
}

pub struct Node {
    pub id: Incarnation,
    pub replica: Replica,
    pub machine: Machine,
    /// What survives a crash, together with `files`.
    pub disk: MemStorage,
    pub files: BTreeMap<LogPosition, File>,
    pub writes: VecDeque<Write>,
    pub jobs: VecDeque<Job>,
    log_reads: VecDeque<LogRead>,
    reports: VecDeque<Report>,
    /// A snapshot was asked for, and the replica has not been told what became of it.
    snapshot_in_progress: bool,
    /// Its clock began to count at another moment than others.
    pub clock_began_ms: u64,
    /// The replica has not seen what entries up to this have changed.
    pub knows_changes_after: Index,
}

impl Node {
    /// Starts with what is on the disk and in files, as a real node does.
    pub fn start(
        id: Incarnation,
        plan: &Plan,
        disk: MemStorage,
        files: BTreeMap<LogPosition, File>,
        (seed, clock_began_ms): (u64, u64),
    ) -> Self {
        let restored = disk.restored();
        let snapshot = restored.snapshot.clone();
        let machine = match &snapshot {
            Some(meta) => files.get(&meta.position).expect("the snapshot of a peer is a durable file").open(),
            None => Machine::start(plan.genesis.clone(), &NumbersFactory).expect("numbers start"),
        };
        let start = snapshot.map(|meta| Report::Restored(meta, machine.chain(), machine.sessions()));
        Self {
            id,
            replica: Replica::new(id, plan.config.clone(), plan.genesis.settings, restored, STEP_MS, seed),
            machine,
            disk,
            files,
            writes: VecDeque::new(),
            jobs: VecDeque::new(),
            log_reads: VecDeque::new(),
            reports: start.into_iter().collect(),
            snapshot_in_progress: false,
            clock_began_ms,
            knows_changes_after: Index::ZERO,
        }
    }

    /// Takes out what the replica wants done; what is not for the disk or the machine is left in the effects.
    pub fn effects(&mut self, now: Now) -> Effects {
        let mut effects = self.replica.effects(now);
        if effects.jobs.iter().any(|job| matches!(job, Job::Snapshot(_))) {
            assert!(!self.snapshot_in_progress, "one snapshot at a time");
            self.snapshot_in_progress = true;
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

    /// Lets the machine do its oldest job.
    pub fn work_one(&mut self, snapshots_fail: bool) -> Option<Done> {
        let (report, done) = match self.jobs.pop_front()? {
            Job::Restore(meta) => {
                self.machine = self.files.get(&meta.position).expect("a snapshot to restore is there").open();
                let report = Report::Restored(meta.clone(), self.machine.chain(), self.machine.sessions());
                (report, Done::Restored(meta))
            }
            Job::Apply(entries) => {
                let applied = self.machine.apply(&entries).expect("numbers do not die");
                (Report::Applied(applied.clone(), self.machine.chain()), Done::Applied(entries, applied))
            }
            Job::Query(queries) => {
                let answers: Vec<_> = queries.into_iter().map(|query| self.answer(&query)).collect();
                let count = answers.len();
                (Report::Answered(answers), Done::Answered(count))
            }
            Job::Snapshot(_) if snapshots_fail => (Report::SnapshotFailed, Done::SnapshotFailed),
            Job::Snapshot(meta) => {
                self.files.insert(meta.position, File::write(&meta, &mut self.machine));
                (Report::SnapshotTaken(meta), Done::SnapshotTaken)
            }
        };
        self.reports.push_back(report);
        Some(done)
    }

    fn answer(&mut self, query: &Query) -> QueryAnswer {
        let index = self.machine.applied().index;
        let result = Ok(self.machine.query(&query.request).expect("numbers do not die"));
        QueryAnswer { asker: query.asker, index, result }
    }

    /// Tells the replica the oldest report.
    pub fn report_one(&mut self) {
        let Some(report) = self.reports.pop_front() else { return };
        if matches!(report, Report::SnapshotTaken(_) | Report::SnapshotFailed) {
            self.snapshot_in_progress = false;
        }
        match report {
            Report::Persisted(token, snapshot) => {
                self.replica.persisted(token);
                let Some(position) = snapshot else { return };
                // Jobs given out earlier may still need older files.
                if self.replica.machine().0 >= position.index {
                    self.files.retain(|at, _| at.index >= position.index);
                }
            }
            Report::Applied(applied, chain) => self.replica.applied(applied, chain),
            Report::Restored(meta, chain, sessions) => {
                self.knows_changes_after = meta.position.index;
                self.replica.restored(&meta, chain, sessions);
            }
            Report::Answered(answers) => self.replica.answered(answers),
            Report::SnapshotTaken(meta) => self.replica.snapshot_taken(meta),
            Report::SnapshotFailed => self.replica.snapshot_failed(),
        }
    }
}

impl File {
    /// The header says what it was told, the rest is the machine as it is.
    fn write(meta: &SnapshotMeta, machine: &mut Machine) -> Self {
        let mut chunks = Vec::new();
        let mut sink = |chunk| {
            chunks.push(chunk);
            Ok(())
        };
        machine.write_snapshot(&mut sink).expect("numbers can be written");
        let mut head = machine.snapshot_head(meta.clone());
        head.host = HostPart::decode(&head.host.encode()).expect("a host part as it was written");
        Self { head, chunks }
    }

    fn open(&self) -> Machine {
        let mut chunks = self.chunks.iter().cloned();
        Machine::restore(self.head.clone(), &NumbersFactory, &mut || Ok(chunks.next()))
            .expect("numbers can be restored")
    }
}

//! One peer with everything around it that a driver would own: a disk, a machine, snapshot files, and queues for what
//! has been asked for and not been done.

use std::collections::{BTreeMap, VecDeque};

use zraft::raft::{
    Config, ConfigValues, Configuration, Entry, Envelope, LogRead, MemStorage, Payload, Raft, ReadId, ReadReady,
    SnapshotMeta, SoftState, Write,
};
use zraft::types::{Incarnation, Index, LogPosition, PeerId};

/// A machine whose state is a digest of everything it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub position: LogPosition,
    pub time_ms: u64,
    pub digest: u64,
}

impl Machine {
    pub fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.position.index.next(), "entries are applied without gaps");
        assert!(entry.time_ms >= self.time_ms, "time does not go back");
        let bytes = match &entry.payload {
            Payload::Data(data) => data.as_ref(),
            Payload::Noop => b"noop",
            Payload::Membership(_) => b"membership",
            Payload::Verdict(verdict) => verdict.ruling.as_ref(),
            Payload::Upgrade(upgrade) => &upgrade.to.0,
        };
        let words = [entry.term.0, entry.index.0, entry.time_ms].into_iter();
        for word in words.chain(bytes.iter().map(|byte| u64::from(*byte))) {
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
        self.position = entry.position();
        self.time_ms = entry.time_ms;
    }
}

/// Work for the machine.
#[derive(Clone, Debug)]
pub enum Job {
    Install(SnapshotMeta),
    Apply(Vec<Entry>),
}

#[derive(Clone)]
pub struct Peer {
    pub id: Incarnation,
    pub raft: Raft,
    pub values: ConfigValues,
    /// What survives a crash.
    pub disk: MemStorage,
    /// What the disk will hold once all writes are done.
    pub written: MemStorage,
    pub files: BTreeMap<Index, Machine>,
    pub machine: Machine,
    pub writes: VecDeque<Write>,
    pub jobs: VecDeque<Job>,
    pub log_reads: VecDeque<LogRead>,
    pub outbox: Vec<Envelope>,
    pub snapshots: Vec<Envelope>,
    pub reads: Vec<ReadReady>,
    pub reads_lost: Vec<ReadId>,
    pub statuses: Vec<SoftState>,
}

/// Where peers live.
pub fn peers(ids: impl IntoIterator<Item = u64>) -> BTreeMap<Incarnation, PeerId> {
    let peer = |id: u64| (Incarnation(id), format!("p{id}@host:1").parse().expect("a peer's name"));
    ids.into_iter().map(peer).collect()
}

pub fn configuration(count: u64) -> Configuration {
    Configuration::of(peers(1..=count))
}

impl Peer {
    pub fn start(id: Incarnation, values: &ConfigValues, disk: MemStorage, seed: u64) -> Self {
        let config = Config::new(values.clone()).expect("a valid configuration");
        Self {
            id,
            raft: Raft::new(id, config, disk.restored(), seed),
            values: values.clone(),
            written: disk.clone(),
            disk,
            files: BTreeMap::new(),
            machine: Machine::default(),
            writes: VecDeque::new(),
            jobs: VecDeque::new(),
            log_reads: VecDeque::new(),
            outbox: Vec::new(),
            snapshots: Vec::new(),
            reads: Vec::new(),
            reads_lost: Vec::new(),
            statuses: Vec::new(),
        }
    }

    /// Starts again with what is on the disk and in files.
    pub fn restart(&mut self, values: &ConfigValues, seed: u64) {
        let files = std::mem::take(&mut self.files);
        *self = Self::start(self.id, values, self.disk.clone(), seed);
        if let Some(meta) = &self.disk.state().snapshot {
            self.machine = files[&meta.position.index].clone();
        }
        self.files = files;
    }

    /// Collects what the core asks for, without doing it.
    pub fn pump(&mut self) {
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            if let Some(write) = ready.write {
                self.written.write(&write).expect("writes fit each other");
                self.writes.push_back(write);
            }
            self.outbox.extend(ready.messages);
            self.jobs.extend(ready.install.map(Job::Install));
            if !ready.apply.is_empty() {
                self.jobs.push_back(Job::Apply(ready.apply));
            }
            self.reads.extend(ready.reads);
            self.reads_lost.extend(ready.reads_lost);
            self.log_reads.extend(ready.log_reads);
            self.snapshots.extend(ready.snapshots);
            self.statuses.extend(ready.status);
        }
    }

    /// Makes the oldest write durable, and reports it.
    pub fn persist_one(&mut self) -> bool {
        let Some(write) = self.writes.pop_front() else { return false };
        self.disk.write(&write).expect("writes fit the disk");
        self.raft.persisted(write.token);
        true
    }

    /// Answers the oldest read of entries.
    pub fn read_one(&mut self) -> bool {
        let Some(read) = self.log_reads.pop_front() else { return false };
        self.raft.log_read(read, self.disk.read(&read));
        true
    }

    /// Lets the machine do its oldest job; returns the entries that it has applied.
    pub fn work_one(&mut self) -> Option<Vec<Entry>> {
        let applied = match self.jobs.pop_front()? {
            Job::Install(meta) => {
                self.machine = self.files[&meta.position.index].clone();
                Vec::new()
            }
            Job::Apply(entries) => {
                entries.iter().for_each(|entry| self.machine.apply(entry));
                entries
            }
        };
        self.raft.applied(self.machine.position.index);
        Some(applied)
    }

    /// Takes a snapshot of the machine and lets the log go, but for `keep` entries.
    pub fn take_snapshot(&mut self, keep: u64) {
        let position = self.machine.position;
        let configuration = self.raft.configuration_at(position.index);
        self.files.insert(position.index, self.machine.clone());
        self.raft.snapshot_taken(SnapshotMeta { position, time_ms: self.machine.time_ms, configuration }, keep);
    }
}

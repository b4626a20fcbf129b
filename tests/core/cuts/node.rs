//! A node that works, loses power, and is looked at when it is back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zraft::raft::{Write, WriteToken};
use zraft::store::{
    Disk, Journal, Operation, PurgeLimits, SnapshotHeader, SnapshotIdentity, Snapshots, StoreError, StoreOptions,
    StoredPeer,
};
use zraft::types::{ClusterId, Digest, Incarnation, Index, LogPosition, Term};

use super::model::{Model, Step, snapshot_meta};
use crate::disk::SimDisk;
use crate::peer::configuration;
use crate::sim::faults::Counts;

pub const LOG_DIR: &str = "/node/log";
const SNAPSHOT_DIR: &str = "/node/snapshots";
/// The most peers of a node.
const MAX_PEERS: usize = 4;

pub fn options() -> StoreOptions {
    StoreOptions {
        log_dir: LOG_DIR.into(),
        snapshot_dir: SNAPSHOT_DIR.into(),
        node: "127.0.0.1:7400".parse().expect("an address"),
        cache_bytes: 64 << 10,
        max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
        snapshot_backup_count: 0,
    }
}

#[derive(Clone)]
pub struct Node {
    pub disk: SimDisk,
    pub rng: ChaCha8Rng,
    pub counts: Counts,
    pub limits: PurgeLimits,
    /// What was acknowledged.
    pub model: Model,
    /// The same after the round that was being committed when the power went off.
    in_doubt: Option<Model>,
    /// Another node, which has the snapshots that this one is sent.
    leader: (SimDisk, Snapshots),
    components: BTreeSet<Digest>,
    component_in_doubt: Option<Digest>,
    next_peer: u64,
    /// What the node is at.
    doing: &'static str,
    /// How many times in a row the power went off before the node was open.
    failed_opens: usize,
    rounds_since_purge: u64,
}

impl Node {
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let max_moved_bytes = [300, 3_000, 1 << 20][rng.random_range(0..3)];
        let limits = PurgeLimits {
            every_rounds: 3,
            every_bytes: 1 << 20,
            max_moved_bytes,
            max_rounds: 12,
            max_deleted_bytes: 8_000,
        };
        Self {
            disk: SimDisk::new(rng.random()),
            rng,
            counts: Counts::default(),
            limits,
            model: Model::default(),
            in_doubt: None,
            leader: leader(),
            components: BTreeSet::new(),
            component_in_doubt: None,
            next_peer: 1,
            doing: "cut while idle",
            failed_opens: 0,
            rounds_since_purge: 0,
        }
    }

    /// The same node on a disk of its own, whose luck is different.
    pub fn fork(&self, luck: u64) -> Self {
        Self { disk: self.disk.fork(luck), ..self.clone() }
    }

    /// Opens the store and checks all of it. `None` when the power goes off meanwhile.
    pub fn open(&mut self) -> Option<Journal> {
        self.doing = ["cut while opening", "cut while opening again", "cut while opening for the third time"]
            [self.failed_opens.min(2)];
        self.rounds_since_purge = 0;
        if self.snapshot_files().len() > self.model.snapshots().len() {
            self.counts.count("snapshots left over");
        }
        let opened = self.try_open();
        let journal = self.unless_off(opened)?;
        self.failed_opens = 0;
        Some(journal)
    }

    /// Opens the store and reads all that is in it; panics unless it is what should be there.
    pub fn try_open(&mut self) -> Result<Journal, StoreError> {
        let (journal, stored) = Journal::open(Arc::new(self.disk.clone()), &options(), self.limits)?;
        self.check(&journal, &stored)?;
        Ok(journal)
    }

    /// What there is of a result while the power is on. An error is one of the power's.
    fn unless_off<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                assert!(self.disk.went_off_at().is_some(), "{error}, with power, instead of: {}", self.doing);
                None
            }
        }
    }

    /// The power goes off, and comes back.
    pub fn cut(&mut self) {
        self.counts.count("power cut");
        self.counts.count(self.disk.went_off_at().unwrap_or("cut between two changes"));
        self.counts.count(self.doing);
        self.failed_opens += usize::from(self.doing.starts_with("cut while opening"));
        self.disk.cut();
    }

    /// The process is killed; the disk keeps all of what it was told.
    pub fn kill(&mut self) {
        self.counts.count("killed");
        self.disk.kill();
    }

    fn check(&mut self, journal: &Journal, stored: &[StoredPeer]) -> Result<(), StoreError> {
        if let Some(after) = self.in_doubt.take() {
            let is_kept = differs(stored, &after).is_none();
            self.counts.count(if is_kept { "round in doubt: kept" } else { "round in doubt: lost" });
            if is_kept {
                self.model = after;
            }
        }
        if let Some(difference) = differs(stored, &self.model) {
            panic!("neither what was acknowledged nor that and the next round: {difference}");
        }
        self.check_logs(journal)?;
        for (incarnation, position) in self.model.snapshots() {
            check_snapshot(&journal.snapshots(), incarnation, position)?;
        }
        self.check_leftovers();
        self.check_components(journal)
    }

    pub fn check_logs(&self, journal: &Journal) -> Result<(), StoreError> {
        for (incarnation, peer) in &self.model.peers {
            match journal.read(*incarnation, &peer.whole_log()) {
                Ok(entries) => assert!(entries.iter().eq(peer.storage.entries()), "the log of {incarnation} differs"),
                Err(StoreError::NotInLog { .. }) if peer.storage.entries().next().is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is in the folder of snapshots is what is referred to, of each peer at most one later snapshot in part, and nothing
    /// else.
    fn check_leftovers(&self) {
        if self.disk.went_off_at().is_none() {
            let expected: BTreeSet<_> = self.model.snapshots().into_iter().map(snapshot_path).collect();
            let (partial, whole): (BTreeSet<_>, _) =
                self.snapshot_files().into_iter().partition(|path| is_partial(path));
            assert_eq!(whole, expected, "the files of snapshots after opening");
            let known = self.model.peers.iter().filter_map(|(incarnation, peer)| {
                let snapshot = peer.storage.state().snapshot.as_ref().map(|meta| meta.position.index);
                self.partial_position(*incarnation).filter(|position| Some(position.index) > snapshot)
            });
            assert_eq!(known.count(), partial.len(), "snapshots in part of no use: {partial:?}");
            let dirs = [SNAPSHOT_DIR.to_owned(), LOG_DIR.to_owned(), format!("{LOG_DIR}/components")];
            let is_left = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
            assert!(
                !dirs.iter().flat_map(|dir| self.paths(dir.as_ref())).any(|path| is_left(&path)),
                "unfinished files"
            );
        }
    }

    /// Which snapshot the peer has in part. It has one at most.
    fn partial_position(&self, incarnation: Incarnation) -> Option<LogPosition> {
        let folder = snapshot_path((incarnation, LogPosition::ZERO)).parent()?.to_owned();
        let name = self.paths(&folder).into_iter().find(|path| is_partial(path))?;
        let mut numbers = name.file_name()?.to_str()?.split('-').map(|number| number.parse().ok());
        let (index, term) = (numbers.next()??, numbers.next()??);
        Some(LogPosition::new(Term(term), Index(index)))
    }

    pub fn snapshot_files(&self) -> BTreeSet<PathBuf> {
        let folders = self.paths(SNAPSHOT_DIR.as_ref()).into_iter().filter(|path| self.disk.is_dir(path));
        folders.flat_map(|folder| self.paths(&folder)).collect()
    }

    fn paths(&self, dir: &Path) -> Vec<PathBuf> {
        self.disk.names(dir).unwrap_or_default().into_iter().map(|name| dir.join(name)).collect()
    }

    fn check_components(&mut self, journal: &Journal) -> Result<(), StoreError> {
        let found: BTreeSet<Digest> = journal.components().list()?.into_iter().collect();
        if let Some(digest) = self.component_in_doubt.take() {
            match found.contains(&digest) {
                true => self.components.insert(digest),
                false => self.components.remove(&digest),
            };
        }
        assert_eq!(found, self.components, "the components after opening");
        found.iter().try_for_each(|digest| journal.components().get(*digest).map(drop))
    }

    /// One life: the power goes off at some point, and if not, the process ends in some way.
    pub fn live(&mut self) {
        if self.rng.random_bool(0.3) {
            self.disk.cut_after(self.rng.random_range(0..40));
        }
        let Some(mut journal) = self.open() else { return self.stop() };
        let most_changes = [10, 100, 400][self.rng.random_range(0..3)];
        self.disk.cut_after(self.rng.random_range(0..most_changes));
        for _ in 0..self.rng.random_range(0..30) {
            if self.act(&mut journal).is_none() {
                drop(journal);
                return self.stop();
            }
        }
        self.doing = "cut while idle";
        match self.rng.random_range(0..3) {
            0 => self.kill(),
            1 => {
                self.doing = "cut while closing";
                journal.close();
                self.cut();
            }
            _ => self.cut(),
        }
    }

    /// The end of a life in the middle of a change. Without a power cut, what is not synced is there as well.
    fn stop(&mut self) {
        if self.rng.random_bool(0.15) { self.kill() } else { self.cut() }
    }

    /// Does one random thing. `None` when the power goes off meanwhile.
    pub fn act(&mut self, journal: &mut Journal) -> Option<()> {
        match self.rng.random_range(0..20) {
            0..2 if self.model.peers.len() < MAX_PEERS => self.create_peer(journal),
            2 => self.remove_peer(journal),
            3..5 => self.take_snapshot(journal),
            5 => self.receive_snapshot(journal),
            6 => self.abandon_snapshot(journal),
            7 => self.put_component(journal),
            8 => self.remove_component(journal),
            9 => {
                let checked = self.check_logs(journal);
                self.unless_off(checked)
            }
            _ => self.write(journal),
        }
    }

    /// Commits a round, which may fail only for want of power.
    fn commit(&mut self, journal: &mut Journal, doing: &'static str, steps: &[Step]) -> Option<()> {
        self.doing = doing;
        self.rounds_since_purge += 1;
        if self.rounds_since_purge > self.limits.every_rounds {
            self.rounds_since_purge = 1;
            self.doing = "cut while committing when a purge is due";
        }
        let mut after = self.model.clone();
        steps.iter().for_each(|step| after.apply(step).expect("steps fit each other"));
        let committed = journal.commit(steps.iter().map(Step::operation).collect());
        let Some(completions) = self.unless_off(committed) else {
            self.in_doubt = Some(after);
            return None;
        };
        assert_eq!(completions.len(), steps.len(), "all of the round is acknowledged");
        self.model = after;
        Some(())
    }

    fn write(&mut self, journal: &mut Journal) -> Option<()> {
        let steps = self.random_writes();
        if steps.is_empty() { self.create_peer(journal) } else { self.commit(journal, "cut while committing", &steps) }
    }

    fn random_writes(&mut self) -> Vec<Step> {
        let (mut after, mut steps) = (self.model.clone(), Vec::new());
        for _ in 0..self.rng.random_range(1..=4) {
            let Some(incarnation) = self.model.random_peer(&mut self.rng) else { break };
            let step = Step::Write(incarnation, after.peers[&incarnation].random_write(&mut self.rng));
            after.apply(&step).expect("a random write fits");
            steps.push(step);
        }
        steps
    }

    /// Some writes, which the node takes for durable already.
    pub fn random_round(&mut self) -> Vec<Operation> {
        let steps = self.random_writes();
        steps.iter().for_each(|step| self.model.apply(step).expect("a random write fits"));
        steps.iter().map(Step::operation).collect()
    }

    fn create_peer(&mut self, journal: &mut Journal) -> Option<()> {
        let incarnation = Incarnation(self.next_peer);
        self.next_peer += 1;
        let step = Step::Create(incarnation, Write::bootstrap(configuration(1), 1_000));
        self.commit(journal, "cut while creating a peer", &[step])
    }

    fn remove_peer(&mut self, journal: &mut Journal) -> Option<()> {
        let Some(incarnation) = self.model.random_peer(&mut self.rng) else { return Some(()) };
        self.commit(journal, "cut while removing a peer", &[Step::Remove(incarnation)])
    }

    fn take_snapshot(&mut self, journal: &mut Journal) -> Option<()> {
        let Some(incarnation) = self.model.random_peer(&mut self.rng) else { return Some(()) };
        let peer = &self.model.peers[&incarnation];
        let Some(position) = peer.random_position(&mut self.rng) else { return Some(()) };
        let mut write = self.refer_to(position);
        // Some of the log behind a snapshot may stay.
        write.discard_through = write.discard_through.filter(|_| self.rng.random_bool(0.7));
        self.doing = "cut while writing a snapshot";
        let written = write_snapshot(&journal.snapshots(), incarnation, position);
        self.unless_off(written)?;
        self.commit_snapshot(journal, incarnation, position, write)
    }

    /// A snapshot comes from a leader, as the bytes of the file it has.
    fn receive_snapshot(&mut self, journal: &mut Journal) -> Option<()> {
        let Some(incarnation) = self.model.random_peer(&mut self.rng) else { return Some(()) };
        let peer = &self.model.peers[&incarnation];
        let ahead = peer.position_ahead(&mut self.rng);
        // Mostly the leader goes on with what it has sent in part, if that is still of use.
        let begun = self.partial_position(incarnation).filter(|begun| {
            begun.index > peer.storage.state().last && begun.term == ahead.term && self.rng.random_bool(0.8)
        });
        let position = begun.unwrap_or(ahead);
        let (leaders_disk, leaders) = &self.leader;
        write_snapshot(leaders, incarnation, position).expect("a disk with power");
        let bytes = leaders_disk.content(&snapshot_path((incarnation, position)));
        leaders.remove(incarnation).expect("a disk with power");
        self.doing = "cut while receiving a snapshot";
        let piece_bytes = self.rng.random_range(100..2_000);
        let identity = SnapshotIdentity::of(position, bytes.len() as u64, &bytes).expect("a whole snapshot");
        let breaks_after = self.rng.random_bool(0.5).then(|| self.rng.random_range(0..bytes.len()));
        let receive = |upto: usize| {
            let mut receiver = journal.snapshots().receive(incarnation, identity)?;
            let from = receiver.received_bytes() as usize;
            assert!(from <= bytes.len(), "no more than there is");
            bytes[from.min(upto)..upto].chunks(piece_bytes).try_for_each(|piece| receiver.write(piece))?;
            Ok((receiver, from))
        };
        if let Some(upto) = breaks_after {
            let broken = receive(upto).map(drop);
            self.unless_off(broken)?;
        }
        let (receiver, from) = self.unless_off(receive(bytes.len()))?;
        if from > 0 {
            self.counts.count("snapshot received in several goes");
        }
        self.unless_off(receiver.finish())?;
        let write = Write { truncate_from: Some(position.index.next()), ..self.refer_to(position) };
        self.commit_snapshot(journal, incarnation, position, write)
    }

    fn refer_to(&mut self, position: LogPosition) -> Write {
        let snapshot = Some(snapshot_meta(position));
        Write { snapshot, discard_through: Some(position), ..Write::new(WriteToken(self.rng.random())) }
    }

    fn commit_snapshot(
        &mut self,
        journal: &mut Journal,
        incarnation: Incarnation,
        position: LogPosition,
        write: Write,
    ) -> Option<()> {
        self.commit(journal, "cut while referring to a snapshot", &[Step::Write(incarnation, write)])?;
        self.doing = "cut while removing old snapshots";
        let removed = journal.snapshots().remove_before(incarnation, position);
        self.unless_off(removed)
    }

    /// A snapshot is begun and given up, or finished and never referred to.
    fn abandon_snapshot(&mut self, journal: &mut Journal) -> Option<()> {
        let Some(incarnation) = self.model.random_peer(&mut self.rng) else { return Some(()) };
        let position = self.model.peers[&incarnation].position_ahead(&mut self.rng);
        self.doing = "cut while writing a snapshot";
        let header = header(incarnation, position);
        let begin = || journal.snapshots().create(incarnation, &header)?.write(&[7; 900]);
        let done =
            if self.rng.random() { begin() } else { write_snapshot(&journal.snapshots(), incarnation, position) };
        self.unless_off(done)
    }

    fn put_component(&mut self, journal: &mut Journal) -> Option<()> {
        let bytes = vec![self.rng.random_range(0..4); 2_000];
        let digest = Digest::of(&bytes);
        self.doing = "cut while keeping a component";
        self.component_in_doubt = Some(digest).filter(|digest| !self.components.contains(digest));
        let put = journal.components().put(digest, &bytes);
        self.unless_off(put)?;
        self.component_in_doubt = None;
        self.components.insert(digest);
        Some(())
    }

    fn remove_component(&mut self, journal: &mut Journal) -> Option<()> {
        let Some(digest) = self.components.first().copied() else { return Some(()) };
        self.doing = "cut while removing a component";
        self.component_in_doubt = Some(digest);
        let removed = journal.components().remove(digest);
        self.unless_off(removed)?;
        self.component_in_doubt = None;
        self.components.remove(&digest);
        Some(())
    }
}

/// What is different between what was found and what should be there.
fn differs(stored: &[StoredPeer], model: &Model) -> Option<String> {
    let (found, expected): (Vec<_>, Vec<_>) =
        (stored.iter().map(|peer| peer.incarnation).collect(), model.peers.keys().copied().collect());
    if found != expected {
        return Some(format!("the peers {found:?} instead of {expected:?}"));
    }
    let wrong = stored
        .iter()
        .zip(model.peers.values())
        .find(|(found, expected)| found.record != expected.record || found.restored != *expected.storage.state())?;
    Some(format!("{:?} instead of {:?}", wrong.0, wrong.1.storage.state()))
}

fn is_partial(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "part")
}

fn snapshot_path((incarnation, position): (Incarnation, LogPosition)) -> PathBuf {
    Path::new(SNAPSHOT_DIR)
        .join(format!("{:016x}", incarnation.0))
        .join(format!("{}-{}.snap", position.index, position.term))
}

fn header(incarnation: Incarnation, position: LogPosition) -> SnapshotHeader {
    let host = Bytes::from(format!("{incarnation} at {position}"));
    let (backend, chain) = (Digest::of(b"backend"), Digest::of(&host));
    SnapshotHeader { cluster: ClusterId(7), meta: snapshot_meta(position), backend, chain, host }
}

/// What is in the snapshot of a peer.
fn snapshot_data(incarnation: Incarnation, position: LogPosition) -> Vec<u8> {
    let size = [0, 10, 700, 5_000][(position.index.0 % 4) as usize];
    vec![(incarnation.0 + position.index.0 + position.term.0) as u8; size]
}

fn write_snapshot(snapshots: &Snapshots, incarnation: Incarnation, position: LogPosition) -> Result<(), StoreError> {
    let mut writer = snapshots.create(incarnation, &header(incarnation, position))?;
    writer.write(&snapshot_data(incarnation, position))?;
    writer.finish().map(drop)
}

fn check_snapshot(snapshots: &Snapshots, incarnation: Incarnation, position: LogPosition) -> Result<(), StoreError> {
    let mut reader = snapshots.open(incarnation, position)?;
    assert_eq!(*reader.header(), header(incarnation, position));
    let mut data = Vec::new();
    while let Some(block) = reader.next()? {
        data.extend_from_slice(&block);
    }
    assert_eq!(data, snapshot_data(incarnation, position), "the snapshot {position} of {incarnation}");
    Ok(())
}

fn leader() -> (SimDisk, Snapshots) {
    let disk = SimDisk::new(0);
    let (journal, _) =
        Journal::open(Arc::new(disk.clone()), &options(), PurgeLimits::default()).expect("a disk with power");
    (disk, journal.snapshots())
}

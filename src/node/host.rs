//! One peer's machine where it runs: on guest threads, between its component, its snapshots and its log.
//!
//! One instance of the component does everything. A query that kills it costs that query: the machine is rebuilt
//! from the latest snapshot and the log before the next job, unnoticed by the replica. A command that kills it stops
//! the peer.

use std::sync::Arc;

use crate::machine::{
    Applied, BackendFactory, Fault, Genesis, HashChain, HostPart, Machine, SessionTerms, SnapshotError, SnapshotHead,
    StartError,
};
use crate::node::backends::{BackendError, Backends};
use crate::protocol::RequestError;
use crate::raft::{Entry, LogRead, LogReadPurpose, SnapshotMeta};
use crate::replica::{Job, Query, QueryAnswer};
use crate::store::{SnapshotHeader, Store, StoreError};
use crate::types::{Incarnation, Index, SessionId};
use crate::wasm::WasmFactory;

/// How much of the log a rebuild reads at a time, in bytes.
const REBUILD_READ_BYTES: usize = 4 << 20;

/// What a host is told to do.
pub(super) enum HostJob {
    /// Make the machine: from the peer's snapshot, or new. The first job of every host.
    Start(Option<SnapshotMeta>),
    /// What the replica wants done.
    Replica(Job),
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum HostEvent {
    /// Entries were applied.
    Applied(Vec<Applied>, HashChain),
    /// The machine is that of the snapshot.
    Restored(SnapshotMeta, HashChain, Vec<(SessionId, SessionTerms)>),
    /// Queries were answered.
    Answered(Vec<QueryAnswer>),
    /// A snapshot is durable.
    SnapshotTaken(SnapshotMeta),
    /// A snapshot could not be written; the machine goes on.
    SnapshotFailed(String),
    /// The machine is gone for good, and the peer must stop.
    Stopped(String),
}

/// Why a host's machine could not be made, or did not survive.
#[derive(Debug, thiserror::Error)]
enum HostError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the header of the snapshot at {0} is not one of this cluster: {1}")]
    ForeignSnapshot(crate::types::LogPosition, String),
    #[error("entry {0} is missing from the log")]
    MissingEntry(Index),
    #[error("after a rebuild from snapshot and log, the machine differs from before (hash chain at {0})")]
    Diverged(Index),
}

/// One peer's machine and what it needs.
pub(super) struct Host {
    incarnation: Incarnation,
    genesis: Genesis,
    backends: Arc<Backends>,
    store: Store,
    /// The latest snapshot whose file is durable.
    snapshot: Option<SnapshotMeta>,
    state: State,
}

/// What became of the machine.
enum State {
    /// It has not started, or has stopped for good.
    Absent,
    Running(Box<Machine>),
    /// It died, and the log from which it would be rebuilt has given way to a snapshot that a job to come restores.
    Superseded,
}

impl Host {
    pub(super) fn new(incarnation: Incarnation, genesis: Genesis, backends: Arc<Backends>, store: Store) -> Self {
        Self { incarnation, genesis, backends, store, snapshot: None, state: State::Absent }
    }

    /// Does one job. Nothing is said about a start without a snapshot that went well, nor about jobs of a machine that
    /// has stopped.
    pub(super) fn run(&mut self, job: HostJob) -> Option<HostEvent> {
        let done = match (job, &self.state) {
            (HostJob::Start(None), _) => self.start(None).map(|()| None),
            (HostJob::Start(Some(meta)), _) => self.restore(meta).map(Some),
            (HostJob::Replica(_), State::Absent) => Ok(None),
            (HostJob::Replica(Job::Restore(meta)), _) => self.restore(meta).map(Some),
            (HostJob::Replica(job), State::Superseded) => Ok(decline(job)),
            (HostJob::Replica(Job::Apply(entries)), State::Running(_)) => self.apply(&entries).map(Some),
            (HostJob::Replica(Job::Query(queries)), State::Running(_)) => self.query(queries).map(Some),
            (HostJob::Replica(Job::Snapshot(meta)), State::Running(_)) => self.take_snapshot(meta).map(Some),
        };
        done.unwrap_or_else(|error| {
            self.state = State::Absent;
            Some(HostEvent::Stopped(error.to_string()))
        })
    }

    fn start(&mut self, snapshot: Option<SnapshotMeta>) -> Result<(), HostError> {
        let factory = self.factory()?;
        let machine = match &snapshot {
            Some(meta) => self.open_snapshot(meta, &factory)?,
            None => Machine::start(self.genesis.clone(), &factory)?,
        };
        self.state = State::Running(Box::new(machine));
        self.snapshot = snapshot;
        Ok(())
    }

    fn restore(&mut self, meta: SnapshotMeta) -> Result<HostEvent, HostError> {
        // The old machine goes first: two states at once may not fit.
        self.state = State::Absent;
        self.start(Some(meta.clone()))?;
        let machine = self.machine();
        Ok(HostEvent::Restored(meta, machine.chain(), machine.sessions()))
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<HostEvent, HostError> {
        let machine = self.machine();
        let applied = machine.apply(entries)?;
        Ok(HostEvent::Applied(applied, machine.chain()))
    }

    /// Answers each query; one that kills the machine gets the blame, and the rest a rebuilt machine.
    fn query(&mut self, queries: Vec<Query>) -> Result<HostEvent, HostError> {
        let mut answers = Vec::with_capacity(queries.len());
        for query in queries {
            let State::Running(machine) = &mut self.state else {
                answers.push(overloaded(&query));
                continue;
            };
            let index = machine.applied().index;
            let result = match machine.query(&query.request) {
                Ok(answer) => Ok(answer),
                Err(Fault::Guest { kind, message }) => {
                    self.rebuild()?;
                    Err(RequestError::BackendFault { message: format!("{kind}: {message}") })
                }
                Err(fault @ Fault::Host(_)) => return Err(fault.into()),
            };
            answers.push(QueryAnswer { asker: query.asker, index, result });
        }
        Ok(HostEvent::Answered(answers))
    }

    fn take_snapshot(&mut self, meta: SnapshotMeta) -> Result<HostEvent, HostError> {
        match self.write_and_prove_snapshot(&meta) {
            Ok(()) => {
                self.snapshot = Some(meta.clone());
                Ok(HostEvent::SnapshotTaken(meta))
            }
            Err(HostError::Fault(fault @ Fault::Host(_))) => Err(fault.into()),
            Err(error) => {
                if matches!(error, HostError::Fault(_)) {
                    self.rebuild()?;
                }
                Ok(HostEvent::SnapshotFailed(error.to_string()))
            }
        }
    }

    /// Writes a snapshot and restores a second machine from it: the log behind a snapshot goes, so a snapshot that a
    /// backend cannot read back must never count.
    fn write_and_prove_snapshot(&mut self, meta: &SnapshotMeta) -> Result<(), HostError> {
        assert_eq!(self.machine().applied(), meta.position, "a snapshot is due when its turn among the jobs comes");
        let snapshots = self.store.snapshots();
        let incarnation = self.incarnation;
        let SnapshotHead { meta: _, cluster, backend, chain, host } = self.machine().snapshot_head(meta.clone());
        let header = SnapshotHeader { cluster, meta: meta.clone(), backend, chain: chain.0, host: host.encode() };
        let mut writer = snapshots.create(incarnation, &header)?;
        let mut failure = None;
        let written = self.machine().write_snapshot(&mut |chunk| {
            writer.write(&chunk).map_err(|error| {
                let reason = error.to_string();
                failure = Some(error);
                reason
            })
        });
        match (written, failure) {
            (Ok(()), _) => {}
            (Err(SnapshotError::Fault(fault)), _) => return Err(fault.into()),
            (Err(SnapshotError::Sink(_)), Some(error)) => return Err(error.into()),
            (Err(SnapshotError::Sink(reason)), None) => return Err(StartError::Source(reason).into()),
        }
        writer.finish()?;
        let factory = self.factory()?;
        let proof = self.open_snapshot(meta, &factory);
        if proof.is_err() {
            snapshots.remove_one(incarnation, meta.position)?;
        }
        proof.map(|_| ())
    }

    /// Makes the machine again as it was: the latest snapshot and the log up to the last entry applied. If the log has
    /// given way to a snapshot meanwhile, the machine waits for that.
    fn rebuild(&mut self) -> Result<(), HostError> {
        let (applied, chain) = (self.machine().applied().index, self.machine().chain());
        self.state = State::Absent;
        self.start(self.snapshot.clone())?;
        while self.machine().applied().index < applied {
            let from = self.machine().applied().index.next();
            let read = LogRead { purpose: LogReadPurpose::Apply, from, to: applied, max_bytes: REBUILD_READ_BYTES };
            let entries = match self.store.read(self.incarnation, &read) {
                Err(StoreError::NotInLog { .. }) => {
                    self.state = State::Superseded;
                    return Ok(());
                }
                entries => entries?,
            };
            if entries.is_empty() {
                return Err(HostError::MissingEntry(from));
            }
            self.machine().apply(&entries)?;
        }
        if self.machine().chain() == chain { Ok(()) } else { Err(HostError::Diverged(applied)) }
    }

    fn open_snapshot(&self, meta: &SnapshotMeta, factory: &dyn BackendFactory) -> Result<Machine, HostError> {
        let mut reader = self.store.snapshots().open(self.incarnation, meta.position)?;
        let foreign = |reason: String| HostError::ForeignSnapshot(meta.position, reason);
        let SnapshotHeader { cluster, meta, backend, chain, host } = reader.header().clone();
        if cluster != self.genesis.cluster {
            return Err(foreign(format!("it is of cluster {cluster}")));
        }
        let host = HostPart::decode(&host).map_err(|error| foreign(error.to_string()))?;
        let head = SnapshotHead { meta, cluster, backend, chain: HashChain(chain), host };
        if head.genesis() != self.genesis {
            return Err(foreign("the cluster was created otherwise".to_owned()));
        }
        Ok(Machine::restore(head, factory, &mut || reader.next().map_err(|error| error.to_string()))?)
    }

    fn factory(&self) -> Result<WasmFactory, BackendError> {
        self.backends.load(&self.genesis)
    }

    fn machine(&mut self) -> &mut Machine {
        match &mut self.state {
            State::Running(machine) => machine,
            State::Absent | State::Superseded => unreachable!("jobs run on a machine that has started and not stopped"),
        }
    }
}

/// The answer to a query for which there is no machine now.
fn overloaded(query: &Query) -> QueryAnswer {
    QueryAnswer { asker: query.asker, index: Index::ZERO, result: Err(RequestError::Overloaded) }
}

/// What is said of a job that comes before the snapshot which a superseded machine waits for.
fn decline(job: Job) -> Option<HostEvent> {
    match job {
        // The snapshot covers what they would have led to.
        Job::Apply(_) | Job::Restore(_) => None,
        Job::Query(queries) => Some(HostEvent::Answered(queries.iter().map(overloaded).collect())),
        Job::Snapshot(_) => Some(HostEvent::SnapshotFailed("the machine waits for a snapshot of another".to_owned())),
    }
}

#[cfg(test)]
mod tests;

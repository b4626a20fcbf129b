//! One peer's machine where it runs: on guest threads, between its component, its snapshots and its log.
//!
//! Whatever kills an instance of the component, the machine is made again from the latest snapshot and the log
//! (`machine::Runner`): a query costs that query, and of a command the replica is told. Queries have an instance of their
//! own (`reader`), and snapshots too (`snapshot`), unless the node is told to spare the memory.

mod canary;
mod capture;
mod lacking;
mod reader;
mod snapshot;

use std::sync::Arc;

use crate::access::AccessControl;
use crate::feature_level::FeatureLevel;
use crate::machine::{
    Applied, BackendFactory, BackendSource, Died, Fault, Genesis, HashChain, HostPart, Machine, Past, Ran, Run,
    RunError, Runner, SessionTerms, SnapshotHead, StartError,
};
use crate::node::backends::{BackendError, Backends};
use crate::node::config::Isolation;
use crate::protocol::{CanaryEnd, RequestError};
use crate::raft::{Entry, LogRead, LogReadPurpose, SnapshotMeta};
use crate::replica::{Job, Query, QueryAnswer};
use crate::store::{SnapshotHeader, Store, StoreError};
use crate::types::{Digest, Incarnation, Index, SessionId};

use canary::Feed;
use capture::Captures;
use lacking::Waiting;
use reader::Reader;
use snapshot::{Made, SnapshotFailure, SnapshotMade};

pub(super) use canary::CanaryOrder;
pub(super) use capture::CaptureRoom;
pub(super) use lacking::Lack;
pub(super) use snapshot::SnapshotTask;

/// How much of the log a rebuild reads at a time, in bytes.
const REBUILD_READ_BYTES: usize = 4 << 20;

/// The same in the background, where others are given way to after each read.
const BACKGROUND_READ_BYTES: usize = 16 << 10;

/// Why there is no snapshot where one was wanted.
const DIED_BEFORE: &str = "the machine has died on the way there";

/// What a host is told to do.
pub(super) enum HostJob {
    /// Make the machine: from the peer's snapshot, or new. The first job of every host.
    Start(Option<SnapshotMeta>),
    /// What the replica wants done.
    Replica(Job),
    /// Drop the machine until it is needed.
    Rest,
    /// Make the machine after all, if its component was missing: it may be here.
    TryAgain,
    /// Take note of a snapshot that was made in the background. The replica hears of it then: what it is made from must stay
    /// until nobody here goes back to that.
    SnapshotMade(SnapshotMade),
    /// Run another backend beside the machine. One that runs already gives way.
    Canary(CanaryOrder),
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum HostEvent {
    /// Entries were applied.
    Applied(Vec<Applied>),
    /// The backend died of an entry.
    Died(Died),
    /// The machine is that of the snapshot.
    Restored {
        meta: SnapshotMeta,
        size_bytes: u64,
        chain: HashChain,
        sessions: Vec<(SessionId, SessionTerms)>,
        access: AccessControl,
        level: FeatureLevel,
        component: Digest,
    },
    /// The machine of a peer without a snapshot is there.
    Started,
    /// Queries were answered.
    Answered(Vec<QueryAnswer>),
    /// Queries came to a machine that was not where they should have found it.
    Declined(Vec<Query>),
    /// A snapshot is durable, and takes this many bytes.
    SnapshotTaken(SnapshotMeta, u64),
    /// A snapshot could not be written; the machine goes on.
    SnapshotFailed(String),
    /// The machine cannot be made for want of a component; what it is to do waits.
    Lacks(Lack),
    /// The machine is gone for good, and the peer must stop.
    Stopped(String),
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum PastError {
    #[error(transparent)]
    Backend(BackendError),
    #[error(transparent)]
    Lacking(Lack),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the header of the snapshot at {0} is not one of this cluster: {1}")]
    ForeignSnapshot(crate::types::LogPosition, String),
    #[error("entry {0} is missing from the log")]
    MissingEntry(Index),
}

/// One peer's machine and what it needs.
pub(super) struct Host {
    /// None before it has started, and once it has stopped for good.
    runner: Option<Runner>,
    /// Answers queries; none where the first machine does.
    reader: Option<Reader>,
    past: HostPast,
    /// How often the machine was replaced by that of a snapshot: what was begun before is of another state.
    restores: u64,
    /// A snapshot that is to be made in the background.
    task: Option<SnapshotTask>,
    /// When the state for one is read out.
    captures: Captures,
    /// Another backend that is to see what is applied.
    canary: Option<Feed>,
    /// What waits for a component without which there is no machine.
    waiting: Waiting,
}

/// What the machine is made from.
#[derive(Clone)]
struct HostPast {
    incarnation: Incarnation,
    genesis: Genesis,
    backends: Arc<Backends>,
    store: Store,
    /// The latest snapshot whose file is durable.
    snapshot: Option<SnapshotMeta>,
    /// What is made from it is made in the background, and gives way between its steps: whoever wakes up meanwhile would
    /// wait until this thread's slice of time is over, however low its priority.
    is_background: bool,
}

impl Host {
    pub(super) fn new(
        incarnation: Incarnation,
        genesis: Genesis,
        backends: Arc<Backends>,
        store: Store,
        isolation: Isolation,
        room: CaptureRoom,
    ) -> Self {
        let reader = (isolation == Isolation::Separate).then(Reader::default);
        let past = HostPast { incarnation, genesis, backends, store, snapshot: None, is_background: false };
        let (captures, waiting) = (Captures::new(room), Waiting::default());
        Self { runner: None, reader, past, restores: 0, task: None, captures, canary: None, waiting }
    }

    /// Takes out the snapshot that is to be made in the background; its end is a job.
    pub(super) fn take_task(&mut self) -> Option<SnapshotTask> {
        self.task.take()
    }

    /// Does one job, or lets it wait, and tells what became of it. Nothing is said about jobs of a machine that has stopped.
    pub(super) fn run(&mut self, job: HostJob) -> Vec<HostEvent> {
        if self.waiting.is_empty() { self.run_now(job) } else { self.run_or_wait(job) }
    }

    fn run_now(&mut self, job: HostJob) -> Vec<HostEvent> {
        let is_needed = matches!(&job, HostJob::Replica(job) if !matches!(job, Job::Restore(_) | Job::Rewind(..)));
        if let (true, Some(runner)) = (is_needed, &mut self.runner)
            && let Err(error) = runner.wake(&mut self.past)
        {
            self.runner = None;
            return vec![HostEvent::Stopped(error.to_string())];
        }
        if matches!(&job, HostJob::Replica(Job::Restore(_) | Job::Rewind(..))) {
            self.end_canary("the state of its peer was made anew");
        }
        let reader = self.reader.as_mut();
        let again = lacking::repeated(&job);
        let done = match (job, &mut self.runner) {
            (HostJob::Start(None), _) => self.start(None).map(|()| vec![HostEvent::Started]),
            (HostJob::Start(Some(meta)), _) => self.restore(meta),
            (HostJob::Replica(_), None) => Ok(Vec::new()),
            (HostJob::Replica(Job::Restore(meta)), _) => self.restore(meta),
            (HostJob::Replica(Job::Apply(run)), Some(runner)) => {
                apply(runner, reader, &mut self.canary, &run, &mut self.past)
            }
            (HostJob::Replica(Job::Rewind(to, chain)), Some(runner)) => {
                reader.into_iter().for_each(|reader| reader.rewound(to));
                runner.rewind((to, chain), &mut self.past).map(|()| Vec::new())
            }
            (HostJob::Replica(Job::Query(at, queries)), Some(runner)) => {
                query(runner, reader, at, queries, &mut self.past)
            }
            (HostJob::Replica(Job::Snapshot(meta)), Some(_)) if reader.is_some() => self.begin_snapshot(meta),
            (HostJob::Replica(Job::Snapshot(meta) | Job::SnapshotAsIs(meta)), Some(runner)) => {
                take_snapshot(runner, reader, meta, &mut self.past)
            }
            (HostJob::Rest, runner) => {
                reader.into_iter().for_each(|reader| *reader = Reader::default());
                runner.iter_mut().for_each(Runner::rest);
                Ok(Vec::new())
            }
            (HostJob::SnapshotMade(made), _) => Ok(vec![self.snapshot_made(made)]),
            (HostJob::Canary(order), _) => {
                self.begin_canary(order);
                Ok(Vec::new())
            }
            // It was there all the time.
            (HostJob::TryAgain, _) => Ok(Vec::new()),
        };
        done.unwrap_or_else(|error| {
            self.end_canary("its peer has no machine any more");
            self.runner = None;
            match (error, again) {
                (RunError::Past(PastError::Lacking(lack)), Some(job)) => {
                    self.waiting.begin(job);
                    vec![HostEvent::Lacks(lack)]
                }
                (error, _) => vec![HostEvent::Stopped(error.to_string())],
            }
        })
    }

    fn start(&mut self, snapshot: Option<SnapshotMeta>) -> Result<(), RunError<PastError>> {
        self.past.snapshot = snapshot;
        self.runner = Some(Runner::new(self.past.begin()?));
        Ok(())
    }

    fn restore(&mut self, meta: SnapshotMeta) -> Result<Vec<HostEvent>, RunError<PastError>> {
        // The old machines go first: so many states at once may not fit.
        self.runner = None;
        self.restores += 1;
        self.captures.refuse();
        self.reader = self.reader.take().map(|_| Reader::default());
        self.start(Some(meta.clone()))?;
        let size_bytes = self.past.snapshot_size(&meta).map_err(RunError::Past)?;
        let machine = self.runner.as_ref().and_then(Runner::machine);
        let restored = |machine: &Machine| {
            let (chain, sessions, access) = (machine.chain(), machine.sessions(), machine.access().clone());
            let (level, component) = (machine.level(), machine.component());
            HostEvent::Restored { meta, size_bytes, chain, sessions, access, level, component }
        };
        Ok(machine.map(restored).into_iter().collect())
    }

    /// Has a snapshot made in the background of the state as it is.
    fn begin_snapshot(&mut self, meta: SnapshotMeta) -> Result<Vec<HostEvent>, RunError<PastError>> {
        let runner = self.runner.as_mut();
        let here = runner.filter(|runner| runner.machine().is_some_and(|machine| machine.applied() == meta.position));
        let Some(runner) = here else { return Ok(vec![HostEvent::SnapshotFailed(DIED_BEFORE.to_owned())]) };
        let captured = runner.machine_mut().map(|machine| self.captures.read(machine, &meta)).transpose();
        let captured = match captured {
            Ok(captured) => captured.flatten(),
            Err(Fault::Host(message)) => return Err(RunError::Host(message)),
            Err(Fault::Guest { .. }) => {
                runner.rewind_here(&mut self.past)?;
                None
            }
        };
        let (target, restores) = (runner.target().clone(), self.restores);
        let past = HostPast { is_background: true, ..self.past.clone() };
        self.task = Some(SnapshotTask { meta, target, past, restores, captured });
        Ok(Vec::new())
    }

    /// Who waits for one that cannot begin is told so by its absence.
    fn begin_canary(&mut self, order: CanaryOrder) {
        self.end_canary("another has taken its place");
        let target = self.runner.as_ref().map(|runner| runner.target().clone());
        self.canary = target.and_then(|target| Feed::begin(target, &self.past, order));
    }

    fn end_canary(&mut self, reason: &str) {
        if let Some(feed) = self.canary.take() {
            feed.end(CanaryEnd::Interrupted(reason.to_owned()));
        }
    }

    /// From now on machines are made again from a snapshot that was made in the background.
    fn snapshot_made(&mut self, SnapshotMade { meta, restores, result }: SnapshotMade) -> HostEvent {
        let result = match result {
            Ok(_) if restores != self.restores => Err("the state was replaced meanwhile".to_owned()),
            result => result,
        };
        match result {
            Ok(Made { size_bytes, read_in }) => {
                read_in.into_iter().for_each(|read_in| self.captures.made_from_log(read_in));
                self.runner.iter_mut().for_each(|runner| runner.snapshot_taken(meta.position.index));
                self.reader.iter_mut().for_each(|reader| reader.snapshot_taken(meta.position.index));
                self.past.snapshot = Some(meta.clone());
                HostEvent::SnapshotTaken(meta, size_bytes)
            }
            Err(reason) => {
                self.captures.refuse();
                HostEvent::SnapshotFailed(reason)
            }
        }
    }
}

fn apply(
    runner: &mut Runner,
    reader: Option<&mut Reader>,
    canary: &mut Option<Feed>,
    run: &Run,
    past: &mut HostPast,
) -> Result<Vec<HostEvent>, RunError<PastError>> {
    let Ran { applied, died } = runner.apply(run, past)?;
    canary.take_if(|canary| !canary.applied(run, &applied));
    if let Some(reader) = reader {
        reader.applied(run, applied.len(), runner.at(), past)?;
    }
    let applied = Some(applied).filter(|applied| !applied.is_empty()).map(HostEvent::Applied);
    Ok(applied.into_iter().chain(died.map(HostEvent::Died)).collect())
}

/// Answers each query; one that kills its machine gets the blame, and the rest a machine made again. What a client may not
/// have, the backend is not asked for.
fn query(
    runner: &mut Runner,
    reader: Option<&mut Reader>,
    at: Index,
    queries: Vec<Query>,
    past: &mut HostPast,
) -> Result<Vec<HostEvent>, RunError<PastError>> {
    // Without a machine there is none before a snapshot to come: it says where, so they are not asked for anew and anew.
    if runner.machine().is_some() && runner.applied() < at {
        return Ok(vec![HostEvent::Declined(queries)]);
    }
    let answers: Result<_, _> = match reader.filter(|_| runner.machine().is_some()) {
        Some(reader) => queries.into_iter().map(|query| reader.answer(query, runner, past)).collect(),
        None => queries.into_iter().map(|query| answer(runner, query, past)).collect(),
    };
    Ok(vec![HostEvent::Answered(answers?)])
}

/// Has the machine that applies answer a query.
fn answer(runner: &mut Runner, query: Query, past: &mut HostPast) -> Result<QueryAnswer, RunError<PastError>> {
    let index = runner.applied();
    let Some(machine) = runner.machine() else {
        return Ok(QueryAnswer { asker: query.asker, index, result: Err(RequestError::Overloaded) });
    };
    let request = match query.for_backend(machine) {
        Ok(request) => request,
        Err(result) => return Ok(QueryAnswer { asker: query.asker, index, result }),
    };
    let result = match runner.query(request, past)? {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(fault)) => Err(RequestError::BackendFault { message: fault.to_string() }),
        None => Err(RequestError::Overloaded),
    };
    Ok(QueryAnswer { asker: query.asker, index, result })
}

/// Has the machine that applies write a snapshot.
fn take_snapshot(
    runner: &mut Runner,
    reader: Option<&mut Reader>,
    meta: SnapshotMeta,
    past: &mut HostPast,
) -> Result<Vec<HostEvent>, RunError<PastError>> {
    let failed = |reason: String| Ok(vec![HostEvent::SnapshotFailed(reason)]);
    let Some(machine) = runner.machine_mut().filter(|machine| machine.applied() == meta.position) else {
        return failed(DIED_BEFORE.to_owned());
    };
    let written = past.write_snapshot(machine, &meta);
    let proved = written.and_then(|size_bytes| past.prove_snapshot(&meta).map(|()| size_bytes).map_err(Into::into));
    match proved {
        Ok(size_bytes) => {
            runner.snapshot_taken(meta.position.index);
            reader.into_iter().for_each(|reader| reader.snapshot_taken(meta.position.index));
            past.snapshot = Some(meta.clone());
            Ok(vec![HostEvent::SnapshotTaken(meta, size_bytes)])
        }
        Err(SnapshotFailure::Fault(Fault::Host(message))) => Err(RunError::Host(message)),
        Err(SnapshotFailure::Fault(fault)) => {
            runner.rewind_here(past)?;
            failed(fault.to_string())
        }
        Err(SnapshotFailure::Past(error)) => failed(error.to_string()),
    }
}

impl BackendSource for HostPast {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        // The replica gives out no entry whose component was not here.
        let missing = |error| Fault::Host(format!("component {component}, which it is to go on with: {error}"));
        self.load(component).map_err(missing)
    }
}

impl Past for HostPast {
    type Error = PastError;

    fn begin(&mut self) -> Result<Machine, PastError> {
        match &self.snapshot {
            Some(meta) => self.open_snapshot(meta),
            None => Ok(Machine::start(self.genesis.clone(), &*self.load(self.genesis.component)?)?),
        }
    }

    fn entries(&mut self, from: Index, to: Index) -> Result<Option<Vec<Entry>>, PastError> {
        self.give_way();
        let max_bytes = if self.is_background { BACKGROUND_READ_BYTES } else { REBUILD_READ_BYTES };
        let read = LogRead { purpose: LogReadPurpose::Apply, from, to, max_bytes };
        match self.store.read(self.incarnation, &read) {
            Err(StoreError::NotInLog { .. }) => Ok(None),
            Ok(entries) if entries.is_empty() => Err(PastError::MissingEntry(from)),
            entries => Ok(Some(entries?)),
        }
    }
}

impl HostPast {
    /// The machine of a snapshot, with the backend that wrote it.
    fn open_snapshot(&self, meta: &SnapshotMeta) -> Result<Machine, PastError> {
        let mut reader = self.store.snapshots().open(self.incarnation, meta.position)?;
        let foreign = |reason: String| PastError::ForeignSnapshot(meta.position, reason);
        let SnapshotHeader { cluster, meta, backend, chain, host } = reader.header().clone();
        if cluster != self.genesis.cluster {
            return Err(foreign(format!("it is of cluster {cluster}")));
        }
        let host = HostPart::decode(&host).map_err(|error| foreign(error.to_string()))?;
        let head = SnapshotHead { meta, cluster, backend, chain: HashChain(chain), host };
        // The backend may be another by now.
        if head.genesis() != (Genesis { component: backend, ..self.genesis.clone() }) {
            return Err(foreign("the cluster was created otherwise".to_owned()));
        }
        let factory = self.load(backend)?;
        let mut chunks = || {
            self.give_way();
            reader.next().map_err(|error| error.to_string())
        };
        Ok(Machine::restore(head, &*factory, &mut chunks)?)
    }

    fn give_way(&self) {
        if self.is_background {
            std::thread::yield_now();
        }
    }

    /// What the file of a snapshot takes, in bytes.
    fn snapshot_size(&self, meta: &SnapshotMeta) -> Result<u64, PastError> {
        let (_, identity) = self.store.snapshots().open_raw(self.incarnation, meta.position)?;
        Ok(identity.size_bytes)
    }

    fn load(&self, component: Digest) -> Result<Arc<dyn BackendFactory>, PastError> {
        let loaded = self.backends.load(&Genesis { component, ..self.genesis.clone() });
        loaded.map_err(|error| match error {
            BackendError::Store(error) => PastError::Lacking(Lack { component, reason: error.to_string() }),
            error => PastError::Backend(error),
        })
    }
}

#[cfg(test)]
mod tests;

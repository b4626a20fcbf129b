//! A node: one process's share of many clusters.
//!
//! Threads and who owns what:
//!
//! - the *network thread* runs a tokio runtime of its own with the QUIC endpoint, its connections (`listener`,
//!   `network`) and the loop that owns all replicas (`driver`);
//! - the *snapshots' thread* has a runtime and an endpoint of its own, over which snapshots come and go (`courier`);
//! - the *store's writer thread* makes what waits durable, all peers in one commit;
//! - the *guest threads* run the users' components, each peer's in a `host`, by turns (`guests`).
//!
//! A component is compiled by a child process, and on a thread of its own a node waits for it and tries it (`lifecycle`).
//!
//! They talk by queues with bounds; no lock is held while anything waits.

mod backends;
mod canary;
mod certificates;
mod change;
mod config;
mod courier;
mod departure;
mod driver;
#[cfg(test)]
mod formats;
mod frames;
mod guests;
mod host;
mod hosting;
mod inspect;
mod journey;
mod lifecycle;
mod links;
mod listener;
mod members;
mod network;
mod quiet;
mod quota;
mod refusals;
mod removal;
mod reports;
mod settings;
mod space;
mod standing;
mod startup;
mod transfer;
mod upgrade;
mod waiting;

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

pub use config::{Config, ConfigError, Isolation, Listen, Tuning};
pub use inspect::{NodeCheck, NodeLog, default_snapshot_dir};
pub use lifecycle::PeerRecord;
pub use settings::Settings;
pub use standing::Introduction;

use crate::codec;
use crate::raft;
use crate::store::{Completion, DurableSink, Store, StoreError, StoreOptions, StoredPeer};
use crate::transport::{Endpoint, EndpointOptions, Limits, Role, TransportError};
use crate::types::NodeAddr;
use crate::wasm::{CompileLimits, Wasm, WasmError};
use backends::Backends;
use courier::{Courier, CourierParts};
use departure::Doors;
use driver::{Driver, Ended, Event, MAX_EVENTS, Parts};
use guests::Guests;
use hosting::FoundPeer;
use lifecycle::Lifecycle;
use listener::Listener;
use network::Network;
use refusals::RefusalLog;

/// Ticks of the Raft clock in an election timeout.
const ELECTION_TICKS: u32 = 10;
/// Ticks between two heartbeats.
const HEARTBEAT_TICKS: u32 = 2;
/// Ticks after which a cluster that nobody uses falls asleep: five election timeouts.
const QUIESCE_TICKS: u32 = 5 * ELECTION_TICKS;

/// A running node.
pub struct Node {
    address: NodeAddr,
    events: mpsc::Sender<Event>,
    thread: JoinHandle<Result<(), NodeError>>,
}

/// Why a node could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The certificate is not this node's.
    #[error("the certificate is for {found}, but this node is {node}; make one with: zraft cert node {node}")]
    WrongCertificate {
        /// This node.
        node: NodeAddr,
        /// Whom the certificate is for.
        found: String,
    },
    /// The network cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The files cannot be used, or the disk has failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine that runs components cannot be set up.
    #[error(transparent)]
    Engine(#[from] WasmError),
    /// What the node kept for a peer cannot be read.
    #[error("the record of peer {incarnation} in {log_dir} cannot be read: {source}")]
    Record {
        /// The peer's life.
        incarnation: crate::types::Incarnation,
        /// The folder.
        log_dir: std::path::PathBuf,
        /// What is wrong.
        source: codec::DecodeError,
    },
    /// The system gave no randomness.
    #[error("the system has no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The system gave no thread or runtime.
    #[error("the system refused a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The node's thread panicked: a defect of zraft.
    #[error("the node failed by a defect of zraft; its log tells more")]
    Panicked,
}

impl Node {
    /// Starts a node and returns once it accepts connections. Blocks meanwhile, for as long as it takes to open the
    /// files.
    ///
    /// # Errors
    /// [`NodeError`] when certificate, files or address cannot be used.
    pub fn start(config: Config) -> Result<Self, NodeError> {
        let identity = config.credentials.identity();
        if identity != Some(&Role::Node(config.node.clone())) {
            let found = identity.map_or_else(|| "nobody".to_owned(), ToString::to_string);
            return Err(NodeError::WrongCertificate { node: config.node, found });
        }
        let address = config.node.clone();
        let (events, inbox) = mpsc::channel(MAX_EVENTS);
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let sender = events.clone();
        let thread = std::thread::Builder::new().name("zraft-node".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(run(config, sender, inbox, ready));
            // A guest that does not come to an end must not keep the node from ending.
            runtime.shutdown_background();
            result
        })?;
        match is_ready.recv() {
            Ok(()) => Ok(Self { address, events, thread }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                Ok(Ok(())) | Err(_) => Err(NodeError::Panicked),
            },
        }
    }

    /// The advertised address.
    #[must_use]
    pub fn address(&self) -> &NodeAddr {
        &self.address
    }

    /// A handle that can stop the node from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { events: self.events.clone() }
    }

    /// Waits until the node has been stopped or cannot go on.
    ///
    /// # Errors
    /// [`NodeError`] when the node could not go on.
    pub fn wait(self) -> Result<(), NodeError> {
        self.thread.join().map_err(|_| NodeError::Panicked)?
    }

    /// Stops the node as [`Stopper::stop`] does and waits for the end of it.
    ///
    /// # Errors
    /// [`NodeError`] when the node had failed before.
    pub fn stop(self) -> Result<(), NodeError> {
        self.stopper().stop();
        self.wait()
    }

    /// Stops the node as [`Stopper::stop_now`] does and waits for the end of it.
    ///
    /// # Errors
    /// [`NodeError`] when the node had failed before.
    pub fn stop_now(self) -> Result<(), NodeError> {
        self.stopper().stop_now();
        self.wait()
    }
}

/// Stops a node.
#[derive(Clone)]
pub struct Stopper {
    events: mpsc::Sender<Event>,
}

impl Stopper {
    /// Has the node stop without a loss to anybody: it hands leadership over, sends clients elsewhere, and answers what it was
    /// asked, for up to five seconds. The second time it stops at once. Must not be called from async code.
    pub fn stop(&self) {
        // A node that takes no more events has stopped.
        let _ = self.events.blocking_send(Event::Stop);
    }

    /// Has the node stop at once. What was acknowledged is durable already; others find out that it is gone. Must not be
    /// called from async code.
    pub fn stop_now(&self) {
        let _ = self.events.blocking_send(Event::StopNow);
    }
}

/// Opens all of a node, runs its loop, and closes it.
async fn run(
    config: Config,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    ready: SyncSender<()>,
) -> Result<(), NodeError> {
    let wasm = open_wasm(&config)?;
    let (store, peers) = open_store(&config, StoreEvents(events.clone()))?;
    let Config { node, listen, snapshot_listener, snapshot_advertised_addr, credentials, tuning, native, .. } = config;
    let backends = open_backends(Backends::new(wasm, store.components()).with_native(native), &peers);

    let limits = Limits::default();
    let watched = credentials.clone();
    let endpoint = match listen {
        Listen::Address(address) => Endpoint::server(EndpointOptions { listen: address, credentials, limits })?,
        Listen::Socket(socket) => Endpoint::server_on(socket, credentials, limits)?,
    };
    let refusal_log = RefusalLog::new();
    let (courier, courier_thread) = Courier::start(CourierParts {
        node: node.clone(),
        listen: snapshot_listener,
        advertised: snapshot_advertised_addr,
        credentials: watched.clone(),
        snapshots: store.snapshots(),
        refusal_log: refusal_log.clone(),
        events: events.clone(),
        min_free_bytes: tuning.min_free_bytes,
        bytes_per_second: tuning.snapshot_bytes_per_second,
    })?;
    let hosts = events.clone();
    let (guests, guest_threads) = Guests::start(
        tuning.guest_threads,
        // The loop may have ended; then nobody cares.
        Box::new(move |incarnation, event| drop(hosts.blocking_send(Event::Host { incarnation, event }))),
    )?;
    let lifecycle = Lifecycle::new(node.clone(), endpoint.clone(), events.clone(), Arc::clone(&backends));
    let doors = Doors::new();
    let listener = Listener::new(lifecycle.clone(), courier_thread.address.clone(), doors.clone(), refusal_log.clone());
    let watching = space::watch(store.clone(), tuning.min_free_bytes, events.clone());
    let driver = Driver::new(
        Parts {
            node: node.clone(),
            raft: raft_config(tuning.quiesce),
            drop_machines_after_ms: Some(tuning.drop_idle_after_ms).filter(|after_ms| *after_ms > 0),
            tick: Duration::from_millis(tuning.election_timeout_ms) / ELECTION_TICKS,
            seed: getrandom::u64()?,
            store,
            guests,
            guest_threads,
            backends,
            isolation: tuning.isolation,
            capture_room: host::CaptureRoom::new(),
            feature_level: tuning.feature_level,
            network: Network::new(endpoint.clone()),
            courier,
            lifecycle,
            doors,
            refusal_log,
            events,
        },
        peers,
    );
    let accepting = tokio::spawn(listener.run());
    let endpoints = [endpoint.clone(), courier_thread.endpoint.clone()];
    let watching = [tokio::spawn(watching), tokio::spawn(certificates::watch(endpoints, watched))];
    tracing::info!(%node, snapshots_at = %courier_thread.address, "the node is up");
    // Who started the node may have gone; it runs all the same.
    let _ = ready.send(());
    let ended = driver.run(inbox).await;
    accepting.abort();
    watching.iter().for_each(tokio::task::JoinHandle::abort);
    courier_thread.stop().await;
    conclude(&node, ended)
}

/// Says how a node has ended.
fn conclude(node: &NodeAddr, ended: Ended) -> Result<(), NodeError> {
    match ended {
        Ended::Stopped => {
            tracing::info!(%node, "the node has stopped");
            Ok(())
        }
        Ended::StoreFailed(error) => {
            tracing::error!(%node, %error, "the node has stopped: its disk failed");
            Err(error.into())
        }
    }
}

fn open_wasm(config: &Config) -> Result<Wasm, WasmError> {
    let tuning = &config.tuning;
    let limits = CompileLimits { memory_bytes: tuning.compile_memory_bytes, deadline_ms: tuning.compile_deadline_ms };
    Wasm::new(&config.log_dir.join("compiled"), config.compiler.clone(), limits)
}

/// Opens the store, and reads what it holds of peers.
fn open_store(config: &Config, sink: StoreEvents) -> Result<(Store, Vec<FoundPeer>), NodeError> {
    let Config { node, log_dir, snapshot_dir, tuning, .. } = config;
    let options = StoreOptions {
        log_dir: log_dir.clone(),
        snapshot_dir: snapshot_dir.clone(),
        node: node.clone(),
        cache_bytes: tuning.cache_bytes,
        max_segment_bytes: tuning.max_segment_size,
        snapshot_backup_count: if tuning.snapshot_backup { tuning.snapshot_backup_count } else { 0 },
    };
    let (store, stored) = Store::open(options, Box::new(sink))?;
    let read = |stored: StoredPeer| {
        let unreadable =
            |source| NodeError::Record { incarnation: stored.incarnation, log_dir: log_dir.clone(), source };
        let record: PeerRecord = codec::decode(&stored.record).map_err(unreadable)?;
        // Its cluster may have moved to another component since it was created.
        let base = match &stored.restored.snapshot {
            // One that cannot be opened stops its peer, when that is started.
            Some(meta) => {
                let opened = store.snapshots().open(stored.incarnation, meta.position);
                opened.ok().map(|reader| reader.header().backend)
            }
            None => Some(record.genesis.component),
        };
        Ok(FoundPeer { stored, record, base })
    };
    let peers = startup::in_parallel(stored, read).into_iter().collect::<Result<_, NodeError>>()?;
    Ok((store, peers))
}

/// The components that these peers run.
fn open_backends(backends: Backends, peers: &[FoundPeer]) -> Arc<Backends> {
    // What no peer runs is left of a cluster that was being created or removed when the node was killed.
    let components = peers.iter().flat_map(FoundPeer::components).collect();
    // Where it is not known what one needs, nothing goes.
    let is_known = peers.iter().all(|peer| peer.base.is_some());
    if is_known && let Err(error) = backends.keep_only(&components) {
        tracing::warn!(%error, "could not delete components that no peer runs");
    }
    Arc::new(backends)
}

fn raft_config(quiesce: bool) -> raft::Config {
    let values = raft::ConfigValues {
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        quiesce_ticks: if quiesce { QUIESCE_TICKS } else { 0 },
        ..raft::ConfigValues::default()
    };
    raft::Config::new(values).expect("the constants are a valid configuration")
}

fn wall_clock_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// Brings what the store reports to the loop. Called on the store's thread.
struct StoreEvents(mpsc::Sender<Event>);

impl DurableSink for StoreEvents {
    fn durable(&mut self, completions: Vec<Completion>) {
        // The loop takes events until the store is closed; after that nobody cares.
        let _ = self.0.blocking_send(Event::Durable(completions));
    }

    fn failed(&mut self, error: StoreError) {
        let _ = self.0.blocking_send(Event::StoreFailed(error));
    }
}

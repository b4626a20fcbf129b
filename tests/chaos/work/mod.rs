//! Clients, and the clusters that they use.
//!
//! | file | who |
//! |---|---|
//! | `worker` | one client: when it acts, and what it records |
//! | `outcome` | what an error of the library says of what was asked |
//! | `register`, `list`, `counter`, `bank`, `ephemeral`, `trigger` | what each kind of client does |

mod bank;
#[path = "../../../guests/bank/src/api.rs"]
mod bank_api;
mod counter;
mod ephemeral;
mod list;
mod outcome;
mod register;
mod trigger;
mod worker;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use zraft::client::{Client, NewCluster};
use zraft::settings::Settings;
use zraft::transport::{Credentials, TlsFiles};
use zraft::types::{NodeAddr, PeerId};

use crate::check::bank::{ACCOUNTS, BEGIN_WITH};
use crate::history::{History, Recorder, Workload};
use worker::Shared;

/// On how many nodes clusters are created.
const MEMBERS: usize = 3;

/// How long all clients together may take to end. Each gives up what it waits for long before.
const END_WITHIN: Duration = Duration::from_secs(240);

/// The nodes, and who their clients are.
#[derive(Clone)]
pub struct Target {
    /// All nodes. Clusters are created on the first three; the others may become members.
    pub addresses: Vec<NodeAddr>,
    /// A client's certificate.
    pub tls: TlsFiles,
    /// An admin's certificate.
    pub admin: TlsFiles,
}

/// A cluster that clients use.
#[derive(Clone, Debug)]
pub struct ClusterInfo {
    /// The name of its peers.
    pub name: String,
    /// The peers that it was created with.
    pub peers: Vec<PeerId>,
    /// The component that it was created with.
    pub backend: PathBuf,
    /// Another build, to and from which it may be upgraded at any time.
    pub other_backend: Option<PathBuf>,
}

/// All clients.
pub struct Workloads {
    shared: Shared,
    clusters: Vec<ClusterInfo>,
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Workloads {
    /// Creates the clusters and starts the clients.
    ///
    /// # Errors
    /// What could not be created.
    pub async fn start(target: Target, seed: u64, start: Instant) -> Result<Self, String> {
        let clusters = clusters(&target);
        let admin = Credentials::load(&target.admin).map_err(|error| error.to_string())?;
        let admin = Client::new(admin).map_err(|error| error.to_string())?;
        for cluster in &clusters {
            create(&admin, cluster).await.map_err(|why| format!("{}: {why}", cluster.name))?;
        }
        let (stop, stopped) = watch::channel(false);
        let shared = Shared::new(target, Recorder::new(start), seed, stopped);
        let mut clients = JoinSet::new();
        for member in 0..MEMBERS.min(shared.target.addresses.len()) {
            clients.spawn(register::run(shared.worker(Workload::Register)?));
            clients.spawn(register::read_at(shared.worker(Workload::Register)?, member));
        }
        for _ in 0..2 {
            clients.spawn(list::run(shared.worker(Workload::List)?));
            clients.spawn(counter::run(shared.worker(Workload::Counter)?));
            clients.spawn(bank::run(shared.worker(Workload::Bank)?));
            clients.spawn(ephemeral::own(shared.worker(Workload::Ephemeral)?));
            clients.spawn(trigger::watch(shared.worker(Workload::Trigger)?));
        }
        clients.spawn(ephemeral::look(shared.worker(Workload::Ephemeral)?));
        clients.spawn(trigger::change(shared.worker(Workload::Trigger)?));
        Ok(Self { shared, clusters, clients, stop })
    }

    #[must_use]
    pub fn clusters(&self) -> Vec<ClusterInfo> {
        self.clusters.clone()
    }

    /// Ends all clients, reads everything once more, and returns what was recorded. All faults must be over.
    ///
    /// # Panics
    /// If a client has panicked, or does not end.
    pub async fn finish(mut self) -> History {
        // Clients may have ended by themselves, of a panic; that is told below.
        let _ = self.stop.send(true);
        let end = async {
            while let Some(ended) = self.clients.join_next().await {
                ended.expect("a client ends without a panic");
            }
        };
        tokio::time::timeout(END_WITHIN, end).await.expect("all clients end");
        for workload in Workload::ALL {
            let Ok(worker) = self.shared.worker(workload) else { continue };
            match workload {
                Workload::Register => register::read_all(worker).await,
                Workload::List => list::read_all(worker).await,
                Workload::Counter => counter::read_all(worker).await,
                Workload::Bank => bank::read_all(worker).await,
                Workload::Ephemeral => ephemeral::look_until_gone(worker).await,
                // What its sessions have not told by their end, they never will.
                Workload::Trigger => {}
            }
        }
        self.shared.recorder.take()
    }
}

fn clusters(target: &Target) -> Vec<ClusterInfo> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cluster = |name: &str, backend: &str, other: Option<&str>| ClusterInfo {
        name: name.to_owned(),
        peers: target.peers(name).into_iter().take(MEMBERS).collect(),
        backend: root.join(backend),
        other_backend: other.map(|other| root.join(other)),
    };
    vec![
        cluster("kv", "guests/dist/kv.wasm", None),
        cluster("counter", "guests/dist/counter.wasm", None),
        cluster("bank", "tests/components/bank.wasm", Some("tests/components/bank-2.wasm")),
    ]
}

impl Target {
    /// A peer of that name on each node.
    fn peers(&self, name: &str) -> Vec<PeerId> {
        self.addresses.iter().map(|node| PeerId::new(name, node.clone()).expect("the name is valid")).collect()
    }
}

/// Snapshots every few seconds, with little log behind them, so that whoever was away for a while needs one.
fn settings() -> Settings {
    Settings { max_log_count: 200, kept_log_count: 20, min_log_percent: 0, ..Settings::default() }
}

async fn create(admin: &Client, cluster: &ClusterInfo) -> Result<(), String> {
    let component = tokio::fs::read(&cluster.backend).await.map_err(|error| error.to_string())?;
    let config = if cluster.name == "bank" { format!("{ACCOUNTS} {BEGIN_WITH}") } else { String::new() };
    let new = NewCluster {
        config: Bytes::from(config),
        settings: settings(),
        ..NewCluster::new(cluster.peers.clone(), Bytes::from(component))
    };
    let created = admin.create(new).await.map_err(|error| error.to_string())?;
    created.leader.map(drop).ok_or_else(|| "it has no leader".to_owned())
}

//! Three nodes of zraft with default settings: mutual TLS, the bundled kv component, separate instances, snapshots on.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use zraft::client::{Client, KvCommand, KvQuery, LightSession, Session, SessionOptions};
use zraft::load::{self, Driven, Measured, Plan, Service};
use zraft::transport::{Credentials, TlsFiles};
use zraft::types::PeerId;

use crate::processes::{Folder, PATIENCE, Process, free_port, until_some};
use crate::{CLIENTS_A_CONNECTION, Kind, Scenario, System};

const NODES: usize = 3;

/// The cluster that is compared.
pub const FIRST: &str = "kv";

pub struct Zraft {
    nodes: Vec<Process>,
    pub credentials: Credentials,
    /// Where the nodes listen.
    addresses: Vec<String>,
    binary: PathBuf,
    /// Where certificates are.
    pub certs: PathBuf,
}

/// Builds the binary, and returns where it is.
pub fn build() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let built = Command::new("cargo").args(["build", "--release", "--bin", "zraft"]).current_dir(&project).status();
    assert!(built.is_ok_and(|status| status.success()), "zraft cannot be built");
    project.join("target/release/zraft")
}

impl Zraft {
    /// Starts it and creates a cluster.
    pub fn start(folder: &Folder, binary: &Path) -> Self {
        let (certs, binary) = (folder.make("certs"), binary.to_owned());
        run(&binary, &certs, &["cert", "ca"]).unwrap_or_else(|error| panic!("{error}"));
        run(&binary, &certs, &["cert", "client", "admin", "--admin"]).unwrap_or_else(|error| panic!("{error}"));
        let addresses: Vec<_> = (0..NODES).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let start = |address: &String| {
            run(&binary, &certs, &["cert", "node", address]).unwrap_or_else(|error| panic!("{error}"));
            let stem = certs.join(address.replace(':', "-"));
            let data = folder.make(&format!("zraft-{}", address.replace(':', "-")));
            let config = data.join("zraft.toml");
            let text = format!(
                "node = \"{address}\"\nlog_dir = \"{data}/data\"\nca = \"{certs}/ca.pem\"\ncert = \"{stem}.pem\"\n\
                 key = \"{stem}-key.pem\"\n",
                data = data.display(),
                certs = certs.display(),
                stem = stem.display(),
            );
            std::fs::write(&config, text).expect("the folder can be written");
            let mut command = Command::new(&binary);
            Process::start(command.args(["serve", "--config"]).arg(&config), &data)
        };
        let nodes = addresses.iter().map(start).collect();
        let credentials = Credentials::load(&TlsFiles::in_folder(&certs, "admin")).expect("they were just made");
        let zraft = Self { nodes, credentials, addresses, binary, certs };
        zraft.create(FIRST);
        zraft
    }

    /// Creates another cluster.
    pub fn create(&self, name: &str) {
        let peers = self.peers(name).into_iter().map(|peer| peer.to_string());
        let arguments: Vec<_> = ["create", "--backend", "kv"].map(str::to_owned).into_iter().chain(peers).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        // Until all nodes answer.
        until_some("creating a cluster of zraft", || run(&self.binary, &self.certs, &arguments).ok());
    }

    /// The peers of a cluster.
    pub fn peers(&self, name: &str) -> Vec<PeerId> {
        self.addresses.iter().map(|address| format!("{name}@{address}").parse().expect("a peer")).collect()
    }

    /// Makes a certificate for another node.
    pub fn certify(&self, address: &str) {
        run(&self.binary, &self.certs, &["cert", "node", address]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// How much memory each node holds, in bytes.
    pub fn memory_of_nodes(&self) -> Vec<u64> {
        self.nodes.iter().map(Process::memory_bytes).collect()
    }
}

/// Runs a command of zraft, or tells what it said.
fn run(binary: &Path, certs: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(binary).args(arguments).env("ZRAFT_CERTS", certs).output();
    let output = output.unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("zraft {arguments:?}: {said}")) }
}

impl System for Zraft {
    fn name(&self) -> &'static str {
        "zraft"
    }

    fn measure(&self, scenario: &Scenario, plan: &Plan) -> Option<Measured> {
        let (clusters, has_sessions) = (vec![self.peers(FIRST)], scenario.kind == Kind::SessionWrites);
        let driven = Clusters { credentials: self.credentials.clone(), clusters, has_sessions };
        Some(load::run(&driven, plan, |_, _| {}).expect("zraft can be driven"))
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_of_nodes().iter().sum()
    }
}

/// Clusters that clients are dealt out to.
pub struct Clusters {
    pub credentials: Credentials,
    /// The peers of each.
    pub clusters: Vec<Vec<PeerId>>,
    pub has_sessions: bool,
}

impl Service for Clusters {
    type Client = One;

    async fn connect(&self, _thread: usize, count: usize) -> Result<Vec<One>, String> {
        let options =
            SessionOptions { request_timeout: PATIENCE, attempt_timeout: PATIENCE, ..SessionOptions::default() };
        let connect = |_| Client::new(self.credentials.clone()).map_err(|error| error.to_string());
        let connections = (0..count.div_ceil(CLIENTS_A_CONNECTION)).map(connect).collect::<Result<Vec<_>, String>>()?;
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let client = connections[number % connections.len()].clone();
            let peers = self.clusters[number % self.clusters.len()].clone();
            clients.push(if self.has_sessions {
                let connected = Session::connect_with(client, peers, PATIENCE, options).await;
                One::Session(connected.map_err(|error| error.to_string())?.0)
            } else {
                One::Light(Box::new(LightSession::with_options(client, peers, options)))
            });
        }
        Ok(clients)
    }
}

pub enum One {
    Light(Box<LightSession>),
    Session(Session),
}

impl Driven for One {
    async fn write(&mut self, key: u64, value: &[u8]) -> Result<(), String> {
        let command: Bytes = zraft::codec::encode(&KvCommand::Put { key: name(key), value: value.to_vec() }).into();
        match self {
            Self::Light(session) => session.write(command).await.map(drop).map_err(|error| error.to_string()),
            Self::Session(session) => session.write(command).await.map(drop).map_err(|error| error.to_string()),
        }
    }

    async fn read(&mut self, key: u64) -> Result<(), String> {
        let query: Bytes = zraft::codec::encode(&KvQuery::Get { key: name(key) }).into();
        match self {
            Self::Light(session) => session.query(query).await.map(drop).map_err(|error| error.to_string()),
            Self::Session(session) => session.query(query).await.map(drop).map_err(|error| error.to_string()),
        }
    }
}

fn name(key: u64) -> Vec<u8> {
    format!("key-{key:012}").into_bytes()
}

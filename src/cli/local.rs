//! A cluster on this machine, for `zraft demo` and `zraft dev`: real nodes with real certificates and files, in one
//! process.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::cli::cert::{self, Present};
use crate::cli::cluster::BUNDLED_KV;
use crate::cli::compile;
use crate::cli::output::Failure;
use crate::client::{Client, NewCluster};
use crate::node::{Config, Listen, Node, Tuning};
use crate::settings::Settings;
use crate::transport::issue::CertificateAuthority;
use crate::transport::{self, Credentials, TlsFiles};
use crate::types::{ClusterId, NodeAddr, PeerId};

/// The name of the admin's certificate.
pub(super) const ADMIN: &str = "admin";
/// The name of the peers of the first cluster.
const PEER_NAME: &str = "kv";
const DAYS: u32 = 365;

/// Some nodes, and what they were made from.
pub(super) struct Local {
    folder: PathBuf,
    addresses: Vec<NodeAddr>,
    /// Absent while stopped.
    nodes: Vec<Option<Node>>,
}

impl Local {
    /// Starts nodes that listen on these sockets, with files in `folder`; certificates are made where missing.
    pub(super) fn start(folder: &Path, sockets: Vec<UdpSocket>) -> Result<Self, Failure> {
        let mut local = Self { folder: folder.to_owned(), addresses: Vec::new(), nodes: Vec::new() };
        for socket in sockets {
            let address = socket.local_addr().map_err(|error| Failure::failed(format!("a socket failed: {error}")))?;
            let address: NodeAddr = address.to_string().parse().expect("a bound socket's address is host:port");
            local.addresses.push(address);
            local.nodes.push(None);
            local.start_node_on(local.nodes.len() - 1, Listen::Socket(socket))?;
        }
        Ok(local)
    }

    /// Starts a node that was stopped.
    pub(super) fn start_node(&mut self, number: usize) -> Result<(), Failure> {
        let address = self.addresses[number].as_str().parse().expect("nodes on this machine have IP addresses");
        self.start_node_on(number, Listen::Address(address))
    }

    fn start_node_on(&mut self, number: usize, listen: Listen) -> Result<(), Failure> {
        let node = self.addresses[number].clone();
        let data = self.node_folder(number);
        let config = Config {
            credentials: Credentials::load(&self.certificate(&node)?)?,
            node,
            listen,
            snapshot_listener: Listen::Address((Ipv4Addr::LOCALHOST, 0).into()),
            snapshot_advertised_addr: None,
            snapshot_dir: data.join("snapshots"),
            log_dir: data,
            tuning: Tuning { guest_threads: 1, ..Tuning::default() },
            compiler: compile::compiler()?,
            native: BTreeMap::new(),
        };
        self.nodes[number] = Some(Node::start(config)?);
        Ok(())
    }

    fn certificate(&self, node: &NodeAddr) -> Result<TlsFiles, Failure> {
        let (certs, name) = (self.certs(), cert::file_name(node));
        let files = TlsFiles::in_folder(&certs, &name);
        if !files.cert.exists() {
            let issued = authority(&certs)?.issue_node(node, &[], DAYS);
            cert::store(&certs, &name, &issued.map_err(|error| Failure::failed(error.to_string()))?, Present::Keep)?;
        }
        Ok(files)
    }

    /// Stops a node and waits for it.
    pub(super) async fn stop_node(&mut self, number: usize) -> Result<(), Failure> {
        stop_all(self.nodes[number].take()).await
    }

    /// Stops all nodes.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        stop_all(self.nodes.into_iter().flatten()).await
    }

    /// The folder with all certificates.
    pub(super) fn certs(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// The folder of a node's files.
    pub(super) fn node_folder(&self, number: usize) -> PathBuf {
        self.folder.join(format!("node-{}", number + 1))
    }

    pub(super) fn addresses(&self) -> &[NodeAddr] {
        &self.addresses
    }

    /// A peer of the kv cluster on each node.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.peers_named(PEER_NAME)
    }

    /// A peer of that name on each node.
    pub(super) fn peers_named(&self, name: &str) -> Vec<PeerId> {
        let peer = |node: &NodeAddr| PeerId::new(name, node.clone()).expect("the constant is a peer's name");
        self.addresses.iter().map(peer).collect()
    }

    /// A client that may do everything. Must be called within a runtime.
    pub(super) fn admin(&self) -> Result<Client, Failure> {
        let certs = self.certs();
        let files = TlsFiles::in_folder(&certs, ADMIN);
        if !files.cert.exists() {
            let issued = authority(&certs)?.issue_admin(ADMIN, DAYS);
            cert::store(&certs, ADMIN, &issued.map_err(|error| Failure::failed(error.to_string()))?, Present::Keep)?;
        }
        Ok(Client::new(Credentials::load(&files)?)?)
    }

    /// Creates the kv cluster.
    pub(super) async fn create_kv(&self, client: &Client, settings: Settings) -> Result<ClusterId, Failure> {
        let (peers, component) = (self.peers(), Bytes::from_static(BUNDLED_KV));
        Ok(client.create(NewCluster { settings, ..NewCluster::new(peers, component) }).await?.cluster)
    }
}

/// Stops nodes at once and waits for them.
async fn stop_all(nodes: impl IntoIterator<Item = Node>) -> Result<(), Failure> {
    let mut stops = JoinSet::new();
    for node in nodes {
        stops.spawn_blocking(move || node.stop_now());
    }
    stops.join_all().await.into_iter().try_for_each(|stopped| Ok(stopped?))
}

/// The CA in a folder, made if there is none.
fn authority(certs: &Path) -> Result<CertificateAuthority, Failure> {
    let files = TlsFiles::in_folder(certs, "ca");
    let failed = |error: String| Failure::failed(format!("the CA in {}: {error}", certs.display()));
    if files.cert.exists() {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| failed(error.to_string()));
        return CertificateAuthority::load(&read(&files.cert)?, &read(&files.key)?)
            .map_err(|error| failed(error.to_string()));
    }
    let authority = CertificateAuthority::create("zraft CA", 10 * DAYS).map_err(|error| failed(error.to_string()))?;
    cert::store(certs, "ca", authority.pem(), Present::Keep)?;
    Ok(authority)
}

/// A socket on that port of this machine.
pub(super) fn bind(port: u16) -> Result<UdpSocket, Failure> {
    Ok(transport::bind(([127, 0, 0, 1], port).into())?)
}

/// A socket on a free port of this machine, below the ports that the system gives to clients: one of those might be
/// given away while its node is down.
pub(super) fn bind_any() -> Result<UdpSocket, Failure> {
    const PORTS: std::ops::Range<u32> = 20_000..30_000;
    const ATTEMPTS: usize = 100;
    let mut last = Failure::failed("no port was tried");
    for _ in 0..ATTEMPTS {
        let random = getrandom::u32().map_err(|error| Failure::failed(format!("no randomness: {error}")))?;
        let port = PORTS.start + random % (PORTS.end - PORTS.start);
        match bind(u16::try_from(port).expect("the range is of ports")) {
            Ok(socket) => return Ok(socket),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

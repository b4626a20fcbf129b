//! Real nodes for tests: processes of the real binary on loopback, with certificates from `zraft cert`.

use std::cell::RefCell;
use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use zraft::client::{Client, Kv, LightSession};
use zraft::transport::{Credentials, TlsFiles};
use zraft::types::{NodeAddr, PeerId};

/// How long anything may take before it is taken for broken.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Some nodes and a folder with all their files.
pub struct Nodes {
    folder: TempDir,
    /// Where their data is: in the folder, unless it was set.
    data_dir: PathBuf,
    addresses: Vec<NodeAddr>,
    /// Absent while down.
    processes: Vec<Option<Child>>,
}

impl Nodes {
    /// Starts nodes, and returns once each answers.
    pub fn start(count: usize) -> Self {
        let mut nodes = Self::prepare(count);
        (0..count).for_each(|number| nodes.start_node(number));
        nodes
    }

    /// Makes addresses and certificates for nodes that are still to be started.
    pub fn prepare(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().to_owned();
        let address = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
        let addresses: Vec<NodeAddr> = (0..count).map(|_| address(free_port())).collect();
        let nodes = Self { folder, data_dir, addresses, processes: (0..count).map(|_| None).collect() };
        nodes.run_ok(&["cert", "ca"]);
        nodes.run_ok(&["cert", "client", "admin", "--admin"]);
        nodes.run_ok(&["cert", "client", "alice"]);
        for number in 0..count {
            nodes.run_ok(&["cert", "node", nodes.addresses[number].as_str()]);
        }
        nodes
    }

    /// Has the nodes keep their data elsewhere. Call it before the first is started.
    #[allow(dead_code, reason = "it is for tests/disk, which shares this harness")]
    pub fn keep_data_in(&mut self, dir: &Path) {
        self.data_dir = dir.to_owned();
    }

    /// Starts a node from its files.
    pub fn start_node(&mut self, number: usize) {
        self.start_node_with(number, "");
    }

    /// Starts a node from its files, with more lines in its configuration.
    pub fn start_node_with(&mut self, number: usize, settings: &str) {
        self.start_node_under(&[], number, settings);
    }

    /// The same by another program, whose arguments are followed by the node's command line and which becomes the node.
    pub fn start_node_under(&mut self, program: &[&str], number: usize, settings: &str) {
        let address = self.addresses[number].clone();
        let certs = self.certs();
        let stem = address.as_str().replace(':', "-");
        let log = File::options().create(true).append(true).open(self.log_file(number)).unwrap();
        let config = self.folder.path().join(format!("node-{number}.toml"));
        let text = format!(
            "node = \"{address}\"\nlog_dir = \"{data}\"\nca = \"certs/ca.pem\"\ncert = \"certs/{stem}.pem\"\n\
             key = \"certs/{stem}-key.pem\"\n{guest_threads}\n{settings}\n",
            data = self.data(number).display(),
            guest_threads = if settings.contains("guest_threads") { "" } else { "guest_threads = 1" },
        );
        std::fs::write(&config, text).unwrap();
        let words = [program, &[env!("CARGO_BIN_EXE_zraft"), "serve", "--config"]].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg(&config)
            .env("ZRAFT_CERTS", &certs)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes[number] = Some(child);
        until("the node answers", || self.zraft(&["status", address.as_str()]).status.success());
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        let mut process = self.processes[number].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGSTOP: the process stands still.
    #[allow(dead_code, reason = "tests/disk, which shares this harness, has no use for it")]
    pub fn pause(&self, number: usize) {
        self.signal(number, "-STOP");
    }

    /// SIGCONT: it goes on.
    #[allow(dead_code, reason = "tests/disk, which shares this harness, has no use for it")]
    pub fn resume(&self, number: usize) {
        self.signal(number, "-CONT");
    }

    /// SIGTERM; returns whether the process then ended well.
    pub fn terminate(&mut self, number: usize) -> bool {
        self.signal(number, "-TERM");
        self.wait_for_end(number).success()
    }

    fn signal(&self, number: usize, signal: &str) {
        let id = self.processes[number].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// The id of a node's process.
    #[allow(dead_code, reason = "tests/disk, which shares this harness, has no use for it")]
    pub fn process_id(&self, number: usize) -> u32 {
        self.processes[number].as_ref().unwrap().id()
    }

    /// Waits until a node has ended by itself.
    pub fn wait_for_end(&mut self, number: usize) -> ExitStatus {
        let process = RefCell::new(self.processes[number].take().unwrap());
        until_some("the process has ended", || process.borrow_mut().try_wait().unwrap())
    }

    pub fn address(&self, number: usize) -> &NodeAddr {
        &self.addresses[number]
    }

    /// A peer of that name on each node.
    pub fn peers(&self, name: &str) -> Vec<PeerId> {
        self.addresses.iter().map(|node| PeerId::new(name, node.clone()).unwrap()).collect()
    }

    pub fn certs(&self) -> PathBuf {
        self.folder.path().join("certs")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self, number: usize) -> PathBuf {
        self.data_dir.join(format!("data-{number}"))
    }

    /// What the node has logged so far.
    pub fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.log_file(number)).unwrap()
    }

    fn log_file(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("node-{number}.log"))
    }

    /// Runs `zraft` as the admin.
    pub fn zraft(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_zraft"))
            .args(arguments)
            .env("ZRAFT_CERTS", self.certs())
            .env_remove("ZRAFT_IDENTITY")
            .output()
            .unwrap()
    }

    /// Runs `zraft`, which must succeed, and returns what it printed.
    pub fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.zraft(arguments);
        assert!(output.status.success(), "zraft {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).trim_end().to_owned()
    }

    /// Runs `zraft`, which must fail with this exit code, and returns what it complained about.
    pub fn run_err(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.zraft(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "zraft {arguments:?}: {}{complaint}", text(&output.stdout));
        complaint
    }

    /// Creates a cluster with a peer of that name on each node.
    pub fn create(&self, name: &str, backend: &str, options: &[&str]) {
        let peers: Vec<_> = self.peers(name).iter().map(ToString::to_string).collect();
        let mut arguments = vec!["create", "--backend", backend];
        arguments.extend(options);
        arguments.extend(peers.iter().map(String::as_str));
        self.run_ok(&arguments);
    }

    /// A peer's status, as `zraft status --json` prints it; none while its node is down or has no such peer.
    pub fn status(&self, peer: &PeerId) -> Option<Value> {
        let output = self.zraft(&["status", "--json", &peer.to_string()]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        output.status.success().then(|| status["peers"][0].clone())
    }

    /// The number of the node whose peer leads, once there is one.
    pub fn leader(&self, name: &str) -> usize {
        let peers = self.peers(name);
        let leads = |peer: &PeerId| self.status(peer).is_some_and(|status| status["role"] == "leader");
        until_some("there is a leader", || peers.iter().position(leads))
    }

    /// Waits until all peers have applied the same, at least up to the most advanced one, and returns their status.
    pub fn until_equal(&self, name: &str) -> Vec<Value> {
        let peers = self.peers(name);
        until_some("all peers are equal", || {
            let all: Vec<_> = peers.iter().map(|peer| self.status(peer)).collect::<Option<_>>()?;
            let first = &all[0];
            let is_equal = |status: &Value| {
                status["applied"] == first["applied"]
                    && status["chain"] == first["chain"]
                    && status["applied"] == status["last"]
            };
            all.iter().all(is_equal).then_some(all)
        })
    }

    /// A client of the library with the admin's certificate. Must be called within a runtime.
    pub fn client(&self) -> Client {
        Client::new(Credentials::load(&TlsFiles::in_folder(&self.certs(), "admin")).unwrap()).unwrap()
    }

    /// A key-value session of the library. Must be called within a runtime.
    pub fn kv(&self, name: &str) -> Kv {
        Kv::new(LightSession::new(self.client(), self.peers(name)))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for mut process in self.processes.iter_mut().filter_map(Option::take) {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            // One that was never started has none.
            for number in (0..self.addresses.len()).filter(|number| self.log_file(*number).exists()) {
                eprintln!("--- log of node {number}\n{}", self.log(number));
            }
        }
    }
}

/// A component whose snapshots have so many megabytes.
#[allow(dead_code, reason = "tests/disk, which shares this harness, has no use for it")]
pub fn bulky(megabytes: usize) -> Vec<u8> {
    let chunks = (megabytes * 1_000_000).div_ceil(zraft::machine::Machine::MAX_CHUNK_BYTES as usize).to_string();
    wat::parse_str(include_str!("../components/bulky.wat").replace("CHUNKS)", &format!("{chunks})"))).unwrap()
}

/// A UDP port that is free and stays so while its node is down: below those that the system gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at once begin at different places.
    let begin = u16::try_from(std::process::id() % 500).unwrap() * 40;
    loop {
        let port = 10_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits until there is something.
pub fn until_some<T>(what: &str, find: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(POLL);
    }
}

/// A runtime for the library's client.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

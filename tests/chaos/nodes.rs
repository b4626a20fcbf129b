//! The nodes: processes of the real binary, each in its namespace, on its disk and with its clock.

use std::cell::{RefCell, RefMut};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use zraft::transport::TlsFiles;
use zraft::types::NodeAddr;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::net::Network;
use crate::shell;

/// How often it is looked whether a process has ended.
const POLL: Duration = Duration::from_millis(20);
/// The name of the admin's certificate, and of the clients'.
const ADMIN: &str = "admin";
const CLIENT: &str = "client";

/// How the processes are to be run.
pub struct Program {
    /// The binary.
    pub binary: PathBuf,
    /// The bug that it is told to have, if it was built with any.
    pub planted: Option<String>,
}

/// All nodes. Those that run are killed when it is dropped.
pub struct Nodes {
    nodes: Vec<Node>,
    folder: PathBuf,
    program: Program,
}

struct Node {
    address: NodeAddr,
    namespace: String,
    disk: Disk,
    clock: Clock,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    process: Option<Child>,
    /// Set while a fault may make it end.
    may_end: bool,
}

impl Nodes {
    /// Prepares nodes: certificates, configurations, disks and clocks. Logs and what is to be kept go to `folder`, all else
    /// to `scratch`.
    pub fn prepare(
        network: &Network,
        count: usize,
        program: Program,
        folder: &Path,
        scratch: &Path,
    ) -> Result<Self, String> {
        let mut nodes = Vec::new();
        for number in 0..count {
            nodes.push(Node {
                address: network.address(number),
                namespace: network.namespace(number).to_owned(),
                disk: Disk::mount_new(scratch, number)?,
                clock: Clock::new(scratch, number)?,
                state: RefCell::default(),
            });
        }
        let nodes = Self { nodes, folder: folder.to_owned(), program };
        nodes.certify()?;
        for number in 0..count {
            nodes.configure(number)?;
        }
        Ok(nodes)
    }

    fn certify(&self) -> Result<(), String> {
        self.certificate(&["ca"])?;
        self.certificate(&["client", ADMIN, "--admin"])?;
        self.certificate(&["client", CLIENT])?;
        self.nodes.iter().try_for_each(|node| self.certificate(&["node", node.address.as_str()]))
    }

    /// Certificates are made a month ago, so that nodes whose clocks are days slow do not find them not yet valid.
    fn certificate(&self, arguments: &[&str]) -> Result<(), String> {
        let mut words = self.nodes[0].clock.environment_at("-30d");
        words.push(format!("ZRAFT_CERTS={}", self.certs().display()));
        words.push(self.program.binary.to_string_lossy().into_owned());
        words.push("cert".to_owned());
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        shell::run("env", &words).map(drop)
    }

    fn configure(&self, number: usize) -> Result<(), String> {
        let node = &self.nodes[number];
        let stem = node.address.as_str().replace(':', "-");
        let text = format!(
            "node = \"{}\"\nlog_dir = \"{}\"\nca = \"certs/ca.pem\"\ncert = \"certs/{stem}.pem\"\n\
             key = \"certs/{stem}-key.pem\"\nguest_threads = 1\n",
            node.address,
            self.data(number).display(),
        );
        fs::write(self.config(number), text).map_err(|error| format!("a node's configuration: {error}"))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where all of them are.
    pub fn addresses(&self) -> Vec<NodeAddr> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Where a node keeps its data.
    pub fn data(&self, number: usize) -> PathBuf {
        self.nodes[number].disk.path().join("data")
    }

    /// The disk of a node.
    pub fn disk(&self, number: usize) -> &Disk {
        &self.nodes[number].disk
    }

    /// The wall clock of a node.
    pub fn clock(&self, number: usize) -> &Clock {
        &self.nodes[number].clock
    }

    /// The admin's certificate.
    pub fn admin(&self) -> TlsFiles {
        TlsFiles::in_folder(&self.certs(), ADMIN)
    }

    /// The clients' certificate.
    pub fn client(&self) -> TlsFiles {
        TlsFiles::in_folder(&self.certs(), CLIENT)
    }

    /// What a node has logged so far.
    pub fn log(&self, number: usize) -> Result<String, String> {
        let path = self.log_file(number);
        fs::read(&path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| format!("cannot read the log {}: {error}", path.display()))
    }

    /// Starts a node from its files.
    pub fn start(&self, number: usize) -> Result<(), String> {
        let node = &self.nodes[number];
        let log = File::options().create(true).append(true).open(self.log_file(number));
        let log = log.map_err(|error| format!("cannot write a log: {error}"))?;
        let planted = self.program.planted.iter().map(|name| format!("ZRAFT_PLANTED={name}"));
        // `nsenter` and `env` become what they start, so the child is the node itself. `ip netns exec` would do the same, but
        // give it a namespace of mounts, too, in which it kept the disks of others mounted.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.namespace))
            .arg("env")
            .args(node.clock.environment())
            .args(planted)
            .arg(&self.program.binary)
            .args(["serve", "--config"])
            .arg(self.config(number))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let mut state = self.state(number);
        state.process = Some(child.map_err(|error| format!("node {number} cannot be started: {error}"))?);
        state.may_end = false;
        Ok(())
    }

    /// `kill -9`. Fails if the node had ended already: nothing may end it but what was planned.
    pub fn kill(&self, number: usize) -> Result<(), String> {
        let process = self.state(number).process.take();
        let mut process = process.ok_or_else(|| format!("node {number} should run"))?;
        let ended = process.kill().and_then(|()| process.wait());
        let status = ended.map_err(|error| format!("node {number} cannot be killed: {error}"))?;
        if status.signal() == Some(9) { Ok(()) } else { Err(self.unexpected(number, status)) }
    }

    /// The same for a node that may have ended by itself.
    pub fn end(&self, number: usize) -> Result<(), String> {
        let process = self.state(number).process.take();
        let mut process = process.ok_or_else(|| format!("node {number} should run"))?;
        let ended = process.kill().and_then(|()| process.wait());
        ended.map(drop).map_err(|error| format!("node {number} cannot be killed: {error}"))
    }

    /// The id of a node's process.
    pub fn process(&self, number: usize) -> Result<String, String> {
        let state = self.state(number);
        let process = state.process.as_ref().ok_or_else(|| format!("node {number} should run"))?;
        Ok(process.id().to_string())
    }

    /// SIGSTOP: the process stands still.
    pub fn pause(&self, number: usize) -> Result<(), String> {
        shell::run("kill", &["-STOP", &self.process(number)?]).map(drop)
    }

    /// SIGCONT: it goes on.
    pub fn resume(&self, number: usize) -> Result<(), String> {
        shell::run("kill", &["-CONT", &self.process(number)?]).map(drop)
    }

    /// From now on a fault may make it end, until it is started the next time or [`Nodes::must_stay`].
    pub fn may_end(&self, number: usize) {
        self.state(number).may_end = true;
    }

    /// The fault is over.
    pub fn must_stay(&self, number: usize) {
        self.state(number).may_end = false;
    }

    /// Waits until a node has ended by itself; none if it has not in time.
    pub async fn wait_for_end(&self, number: usize, limit: Duration) -> Result<Option<ExitStatus>, String> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.look(number)? {
                self.state(number).process = None;
                return Ok(Some(status));
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The first node found that has ended though nothing was done to it that may end it.
    pub fn ended_unexpectedly(&self) -> Result<(), String> {
        for number in 0..self.nodes.len() {
            if let Some(status) = self.look(number)?.filter(|_| !self.state(number).may_end) {
                return Err(self.unexpected(number, status));
            }
        }
        Ok(())
    }

    fn look(&self, number: usize) -> Result<Option<ExitStatus>, String> {
        let mut state = self.state(number);
        let Some(process) = &mut state.process else { return Ok(None) };
        process.try_wait().map_err(|error| format!("node {number}: {error}"))
    }

    fn unexpected(&self, number: usize, status: ExitStatus) -> String {
        let log = self.log(number).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        format!("node {number} stopped unexpectedly: {status}; it said last: {last}")
    }

    /// Runs `zraft` itself, which must succeed, and returns what it printed.
    pub fn zraft(&self, arguments: &[&str]) -> Result<String, String> {
        let certs = format!("ZRAFT_CERTS={}", self.certs().display());
        let binary = self.program.binary.to_string_lossy();
        shell::run("env", &[&[certs.as_str(), &binary], arguments].concat())
    }

    /// What `zraft store check` finds damaged in the files of a node that is down.
    pub fn damage(&self, number: usize) -> Option<String> {
        let check = Command::new(&self.program.binary).args(["store", "check"]).arg(self.data(number)).output();
        let output = match check {
            Ok(output) if output.status.success() => return None,
            Ok(output) => output,
            Err(error) => return Some(error.to_string()),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let damaged = text.lines().find(|line| line.starts_with("DAMAGED")).or(text.lines().last());
        let damaged = damaged.unwrap_or("it failed without a word").trim_start_matches("DAMAGED ");
        Some(damaged.replace(&format!("{}/", self.data(number).display()), ""))
    }

    /// Copies what the nodes have on their disks to the folder that is kept.
    pub fn keep_data(&self) -> Result<(), String> {
        for number in 0..self.nodes.len() {
            let to = self.folder.join(format!("data-{number}"));
            shell::run("cp", &["-r".as_ref(), self.data(number).as_os_str(), to.as_os_str()])?;
        }
        Ok(())
    }

    /// Undoes what faults may have left that were cut short; returns what cannot be undone.
    pub fn mend(&self) -> Vec<String> {
        let mut errors = Vec::new();
        for number in 0..self.nodes.len() {
            if self.disk(number).is_filled() {
                errors.extend(self.disk(number).empty().err());
            }
            let runs = self.look(number).is_ok_and(|ended| ended.is_none()) && self.process(number).is_ok();
            errors.extend(if runs { self.resume(number) } else { self.start(number) }.err());
        }
        errors
    }

    /// Ends all nodes that run.
    pub fn kill_all(&self) {
        for number in 0..self.nodes.len() {
            if let Some(mut process) = self.state(number).process.take() {
                // It may have ended already.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }

    fn state(&self, number: usize) -> RefMut<'_, State> {
        self.nodes[number].state.borrow_mut()
    }

    fn certs(&self) -> PathBuf {
        self.folder.join("certs")
    }

    fn config(&self, number: usize) -> PathBuf {
        self.folder.join(format!("node-{number}.toml"))
    }

    fn log_file(&self, number: usize) -> PathBuf {
        self.folder.join(format!("node-{number}.log"))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_all();
    }
}

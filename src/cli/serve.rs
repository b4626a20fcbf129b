//! `zraft serve`: one node, until it is told to stop.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::output::Failure;
use crate::cli::{compile, log, runtime};
use crate::node::{Node, Settings};
use crate::types::NodeAddr;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// A TOML file with settings; flags come before it.
    #[arg(long, value_name = "FILE", env = "ZRAFT_CONFIG")]
    config: Option<PathBuf>,
    /// The advertised address, host:port, for which the certificate is.
    #[arg(long)]
    node: Option<NodeAddr>,
    /// The address to listen on, if not the advertised one.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// The folder for log and components.
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// The folder for snapshots [default: `snapshots` in the log's].
    #[arg(long, value_name = "DIR")]
    snapshot_dir: Option<PathBuf>,
    /// The CA's certificate.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The node's certificate.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The certificate's private key.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How long to wait for a sign of the leader before an election [default: 500].
    #[arg(long, value_name = "MS")]
    election_timeout_ms: Option<u64>,
    /// Copy each snapshot to `archive` in the snapshots' folder as well [default: false].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    snapshot_backup: Option<bool>,
    /// How many snapshots of each peer the archive holds [default: 10].
    #[arg(long, value_name = "N")]
    snapshot_backup_count: Option<usize>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        log("info");
        let file = self.config.as_deref().map(Settings::load).transpose()?.unwrap_or_default();
        let flags = Settings {
            node: self.node,
            listen: self.listen,
            log_dir: self.log_dir,
            snapshot_dir: self.snapshot_dir,
            ca: self.ca,
            cert: self.cert,
            key: self.key,
            election_timeout_ms: self.election_timeout_ms,
            snapshot_backup: self.snapshot_backup,
            snapshot_backup_count: self.snapshot_backup_count,
            ..Settings::default()
        };
        let node = Node::start(flags.or(file).into_config(compile::compiler()?)?)?;
        stop_on_signal(&node)?;
        Ok(node.wait()?)
    }
}

/// Has the first SIGINT or SIGTERM stop the node without a loss to its clients, and the second at once.
pub(super) fn stop_on_signal(node: &Node) -> Result<(), Failure> {
    let stopper = node.stopper();
    let runtime = runtime()?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let wait = move || {
        for _ in 0..2 {
            runtime.block_on(signals.received());
            stopper.stop();
        }
    };
    let spawned = std::thread::Builder::new().name("zraft-signals".to_owned()).spawn(wait);
    spawned.map(drop).map_err(|error| Failure::failed(format!("the system refused a thread: {error}")))
}

/// SIGINT and SIGTERM, which end nothing by themselves from when this listens.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one, or finds one that has come before.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

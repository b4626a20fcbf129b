//! `zraft serve`: one node, until it is told to stop.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::output::Failure;
use crate::cli::{compile, log, runtime};
use crate::node::{Node, Settings};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// A TOML file with settings; flags and the environment come before it.
    #[arg(long, value_name = "FILE", env = "ZRAFT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        log("info");
        #[cfg(feature = "planted")]
        plant()?;
        let file = self.config.as_deref().map(Settings::load).transpose()?.unwrap_or_default();
        let node = Node::start(self.settings.or(file).into_config(compile::compiler()?)?)?;
        stop_on_signal(&node)?;
        Ok(node.wait()?)
    }
}

/// A build that may have a bug has exactly the one that the environment names, and says so.
#[cfg(feature = "planted")]
fn plant() -> Result<(), Failure> {
    use crate::planted::{self, Bug};
    let name = std::env::var("ZRAFT_PLANTED").unwrap_or_default();
    let bug = Bug::named(&name).ok_or_else(|| {
        let names = Bug::ALL.map(|(name, _)| name).join(", ");
        Failure::usage(format!(
            "this build is for tests alone: set ZRAFT_PLANTED to the bug that it is to have ({names})"
        ))
    })?;
    planted::plant(bug);
    tracing::error!(%name, "THIS NODE HAS A BUG, planted on purpose: do not give it data");
    Ok(())
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

//! `zraft dev`: a cluster to develop against.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::local::{ADMIN, Local, bind};
use crate::cli::output::{Failure, Output};
use crate::cli::serve::Signals;
use crate::cli::{log, runtime};
use crate::settings::Settings;

/// The most nodes of a cluster on one machine.
const MAX_NODES: u16 = 7;

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
    /// The UDP port of the first node; the others have the ports after it.
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// The folder for files and certificates. They are used again the next time.
    #[arg(long, value_name = "DIR", default_value = "zraft-dev")]
    data: PathBuf,
}

impl Dev {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        log("warn");
        let ports = (0..self.nodes).map(|number| self.port.checked_add(number));
        let sockets = ports.map(|port| bind(port.ok_or_else(|| Failure::usage("the ports end at 65535"))?));
        let local = Local::start(&self.data, sockets.collect::<Result<_, _>>()?)?;
        let runtime = runtime()?;
        runtime.block_on(async {
            // Before anybody can find the nodes ready, and so stop them.
            let mut signals = Signals::listen()?;
            let client = local.admin()?;
            let first = client.status(&local.addresses()[0]).await?;
            if first.peers.is_empty() {
                local.create_kv(&client, Settings::default()).await?;
            }
            self.explain(&local, output);
            signals.received().await;
            Ok::<_, Failure>(())
        })?;
        output.say("\nstopping; the data is kept");
        runtime.block_on(local.stop())
    }

    fn explain(&self, local: &Local, output: Output) {
        let peers: Vec<_> = local.peers().iter().map(ToString::to_string).collect();
        // Absolute, for those who change folders.
        let certs = std::path::absolute(local.certs()).unwrap_or_else(|_| local.certs());
        let text = format!(
            "A kv cluster runs on {count} nodes of this machine. Try, in another terminal:\n\n  \
             export ZRAFT_CERTS={certs}\n  \
             zraft kv put {first} greeting hello\n  \
             zraft kv get {last} greeting\n  \
             zraft status {nodes}\n\n\
             Files are in {data}. Ctrl-C stops the nodes; the data is kept.",
            count = peers.len(),
            certs = certs.display(),
            first = peers[0],
            last = peers[peers.len() - 1],
            nodes = local.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            data = self.data.display(),
        );
        output.result(text, &json!({ "peers": peers, "certs": certs, "identity": ADMIN }));
    }
}

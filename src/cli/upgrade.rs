//! `zraft upgrade`.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use crate::cli::block_on;
use crate::cli::cluster::read_component;
use crate::cli::connect::Identity;
use crate::cli::data::bytes_of;
use crate::cli::output::{Failure, Output};
use crate::protocol::MAX_MIGRATION_BYTES;
use crate::types::{Digest, PeerId};

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// Any peer of the cluster, name@host:port.
    peer: PeerId,
    /// What becomes the backend: a component or core module in a file, or one that comes with zraft: `kv`, `lock`, `queue` or
    /// `counter`. It gets the state of the present one.
    #[arg(long, value_name = "FILE")]
    backend: PathBuf,
    /// What the new backend is told along with the state, as it understands it; `-` reads standard input.
    #[arg(long, value_name = "DATA")]
    migrate: Option<String>,
    /// How long to wait, in milliseconds: the nodes may have to compile the component.
    #[arg(long, value_name = "MS", default_value_t = 360_000)]
    timeout_ms: u64,
    #[command(flatten)]
    identity: Identity,
}

impl Upgrade {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let component = read_component(&self.backend)?;
        let migration = self.migrate.map(bytes_of).transpose()?.map(Bytes::from);
        if migration.as_ref().is_some_and(|migration| migration.len() > MAX_MIGRATION_BYTES) {
            return Err(Failure::usage(format!("--migrate takes at most {MAX_MIGRATION_BYTES} bytes")));
        }
        let (peer, digest, timeout) = (self.peer, Digest::of(&component), Duration::from_millis(self.timeout_ms));
        block_on(async {
            let index = self.identity.client()?.upgrade(&peer, component, migration, timeout).await?;
            let text = match index {
                Some(index) => format!("the cluster of {peer} runs {digest} from entry {index} on"),
                None => format!("the cluster of {peer} runs {digest} already"),
            };
            output.result(text, &json!({ "backend": digest.to_string(), "index": index.map(|index| index.0) }));
            Ok(())
        })
    }
}

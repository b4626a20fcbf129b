//! `zraft write` and `zraft query`: bytes to any backend.

use std::io::Read as _;

use clap::Args;
use serde_json::json;

use crate::cli::block_on;
use crate::cli::connect::{Identity, Peers};
use crate::cli::output::{Failure, Output};

#[derive(Debug, Args)]
pub(super) struct Write {
    /// A peer of the cluster, name@host:port; several separated by commas.
    peers: Peers,
    /// The command, as the backend understands it; `-` reads standard input.
    data: String,
    #[command(flatten)]
    identity: Identity,
}

impl Write {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let data = bytes_of(self.data)?;
        block_on(async {
            let written = self.identity.session(&self.peers)?.write(data).await?;
            output.reply(&written.reply, json!({ "index": written.index.0 }));
            Ok(())
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Query {
    /// A peer of the cluster, name@host:port; several separated by commas.
    peers: Peers,
    /// The query, as the backend understands it; `-` reads standard input.
    data: String,
    #[command(flatten)]
    identity: Identity,
}

impl Query {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let data = bytes_of(self.data)?;
        block_on(async {
            let reply = self.identity.session(&self.peers)?.query(data).await?;
            output.reply(&reply, json!({}));
            Ok(())
        })
    }
}

pub(super) fn bytes_of(argument: String) -> Result<Vec<u8>, Failure> {
    if argument != "-" {
        return Ok(argument.into_bytes());
    }
    let mut data = Vec::new();
    let read = std::io::stdin().read_to_end(&mut data);
    read.map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
    Ok(data)
}

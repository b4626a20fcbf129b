//! `zraft kv`: the bundled key-value backend.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::cli::connect::{Identity, Peers};
use crate::cli::output::{Failure, Output, bytes_as_json};
use crate::client::{self, KvEntry};

#[derive(Debug, Subcommand)]
pub(super) enum Kv {
    /// Store a value under a key.
    Put {
        #[command(flatten)]
        target: Target,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Print the value under a key.
    Get {
        #[command(flatten)]
        target: Target,
        /// The key.
        key: String,
    },
    /// Remove a key.
    Del {
        #[command(flatten)]
        target: Target,
        /// The key.
        key: String,
    },
    /// List keys and values in order.
    List {
        #[command(flatten)]
        target: Target,
        /// Only keys that begin with this.
        #[arg(default_value = "")]
        prefix: String,
        /// At most this many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
}

#[derive(Debug, Args)]
pub(super) struct Target {
    /// A peer of the cluster, name@host:port; several separated by commas.
    peers: Peers,
    #[command(flatten)]
    identity: Identity,
}

impl Target {
    fn kv(&self) -> Result<client::Kv, Failure> {
        Ok(client::Kv::new(self.identity.session(&self.peers)?))
    }
}

impl Kv {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        block_on(async {
            match self {
                Self::Put { target, key, value } => {
                    let index = target.kv()?.put(key, value).await?;
                    output.result(format_args!("written at index {index}"), &json!({ "index": index.0 }));
                }
                Self::Get { target, key } => match target.kv()?.get(key.clone()).await? {
                    Some(entry) => output.result(String::from_utf8_lossy(&entry.value), &entry_as_json(&entry)),
                    None => return Err(Failure::absent(format!("there is no key '{key}'"))),
                },
                Self::Del { target, key } => match target.kv()?.delete(key.clone()).await? {
                    true => output.result("deleted", &json!({ "deleted": true })),
                    false => return Err(Failure::absent(format!("there is no key '{key}'"))),
                },
                Self::List { target, prefix, limit } => {
                    for entry in target.kv()?.list(prefix, limit).await? {
                        let (key, value) = (String::from_utf8_lossy(&entry.key), String::from_utf8_lossy(&entry.value));
                        output.result(format_args!("{key}\t{value}"), &entry_as_json(&entry));
                    }
                }
            }
            Ok(())
        })
    }
}

pub(super) fn entry_as_json(entry: &KvEntry) -> Value {
    json!({
        "key": bytes_as_json(&entry.key),
        "value": bytes_as_json(&entry.value),
        "index": entry.index,
        "session": entry.session,
    })
}

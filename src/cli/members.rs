//! `zraft members`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::cli::connect::{Identity, Peers};
use crate::cli::output::{Failure, Output};
use crate::protocol::Membership;
use crate::types::PeerId;

#[derive(Debug, Args)]
pub(super) struct Members {
    /// Any peer of the cluster, name@host:port.
    peer: PeerId,
    /// The peers that there are to be, separated by commas. New ones are made on their nodes, others removed.
    #[arg(long, value_name = "PEERS", requires = "from")]
    set: Option<Peers>,
    /// The peers that there must be now, separated by commas: else nothing is changed.
    #[arg(long, value_name = "PEERS", requires = "set")]
    from: Option<Peers>,
    /// How long to wait, in milliseconds. A change that has begun goes on by itself.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    timeout_ms: u64,
    #[command(flatten)]
    identity: Identity,
}

impl Members {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let timeout = Duration::from_millis(self.timeout_ms);
        block_on(async {
            let client = self.identity.client()?;
            if let (Some(Peers(new)), Some(Peers(old))) = (&self.set, &self.from) {
                client.set_new_conf(&self.peer, new, old, timeout).await?;
                let new: Vec<_> = names(new);
                output.result(format_args!("the peers are now {}", new.join(" ")), &json!({ "peers": new }));
                return Ok(());
            }
            let membership = client.get_conf(&self.peer, timeout).await?;
            output.result(as_text(&membership), &as_json(&membership));
            Ok(())
        })
    }
}

/// Peers as they are typed.
pub(super) fn names(peers: &[PeerId]) -> Vec<String> {
    peers.iter().map(ToString::to_string).collect()
}

fn as_text(membership: &Membership) -> String {
    let Membership { leader, index, peers, joining, leaving } = membership;
    let mut text = format!("peers {}\nleader {leader}, as of index {index}", names(peers).join(" "));
    for (what, who) in [("joining", joining), ("leaving", leaving)].into_iter().filter(|(_, who)| !who.is_empty()) {
        text.push_str(&format!("\n{what} {}", names(who).join(" ")));
    }
    text
}

fn as_json(membership: &Membership) -> Value {
    json!({
        "leader": membership.leader.to_string(),
        "index": membership.index.0,
        "peers": names(&membership.peers),
        "joining": names(&membership.joining),
        "leaving": names(&membership.leaving),
        "stable": membership.is_stable(),
    })
}

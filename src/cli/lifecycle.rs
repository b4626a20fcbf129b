//! `zraft list`, `zraft transfer` and `zraft delete`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::cli::connect::Identity;
use crate::cli::members::names;
use crate::cli::output::{Failure, Output};
use crate::protocol::PeerStatus;
use crate::types::{ClusterId, NodeAddr, PeerId};

#[derive(Debug, Args)]
pub(super) struct List {
    /// The nodes to ask, host:port each.
    #[arg(required = true)]
    nodes: Vec<NodeAddr>,
    #[command(flatten)]
    identity: Identity,
}

impl List {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        block_on(async {
            let client = self.identity.client()?;
            let mut clusters: BTreeMap<ClusterId, Vec<PeerStatus>> = BTreeMap::new();
            let mut unreachable = None;
            for node in &self.nodes {
                match client.status(node).await {
                    Ok(status) => {
                        status.peers.into_iter().for_each(|peer| clusters.entry(peer.cluster).or_default().push(peer));
                    }
                    Err(error) => {
                        output.say(format_args!("node {node}: {error}"));
                        unreachable = Some(error);
                    }
                }
            }
            let lines: Vec<_> = clusters.iter().map(|(cluster, peers)| as_text(*cluster, peers)).collect();
            let text = if lines.is_empty() { "no clusters".to_owned() } else { lines.join("\n") };
            let all: Vec<_> = clusters.iter().map(|(cluster, peers)| as_json(*cluster, peers)).collect();
            output.result(text, &json!({ "clusters": all }));
            unreachable.map_or(Ok(()), |error| Err(error.into()))
        })
    }
}

/// What the peer knows of its cluster that is in the latest term.
fn latest(peers: &[PeerStatus]) -> &PeerStatus {
    peers.iter().max_by_key(|peer| (peer.term, peer.leader.is_some())).expect("a cluster was found by a peer of it")
}

fn as_text(cluster: ClusterId, peers: &[PeerStatus]) -> String {
    let PeerStatus { leader, members, component, .. } = latest(peers);
    let leader = leader.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    format!("cluster {cluster}\n  peers {}\n  leader {leader}\n  backend {component}", names(members).join(" "))
}

fn as_json(cluster: ClusterId, peers: &[PeerStatus]) -> Value {
    let PeerStatus { leader, members, component, .. } = latest(peers);
    json!({
        "cluster": cluster.to_string(),
        "peers": names(members),
        "leader": leader.as_ref().map(ToString::to_string),
        "backend": component.to_string(),
    })
}

#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// Any peer of the cluster, name@host:port.
    peer: PeerId,
    /// Who is to lead; else the one on another node that has most of the log.
    #[arg(long, value_name = "PEER")]
    to: Option<PeerId>,
    /// How long to wait, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u64,
    #[command(flatten)]
    identity: Identity,
}

impl Transfer {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let timeout = Duration::from_millis(self.timeout_ms);
        block_on(async {
            let leader = self.identity.client()?.transfer(&self.peer, self.to.as_ref(), timeout).await?;
            output.result(format_args!("{leader} leads"), &json!({ "leader": leader.to_string() }));
            Ok(())
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Any peer of the cluster, name@host:port.
    peer: PeerId,
    /// Do it: the data of all its peers is lost.
    #[arg(long)]
    yes: bool,
    /// Delete what can be deleted, as far as this peer knows the others: of a cluster that has lost its majority, or was
    /// deleted in part.
    #[arg(long)]
    force: bool,
    /// How long to wait, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    timeout_ms: u64,
    #[command(flatten)]
    identity: Identity,
}

impl Delete {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        if !self.yes {
            let peer = &self.peer;
            return Err(Failure::usage(format!(
                "the cluster of {peer} would be deleted with all its data: `zraft members {peer}` shows its peers; say --yes \
                 to do it"
            )));
        }
        let timeout = Duration::from_millis(self.timeout_ms);
        block_on(async {
            let client = self.identity.client()?;
            match self.force {
                true => client.delete_by_force(&self.peer, timeout).await?,
                false => client.delete(&self.peer, timeout).await?,
            }
            output.result(format_args!("the cluster of {} is deleted", self.peer), &json!({ "deleted": true }));
            Ok(())
        })
    }
}

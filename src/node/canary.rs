//! Canaries: another backend that runs beside a peer's own before a cluster moves to it. `host/canary.rs` has what it does; this is
//! how it begins.
//!
//! Only the peer's own node takes part. It is to be a follower's: what a canary takes of the processors then slows down nobody's
//! write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::machine::Genesis;
use crate::node::driver::{Driver, Event};
use crate::node::host::{CanaryOrder, HostJob};
use crate::node::lifecycle::{Lifecycle, check_announced};
use crate::node::network::CallError;
use crate::node::upgrade::failure;
use crate::protocol::{CanaryEnd, CanaryReport, MAX_CANARY_MS, RequestError, RunCanary, UpgradeRefusal};
use crate::types::{Index, PeerId};

/// Canaries that run on a node at a time: each has a state of its own in memory.
pub(super) const MAX_CANARIES: usize = 1;

/// What the loop hears of canaries.
pub(super) enum CanaryEvent {
    /// May one run beside this peer?
    Plan { peer: String, reply: oneshot::Sender<Result<CanaryPlan, RequestError>> },
    /// Begin it.
    Begin { peer: String, order: CanaryOrder },
}

/// What must be known of the peer.
pub(super) struct CanaryPlan {
    peer: PeerId,
    /// What its backend was made from.
    genesis: Genesis,
    applied: Index,
}

impl Lifecycle {
    /// Asks the loop whether a canary may run beside a peer.
    pub(super) async fn plan_canary(&self, peer: &str) -> Result<CanaryPlan, RequestError> {
        let peer = peer.to_owned();
        let planned = self.ask(|reply| Event::Canary(CanaryEvent::Plan { peer, reply })).await;
        planned.map_err(|_| RequestError::Stopping)?
    }

    /// Runs a canary to its end. It ends early if this future is dropped.
    pub(super) async fn run_canary(
        &self,
        plan: CanaryPlan,
        canary: RunCanary,
        component: Bytes,
    ) -> Result<CanaryReport, RequestError> {
        let RunCanary { upgrade, max_commands, max_ms } = canary;
        let invalid = |reason: &str| RequestError::Invalid { reason: reason.to_owned() };
        check_announced(&component, upgrade.component)?;
        let permit = Arc::clone(&self.canaries).try_acquire_owned();
        let permit = permit.map_err(|_| invalid("another canary runs on this node: try again once it has ended"))?;
        let CanaryPlan { peer, genesis, applied } = plan;
        if let Err(error) = self.take_component(Genesis { component: upgrade.component, ..genesis }, component).await {
            return Err(match error {
                CallError::Refused(_) => {
                    RequestError::NotUpgraded(UpgradeRefusal::NotDistributed(vec![failure(&peer, &error)]))
                }
                _ => RequestError::Stopping,
            });
        }
        let (reply, report) = oneshot::channel();
        let order = CanaryOrder {
            component: upgrade.component,
            migration: upgrade.migration,
            max_commands,
            max_time: Duration::from_millis(max_ms.min(MAX_CANARY_MS)),
            reply,
            permit,
        };
        let begin = CanaryEvent::Begin { peer: peer.name().to_owned(), order };
        self.events.send(Event::Canary(begin)).await.map_err(|_| RequestError::Stopping)?;
        Ok(report.await.unwrap_or_else(|_| {
            let reason = "its node could not run it, and its log tells why";
            CanaryReport::without_commands(applied, CanaryEnd::Interrupted(reason.to_owned()))
        }))
    }
}

impl Driver {
    pub(super) fn canary_event(&mut self, event: CanaryEvent) {
        match event {
            CanaryEvent::Plan { peer, reply } => drop(reply.send(self.plan_canary(&peer))),
            CanaryEvent::Begin { peer, order } => match self.names.get(&peer) {
                Some(incarnation) => self.parts.guests.give(*incarnation, HostJob::Canary(order)),
                None => tracing::warn!(peer, "a canary cannot begin: its peer is gone"),
            },
        }
    }

    fn plan_canary(&mut self, name: &str) -> Result<CanaryPlan, RequestError> {
        let (_, peer) = self.peer_named(name)?;
        if let Some(reason) = &peer.stopped {
            return Err(RequestError::PeerStopped { reason: reason.clone() });
        }
        if peer.replica.quarantine().is_some() {
            return Err(RequestError::Quarantined);
        }
        let this = &peer.record.peer;
        let others = peer.membership().peers.into_iter().filter(|other| other != this);
        let others: Vec<_> = others.map(|other| other.to_string()).collect();
        if peer.replica.raft().is_leader() && !others.is_empty() {
            let reason =
                format!("{this} leads, and a canary would slow it down: name another peer, {}", others.join(" or "));
            return Err(RequestError::Invalid { reason });
        }
        let (applied, _) = peer.replica.machine();
        Ok(CanaryPlan { peer: this.clone(), genesis: peer.genesis_with(peer.component()), applied })
    }
}

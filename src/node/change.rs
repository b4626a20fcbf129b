//! How the peers of a cluster are changed: compare and set, coordinated by the leader's node.
//!
//! New peers come to be as those of a new cluster do ([`lifecycle`](super::lifecycle)): all or none, by prepare and
//! start. They begin empty, and get the log once the change has begun. If it does not begin, they are discarded. From its
//! first entry on, the change goes on by itself, whatever becomes of its coordinator; who has left finds out by himself
//! ([`standing`](super::standing)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::access::AccessList;
use crate::machine::Genesis;
use crate::node::driver::Event;
use crate::node::frames::{BulkRequest, ClusterSpec};
use crate::node::lifecycle::{Lifecycle, mint};
use crate::node::members::{Plan, PlannedChange};
use crate::node::standing::Introduction;
use crate::protocol::{ChangeMembers, ChangeRefusal, MAX_PEERS, PeerFailure, RequestError};
use crate::types::{Digest, Incarnation, PeerId};

/// How long the answer to a change waits until what was made for it in vain is discarded.
const DISCARD_PATIENCE: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Changes the peers of the cluster of a peer on this node.
    pub(super) async fn change_members(
        &self,
        peer: String,
        change: ChangeMembers,
        timeout: Duration,
    ) -> Result<(), RequestError> {
        let deadline = Instant::now() + timeout;
        check(&change.new)?;
        let new: BTreeSet<_> = change.new.iter().cloned().collect();
        let plan = self.ask_loop(|reply| Event::PlanChange { peer, change, reply }).await??;
        if plan.is_done {
            return Ok(());
        }
        let newcomers = self.make_newcomers(&plan, &new, deadline).await?;
        let stays = plan.voters.iter().filter(|(_, peer)| new.contains(peer));
        let stays = stays.map(|(life, peer)| (*life, peer.clone()));
        let change = PlannedChange {
            leader: plan.leader,
            term: plan.term,
            before: plan.before.clone(),
            voters: stays.chain(newcomers.peers.iter().cloned()).collect(),
            timeout_ms: left(deadline).as_millis().try_into().unwrap_or(u64::MAX),
        };
        let ended = self.ask_loop(|reply| Event::BeginChange { change, reply }).await;
        // Where the loop has gone, nobody knows how far it came.
        let ended = ended.unwrap_or(Err(RequestError::NotChanged(ChangeRefusal::Unfinished)));
        let is_known_not_to_begin = matches!(&ended, Err(RequestError::NotChanged(refusal)) if !refusal.has_begun());
        if is_known_not_to_begin {
            self.discard_soon(newcomers).await;
        }
        if ended.is_ok() {
            tracing::info!(cluster = %plan.genesis.cluster, peers = new.len(), "changed the peers of a cluster");
            self.discard_soon(spec(&plan, plan.withdrawn.clone())).await;
        }
        ended
    }

    /// Has the new peers made, empty.
    async fn make_newcomers(
        &self,
        plan: &Plan,
        new: &BTreeSet<PeerId>,
        deadline: Instant,
    ) -> Result<ClusterSpec, RequestError> {
        let present: BTreeSet<_> = plan.voters.values().collect();
        let newcomers = spec(plan, mint(new.iter().filter(|peer| !present.contains(peer)).cloned().collect())?);
        if newcomers.peers.is_empty() {
            return Ok(newcomers);
        }
        let component = self.component(plan.genesis.component).await?;
        let making = async {
            let failures = self.make_peers(&newcomers, component).await;
            if failures.is_empty() { self.bring_present_component(plan, &newcomers).await } else { Ok(failures) }
        };
        let refusal = match tokio::time::timeout_at(deadline, making).await {
            Ok(Err(error)) => return Err(error),
            Ok(Ok(failures)) if failures.is_empty() => return Ok(newcomers),
            Ok(Ok(failures)) => ChangeRefusal::NotJoined { failures },
            Err(_) => ChangeRefusal::Timeout,
        };
        self.discard_soon(newcomers).await;
        Err(RequestError::NotChanged(refusal))
    }

    /// The log may begin with the component that the cluster was created with; what it runs now is brought as well, so that who
    /// cannot run that does not join. Returns who could not be brought it.
    async fn bring_present_component(
        &self,
        plan: &Plan,
        newcomers: &ClusterSpec,
    ) -> Result<Vec<PeerFailure>, RequestError> {
        if plan.component == plan.genesis.component {
            return Ok(Vec::new());
        }
        let component = self.component(plan.component).await?;
        let genesis = Genesis { component: plan.component, ..plan.genesis.clone() };
        Ok(self.on_all_nodes(newcomers, &BulkRequest::Component(genesis), component).await)
    }

    /// Has peers discarded, and waits for it unless a node cannot be reached.
    async fn discard_soon(&self, spec: ClusterSpec) {
        let this = self.clone();
        let discarding = tokio::spawn(async move { this.discard_peers(&spec).await });
        // It goes on by itself.
        let _ = tokio::time::timeout(DISCARD_PATIENCE, discarding).await;
    }

    async fn component(&self, digest: Digest) -> Result<Bytes, RequestError> {
        let backends = Arc::clone(&self.backends);
        let read = tokio::task::spawn_blocking(move || backends.bytes(digest)).await;
        let unreadable = |error| RequestError::Invalid { reason: format!("the leader's component is lost: {error}") };
        read.map_err(|_| RequestError::Stopping)?.map_err(unreadable)
    }

    async fn ask_loop<T>(
        &self,
        event: impl FnOnce(tokio::sync::oneshot::Sender<T>) -> Event,
    ) -> Result<T, RequestError> {
        self.ask(event).await.map_err(|_| RequestError::Stopping)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn check(new: &[PeerId]) -> Result<(), RequestError> {
    let reason = match new.iter().collect::<BTreeSet<_>>().len() {
        0 => "a cluster needs at least one peer".to_owned(),
        _ if new.len() > MAX_PEERS => format!("a cluster has at most {MAX_PEERS} peers"),
        distinct if distinct < new.len() => "a peer is named twice".to_owned(),
        _ => return Ok(()),
    };
    Err(RequestError::Invalid { reason })
}

/// Peers that are to join a cluster, as their nodes see them.
fn spec(plan: &Plan, peers: Vec<(Incarnation, PeerId)>) -> ClusterSpec {
    let all: BTreeMap<_, _> = plan.voters.clone().into_iter().chain(peers.iter().cloned()).collect();
    ClusterSpec {
        cluster: plan.genesis.cluster,
        peers,
        component: plan.genesis.component,
        config: plan.genesis.config.clone(),
        settings: plan.genesis.settings,
        access: AccessList::default(),
        time_ms: super::wall_clock_ms(),
        introduction: Some(Introduction { term: plan.term, peers: all }),
    }
}

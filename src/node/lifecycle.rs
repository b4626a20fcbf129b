//! How peers come to be, those of a new cluster or those that join one: all or none.
//!
//! The node of the first peer coordinates. It has every node *prepare*: check the component, try it, and keep the
//! peers' names. Only if all could, it has them *start*. If any could not, it has all of them *discard* what they
//! have of the cluster, and names every peer that was in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::access::AccessList;
use crate::codec;
use crate::machine::{Command, Genesis};
use crate::node::backends::Backends;
use crate::node::canary::MAX_CANARIES;
use crate::node::driver::Event;
use crate::node::frames::{BulkRequest, ClusterSpec};
use crate::node::network::{CallError, call};
use crate::node::standing::Introduction;
use crate::node::upgrade::MAX_SOUGHT;
use crate::protocol::{CreateCluster, MAX_CONFIG_BYTES, MAX_PEERS, PeerFailure, RequestError};
use crate::raft::{Configuration, Write, WriteToken};
use crate::transport::Endpoint;
use crate::types::{ClusterId, Digest, Incarnation, Index, NodeAddr, PeerId};
use crate::wasm;

/// How long a node keeps names and component of a cluster that was prepared and not started, in milliseconds. Longer than
/// the slowest of its nodes may take to prepare.
pub(super) const PREPARED_MS: u64 = 360_000;
/// Longest reason for a failure: those of all peers must fit into one answer.
const MAX_REASON_CHARS: usize = 1000;
/// Most clusters and changes of clusters in preparation on a node.
const MAX_RESERVATIONS: usize = 64;

/// What a node keeps for each of its peers, opaque to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its name, and this node.
    pub peer: PeerId,
    /// What its cluster was created with.
    pub genesis: Genesis,
    /// Set for a peer that was not there from the beginning: whom it joined.
    pub introduction: Option<Introduction>,
}

impl PeerRecord {
    pub(super) fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }
}

impl ClusterSpec {
    pub(super) fn genesis(&self) -> Genesis {
        Genesis {
            cluster: self.cluster,
            component: self.component,
            config: self.config.clone(),
            settings: self.settings,
        }
    }

    /// The cluster's peers on a node.
    pub(super) fn records_on<'a>(&'a self, node: &'a NodeAddr) -> impl Iterator<Item = (Incarnation, PeerRecord)> + 'a {
        let here = self.peers.iter().filter(move |(_, peer)| peer.node() == node);
        here.map(|(incarnation, peer)| {
            let introduction = self.introduction.clone();
            (*incarnation, PeerRecord { peer: peer.clone(), genesis: self.genesis(), introduction })
        })
    }

    /// What every peer's log begins with: the peers of a new cluster, and who may do what on it. Who joins a cluster gets all from its leader.
    pub(super) fn bootstrap(&self) -> Write {
        if self.introduction.is_some() {
            return Write::new(WriteToken::default());
        }
        let peers = Write::bootstrap(Configuration::of(self.peers.iter().cloned().collect()), self.time_ms);
        if self.access == AccessList::default() {
            return peers;
        }
        let command = Command::SetAccess { by: None, expected: Index::ZERO, list: self.access.clone() };
        peers.and_command(command.encode())
    }

    /// What the nodes know these peers by until they have started: the life of the first.
    pub(super) fn id(&self) -> Option<Incarnation> {
        self.peers.first().map(|(incarnation, _)| *incarnation)
    }

    pub(super) fn incarnations(&self) -> Vec<Incarnation> {
        self.peers.iter().map(|(incarnation, _)| *incarnation).collect()
    }

    pub(super) fn names_any(&self, incarnations: &[Incarnation]) -> bool {
        self.peers.iter().any(|(incarnation, _)| incarnations.contains(incarnation))
    }

    fn nodes(&self) -> BTreeSet<NodeAddr> {
        self.peers.iter().map(|(_, peer)| peer.node().clone()).collect()
    }

    /// One reason for all peers on a node.
    pub(super) fn failures_on(&self, node: &NodeAddr, reason: &str) -> Vec<PeerFailure> {
        let here = self.peers.iter().filter(|(_, peer)| peer.node() == node);
        let reason = shorten_reason(reason);
        here.map(|(_, peer)| PeerFailure { peer: peer.clone(), reason: reason.clone() }).collect()
    }
}

/// The peers that are prepared on a node and not started.
#[derive(Default)]
pub(super) struct Reservations {
    specs: BTreeMap<Incarnation, Reservation>,
    /// Components that clusters are to move to, and until when they are kept for that.
    components: BTreeMap<Digest, u64>,
}

struct Reservation {
    spec: ClusterSpec,
    expires_ms: u64,
}

impl Reservations {
    /// Keeps the names of peers. Those of nobody are not kept.
    pub(super) fn add(&mut self, spec: ClusterSpec, now_ms: u64) {
        if let Some(id) = spec.id() {
            self.specs.insert(id, Reservation { spec, expires_ms: now_ms + PREPARED_MS });
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.specs.len() >= MAX_RESERVATIONS
    }

    /// Whether a peer of that name on that node is in preparation.
    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.specs.values().any(|reservation| reservation.spec.peers.iter().any(|(_, other)| other == peer))
    }

    pub(super) fn components(&self) -> impl Iterator<Item = Digest> + '_ {
        self.specs.values().map(|reservation| reservation.spec.component).chain(self.components.keys().copied())
    }

    /// Keeps a component for as long as what is prepared. They are as many as there are uploads in that time.
    pub(super) fn keep(&mut self, component: Digest, now_ms: u64) {
        self.components.insert(component, now_ms + PREPARED_MS);
    }

    pub(super) fn take(&mut self, id: Incarnation) -> Option<ClusterSpec> {
        Some(self.specs.remove(&id)?.spec)
    }

    /// Forgets what was prepared for any of these peers.
    pub(super) fn discard(&mut self, incarnations: &[Incarnation]) {
        self.specs.retain(|_, reservation| !reservation.spec.names_any(incarnations));
    }

    /// Forgets what was prepared for the same cluster by whoever led it before, or by this leader in vain: it may have died since,
    /// or not have got through to say so. Should it start those peers yet, it is told that they were not prepared.
    pub(super) fn make_way(&mut self, spec: &ClusterSpec) {
        let Some(Introduction { term, .. }) = &spec.introduction else { return };
        self.specs.retain(|_, reservation| {
            let earlier = reservation.spec.introduction.as_ref().is_some_and(|earlier| earlier.term <= *term);
            !(earlier && reservation.spec.cluster == spec.cluster)
        });
    }

    /// Drops what was prepared too long ago, and tells whether there was any.
    pub(super) fn expire(&mut self, now_ms: u64) -> bool {
        let specs = self.specs.extract_if(.., |_, reservation| reservation.expires_ms <= now_ms).count();
        let components = self.components.extract_if(.., |_, expires_ms| *expires_ms <= now_ms).count();
        specs + components > 0
    }
}

/// What it takes to create clusters and to change them.
#[derive(Clone)]
pub(super) struct Lifecycle {
    pub(super) node: NodeAddr,
    pub(super) endpoint: Endpoint,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) backends: Arc<Backends>,
    /// One component is prepared at a time.
    pub(super) preparing: Arc<Semaphore>,
    /// And few are looked for.
    pub(super) seeking: Arc<Semaphore>,
    /// So many canaries run at a time.
    pub(super) canaries: Arc<Semaphore>,
}

/// The loop takes no more events.
const STOPPING: &str = "the node is stopping";

/// Whether a component is the one that was announced.
pub(super) fn check_announced(component: &[u8], announced: Digest) -> Result<(), RequestError> {
    if Digest::of(component) == announced {
        return Ok(());
    }
    Err(RequestError::Invalid { reason: "the component's digest differs from the one announced".to_owned() })
}

impl Lifecycle {
    pub(super) fn new(
        node: NodeAddr,
        endpoint: Endpoint,
        events: mpsc::Sender<Event>,
        backends: Arc<Backends>,
    ) -> Self {
        let at_a_time = |count| Arc::new(Semaphore::new(count));
        let (preparing, seeking, canaries) = (at_a_time(1), at_a_time(MAX_SOUGHT), at_a_time(MAX_CANARIES));
        Self { node, endpoint, events, backends, preparing, seeking, canaries }
    }

    /// Creates a cluster, as its coordinator.
    pub(super) async fn create(&self, request: CreateCluster, component: Bytes) -> Result<ClusterId, RequestError> {
        let spec = self.specify(request)?;
        check_announced(&component, spec.component)?;
        let failures = self.make_peers(&spec, component).await;
        if failures.is_empty() {
            if let Some(incarnation) = spec.id() {
                // A node that is stopping needs no leader.
                let _ = self.events.send(Event::Elect { incarnation }).await;
            }
            tracing::info!(cluster = %spec.cluster, component = %spec.component, "created a cluster");
            return Ok(spec.cluster);
        }
        self.discard_peers(&spec).await;
        Err(RequestError::NotCreated { failures })
    }

    /// Makes peers on all their nodes, and returns who could not be made. If there are any, the others are to be
    /// discarded.
    pub(super) async fn make_peers(&self, spec: &ClusterSpec, component: Bytes) -> Vec<PeerFailure> {
        let Some(id) = spec.id() else { return Vec::new() };
        let failures = self.on_all_nodes(spec, &BulkRequest::Prepare(spec.clone()), component).await;
        if !failures.is_empty() {
            return failures;
        }
        self.on_all_nodes(spec, &BulkRequest::Start(id), Bytes::new()).await
    }

    /// Has all nodes forget peers, and returns those whose node could not be told. What it has prepared, it drops by itself
    /// after a while.
    pub(super) async fn discard_peers(&self, spec: &ClusterSpec) -> Vec<PeerFailure> {
        self.on_all_nodes(spec, &BulkRequest::Discard(spec.incarnations()), Bytes::new()).await
    }

    fn specify(&self, request: CreateCluster) -> Result<ClusterSpec, RequestError> {
        let invalid = |reason: String| RequestError::Invalid { reason };
        let distinct: BTreeSet<_> = request.peers.iter().collect();
        match request.peers.first() {
            None => return Err(invalid("a cluster needs at least one peer".to_owned())),
            Some(first) if *first.node() != self.node => {
                return Err(invalid(format!("the first peer, {first}, does not live on this node, {}", self.node)));
            }
            Some(_) if request.peers.len() > MAX_PEERS => {
                return Err(invalid(format!("a cluster has at most {MAX_PEERS} peers")));
            }
            Some(_) if distinct.len() < request.peers.len() => {
                return Err(invalid("a peer is named twice".to_owned()));
            }
            Some(_) if request.config.len() > MAX_CONFIG_BYTES => {
                return Err(invalid(format!("the config is larger than {MAX_CONFIG_BYTES} bytes")));
            }
            Some(_) => {}
        }
        request.settings.check().map_err(|error| invalid(error.to_string()))?;
        request.access.check().map_err(|error| invalid(error.to_string()))?;
        Ok(ClusterSpec {
            cluster: ClusterId(u128::from(random_u64()?) << 64 | u128::from(random_u64()?)),
            peers: mint(request.peers)?,
            component: request.component,
            config: request.config,
            settings: request.settings,
            access: request.access,
            time_ms: super::wall_clock_ms(),
            introduction: None,
        })
    }

    /// Asks all nodes of these peers at once. The failures come in the order of the peers.
    pub(super) async fn on_all_nodes(
        &self,
        spec: &ClusterSpec,
        request: &BulkRequest,
        body: Bytes,
    ) -> Vec<PeerFailure> {
        let mut calls = JoinSet::new();
        for node in spec.nodes() {
            let (this, spec, request, body) = (self.clone(), spec.clone(), request.clone(), body.clone());
            calls.spawn(async move {
                let result = if node == this.node {
                    this.carry_out(request, body).await
                } else {
                    call(&this.endpoint, &node, &request, body).await
                };
                match result {
                    Ok(()) => Vec::new(),
                    Err(CallError::Peers(failures)) => failures,
                    Err(error) => spec.failures_on(&node, &error.to_string()),
                }
            });
        }
        let mut failures: Vec<PeerFailure> = calls.join_all().await.into_iter().flatten().collect();
        failures.sort_by_key(|failure| spec.peers.iter().position(|(_, peer)| *peer == failure.peer));
        failures
    }

    /// Does what a coordinator asks of this node.
    pub(super) async fn carry_out(&self, request: BulkRequest, body: Bytes) -> Result<(), CallError> {
        match request {
            BulkRequest::Prepare(spec) => self.prepare(spec, body).await,
            BulkRequest::Start(id) => {
                let started = self.ask(|reply| Event::Start { id, reply }).await?;
                started.map_err(CallError::Refused)
            }
            BulkRequest::Discard(peers) => self.ask(|reply| Event::Discard { peers, reply }).await,
            BulkRequest::Component(genesis) => self.take_component(genesis, body).await,
            BulkRequest::WhereSnapshots | BulkRequest::WantComponent(_) => {
                Err(CallError::Refused("this is answered elsewhere".to_owned()))
            }
        }
    }

    async fn prepare(&self, spec: ClusterSpec, component: Bytes) -> Result<(), CallError> {
        let (genesis, node) = (spec.genesis(), self.node.clone());
        let reserving = spec.clone();
        let taken = self.ask(|reply| Event::Reserve { spec: reserving, reply }).await?;
        if !taken.is_empty() {
            return Err(CallError::Peers(taken));
        }
        if let Err(reason) = self.prepare_backend(genesis, component).await {
            let peers = spec.incarnations();
            self.ask(|reply| Event::Discard { peers, reply }).await?;
            return Err(CallError::Peers(spec.failures_on(&node, &reason)));
        }
        Ok(())
    }

    /// Compiles and tries a component, or says why it cannot be a backend here. That takes long where it brings a
    /// language's runtime, so it is done on a thread of its own: running clusters need those of the guests.
    pub(super) async fn prepare_backend(&self, genesis: Genesis, component: Bytes) -> Result<(), String> {
        let _turn = self.preparing.acquire().await.expect("the semaphore is never closed");
        let (done, result) = oneshot::channel();
        let backends = Arc::clone(&self.backends);
        let prepare = move || drop(done.send(backends.prepare(&genesis, &component)));
        let thread = std::thread::Builder::new().name("zraft-prepare".to_owned());
        let spawned = thread.stack_size(wasm::GUEST_THREAD_STACK_BYTES).spawn(prepare);
        spawned.map_err(|error| format!("this node has no thread to prepare it: {error}"))?;
        let prepared = result.await.map_err(|_| "preparing it panicked: a defect of zraft".to_owned())?;
        prepared.map_err(|error| error.to_string())
    }

    /// Asks the loop.
    pub(super) async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || CallError::Refused(STOPPING.to_owned());
        self.events.send(event(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

/// The reason for a failure, as long as it may be.
pub(super) fn shorten_reason(reason: &str) -> String {
    reason.chars().take(MAX_REASON_CHARS).collect()
}

/// Gives each peer the number of its life.
pub(super) fn mint(peers: Vec<PeerId>) -> Result<Vec<(Incarnation, PeerId)>, RequestError> {
    peers.into_iter().map(|peer| Ok((Incarnation(random_u64()?), peer))).collect()
}

fn random_u64() -> Result<u64, RequestError> {
    let no_randomness = |error| RequestError::Invalid { reason: format!("this node has no randomness: {error}") };
    getrandom::u64().map_err(no_randomness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Access;
    use crate::raft::{Entry, Payload};
    use crate::transport::MAX_BULK_HEADER_BYTES;
    use crate::types::Term;

    fn spec(cluster: u128, peers: &[&str]) -> ClusterSpec {
        ClusterSpec {
            cluster: ClusterId(cluster),
            peers: peers.iter().zip(1..).map(|(peer, id)| (Incarnation(id), peer.parse().unwrap())).collect(),
            component: Digest::of(&cluster.to_le_bytes()),
            config: Bytes::new(),
            settings: crate::settings::Settings::default(),
            access: AccessList::default(),
            time_ms: 7,
            introduction: None,
        }
    }

    #[test]
    fn a_reservation_holds_names_and_component_until_it_expires() {
        let mut reservations = Reservations::default();
        let spec = spec(1, &["kv@h:1", "kv@h:2"]);
        reservations.add(spec.clone(), 100);
        assert!(reservations.has(&"kv@h:2".parse().unwrap()));
        assert!(!reservations.has(&"kv@h:3".parse().unwrap()));
        assert!(!reservations.expire(100 + PREPARED_MS - 1));
        assert_eq!(reservations.components().collect::<Vec<_>>(), [spec.component]);
        assert!(reservations.expire(100 + PREPARED_MS));
        assert_eq!(reservations.components().count(), 0);
        assert_eq!(reservations.take(Incarnation(1)), None, "too late to start it");
    }

    #[test]
    fn a_later_change_of_a_cluster_does_not_wait_for_one_whose_leader_has_died() {
        let joining = |id: u64, cluster: u128, term: u64| {
            let introduction = Some(Introduction { term: Term(term), peers: BTreeMap::new() });
            let mut joining = ClusterSpec { introduction, ..spec(cluster, &["kv@h:1"]) };
            joining.peers[0].0 = Incarnation(id);
            joining
        };
        let new_cluster = ClusterSpec { peers: vec![(Incarnation(9), "new@h:1".parse().unwrap())], ..spec(1, &[]) };
        let mut reservations = Reservations::default();
        for spec in [joining(1, 1, 3), joining(2, 1, 5), joining(3, 2, 3), new_cluster] {
            reservations.add(spec, 0);
        }
        reservations.make_way(&spec(1, &["kv@h:1"]));
        reservations.make_way(&joining(4, 1, 4));
        let left: Vec<_> =
            [1, 2, 3, 9].into_iter().filter(|id| reservations.take(Incarnation(*id)).is_some()).collect();
        assert_eq!(left, [2, 3, 9], "that of a later leader, of another cluster, and of a new one stay");
    }

    #[test]
    fn reservations_are_bounded() {
        let mut reservations = Reservations::default();
        for number in 0..MAX_RESERVATIONS as u64 {
            assert!(!reservations.is_full());
            let mut spec = spec(1, &["kv@h:1"]);
            spec.peers[0].0 = Incarnation(number);
            reservations.add(spec, 0);
        }
        assert!(reservations.is_full());
    }

    #[test]
    fn each_node_makes_its_own_peers_and_all_begin_alike() {
        let spec = spec(1, &["a@h:1", "b@h:2", "c@h:1"]);
        let names = |node: &str| -> Vec<String> {
            let node = node.parse().unwrap();
            spec.records_on(&node).map(|(_, record)| record.peer.name().to_owned()).collect()
        };
        assert_eq!((names("h:1"), names("h:2")), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
        assert_eq!(spec.nodes().len(), 2);
        assert_eq!(spec.failures_on(&"h:1".parse().unwrap(), "why").len(), 2);
        let Payload::Membership(configuration) = &spec.bootstrap().entries[0].payload else { panic!() };
        assert_eq!(configuration.voters.len(), 3);
        assert_eq!(spec.bootstrap().entries[0].time_ms, spec.time_ms);
    }

    #[test]
    fn an_access_list_is_in_the_log_of_a_new_cluster_before_anybody_can_write() {
        let open = spec(1, &["a@h:1"]);
        assert_eq!(open.bootstrap().entries.len(), 1);
        let list = AccessList { default: None, ..AccessList::default() };
        let closed = ClusterSpec { access: list.clone(), ..open };
        let Write { entries, hard_state, .. } = closed.bootstrap();
        let [_, Entry { index: Index(2), payload: Payload::Data(data), .. }] = &entries[..] else {
            panic!("{entries:?}")
        };
        assert_eq!(Command::decode(data), Ok(Command::SetAccess { by: None, expected: Index::ZERO, list }));
        assert_eq!(hard_state.map(|state| state.commit), Some(Index(2)), "it is committed as the peers are");
    }

    #[test]
    fn the_largest_specification_fits_the_header_of_a_transfer() {
        let longest = |name: &str| format!("{}@{}:65535", name.repeat(PeerId::MAX_NAME_LEN), "h".repeat(253));
        let names: Vec<_> =
            ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"].map(longest).into();
        let mut largest = spec(1, &names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(largest.peers.len(), MAX_PEERS);
        largest.config = vec![0; MAX_CONFIG_BYTES].into();
        let name = |number: usize| format!("{number:0>width$}", width = AccessList::MAX_NAME_LEN);
        largest.access.named = (0..AccessList::MAX_NAMED).map(|number| (name(number), Access::Write)).collect();
        assert_eq!(largest.access.check(), Ok(()));
        let peers = largest.peers.iter().cloned().collect();
        largest.introduction = Some(Introduction { term: crate::types::Term(u64::MAX), peers });
        let size_bytes = codec::encode(&BulkRequest::Prepare(largest)).len();
        assert!(size_bytes <= MAX_BULK_HEADER_BYTES, "{size_bytes}");
    }
}

//! The loop that drives a node's replicas: one task owns them all. It takes what has come in, hands it to the
//! replicas, and carries out what they want done.
//!
//! Nothing here waits: the disk, the guests and the network have threads, tasks and queues of their own and report
//! back with an [`Event`]. All that came in while the last round was carried out makes up the next, so batches form
//! under load without delaying a lone request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::machine::Command;
use crate::node::backends::Backends;
use crate::node::frames::{ClusterSpec, PeerFrame};
use crate::node::guests::{GuestThreads, Guests};
use crate::node::host::{Host, HostEvent, HostJob};
use crate::node::lifecycle::{PeerRecord, Reservations};
use crate::node::network::Network;
use crate::protocol::{NodeStatus, PeerFailure, PeerStatus, Reply, RequestError};
use crate::raft::{self, Entry, Envelope, LogRead, Message, Restored, WriteToken};
use crate::replica::{Answer, Effects, Now, Query, Replica, Ticket};
use crate::store::{Completion, Store, StoreError, StoredPeer};
use crate::types::{ClusterId, Incarnation, LogPosition, NodeAddr, PeerId};

/// Events that wait for the loop. Who brings more has to wait.
pub(super) const MAX_EVENTS: usize = 4096;
/// Events taken into one round.
const MAX_EVENTS_PER_ROUND: usize = 512;

/// What the loop hears.
pub(super) enum Event {
    /// A message for a peer, from another node.
    Peer { from: NodeAddr, frame: PeerFrame },
    /// A client wants to write.
    Write { peer: String, data: Bytes, timeout_ms: u64, reply: oneshot::Sender<Reply> },
    /// A client wants to read.
    Query { peer: String, request: Bytes, timeout_ms: u64, reply: oneshot::Sender<Reply> },
    /// Somebody wants to know how the node is.
    Status { reply: oneshot::Sender<NodeStatus> },
    /// Writes have become durable.
    Durable(Vec<Completion>),
    /// The disk has failed.
    StoreFailed(StoreError),
    /// Entries have been read from the store.
    LogRead { incarnation: Incarnation, read: LogRead, entries: Result<Vec<Entry>, StoreError> },
    /// A machine has done a job.
    Host { incarnation: Incarnation, event: HostEvent },
    /// A snapshot has reached its receiver, or not.
    SnapshotSent { from: Incarnation, to: Incarnation, ok: bool },
    /// Which of this node's peers of the cluster cannot be? If none, their names are kept for it.
    Reserve { spec: ClusterSpec, reply: oneshot::Sender<Vec<PeerFailure>> },
    /// Start the peers of a prepared cluster.
    Start { cluster: ClusterId, reply: oneshot::Sender<Result<(), String>> },
    /// Forget a cluster, prepared or started.
    Discard { cluster: ClusterId, reply: oneshot::Sender<()> },
    /// Which life of which peer is meant, and does it live here?
    Lookup { cluster: ClusterId, incarnation: Incarnation, reply: oneshot::Sender<bool> },
    /// Stop the node.
    Stop,
}

/// How the loop ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// As it was told.
    Stopped,
    /// The disk has failed.
    StoreFailed(StoreError),
}

/// What the loop is made from.
pub(super) struct Parts {
    pub(super) node: NodeAddr,
    pub(super) raft: raft::Config,
    pub(super) tick: std::time::Duration,
    pub(super) store: Store,
    pub(super) guests: Guests,
    pub(super) guest_threads: GuestThreads,
    pub(super) backends: Arc<Backends>,
    pub(super) network: Network,
    pub(super) events: mpsc::Sender<Event>,
}

/// The loop's state.
pub(super) struct Driver {
    parts: Parts,
    peers: BTreeMap<Incarnation, HostedPeer>,
    names: BTreeMap<String, Incarnation>,
    reservations: Reservations,
    /// Clients that wait, by ticket.
    waiting: HashMap<Ticket, oneshot::Sender<Reply>>,
    next_ticket: u64,
    /// Peers for which something came in.
    touched: BTreeSet<Incarnation>,
    /// Cluster starts that wait for the disk.
    starting: Vec<Starting>,
    epoch: Instant,
}

/// A peer that lives here.
struct HostedPeer {
    record: PeerRecord,
    replica: Replica,
    /// Set when the peer has stopped: why. It then takes part in nothing.
    stopped: Option<String>,
    /// The write that makes a new snapshot the peer's own; older files may go once it is durable and the machine has
    /// reached the snapshot.
    snapshot_write: Option<(WriteToken, LogPosition)>,
    /// The last write that is durable.
    durable: WriteToken,
}

/// A cluster whose peers here are being made durable. They live from then on.
struct Starting {
    spec: ClusterSpec,
    missing: BTreeMap<Incarnation, PeerRecord>,
    reply: oneshot::Sender<Result<(), String>>,
}

impl Driver {
    /// A loop over the peers that the store holds.
    pub(super) fn new(parts: Parts, stored: Vec<(StoredPeer, PeerRecord)>) -> Self {
        let mut driver = Self {
            parts,
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            reservations: Reservations::default(),
            waiting: HashMap::new(),
            next_ticket: 0,
            touched: BTreeSet::new(),
            starting: Vec::new(),
            epoch: Instant::now(),
        };
        for (peer, record) in stored {
            driver.host(peer.incarnation, record, peer.restored);
        }
        driver
    }

    /// Runs until it is told to stop or the disk fails.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Ended {
        let mut ticks = tokio::time::interval(self.parts.tick);
        // After a stall, one tick stands for all that were missed: the others had no more time than we did.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = Vec::with_capacity(MAX_EVENTS_PER_ROUND);
        let ended = loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(),
                _ = events.recv_many(&mut round, MAX_EVENTS_PER_ROUND) => {}
            }
            if let Some(ended) = round.drain(..).find_map(|event| self.handle(event)) {
                break ended;
            }
            for incarnation in std::mem::take(&mut self.touched) {
                self.carry_out(incarnation);
            }
        };
        // Nobody may wait for an event to be taken once nobody takes them.
        events.close();
        self.stop().await;
        ended
    }

    async fn stop(self) {
        for (_, reply) in self.waiting {
            let _ = reply.send(Reply::Failed(RequestError::Stopping));
        }
        let Parts { guest_threads, store, network, .. } = self.parts;
        network.close().await;
        let joined = tokio::task::spawn_blocking(move || {
            guest_threads.stop();
            store.close();
        });
        if joined.await.is_err() {
            tracing::error!("stopping the store or the guests panicked");
        }
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_ms: to_ms(wall), monotonic_ms: to_ms(self.epoch.elapsed()) }
    }

    fn tick(&mut self) {
        let now = self.now();
        for (incarnation, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.stopped.is_none()) {
            peer.replica.tick(now);
            self.touched.insert(*incarnation);
        }
        if self.reservations.expire(now.monotonic_ms) {
            self.forget_unused_components();
        }
    }

    fn handle(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Peer { from, frame } => self.step(&from, frame),
            Event::Write { peer, data, timeout_ms, reply } => {
                let deadline_ms = self.now().monotonic_ms + timeout_ms;
                if let Some((ticket, peer)) = self.admit(&peer, reply) {
                    peer.replica.write(ticket, Command::Write { data }.encode(), deadline_ms);
                }
            }
            Event::Query { peer, request, timeout_ms, reply } => {
                let deadline_ms = self.now().monotonic_ms + timeout_ms;
                if let Some((ticket, peer)) = self.admit(&peer, reply) {
                    peer.replica.query(Query { ticket, request, deadline_ms });
                }
            }
            Event::Status { reply } => drop(reply.send(self.status())),
            Event::Durable(completions) => completions.into_iter().for_each(|completion| self.durable(completion)),
            Event::StoreFailed(error) => return Some(Ended::StoreFailed(error)),
            Event::LogRead { incarnation, read, entries } => self.log_read(incarnation, read, entries),
            Event::Host { incarnation, event } => self.host_event(incarnation, event),
            Event::SnapshotSent { from, to, ok } => {
                if let Some(peer) = self.running(from) {
                    peer.replica.snapshot_sent(to, ok);
                }
            }
            Event::Reserve { spec, reply } => drop(reply.send(self.reserve(spec))),
            Event::Start { cluster, reply } => self.start_cluster(cluster, reply),
            Event::Discard { cluster, reply } => {
                self.discard(cluster);
                let _ = reply.send(());
            }
            Event::Lookup { cluster, incarnation, reply } => {
                let lives_here = self.running(incarnation).is_some_and(|peer| peer.record.genesis.cluster == cluster);
                let _ = reply.send(lives_here);
            }
            Event::Stop => return Some(Ended::Stopped),
        }
        None
    }

    /// The peer, if it runs, marked as touched.
    fn running(&mut self, incarnation: Incarnation) -> Option<&mut HostedPeer> {
        let peer = self.peers.get_mut(&incarnation).filter(|peer| peer.stopped.is_none())?;
        self.touched.insert(incarnation);
        Some(peer)
    }

    /// Mints a ticket for a client's request to a peer, or answers why it cannot be served.
    fn admit(&mut self, name: &str, reply: oneshot::Sender<Reply>) -> Option<(Ticket, &mut HostedPeer)> {
        let Some(peer) = self.names.get(name).and_then(|incarnation| self.peers.get_mut(incarnation)) else {
            let error = RequestError::NoSuchPeer { name: name.to_owned(), node: self.parts.node.clone() };
            let _ = reply.send(Reply::Failed(error));
            return None;
        };
        if let Some(reason) = &peer.stopped {
            let _ = reply.send(Reply::Failed(RequestError::PeerStopped { reason: reason.clone() }));
            return None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.insert(ticket, reply);
        self.touched.insert(self.names[name]);
        Some((ticket, peer))
    }

    /// Hands a message to its peer, if it lives here and the sender is who the message says.
    fn step(&mut self, from: &NodeAddr, frame: PeerFrame) {
        let now = self.now();
        let Some(peer) = self.running(frame.envelope.to) else { return };
        let sender = peer.replica.raft().configuration().address(frame.envelope.from);
        let is_genuine = peer.record.genesis.cluster == frame.cluster && sender.is_some_and(|peer| peer.node() == from);
        if is_genuine {
            peer.replica.step(frame.envelope, now);
        } else {
            tracing::warn!(node = %from, cluster = %frame.cluster, peer = %frame.envelope.from,
                "refused a message of a peer that is not known to live on that node");
        }
    }

    fn durable(&mut self, completion: Completion) {
        match completion {
            Completion::Written(incarnation, token) => {
                let Some(peer) = self.running(incarnation) else { return };
                peer.replica.persisted(token);
                peer.durable = token;
                self.drop_old_snapshots(incarnation);
            }
            Completion::Created(incarnation) => self.created(incarnation),
            Completion::Removed(_) => {}
        }
    }

    /// Older snapshots may go once a newer one is durable as the peer's own and the machine has reached it: until then
    /// the machine may yet restore one of them.
    fn drop_old_snapshots(&mut self, incarnation: Incarnation) {
        let Some(peer) = self.peers.get_mut(&incarnation) else { return };
        let (durable, machine_at) = (peer.durable, peer.replica.machine().0);
        let is_done =
            |(token, position): &mut (WriteToken, LogPosition)| *token <= durable && position.index <= machine_at;
        let Some((_, position)) = peer.snapshot_write.take_if(is_done) else { return };
        let snapshots = self.parts.store.snapshots();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshots.remove_before(incarnation, position) {
                tracing::warn!(peer = %incarnation, %error, "could not delete old snapshots");
            }
        });
    }

    fn log_read(&mut self, incarnation: Incarnation, read: LogRead, entries: Result<Vec<Entry>, StoreError>) {
        match entries {
            Ok(entries) => {
                if let Some(peer) = self.running(incarnation) {
                    peer.replica.log_read(read, entries);
                }
            }
            Err(error) => self.stop_peer(incarnation, &format!("its log cannot be read: {error}")),
        }
    }

    fn host_event(&mut self, incarnation: Incarnation, event: HostEvent) {
        if let HostEvent::Answered(answers) = event {
            if let Some(peer) = self.running(incarnation) {
                peer.replica.answered(answers.len());
            }
            for (ticket, result) in answers {
                let reply = result.map_or_else(Reply::Failed, |reply| Reply::Answered { reply });
                self.reply(ticket, reply);
            }
            return;
        }
        let Some(peer) = self.running(incarnation) else { return };
        match event {
            HostEvent::Applied(applied, chain) => peer.replica.applied(applied, chain),
            HostEvent::Restored(meta, chain) => {
                peer.replica.restored(&meta, chain);
                self.drop_old_snapshots(incarnation);
            }
            HostEvent::SnapshotTaken(meta) => peer.replica.snapshot_taken(meta),
            HostEvent::SnapshotFailed(reason) => {
                tracing::error!(peer = %peer.record.peer, reason, "no snapshot could be taken; the log is kept");
                peer.replica.snapshot_failed();
            }
            HostEvent::Stopped(reason) => self.stop_peer(incarnation, &reason),
            HostEvent::Answered(_) => {}
        }
    }

    /// Stops one peer for good, loudly. Its neighbours go on.
    fn stop_peer(&mut self, incarnation: Incarnation, reason: &str) {
        let Some(peer) = self.peers.get_mut(&incarnation) else { return };
        tracing::error!(peer = %peer.record.peer, reason, "the peer has stopped");
        peer.stopped = Some(reason.to_owned());
        self.parts.guests.remove(incarnation);
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            // A client that has gone does not want its answer.
            let _ = waiting.send(reply);
        }
    }

    /// Carries out what a replica wants done.
    fn carry_out(&mut self, incarnation: Incarnation) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&incarnation).filter(|peer| peer.stopped.is_none()) else { return };
        let effects = peer.replica.effects(now);
        let Effects { write, messages, log_reads, snapshots, jobs, answers, status } = effects;
        if let Some(write) = write {
            if let Some(snapshot) = &write.snapshot {
                peer.snapshot_write = Some((write.token, snapshot.position));
            }
            self.parts.store.write(incarnation, write);
        }
        if let Some(status) = status {
            let leader = peer.replica.leader().map(|leader| leader.to_string());
            tracing::info!(peer = %peer.record.peer, role = %status.role, term = %status.term, leader, "role or leader changed");
        }
        for envelope in messages {
            Self::send(&mut self.parts.network, peer, envelope);
        }
        for envelope in snapshots {
            Self::send_snapshot(&self.parts, peer, envelope);
        }
        for read in log_reads {
            self.read_log(incarnation, read);
        }
        for job in jobs {
            self.parts.guests.give(incarnation, HostJob::Replica(job));
        }
        for Answer { ticket, result } in answers {
            let reply = result.map_or_else(Reply::Failed, |(index, reply)| Reply::Written { index, reply });
            self.reply(ticket, reply);
        }
    }

    fn send(network: &mut Network, peer: &HostedPeer, envelope: Envelope) {
        // A receiver that left the configuration meanwhile has no address, and needs no message.
        let Some(to) = peer.replica.raft().configuration().address(envelope.to).map(PeerId::node).cloned() else {
            return;
        };
        let is_urgent = !matches!(envelope.message, Message::Append { .. });
        let frame = PeerFrame { cluster: peer.record.genesis.cluster, envelope };
        network.send(&to, is_urgent, &frame);
    }

    fn send_snapshot(parts: &Parts, peer: &HostedPeer, envelope: Envelope) {
        let Some(to) = peer.replica.raft().configuration().address(envelope.to).map(PeerId::node).cloned() else {
            return;
        };
        let frame = PeerFrame { cluster: peer.record.genesis.cluster, envelope };
        parts.network.send_snapshot(to, frame, parts.store.snapshots(), parts.events.clone());
    }

    fn read_log(&self, incarnation: Incarnation, read: LogRead) {
        let (store, events) = (self.parts.store.clone(), self.parts.events.clone());
        tokio::task::spawn_blocking(move || {
            let entries = store.read(incarnation, &read);
            // The loop has ended if it takes no more events.
            let _ = events.blocking_send(Event::LogRead { incarnation, read, entries });
        });
    }

    // Clusters on this node: creation and removal.

    /// Starts hosting a peer whose files are there.
    fn host(&mut self, incarnation: Incarnation, record: PeerRecord, restored: Restored) {
        let mut seed = [0; 8];
        // Without randomness elections may collide, but nothing is unsafe.
        let _ = getrandom::fill(&mut seed);
        let seed = u64::from_le_bytes(seed) ^ incarnation.0;
        let snapshot = restored.snapshot.clone();
        let settings = record.genesis.settings;
        let replica = Replica::new(incarnation, self.parts.raft.clone(), settings, restored, seed);
        let host =
            Host::new(incarnation, record.genesis.clone(), Arc::clone(&self.parts.backends), self.parts.store.clone());
        self.parts.guests.add(incarnation, host);
        self.parts.guests.give(incarnation, HostJob::Start(snapshot));
        self.names.insert(record.peer.name().to_owned(), incarnation);
        self.peers.insert(
            incarnation,
            HostedPeer { record, replica, stopped: None, snapshot_write: None, durable: WriteToken::default() },
        );
        self.touched.insert(incarnation);
    }

    /// Keeps names for a cluster to be created, or says which peers cannot be.
    fn reserve(&mut self, spec: ClusterSpec) -> Vec<PeerFailure> {
        let now = self.now();
        let here = spec.peers.iter().filter(|(_, peer)| *peer.node() == self.parts.node);
        let taken = here.filter(|(_, peer)| self.names.contains_key(peer.name()) || self.reservations.has(peer));
        let failures: Vec<_> = taken
            .map(|(_, peer)| PeerFailure {
                peer: peer.clone(),
                reason: format!("a peer named '{}' is already present on this node", peer.name()),
            })
            .collect();
        if failures.is_empty() && self.reservations.is_full() {
            let reason = "too many clusters are being created on this node; try again later";
            return spec.failures_on(&self.parts.node, reason);
        }
        if failures.is_empty() {
            self.reservations.add(spec, now.monotonic_ms);
        }
        failures
    }

    /// Makes the peers of a prepared cluster. The answer comes when they are durable.
    fn start_cluster(&mut self, cluster: ClusterId, reply: oneshot::Sender<Result<(), String>>) {
        let Some(spec) = self.reservations.take(cluster) else {
            let _ = reply.send(Err("it was not prepared here, or too long ago".to_owned()));
            return;
        };
        let missing: BTreeMap<_, _> = spec.records_on(&self.parts.node).collect();
        for (incarnation, record) in &missing {
            self.names.insert(record.peer.name().to_owned(), *incarnation);
            self.parts.store.create_peer(*incarnation, record.encode(), spec.bootstrap());
        }
        self.starting.push(Starting { spec, missing, reply });
    }

    /// A new peer's files are durable.
    fn created(&mut self, incarnation: Incarnation) {
        // A cluster that was discarded meanwhile is no longer among those that start.
        let mut starting = self.starting.iter_mut();
        let Some((record, bootstrap)) =
            starting.find_map(|starting| Some((starting.missing.remove(&incarnation)?, starting.spec.bootstrap())))
        else {
            return;
        };
        let mut restored = Restored::default();
        restored.replay(&bootstrap).expect("an empty log takes a first entry");
        self.host(incarnation, record, restored);
        for done in self.starting.extract_if(.., |starting| starting.missing.is_empty()) {
            let _ = done.reply.send(Ok(()));
        }
    }

    /// Forgets all of a cluster.
    fn discard(&mut self, cluster: ClusterId) {
        self.reservations.take(cluster);
        for starting in self.starting.extract_if(.., |starting| starting.spec.cluster == cluster) {
            for (incarnation, record) in starting.missing {
                self.names.remove(record.peer.name());
                self.parts.store.remove_peer(incarnation);
            }
        }
        let of_cluster = |_: &Incarnation, peer: &mut HostedPeer| peer.record.genesis.cluster == cluster;
        let gone: Vec<_> = self.peers.extract_if(.., of_cluster).collect();
        for (incarnation, peer) in gone {
            self.names.remove(peer.record.peer.name());
            self.parts.guests.remove(incarnation);
            self.parts.store.remove_peer(incarnation);
        }
        self.forget_unused_components();
    }

    /// Here and now, not in the background: a cluster that is prepared after this must find its component kept.
    fn forget_unused_components(&self) {
        let running = self.peers.values().map(|peer| peer.record.genesis.component);
        let starting = self.starting.iter().map(|starting| starting.spec.component);
        let in_use = running.chain(starting).chain(self.reservations.components()).collect();
        if let Err(error) = self.parts.backends.keep_only(&in_use) {
            tracing::warn!(%error, "could not delete components that no peer runs");
        }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.parts.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: crate::wasm::ENGINE.to_owned(),
            peers: self
                .names
                .values()
                .filter_map(|incarnation| Some((incarnation, self.peers.get(incarnation)?)))
                .map(|(incarnation, peer)| peer.status(*incarnation))
                .collect(),
        }
    }
}

impl HostedPeer {
    fn status(&self, incarnation: Incarnation) -> PeerStatus {
        let raft = self.replica.raft().status();
        let (applied, chain) = self.replica.machine();
        PeerStatus {
            peer: self.record.peer.clone(),
            incarnation,
            cluster: self.record.genesis.cluster,
            component: self.record.genesis.component,
            role: raft.role,
            term: raft.term,
            leader: self.replica.leader(),
            members: self.replica.raft().configuration().voters.values().cloned().collect(),
            last: raft.last.index,
            first: raft.first,
            commit: raft.commit,
            applied,
            chain: chain.0,
            snapshot: raft.snapshot.index,
            stopped: self.stopped.clone(),
        }
    }
}

fn to_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a duration since 1970 fits 64 bits of milliseconds")
}

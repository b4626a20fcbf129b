//! The loop that drives a node's replicas: one task owns them all. It takes what has come in, hands it to the
//! replicas, and carries out what they want done.
//!
//! Nothing here waits: the disk, the guests and the network have threads, tasks and queues of their own and report
//! back with an [`Event`]. All that came in while the last round was carried out makes up the next, so batches form
//! under load without delaying a lone request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::access::{Access, AccessList};
use crate::feature_level::FeatureLevel;
use crate::machine::Command;
use crate::node::backends::Backends;
use crate::node::canary::CanaryEvent;
use crate::node::config::Isolation;
use crate::node::courier::Courier;
use crate::node::departure::{Departure, Doors};
use crate::node::frames::{ClusterSpec, NodeFrame, PeerFrame, StandingFrame};
use crate::node::guests::{GuestThreads, Guests};
use crate::node::host::{CaptureRoom, HostEvent, HostJob};
use crate::node::hosting::{FoundPeer, HostedPeer, Starting};
use crate::node::journey::{Journey, Journeys};
use crate::node::lifecycle::{Lifecycle, Reservations};
use crate::node::links::{ClientLink, LinkSender};
use crate::node::members::{Plan, PlannedChange};
use crate::node::network::Network;
use crate::node::quiet::Quiet;
use crate::node::refusals::{Refusal, RefusalLog, Refused};
use crate::node::space::FullDisks;
use crate::node::startup::StartUp;
use crate::node::upgrade::UpgradeEvent;
use crate::node::waiting::{Asked, WaitingClient};
use crate::protocol::{
    ChangeMembers, Membership, NodeStatus, PeerFailure, Reply, RequestError, SessionRequest, SessionStart,
};
use crate::raft::{self, Entry, Envelope, LogRead, Message};
use crate::replica::{Effects, LinkId, Now, PeerMessage, Ticket, Wanted};
use crate::store::{Completion, Store, StoreError};
use crate::types::{ClusterId, Incarnation, Index, NodeAddr, PeerId};

/// Events that wait for the loop. Who brings more has to wait.
pub(super) const MAX_EVENTS: usize = 4096;
/// How long a node that stops waits for its guests.
const GUESTS_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Events taken into one round.
const MAX_EVENTS_PER_ROUND: usize = 512;

/// What the loop hears.
pub(super) enum Event {
    /// A message for a peer, from another node.
    Peer { from: NodeAddr, frame: PeerFrame },
    /// A question or an answer about whether a peer still belongs to its cluster, from another node.
    Standing { from: NodeAddr, frame: StandingFrame },
    /// Another node says that it is there.
    Alive { from: NodeAddr, life: u64, is_disk_full: bool },
    /// A client wants to write.
    Write {
        peer: String,
        client: Option<String>,
        data: Bytes,
        timeout_ms: u64,
        journey: Option<Box<Journey>>,
        reply: oneshot::Sender<Reply>,
    },
    /// A client wants to read.
    Query { peer: String, client: Option<String>, request: Bytes, timeout_ms: u64, reply: oneshot::Sender<Reply> },
    /// Somebody wants to know who may do what on a cluster, or whether he may change it.
    Access { peer: String, client: Option<String>, timeout_ms: u64, reply: oneshot::Sender<Reply> },
    /// Somebody wants to set who may do what on a cluster.
    SetAccess { peer: String, set: SetAccess, timeout_ms: u64, reply: oneshot::Sender<Reply> },
    /// A client wants to use a session. Answered with the stream's name, unless it was refused on the stream.
    Attach { peer: String, identity: String, start: SessionStart, sender: LinkSender, reply: oneshot::Sender<LinkId> },
    /// A client asks something on its session's stream.
    Ask { link: LinkId, request: SessionRequest, journey: Option<Box<Journey>> },
    /// A client's stream carries what it must not.
    EndLink { link: LinkId, error: RequestError },
    /// A client's stream has ended.
    Detach { link: LinkId },
    /// Somebody wants to know how the node is.
    Status { reply: oneshot::Sender<NodeStatus> },
    /// Writes have become durable.
    Durable(Vec<Completion>),
    /// The disk has failed.
    StoreFailed(StoreError),
    /// The disk has become full, or has room again.
    DiskFull(bool),
    /// Entries have been read from the store.
    LogRead { incarnation: Incarnation, read: LogRead, entries: Result<Vec<Entry>, StoreError> },
    /// A machine has done a job.
    Host { incarnation: Incarnation, event: HostEvent },
    /// A snapshot has reached its receiver, or not.
    SnapshotSent { from: Incarnation, to: Incarnation, ok: bool },
    /// Which of these peers cannot be on this node? If none, their names are kept.
    Reserve { spec: ClusterSpec, reply: oneshot::Sender<Vec<PeerFailure>> },
    /// Start peers that were prepared.
    Start { id: Incarnation, reply: oneshot::Sender<Result<(), String>> },
    /// Another node has dialed this one.
    Came { node: NodeAddr },
    /// All peers of a new cluster have started: the one here runs at once.
    Elect { incarnation: Incarnation },
    /// Forget peers, prepared or started.
    Discard { peers: Vec<Incarnation>, reply: oneshot::Sender<()> },
    /// Who are the peers of a cluster?
    Members { peer: String, reply: oneshot::Sender<Result<Membership, RequestError>> },
    /// May the peers of a cluster be changed?
    PlanChange { peer: String, change: ChangeMembers, reply: oneshot::Sender<Result<Plan, RequestError>> },
    /// Change the peers of a cluster as planned.
    BeginChange { change: PlannedChange, reply: oneshot::Sender<Result<(), RequestError>> },
    /// Which peers are to be forgotten, if a cluster is to be deleted?
    PlanRemoval { peer: String, is_forced: bool, reply: oneshot::Sender<Result<ClusterSpec, RequestError>> },
    /// Moving a cluster to another backend.
    Upgrade(UpgradeEvent),
    /// Trying another backend beside a peer's own.
    Canary(CanaryEvent),
    /// Have leadership handed over.
    Transfer { peer: String, to: Option<PeerId>, timeout_ms: u64, reply: oneshot::Sender<Result<PeerId, RequestError>> },
    /// May a node send a snapshot with this message? Whom it is for must live here, and listen to whom it is from.
    Lookup { from: NodeAddr, cluster: ClusterId, envelope: Envelope, reply: oneshot::Sender<Result<(), Refusal>> },
    /// Stop the node, once it has served whom it serves; at once if it was told so before.
    Stop,
    /// Stop the node at once.
    StopNow,
}

/// Another access list.
pub(super) struct SetAccess {
    /// The client that wants it; none if it is an administrator.
    pub(super) by: Option<String>,
    /// The entry that has set the present list.
    pub(super) expected: Index,
    pub(super) list: AccessList,
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
    pub(super) tick: Duration,
    /// How long a peer sleeps before its machine is dropped; none if that is never.
    pub(super) drop_machines_after_ms: Option<u64>,
    /// Randomness of this life of the process.
    pub(super) seed: u64,
    pub(super) store: Store,
    pub(super) guests: Guests,
    pub(super) guest_threads: GuestThreads,
    pub(super) backends: Arc<Backends>,
    pub(super) isolation: Isolation,
    /// For the states of all peers.
    pub(super) capture_room: CaptureRoom,
    pub(super) feature_level: FeatureLevel,
    pub(super) network: Network,
    pub(super) courier: Courier,
    pub(super) lifecycle: Lifecycle,
    pub(super) doors: Doors,
    pub(super) refusal_log: RefusalLog,
    pub(super) events: mpsc::Sender<Event>,
}

/// The loop's state.
pub(super) struct Driver {
    pub(super) parts: Parts,
    pub(super) peers: BTreeMap<Incarnation, HostedPeer>,
    pub(super) names: BTreeMap<String, Incarnation>,
    pub(super) reservations: Reservations,
    pub(super) waiting: HashMap<Ticket, WaitingClient>,
    pub(super) next_ticket: u64,
    /// The writes that are followed.
    pub(super) journeys: Journeys,
    /// The streams of sessions.
    pub(super) links: HashMap<LinkId, ClientLink>,
    pub(super) next_link: u64,
    /// Who sleeps.
    pub(super) quiet: Quiet,
    /// Whose machines are still to be made since the node was started.
    pub(super) startup: StartUp,
    /// Peers for which something came in.
    pub(super) touched: BTreeSet<Incarnation>,
    /// The nodes whose disks are full.
    pub(super) full_disks: FullDisks,
    /// Cluster starts that wait for the disk.
    pub(super) starting: Vec<Starting>,
    /// Set once the node is to stop.
    pub(super) departure: Option<Departure>,
    epoch: Instant,
}

impl Driver {
    /// A loop over the peers that the store holds.
    pub(super) fn new(parts: Parts, found: Vec<FoundPeer>) -> Self {
        let mut driver = Self {
            quiet: Quiet::new(parts.seed, parts.drop_machines_after_ms),
            startup: StartUp::new(found.iter().map(|found| found.stored.incarnation), Instant::now()),
            parts,
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            reservations: Reservations::default(),
            waiting: HashMap::new(),
            next_ticket: 0,
            journeys: Journeys::default(),
            links: HashMap::new(),
            next_link: 0,
            touched: BTreeSet::new(),
            full_disks: FullDisks::default(),
            starting: Vec::new(),
            departure: None,
            epoch: Instant::now(),
        };
        for FoundPeer { stored, record, base } in found {
            let base = base.unwrap_or(record.genesis.component);
            driver.host(stored.incarnation, record, stored.restored, base);
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
                while self.carry_out(incarnation) {}
                self.settle_change(incarnation);
                self.settle_transfer(incarnation);
                self.leave(incarnation);
                self.note_sleep(incarnation);
            }
            if self.has_departed() {
                break Ended::Stopped;
            }
        };
        // Nobody may wait for an event to be taken once nobody takes them.
        events.close();
        self.stop().await;
        ended
    }

    async fn stop(self) {
        for (_, client) in self.waiting {
            client.give_up(RequestError::Stopping);
        }
        for (_, link) in self.links {
            link.end(RequestError::Stopping);
        }
        let Parts { guest_threads, store, network, backends, .. } = self.parts;
        backends.stop();
        network.close().await;
        let guests = tokio::task::spawn_blocking(move || guest_threads.stop());
        if tokio::time::timeout(GUESTS_STOP_TIMEOUT, guests).await.is_err() {
            // What a guest computes now is of no use to anybody.
            tracing::warn!("a guest does not come to an end and is left behind");
        }
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("closing the store panicked");
        }
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_ms: to_ms(wall), monotonic_ms: to_ms(self.epoch.elapsed()) }
    }

    fn tick(&mut self) {
        let now = self.now();
        for incarnation in &self.quiet.awake {
            let Some(peer) = self.peers.get_mut(incarnation).filter(|peer| peer.stopped.is_none()) else { continue };
            peer.replica.tick(now);
            if let Some(successor) = self.full_disks.successor(&self.parts.node, peer.replica.raft()) {
                // It is asked again at the next tick.
                let _ = peer.replica.transfer(successor);
            }
            self.touched.insert(*incarnation);
        }
        self.tick_quiet();
        self.tick_standing();
        self.tick_changes(now.monotonic_ms);
        if self.reservations.expire(now.monotonic_ms) {
            self.forget_unused_components();
        }
    }

    fn handle(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Peer { from, frame } => {
                self.quiet.heard(&from);
                match frame.snapshot() {
                    Some(position) => self.receive_snapshot(from, frame, position),
                    None => self.step(&from, frame),
                }
            }
            Event::Alive { from, life, is_disk_full } => self.alive(&from, life, is_disk_full),
            Event::Upgrade(event) => self.upgrade_event(event),
            Event::Canary(event) => self.canary_event(event),
            Event::Standing { from, frame } => self.standing(&from, frame),
            Event::Write { peer, client, data, timeout_ms, journey, reply } => {
                let needs = client.clone().map(|client| (client, Access::Write));
                let command =
                    client.map_or(Command::Write { data: data.clone() }, |client| Command::WriteBy { client, data });
                self.write(&peer, (needs, Asked::Write), &command, timeout_ms, journey, reply);
            }
            Event::Query { peer, client, request, timeout_ms, reply } => {
                let deadline_ms = self.now().monotonic_ms + timeout_ms;
                if let Some((ticket, peer)) = self.admit(&peer, Asked::Query, reply) {
                    peer.replica.query(ticket, client, Wanted::Answer(request), deadline_ms);
                }
            }
            Event::Access { peer, client, timeout_ms, reply } => self.access(&peer, client, timeout_ms, reply),
            Event::SetAccess { peer, set: SetAccess { by, expected, list }, timeout_ms, reply } => {
                let needs = by.clone().map(|client| (client, Access::Admin));
                let command = Command::SetAccess { by, expected, list };
                self.write(&peer, (needs, Asked::SetAccess), &command, timeout_ms, None, reply);
            }
            Event::Attach { peer, identity, start, sender, reply } => {
                if let Some(link) = self.attach(&peer, &identity, start, sender) {
                    // Should the client be gone already, its stream is dropped with the first event.
                    let _ = reply.send(link);
                }
            }
            Event::Ask { link, request, journey } => self.ask(link, request, journey),
            Event::EndLink { link, error } => self.end_link(link, error),
            Event::Detach { link } => self.detach(link),
            Event::Status { reply } => drop(reply.send(self.status())),
            Event::Durable(completions) => completions.into_iter().for_each(|completion| self.durable(completion)),
            Event::StoreFailed(error) => return Some(Ended::StoreFailed(error)),
            Event::DiskFull(is_full) => self.disk_full(is_full),
            Event::LogRead { incarnation, read, entries } => self.log_read(incarnation, read, entries),
            Event::Host { incarnation, event } => self.host_event(incarnation, event),
            Event::SnapshotSent { from, to, ok } => {
                if let Some(peer) = self.running(from) {
                    peer.replica.snapshot_sent(to, ok);
                }
            }
            Event::Reserve { spec, reply } => drop(reply.send(self.reserve(spec))),
            Event::Start { id, reply } => self.start_peers(id, reply),
            Event::Came { node } => self.parts.network.came(&node),
            Event::Elect { incarnation } => {
                if let Some(peer) = self.running(incarnation) {
                    peer.replica.hasten_election();
                }
            }
            Event::Discard { peers, reply } => {
                self.discard(&peers);
                let _ = reply.send(());
            }
            Event::Members { peer, reply } => drop(reply.send(self.membership(&peer))),
            Event::PlanChange { peer, change, reply } => drop(reply.send(self.plan_change(&peer, &change))),
            Event::BeginChange { change, reply } => self.begin_change(change, reply),
            Event::PlanRemoval { peer, is_forced, reply } => drop(reply.send(self.plan_removal(&peer, is_forced))),
            Event::Transfer { peer, to, timeout_ms, reply } => self.transfer(&peer, to, timeout_ms, reply),
            Event::Lookup { from, cluster, envelope, reply } => {
                let _ = reply.send(self.addressed(&from, cluster, &envelope).map(drop));
            }
            Event::Stop if !self.depart() => {}
            Event::Stop | Event::StopNow => return Some(Ended::Stopped),
        }
        None
    }

    /// The nodes whose full disks keep a peer that leads from taking writes. Who does not lead sends clients to the
    /// leader, which knows better.
    pub(super) fn shortage(&self, name: &str) -> Option<Vec<NodeAddr>> {
        self.shortage_at(*self.names.get(name)?)
    }

    pub(super) fn shortage_at(&self, peer: Incarnation) -> Option<Vec<NodeAddr>> {
        if self.full_disks.is_empty() {
            return None;
        }
        let raft = self.peers.get(&peer)?.replica.raft();
        if raft.is_leader() { self.full_disks.shortage(raft.configuration()) } else { None }
    }

    fn disk_full(&mut self, is_full: bool) {
        if is_full {
            tracing::error!(node = %self.parts.node, "the disk is full: writes are refused until there is room");
            // Leadership may have to go elsewhere.
            self.stir_leaders();
        } else {
            tracing::info!(node = %self.parts.node, "the disk has room again: writes are taken");
        }
        self.full_disks.told(&self.parts.node, is_full);
    }

    /// The peer, if it runs, marked as touched.
    pub(super) fn running(&mut self, incarnation: Incarnation) -> Option<&mut HostedPeer> {
        let peer = self.peers.get_mut(&incarnation).filter(|peer| peer.stopped.is_none())?;
        self.touched.insert(incarnation);
        Some(peer)
    }

    /// Hands a message to its peer, if it lives here and the sender is who the message says.
    pub(super) fn step(&mut self, from: &NodeAddr, frame: PeerFrame) {
        let now = self.now();
        let sender = frame.message.envelope.from;
        match self.addressed(from, frame.cluster, &frame.message.envelope) {
            Ok(peer) => {
                peer.replica.step(frame.message, now);
                self.full_disks.told(from, frame.is_disk_full);
            }
            // Who has just left is still written to.
            Err(Refusal::NobodyHere) => {}
            Err(refusal) => {
                if let Some(unlogged) = self.parts.refusal_log.admit(from, Refused::Message(refusal)) {
                    let cluster = frame.cluster;
                    tracing::warn!(node = %from, %cluster, peer = %sender, %refusal, unlogged, "refused a message of a peer");
                }
            }
        }
    }

    /// Carries out what a replica wants done, and tells whether it wants more.
    fn carry_out(&mut self, incarnation: Incarnation) -> bool {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&incarnation).filter(|peer| peer.stopped.is_none()) else { return false };
        let effects = peer.replica.effects(now);
        let has_more = peer.replica.has_effects();
        let is_disk_full = self.full_disks.contains(&self.parts.node);
        let Effects { write, messages, log_reads, snapshots, jobs, component, answers, events, status, stop } = effects;
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
        self.journeys.follow(incarnation, &peer.replica);
        peer.has_machine |= !jobs.is_empty();
        for message in messages {
            Self::send(&mut self.parts.network, peer, message, is_disk_full);
        }
        for envelope in snapshots {
            Self::send_snapshot(&self.parts, peer, envelope, is_disk_full);
        }
        for read in log_reads {
            self.read_log(incarnation, read);
        }
        for job in jobs {
            self.parts.guests.give(incarnation, HostJob::Replica(job));
        }
        for answer in answers {
            self.answer(answer);
        }
        for (link, event) in events {
            self.tell(link, event);
        }
        if let Some(component) = component {
            self.seek(incarnation, component, Duration::ZERO);
        }
        if let Some(reason) = stop {
            self.stop_peer(incarnation, &reason);
        }
        has_more
    }

    fn send(network: &mut Network, peer: &HostedPeer, message: PeerMessage, is_disk_full: bool) {
        let envelope = &message.envelope;
        // A receiver that left the configuration meanwhile has no address, and needs no message.
        let Some(to) = peer.node_of(envelope.to).cloned() else { return };
        let is_urgent = !matches!(envelope.message, Message::Append { .. });
        let frame = PeerFrame { cluster: peer.record.genesis.cluster, message, is_disk_full };
        network.send(&to, is_urgent, &NodeFrame::Peer(frame));
    }

    fn send_snapshot(parts: &Parts, peer: &HostedPeer, envelope: Envelope, is_disk_full: bool) {
        let Some(to) = peer.node_of(envelope.to).cloned() else { return };
        let message = PeerMessage { envelope, rider: None };
        let frame = PeerFrame { cluster: peer.record.genesis.cluster, message, is_disk_full };
        parts.courier.send(to, frame);
    }

    fn read_log(&self, incarnation: Incarnation, read: LogRead) {
        let (store, events) = (self.parts.store.clone(), self.parts.events.clone());
        tokio::task::spawn_blocking(move || {
            let entries = store.read(incarnation, &read);
            // The loop has ended if it takes no more events.
            let _ = events.blocking_send(Event::LogRead { incarnation, read, entries });
        });
    }
}

pub(super) fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a duration since 1970 fits 64 bits of milliseconds")
}

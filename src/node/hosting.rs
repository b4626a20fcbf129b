//! The peers that live on a node: how the loop gets them, tells about them, and forgets them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::node::courier::Courier;
use crate::node::driver::{Driver, to_ms};
use crate::node::frames::ClusterSpec;
use crate::node::host::{Host, HostJob, Lack};
use crate::node::lifecycle::PeerRecord;
use crate::node::members::ChangeUnderWay;
use crate::node::standing::Company;
use crate::node::transfer::WaitingTransfer;
use crate::protocol::{
    FollowerStatus, Membership, NodeStatus, PeerFailure, PeerStatus, RequestError, Sending, SnapshotProgress,
};
use crate::raft::{self, FollowerState, Restored, WriteToken};
use crate::replica::Replica;
use crate::store::StoredPeer;
use crate::types::{Digest, Incarnation, LogPosition, PeerId};
use crate::wasm;

/// A peer that lives here.
pub(super) struct HostedPeer {
    pub(super) record: PeerRecord,
    pub(super) replica: Replica,
    /// The component of the state that the machine began with.
    pub(super) base: Digest,
    /// The components that its machine has run since the node was started, or is about to.
    pub(super) kept: BTreeSet<Digest>,
    /// Set when the peer has stopped: why. It then takes part in nothing.
    pub(super) stopped: Option<String>,
    /// Set while its machine cannot be made for want of a component. It stores and votes meanwhile.
    pub(super) lacking: Option<Lack>,
    /// The write that makes a new snapshot the peer's own; older files may go once it is durable and the machine has
    /// reached the snapshot.
    pub(super) snapshot_write: Option<(WriteToken, LogPosition)>,
    /// The last write that is durable.
    pub(super) durable: WriteToken,
    /// Whom the peer belongs with.
    pub(super) company: Company,
    /// The change of the cluster's peers that this peer was asked for.
    pub(super) change: ChangeUnderWay,
    /// Somebody who has asked for leadership to be handed over.
    pub(super) transfer: Option<WaitingTransfer>,
    /// Whether its machine is in memory, or is about to be.
    pub(super) has_machine: bool,
    /// Messages and snapshots for it that were not of its cluster, or not from where their sender lives.
    pub(super) refused: u64,
}

/// A peer as its node finds it when it is started.
pub(super) struct FoundPeer {
    pub(super) stored: StoredPeer,
    pub(super) record: PeerRecord,
    /// The component that wrote its snapshot, or with which its cluster was created. None if the snapshot cannot be opened.
    pub(super) base: Option<Digest>,
}

impl FoundPeer {
    /// The components that its files need.
    pub(super) fn components(&self) -> impl Iterator<Item = Digest> + '_ {
        let moved_to = self.stored.restored.upgrades.iter().map(|(_, component)| *component);
        std::iter::once(self.record.genesis.component).chain(self.base).chain(moved_to)
    }
}

/// A cluster whose peers here are being made durable. They live from then on.
pub(super) struct Starting {
    spec: ClusterSpec,
    missing: BTreeMap<Incarnation, PeerRecord>,
    reply: oneshot::Sender<Result<(), String>>,
}

impl Driver {
    /// Starts hosting a peer whose files are there; `base` is the component that wrote its snapshot, or with which its cluster was
    /// created.
    pub(super) fn host(&mut self, incarnation: Incarnation, record: PeerRecord, restored: Restored, base: Digest) {
        // Another for each peer and each life of the process: names of reads must not come twice.
        let seed = self.parts.seed ^ incarnation.0;
        let snapshot = restored.snapshot.clone();
        let settings = record.genesis.settings;
        let tick_ms = to_ms(self.parts.tick);
        let replica = Replica::new(incarnation, self.parts.raft.clone(), settings, restored, tick_ms, seed)
            .with_feature_level(self.parts.feature_level);
        let (backends, store) = (Arc::clone(&self.parts.backends), self.parts.store.clone());
        let (isolation, room) = (self.parts.isolation, self.parts.capture_room.clone());
        let host = Host::new(incarnation, record.genesis.clone(), backends, store, isolation, room);
        self.parts.guests.add(incarnation, host);
        self.parts.guests.give(incarnation, HostJob::Start(snapshot));
        self.names.insert(record.peer.name().to_owned(), incarnation);
        let durable = WriteToken::default();
        let company = Company::new(record.introduction.as_ref());
        let change = ChangeUnderWay::default();
        let peer = HostedPeer {
            record,
            replica,
            base,
            kept: BTreeSet::new(),
            stopped: None,
            lacking: None,
            snapshot_write: None,
            durable,
            company,
            change,
            transfer: None,
            has_machine: true,
            refused: 0,
        };
        self.peers.insert(incarnation, peer);
        self.quiet.add(incarnation);
        self.touched.insert(incarnation);
    }

    /// Keeps names for peers to be created, or says which cannot be.
    pub(super) fn reserve(&mut self, spec: ClusterSpec) -> Vec<PeerFailure> {
        let now = self.now();
        self.make_way(&spec);
        let here = spec.peers.iter().filter(|(_, peer)| *peer.node() == self.parts.node);
        let taken = here.filter(|(_, peer)| self.names.contains_key(peer.name()) || self.reservations.has(peer));
        let failures: Vec<_> = taken
            .map(|(_, peer)| PeerFailure {
                peer: peer.clone(),
                reason: format!("a peer named '{}' is already present on this node", peer.name()),
            })
            .collect();
        if failures.is_empty() && self.full_disks.contains(&self.parts.node) {
            return spec.failures_on(&self.parts.node, "the disk of the node is full: make room there");
        }
        if failures.is_empty() && self.reservations.is_full() {
            let reason = "too many clusters are being created or changed on this node; try again later";
            return spec.failures_on(&self.parts.node, reason);
        }
        if failures.is_empty() {
            self.reservations.add(spec, now.monotonic_ms);
        }
        failures
    }

    /// Makes peers that were prepared. The answer comes when they are durable.
    pub(super) fn start_peers(&mut self, id: Incarnation, reply: oneshot::Sender<Result<(), String>>) {
        let Some(spec) = self.reservations.take(id) else {
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
    pub(super) fn created(&mut self, incarnation: Incarnation) {
        // A cluster that was discarded meanwhile is no longer among those that start.
        let mut starting = self.starting.iter_mut();
        let Some((record, bootstrap)) =
            starting.find_map(|starting| Some((starting.missing.remove(&incarnation)?, starting.spec.bootstrap())))
        else {
            return;
        };
        let mut restored = Restored::default();
        restored.replay(&bootstrap).expect("an empty log takes a first entry");
        let base = record.genesis.component;
        self.host(incarnation, record, restored, base);
        for done in self.starting.extract_if(.., |starting| starting.missing.is_empty()) {
            let _ = done.reply.send(Ok(()));
        }
    }

    /// Forgets peers, whether they are in preparation, started, or running.
    pub(super) fn discard(&mut self, incarnations: &[Incarnation]) {
        self.reservations.discard(incarnations);
        for starting in self.starting.extract_if(.., |starting| starting.spec.names_any(incarnations)) {
            for (incarnation, record) in starting.missing {
                self.names.remove(record.peer.name());
                self.parts.store.remove_peer(incarnation);
            }
        }
        for incarnation in incarnations {
            self.remove_peer(*incarnation);
        }
        self.forget_unused_components();
    }

    /// Forgets a peer that runs here, and its files.
    pub(super) fn remove_peer(&mut self, incarnation: Incarnation) {
        let Some(peer) = self.peers.remove(&incarnation) else { return };
        self.quiet.remove(incarnation);
        let name = peer.record.peer.name();
        self.names.remove(name);
        self.parts.guests.remove(incarnation);
        self.parts.store.remove_peer(incarnation);
        let error = RequestError::NoSuchPeer { name: name.to_owned(), node: self.parts.node.clone() };
        self.give_up_clients(incarnation, &error);
    }

    /// Here and now, not in the background: a cluster that is prepared after this must find its component kept.
    pub(super) fn forget_unused_components(&self) {
        let running = self.peers.values().flat_map(HostedPeer::components);
        let starting = self.starting.iter().map(|starting| starting.spec.component);
        let in_use = running.chain(starting).chain(self.reservations.components()).collect();
        if let Err(error) = self.parts.backends.keep_only(&in_use) {
            tracing::warn!(%error, "could not delete components that no peer runs");
        }
    }

    pub(super) fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.parts.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: wasm::ENGINE.to_owned(),
            is_disk_full: self.full_disks.contains(&self.parts.node),
            starting: self.startup.waiting(),
            peers: self
                .names
                .values()
                .filter_map(|incarnation| Some((incarnation, self.peers.get(incarnation)?)))
                .map(|(incarnation, peer)| peer.status(*incarnation, &self.parts.courier))
                .collect(),
        }
    }
}

impl HostedPeer {
    fn status(&self, incarnation: Incarnation, courier: &Courier) -> PeerStatus {
        let raft = self.replica.raft().status();
        let (applied, chain) = self.replica.machine();
        let Membership { peers: members, joining, leaving, .. } = self.membership();
        PeerStatus {
            peer: self.record.peer.clone(),
            incarnation,
            cluster: self.record.genesis.cluster,
            component: self.component(),
            upgrade: self.replica.latest_upgrade().cloned(),
            level: self.replica.feature_level(),
            role: raft.role,
            term: raft.term,
            leader: self.replica.leader(),
            members,
            joining,
            leaving,
            followers: self.followers(&raft),
            last: raft.last.index,
            first: raft.first,
            commit: raft.commit,
            applied,
            chain: chain.0,
            snapshot: raft.snapshot.index,
            snapshot_time_ms: self.replica.raft().snapshot().map(|meta| meta.time_ms),
            snapshot_bytes: self.replica.snapshot_bytes(),
            triggers: self.replica.trigger_count() as u64,
            sessions: self.replica.session_count() as u64,
            is_asleep: self.replica.is_asleep(),
            has_machine: self.has_machine,
            receiving: courier.received_by(incarnation),
            sending: self.named(courier.sent_by(incarnation)),
            refused: raft.refused + self.refused,
            quarantine: self.replica.quarantine(),
            stopped: self.stopped.clone().or_else(|| self.lacking.as_ref().map(ToString::to_string)),
        }
    }

    /// Of snapshots that are being sent, the peers that they are for. One that has left meanwhile has no name any more.
    fn named(&self, sent: Vec<(Incarnation, SnapshotProgress)>) -> Vec<(PeerId, SnapshotProgress)> {
        let named = |(to, progress)| Some((self.replica.raft().address(to)?.clone(), progress));
        sent.into_iter().filter_map(named).collect()
    }

    /// The others, as this peer sees them if it leads. One that has just left has no name any more.
    fn followers(&self, raft: &raft::Status) -> Vec<FollowerStatus> {
        let status = |follower: &raft::FollowerStatus| {
            Some(FollowerStatus {
                peer: self.replica.raft().address(follower.id)?.clone(),
                matched: follower.matched,
                behind: raft.last.index.0.saturating_sub(follower.matched.0),
                sending: match follower.state {
                    FollowerState::Probe => Sending::Probe,
                    FollowerState::Replicate => Sending::Replicate,
                    FollowerState::Snapshot => Sending::Snapshot,
                },
                machine: self.replica.machine_of(follower.id),
                level: self.replica.feature_level_of(follower.id),
            })
        };
        let others = raft.followers.iter().filter(|follower| follower.id != raft.id);
        let mut followers: Vec<_> = others.filter_map(status).collect();
        followers.sort_by(|one, other| one.peer.cmp(&other.peer));
        followers
    }
}

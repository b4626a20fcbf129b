//! How a node goes: it hands leadership over, tells its clients to go elsewhere, answers what they have asked, and stops
//! once nobody asks any more. Nobody's request is lost by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::node::driver::Driver;
use crate::node::hosting::HostedPeer;
use crate::node::transfer::heirs;
use crate::types::{Incarnation, NodeAddr};

/// How long a node that goes waits for others, in milliseconds: who leads a cluster without a majority steps down meanwhile.
const PATIENCE_MS: u64 = 5_000;
/// How long nobody must have asked anything, in milliseconds: what was sent before a client was told to go elsewhere has
/// come by then, and the last answers have arrived.
const QUIET_MS: u64 = 100;

/// What connections and the loop share of a departure. Cheap to clone.
#[derive(Clone)]
pub(super) struct Doors {
    closing: Arc<watch::Sender<bool>>,
    open: Arc<AtomicUsize>,
    clients: Arc<AtomicUsize>,
}

/// Counts in what lasts as long as this.
pub(super) struct Counted(Arc<AtomicUsize>);

/// A departure under way.
pub(super) struct Departure {
    deadline_ms: u64,
    /// To whom each peer has tried to hand leadership.
    asked: BTreeMap<Incarnation, BTreeSet<Incarnation>>,
    quiet_since_ms: Option<u64>,
}

impl Doors {
    pub(super) fn new() -> Self {
        Self { closing: Arc::new(watch::Sender::new(false)), open: Arc::default(), clients: Arc::default() }
    }

    /// Counts in a client's connection.
    pub(super) fn client(&self) -> Counted {
        Counted::new(&self.clients)
    }

    /// Counts in what a client has asked, until the answer is written.
    pub(super) fn request(&self) -> Counted {
        Counted::new(&self.open)
    }

    /// Waits until clients are to be told to go elsewhere.
    pub(super) async fn closing(&self) {
        // This holds the other end of it.
        let _ = self.closing.subscribe().wait_for(|is_closing| *is_closing).await;
    }

    fn are_quiet(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    fn has_clients(&self) -> bool {
        self.clients.load(Ordering::Relaxed) > 0
    }
}

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Driver {
    /// Begins to go. Whoever says so twice means now: returns whether that is so.
    pub(super) fn depart(&mut self) -> bool {
        if self.departure.is_some() {
            return true;
        }
        tracing::info!(node = %self.parts.node, "the node is stopping: it hands leadership over and answers what it was asked");
        let deadline_ms = self.now().monotonic_ms + PATIENCE_MS;
        self.departure = Some(Departure { deadline_ms, asked: BTreeMap::new(), quiet_since_ms: None });
        false
    }

    /// Goes on going, and tells whether it is done.
    pub(super) fn has_departed(&mut self) -> bool {
        let now_ms = self.now().monotonic_ms;
        let Some(departure) = &mut self.departure else { return false };
        if now_ms >= departure.deadline_ms {
            tracing::warn!(
                "stopping though some could not be served: they may not know what became of what they asked"
            );
            return true;
        }
        let mut leads = false;
        for (incarnation, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.stopped.is_none()) {
            let raft = peer.replica.raft();
            if !raft.is_leader() || !has_others(peer, &self.parts.node) {
                continue;
            }
            leads = true;
            if raft.transferring_to().is_none()
                && let Some(to) = departure.successor(*incarnation, peer, &self.parts.node)
            {
                // Another is asked at the next tick.
                let _ = peer.replica.transfer(to);
                self.touched.insert(*incarnation);
            }
        }
        let doors = &self.parts.doors;
        if leads {
            departure.quiet_since_ms = None;
            return false;
        }
        doors.closing.send_replace(true);
        if !doors.has_clients() {
            return true;
        }
        if !doors.are_quiet() {
            departure.quiet_since_ms = None;
            return false;
        }
        now_ms >= *departure.quiet_since_ms.get_or_insert(now_ms) + QUIET_MS
    }
}

impl Departure {
    /// Whom to hand leadership to: the voter elsewhere that has most of the log, of those that were not asked; if all were, all
    /// are asked anew.
    fn successor(&mut self, this: Incarnation, peer: &HostedPeer, node: &NodeAddr) -> Option<Incarnation> {
        let heirs = heirs(peer.replica.raft(), node);
        let asked = self.asked.entry(this).or_default();
        if heirs.iter().all(|heir| asked.contains(heir)) {
            asked.clear();
        }
        let to = heirs.into_iter().find(|heir| !asked.contains(heir))?;
        asked.insert(to);
        Some(to)
    }
}

/// Whether somebody elsewhere could lead in the place of a peer.
fn has_others(peer: &HostedPeer, node: &NodeAddr) -> bool {
    peer.replica.raft().configuration().voters.values().any(|voter| voter.node() != node)
}

//! What other nodes send and a node does not take.
//!
//! A node's certificate says which node it is, and no more. Whether one of its peers has something to say to a peer that lives
//! here is looked at for each message, and for each snapshot before any of its file is taken.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::log_limit::LogLimit;
use crate::node::driver::{Driver, to_ms};
use crate::node::hosting::HostedPeer;
use crate::raft::Envelope;
use crate::types::{ClusterId, NodeAddr};

/// Why a message or a snapshot for a peer is not taken. The node that sends it is to blame; nothing has changed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum Refusal {
    /// Mostly the peer has just left.
    #[error("the peer that it is for does not live here")]
    NobodyHere,
    #[error("it is of another cluster than the peer that it is for")]
    OtherCluster,
    #[error("its sender lives on another node, or has left the cluster")]
    NotOfTheGroup,
}

/// What of another node's is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Message(Refusal),
    /// What is no message at all, or lacks what belongs to it.
    Malformed,
    Snapshot,
    Transfer,
}

/// Bounds how much the log says about what each other node does wrong. Cheap to clone.
#[derive(Clone)]
pub(super) struct RefusalLog {
    limit: Arc<Mutex<LogLimit<(NodeAddr, Refused)>>>,
    epoch: Instant,
}

impl RefusalLog {
    pub(super) fn new() -> Self {
        Self { limit: Arc::default(), epoch: Instant::now() }
    }

    /// Whether this may be told now, and how many like it were not told before.
    pub(super) fn admit(&self, from: &NodeAddr, what: Refused) -> Option<u64> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.admit((from.clone(), what), to_ms(self.epoch.elapsed()))
    }
}

impl Driver {
    /// The peer that a message is for, if it is of its cluster and its sender is who the message says. What it is not told is
    /// counted in its status.
    pub(super) fn addressed(
        &mut self,
        from: &NodeAddr,
        cluster: ClusterId,
        envelope: &Envelope,
    ) -> Result<&mut HostedPeer, Refusal> {
        let peer = self.running(envelope.to).ok_or(Refusal::NobodyHere)?;
        let refusal = if peer.record.genesis.cluster != cluster {
            Refusal::OtherCluster
        } else if !peer.listens_to(envelope, from) {
            Refusal::NotOfTheGroup
        } else {
            return Ok(peer);
        };
        peer.refused += 1;
        Err(refusal)
    }
}

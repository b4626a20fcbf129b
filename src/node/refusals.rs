//! What other nodes send and a node does not take.
//!
//! A node's certificate says which node it is, and no more. Whether one of its peers has something to say to a peer that lives
//! here is looked at for each message, and for each snapshot before any of its file is taken.

use crate::node::driver::Driver;
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

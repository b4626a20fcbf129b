//! What clients and nodes say about the peers of a cluster, and about changing them.

use serde::{Deserialize, Serialize};

use super::{PeerFailure, format_failures};
use crate::types::{Index, PeerId};

/// The peers of a cluster, as its leader has them. Each list is sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The leader.
    pub leader: PeerId,
    /// Where this set of peers stands in the log: a later set has a higher index.
    pub index: Index,
    /// The peers that vote. While old and new ones decide together, the new ones.
    pub peers: Vec<PeerId>,
    /// The peers that a change under way brings: those that still learn, or vote for the first time.
    pub joining: Vec<PeerId>,
    /// The peers that a change under way lets go.
    pub leaving: Vec<PeerId>,
}

impl Membership {
    /// Whether no change is under way.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.joining.is_empty() && self.leaving.is_empty()
    }
}

/// A change of a cluster's peers: compare and set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeMembers {
    /// The peers that there are to be, in any order.
    pub new: Vec<PeerId>,
    /// The peers that there must be, in any order: else nothing is changed.
    pub old: Vec<PeerId>,
}

/// Why the peers of a cluster were not changed, or are not known to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeRefusal {
    /// The peers are others than was thought. Nothing was changed.
    #[error("the peers were not changed: they are {} now, and not the expected ones", format_peers(now))]
    PeersChanged {
        /// The peers that there are.
        now: Vec<PeerId>,
    },
    /// Another change is under way. Nothing was changed.
    #[error(
        "the peers were not changed: another change is under way; wait for its end, or withdraw it while its new peers \
         catch up by setting the present peers"
    )]
    InProgress,
    /// The leader is new and has committed nothing yet. Nothing was changed.
    #[error("the peers were not changed: the leader has only just been elected; try again in a moment")]
    NotStable,
    /// The leader changed before the change began. Nothing was changed.
    #[error("the peers were not changed: the leader changed before the change began; try again")]
    LeaderChanged,
    /// Another change was made before this one began. Nothing was changed.
    #[error("the peers were not changed: another change was made meanwhile; look at the peers and try again")]
    NewerExists,
    /// New peers could not be made. Nothing was changed, and nothing of them is left behind.
    #[error("the peers were not changed: {}", format_failures(failures))]
    NotJoined {
        /// Every new peer that could not start, with the reason.
        failures: Vec<PeerFailure>,
    },
    /// Time was up before the change began. Nothing was changed.
    #[error("the peers were not changed: the new peers were not ready in time")]
    Timeout,
    /// The change has begun and was not complete in time. It goes on by itself.
    #[error(
        "the change has begun and was not complete in time; it goes on by itself. Ask for the peers to see how it stands; \
         setting the present peers withdraws it while its new peers catch up"
    )]
    Unfinished,
    /// The change was withdrawn, or another one followed it, before it was seen to be complete.
    #[error("the change was withdrawn or overtaken by another; the peers are {} now", format_peers(now))]
    Overtaken {
        /// The peers that there are.
        now: Vec<PeerId>,
    },
    /// Too many of the new peers have a state that is to be replaced, since it is not the majority's or has no component to go on
    /// with, or have yet to go over to the present component. Nothing was changed.
    #[error(
        "the peers were not changed: too many of the new ones are in quarantine, or have yet to go over to the present component; \
         try again when they have, which they and the leader see to"
    )]
    Diverged,
}

impl ChangeRefusal {
    /// Whether the change has begun, so that it may be complete or may yet become so.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        matches!(self, Self::Unfinished | Self::Overtaken { .. })
    }
}

pub(super) fn format_peers(peers: &[PeerId]) -> String {
    let names: Vec<_> = peers.iter().map(ToString::to_string).collect();
    names.join(", ")
}

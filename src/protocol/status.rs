//! How a leader sees its followers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::feature_level::FeatureLevel;
use crate::types::{Index, PeerId};

/// A follower or learner, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// The peer.
    pub peer: PeerId,
    /// The last entry known to be durable there.
    pub matched: Index,
    /// How many entries of the leader's log are not known to be durable there.
    pub behind: u64,
    /// How the leader sends to it.
    pub sending: Sending,
    /// What it has told of its machine in the leader's term, if it has.
    pub machine: Option<MachineStatus>,
    /// What entries it supports, if it has told that in the leader's term.
    pub level: Option<FeatureLevel>,
}

/// The machine of a follower, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The last entry that it has told to have applied.
    pub applied: Index,
    /// The last entry at which its hash chain was found to be the leader's; zero if none was compared.
    pub agrees: Index,
    /// The first entry at which its hash chain was found to be another than the leader's; none if it agrees.
    pub differs: Option<Index>,
}

/// How a leader sends to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sending {
    /// Looks for the place where the logs part, or for a sign of life.
    Probe,
    /// Sends ahead of the answers.
    Replicate,
    /// Waits until the follower has a snapshot.
    Snapshot,
}

impl fmt::Display for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Replicate => "replicate",
            Self::Snapshot => "snapshot",
        })
    }
}

//! Canaries: another backend that runs beside a peer's own, on the same entries, to see what it would do.

use serde::{Deserialize, Serialize};

use crate::protocol::{BackendFault, UpgradeCluster, UpgradeRefusal};
use crate::types::Index;

/// Longest time that a canary runs, in milliseconds.
pub const MAX_CANARY_MS: u64 = 3_600_000;
/// Most differences that a canary tells of, one by one.
pub const MAX_CANARY_DIFFERENCES: usize = 20;

/// A canary to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCanary {
    /// What it runs, and what that is told.
    pub upgrade: UpgradeCluster,
    /// It ends after so many commands.
    pub max_commands: u64,
    /// And after this time, in milliseconds, at most [`MAX_CANARY_MS`].
    pub max_ms: u64,
}

/// What a canary has seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReport {
    /// The state that it was given was that after this entry.
    pub from: Index,
    /// How many commands, and ends of sessions, it has run.
    pub commands: u64,
    /// How many of these came to something else.
    pub differing: u64,
    /// The first of these, [`MAX_CANARY_DIFFERENCES`] at most.
    pub differences: Vec<CanaryDifference>,
    /// Why it has ended.
    pub end: CanaryEnd,
}

/// A command that came to something else. What it came to is told in words, and cut where it is long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryDifference {
    /// Its place in the log.
    pub index: Index,
    /// What it came to on the backend that the cluster runs.
    pub present: String,
    /// What it came to on the other.
    pub canary: String,
}

/// Why a canary has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CanaryEnd {
    /// It has run as many commands, or as long, as it was to.
    Done,
    /// It does not take the state: an upgrade would end like this.
    NotUpgraded(UpgradeRefusal),
    /// It has died of an entry.
    Died {
        /// The entry.
        on: Index,
        /// What it died of.
        fault: BackendFault,
    },
    /// Commands came faster than it could run them beside what else its node does.
    FellBehind,
    /// It could not go on, through no fault of its own.
    Interrupted(String),
}

impl CanaryReport {
    /// Of a canary that has ended before it ran anything.
    #[must_use]
    pub fn without_commands(from: Index, end: CanaryEnd) -> Self {
        Self { from, commands: 0, differing: 0, differences: Vec::new(), end }
    }
}

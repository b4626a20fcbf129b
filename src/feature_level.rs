//! What the log of a cluster may hold while its nodes run different versions of zraft.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage of what entries there may be. A version of zraft supports all levels up to its newest. A cluster begins with the first,
/// and goes on to a higher one by an entry of its log, once all its peers support that: before, a node can go back to the
/// version that it ran, and after, none meets an entry that it cannot apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeatureLevel(pub u16);

impl FeatureLevel {
    /// What every version supports.
    pub const FIRST: Self = Self(1);
    /// A running cluster can move to another backend.
    pub const UPGRADES: Self = Self(2);
    /// A cluster that nobody uses may sleep.
    pub const SLEEP: Self = Self(2);
    /// The newest that this version supports.
    pub const NEWEST: Self = Self::UPGRADES;

    /// Whether this version supports the level.
    #[must_use]
    pub fn is_supported(self) -> bool {
        self <= Self::NEWEST
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! What entries the log may hold (`feature_level.rs`). Each peer tells its leader what it supports. Once all have told of more
//! than the cluster has, learners too, the leader raises it by an entry.

use std::collections::BTreeMap;

use crate::feature_level::FeatureLevel;
use crate::machine::Command;
use crate::protocol::UpgradeRefusal;
use crate::replica::{Now, Replica};
use crate::types::{Incarnation, Term};

/// What one replica knows of levels.
pub(super) struct FeatureLevels {
    /// What this peer tells the leader.
    pub(super) own: FeatureLevel,
    /// What the log may hold, as of the last entry applied.
    pub(super) cluster: FeatureLevel,
    /// The term of what follows.
    term: Term,
    /// What the others have told this leader.
    told: BTreeMap<Incarnation, FeatureLevel>,
    /// What this leader has proposed.
    proposed: Option<FeatureLevel>,
}

impl FeatureLevels {
    pub(super) fn new() -> Self {
        Self {
            own: FeatureLevel::NEWEST,
            cluster: FeatureLevel::FIRST,
            term: Term::ZERO,
            told: BTreeMap::new(),
            proposed: None,
        }
    }

    /// What was told to the leader of another term counts no more: who has told it may have gone back since.
    fn enter(&mut self, term: Term) {
        if self.term != term {
            (self.term, self.told, self.proposed) = (term, BTreeMap::new(), None);
        }
    }
}

impl Replica {
    /// This peer tells its leader of no higher level than this: an operator wants to be able to go back.
    #[must_use]
    pub fn with_feature_level(mut self, level: FeatureLevel) -> Self {
        self.levels.own = level;
        self
    }

    /// What the log may hold, as of the last entry applied.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.levels.cluster
    }

    /// What a peer supports, if it has told this leader.
    #[must_use]
    pub fn feature_level_of(&self, other: Incarnation) -> Option<FeatureLevel> {
        let is_current = self.raft.is_leader() && self.levels.term == self.raft.term();
        self.levels.told.get(&other).copied().filter(|_| is_current)
    }

    /// Whether this leader may propose what needs a level.
    ///
    /// # Errors
    /// [`UpgradeRefusal::NotYet`] with those who may not support it.
    pub fn check_level(&self, needs: FeatureLevel) -> Result<(), UpgradeRefusal> {
        let has = self.levels.cluster;
        if has >= needs {
            return Ok(());
        }
        let members = self.raft.configuration().members().into_iter();
        let lacking = members.filter(|member| self.supported_by(*member).is_none_or(|level| level < needs));
        Err(UpgradeRefusal::NotYet {
            needs,
            has,
            by: lacking.filter_map(|life| self.raft.address(life).cloned()).collect(),
        })
    }

    fn supported_by(&self, member: Incarnation) -> Option<FeatureLevel> {
        if member == self.raft.id() { Some(self.levels.own) } else { self.feature_level_of(member) }
    }

    /// A member has told what it supports.
    pub(super) fn hear_level(&mut self, from: Incarnation, level: FeatureLevel) {
        self.levels.enter(self.raft.term());
        self.levels.told.insert(from, level);
    }

    /// What all members support; none while one has not told.
    fn common_level(&self) -> Option<FeatureLevel> {
        let members = self.raft.configuration().members().into_iter();
        members.map(|member| self.supported_by(member)).min().flatten()
    }

    /// Raises the level, if this leader knows what it is and that all support more.
    pub(super) fn raise_level(&mut self, now: Now) {
        let is_current = self.raft.is_leader() && self.feed.reported().term == self.raft.term();
        if !is_current {
            return;
        }
        self.levels.enter(self.raft.term());
        let known = self.levels.proposed.unwrap_or(self.levels.cluster);
        if let Some(level) = self.common_level().filter(|level| *level > known) {
            let data = Command::RaiseLevel { level }.encode();
            // Where there is no room for it, there is with a later tick.
            if self.raft.propose(vec![data], now.wall_ms).is_ok() {
                self.levels.proposed = Some(level);
            }
        }
    }
}

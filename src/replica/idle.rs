//! What a replica does while nobody uses its cluster: it falls asleep (`raft::quiesce`), and later its machine may rest.

use crate::feature_level::FeatureLevel;
use crate::replica::Replica;
use crate::types::Incarnation;

impl Replica {
    /// Whether this replica needs no ticks: nobody waits for it, and its part in consensus sleeps.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        let is_waited_for = !self.writes.is_empty() || self.reads.len() > 0;
        self.raft.is_asleep() && !is_waited_for && !self.has_effects()
    }

    /// Something will be wanted of the cluster: wakes its peers.
    pub fn stir(&mut self) {
        self.raft.stir();
    }

    /// The node of this cluster's leader may be gone, for all that this node knows.
    pub fn suspect_leader(&mut self) {
        self.raft.suspect_leader();
    }

    /// A leader that has anything left to do does not fall asleep. The core knows of the log, this of the rest: sessions, which
    /// end by the clock, and the machines of all peers.
    pub(super) fn stay_awake(&mut self) {
        if self.raft.is_leader() && !self.is_idle() {
            self.raft.stir();
        }
    }

    fn is_idle(&self) -> bool {
        let is_waited_for = !self.writes.is_empty() || self.reads.len() > 0 || !self.links.is_empty();
        let others = self.raft.configuration().members().into_iter().filter(|member| *member != self.raft.id());
        // Who has not the level knows no message about sleep.
        let may_sleep = self.feature_level() >= FeatureLevel::SLEEP;
        may_sleep
            && !is_waited_for
            && self.is_machine_idle()
            && others.into_iter().all(|other| self.is_level_with(other))
    }

    fn is_machine_idle(&self) -> bool {
        let has_applied_all = self.applied == self.raft.last_index() && self.feed.is_idle();
        let is_sound = self.judge.is_calm() && self.judge.has_no_trouble() && self.quarantine().is_none();
        has_applied_all && is_sound && !self.snapshots.is_wanted()
    }

    /// Whether another replica has told this leader that its machine is where this one's is.
    fn is_level_with(&self, other: Incarnation) -> bool {
        let machine = self.machine_of(other);
        machine.is_some_and(|machine| machine.differs.is_none() && machine.agrees == self.applied)
    }

    /// Whether the machine of a replica that sleeps may be dropped, to be made again when it is needed. Where that would take
    /// long, a snapshot is made first: ask again when it is there.
    pub fn may_machine_rest(&mut self) -> bool {
        if !self.is_asleep() || !self.is_machine_idle() || self.snapshots.is_writing() {
            return false;
        }
        let (position, _) = self.feed.position();
        if self.snapshots.is_near(position.index, self.feed.log_bytes()) {
            self.raft.forget_cached();
            return true;
        }
        self.snapshots.want();
        false
    }
}

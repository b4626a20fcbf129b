//! Clusters that nobody uses for a while: they fall asleep, their machines rest, and what drivers know of each other's nodes
//! wakes those that may have lost their leader.

use std::collections::BTreeMap;

use rand::Rng;
use zraft::types::Incarnation;

use super::Sim;

/// Steps without a sign of a node after which it counts as lost.
const LOST_AFTER: u64 = 15;

/// What each node knows of each other, and when clients want nothing.
#[derive(Default)]
pub struct Quiet {
    until: u64,
    known: BTreeMap<(Incarnation, Incarnation), Known>,
}

#[derive(Default)]
struct Known {
    silent_steps: u64,
    life: Option<u64>,
}

impl Sim {
    /// Now and then clients want nothing for a while, in runs where clusters fall asleep.
    pub(super) fn are_clients_quiet(&mut self) -> bool {
        if self.plan.config.values().quiesce_ticks > 0 && self.rng.random_bool(0.01) {
            self.quiet.until = self.now + self.rng.random_range(0..400);
        }
        self.is_quiet()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.until > self.now
    }

    /// A node ticks only the replicas that are awake, and wakes those whose leader may be gone.
    pub(super) fn watch_others(&mut self, id: Incarnation) {
        let leader = self.nodes[&id].replica.raft().leader();
        let mut has_another_life = false;
        for (other, node) in &self.nodes {
            let is_away = self.down.contains(other) || self.paused.contains_key(other);
            let is_heard = !is_away && !self.blocked.contains(&(*other, id));
            let known = self.quiet.known.entry((id, *other)).or_default();
            known.silent_steps = if is_heard { 0 } else { known.silent_steps + 1 };
            if is_heard {
                let before = known.life.replace(node.life);
                has_another_life |= Some(*other) == leader && before.is_some_and(|life| life != node.life);
            }
        }
        if !self.nodes[&id].replica.is_asleep() {
            return;
        }
        self.count("asleep");
        let known = &self.quiet.known;
        let is_here = |other: Incarnation| {
            other == id || known.get(&(id, other)).is_some_and(|known| known.silent_steps < LOST_AFTER)
        };
        let raft = self.nodes[&id].replica.raft();
        if raft.is_leader() {
            if !raft.configuration().has_quorum(is_here) {
                self.count("woken: the quorum may be gone");
                self.replica(id).stir();
            }
        } else if has_another_life || !leader.is_some_and(is_here) {
            self.count("woken: the leader may be gone");
            self.replica(id).suspect_leader();
        } else if !self.is_healed && self.rng.random_bool(0.003) {
            self.count("woken by mistake");
            self.replica(id).suspect_leader();
        }
    }

    /// The machine of a replica that sleeps may be dropped.
    pub(super) fn rest(&mut self, id: Incarnation) {
        if self.is_healed || !self.rng.random_bool(0.1) || !self.nodes[&id].has_done_its_jobs() {
            return;
        }
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.replica.may_machine_rest() && node.runner.machine().is_some() {
            node.runner.rest();
            self.count("machine: rests");
        }
    }
}

//! What drivers know of each other's hosts, on behalf of peers that sleep: whether anything was heard from there lately, and
//! whether the process there is another than before.

use std::collections::BTreeMap;

use rand::Rng;
use zraft::types::Incarnation;

use crate::sim::world::Sim;

/// Steps without a sign of a host after which it counts as lost.
const LOST_AFTER: u64 = 15;

/// What each host knows of each other.
#[derive(Default)]
pub struct Neighbours(BTreeMap<(Incarnation, Incarnation), Known>);

#[derive(Default)]
struct Known {
    silent_steps: u64,
    /// The last life that was heard of.
    life: Option<u64>,
}

impl Sim {
    /// Lets hosts hear of each other, and wakes the peers that have to know.
    pub fn watch_neighbours(&mut self, id: Incarnation) {
        let mut has_another_life = false;
        let is_awake = !self.hosts[&id].peer.raft.is_asleep();
        let leader = self.hosts[&id].peer.raft.leader();
        for (other, host) in &self.hosts {
            let is_heard = !host.is_down && host.paused_until <= self.now && !self.blocked.contains(&(*other, id));
            let known = self.neighbours.0.entry((id, *other)).or_default();
            known.silent_steps = if is_heard { 0 } else { known.silent_steps + 1 };
            if is_heard {
                let before = known.life.replace(host.life);
                has_another_life |= Some(*other) == leader && before.is_some_and(|life| life != host.life);
            }
        }
        if is_awake {
            return;
        }
        let neighbours = &self.neighbours.0;
        let is_here = |other: Incarnation| {
            other == id || neighbours.get(&(id, other)).is_some_and(|known| known.silent_steps < LOST_AFTER)
        };
        let raft = &self.hosts[&id].peer.raft;
        if raft.is_leader() {
            if !raft.configuration().has_quorum(is_here) {
                self.counts.count("woken: the quorum may be gone");
                self.host(id).peer.raft.stir();
            }
            return;
        }
        let is_leader_gone = has_another_life || !leader.is_some_and(is_here);
        let is_mistaken = !self.is_calm && self.rng.random_bool(0.002);
        if is_leader_gone || is_mistaken {
            self.counts.count(if is_leader_gone { "woken: the leader may be gone" } else { "woken by mistake" });
            self.host(id).peer.raft.suspect_leader();
        }
    }
}

//! Machines that go wrong, as by a bad memory: they are found by their hash chains, and replaced.
//!
//! Who asks a wrong machine gets wrong answers until it is found. So a leader never goes wrong here, and no fault strikes
//! before the machine is right again; what becomes of a leader is a test of its own.

use std::sync::atomic::Ordering;

use rand::seq::IteratorRandom;
use zraft::types::Incarnation;

use super::{HEALED_STEPS, Sim};

/// In so many steps, all know that a machine is right again.
const QUIET_STEPS: u64 = 100;

impl Sim {
    /// A follower's machine goes wrong with one of the next entries. Everything else is well, and so many others are there
    /// that they know better.
    pub(super) fn go_wrong(&mut self) {
        // In the end there must be entries that show it: those of sessions.
        if self.sessions.is_empty() || self.nodes.values().any(|node| node.lacking.is_some()) {
            return;
        }
        let members = self.settled_members().filter(|members| members.len() > 2).unwrap_or_default();
        let is_follower = |id: &Incarnation| !self.nodes[id].replica.raft().is_leader();
        let Some(id) = members.into_iter().filter(is_follower).choose(&mut self.rng) else { return };
        self.count("wrong");
        self.restart_all();
        self.blocked.clear();
        self.paused.clear();
        self.stalled_disks.clear();
        self.slow_machines.clear();
        self.wrong = Some((id, std::mem::replace(&mut self.loss, 0.0)));
        self.make_wrong(id);
    }

    fn make_wrong(&mut self, id: Incarnation) {
        let node = self.nodes.get_mut(&id).expect("a node");
        (node.is_wrong, node.is_machine_wrong) = (true, true);
        node.factory.is_cursed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_something_wrong(&mut self) -> bool {
        let Some((id, loss)) = self.wrong else { return false };
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.has_done_its_jobs() && self.witness.agrees_with(node) {
            // Its backend died of the same run, and was made again before anybody was told.
            (node.is_wrong, node.is_machine_wrong) = (false, false);
            // So were its snapshots right that it wrote meanwhile.
            node.files.values_mut().for_each(|file| file.is_wrong &= !self.witness.knows(file.at()));
        }
        let is_right = !self.nodes[&id].is_wrong && self.nodes[&id].replica.quarantine().is_none();
        if !is_right {
            self.quiet_until = self.now + QUIET_STEPS;
        } else if self.quiet_until < self.now {
            self.wrong = None;
            self.loss = loss;
        }
        self.wrong.is_some()
    }

    /// What it would say of entries would be wrong.
    pub(super) fn is_wrong_leader(&self, id: Incarnation) -> bool {
        let node = &self.nodes[&id];
        node.is_wrong && node.replica.raft().is_leader() && self.wrong.is_some()
    }

    pub(super) fn watch_quarantine(&mut self, id: Incarnation) {
        let is_inside = self.nodes[&id].replica.quarantine().is_some();
        if is_inside && self.in_quarantine.insert(id) {
            self.count("wrong: quarantine");
            assert!(!self.nodes[&id].replica.raft().is_leader(), "a leader in quarantine");
        }
        if !is_inside && self.in_quarantine.remove(&id) {
            self.count("wrong: out of quarantine");
        }
    }
}

/// A leader that has gone wrong answers its clients wrong until the others tell it so. Then it leads no more, and another
/// replaces its state.
#[test]
fn a_leader_that_goes_wrong_is_found_and_replaced() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        sim.loss = 0.0;
        sim.sessions.iter_mut().for_each(|client| client.silent_until = u64::MAX);
        let leader = (0..HEALED_STEPS).find_map(|_| {
            sim.step(false);
            sim.nodes.values().find(|node| node.replica.raft().knows_all_verdicts()).map(|node| node.id)
        });
        let wrong = leader.expect("a leader");
        sim.make_wrong(wrong);
        let (mut was_inside, mut is_right) = (false, false);
        for _ in 0..10 * HEALED_STEPS {
            let leaders: Vec<_> = sim.nodes.values().filter(|node| node.replica.raft().is_leader()).collect();
            let target = leaders.first().map(|node| node.id);
            target.into_iter().for_each(|target| sim.ask_write(0, target));
            sim.step(false);
            was_inside |= sim.nodes[&wrong].replica.quarantine().is_some();
            is_right = was_inside && !sim.nodes[&wrong].is_wrong;
            if is_right {
                break;
            }
        }
        assert!(was_inside, "seed {seed}: {wrong} was not found");
        assert!(is_right, "seed {seed}: {wrong} was not replaced");
        (0..HEALED_STEPS).for_each(|_| sim.step(false));
        let machines: std::collections::BTreeSet<_> =
            sim.nodes.values().map(|node| (node.replica.machine().0, node.replica.machine().1.0)).collect();
        assert_eq!(machines.len(), 1, "seed {seed}: replicas differ in the end");
    }
}

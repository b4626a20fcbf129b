//! What goes wrong, and its end.

use std::sync::atomic::Ordering;

use rand::Rng;
use rand::seq::IteratorRandom;
use zraft::types::Incarnation;

use super::Sim;

/// How long clients stay silent at most once all faults are gone.
const SILENT_STEPS: u64 = 100;

impl Sim {
    pub(super) fn inject_faults(&mut self) {
        if self.is_something_wrong() {
            return self.restart_all();
        }
        if self.strikes(0.005) {
            return self.go_wrong();
        }
        if self.strikes(0.008) {
            let share: f64 = self.rng.random();
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                if self.rng.random_bool(share) {
                    self.crash(id);
                }
            }
        }
        if self.rng.random_bool(0.05)
            && let Some(id) = self.down.iter().copied().choose(&mut self.rng)
        {
            self.restart(id);
        }
        // Who sleeps is to be cut off as well.
        if self.strikes(if self.is_quiet() { 0.08 } else { 0.01 }) {
            self.part();
        }
        if self.rng.random_bool(0.01) {
            self.blocked.clear();
        }
        if self.strikes(0.02) {
            self.count("stalled disk");
            let id = self.any_node();
            self.stalled_disks.insert(id, self.now + self.rng.random_range(0..80));
        }
        if self.strikes(0.02) {
            self.count("slow machine");
            let id = self.any_node();
            self.slow_machines.insert(id, self.now + self.rng.random_range(0..120));
        }
        if self.strikes(0.005) {
            self.pause();
        }
        if self.rng.random_bool(0.005) {
            self.change_members();
        }
        if self.rng.random_bool(0.003) {
            self.transfer();
        }
        if self.rng.random_bool(0.004) {
            self.upgrade();
        }
    }

    /// Some runs are calmer than others: sessions live longer in them.
    pub(super) fn strikes(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability * self.roughness)
    }

    /// A node that stands still hears nothing and does nothing; what is sent to it waits.
    fn pause(&mut self) {
        self.count("paused node");
        let id = self.any_node();
        self.paused.insert(id, self.now + self.rng.random_range(0..80));
    }

    /// Cuts one side off, as often as not the leader alone: it goes on taking writes that nobody hears of.
    fn part(&mut self) {
        let is_one_way = self.rng.random_bool(0.3);
        self.count(if is_one_way { "one-way partition" } else { "partition" });
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        let leader = ids.iter().copied().find(|id| self.nodes[id].replica.raft().is_leader());
        let side = match leader {
            Some(leader) if self.rng.random() => 1 << leader.0,
            _ => self.rng.random_range(0..2_u64 << ids.len()),
        };
        let is_inside = |id: Incarnation| side & (1 << id.0) != 0;
        for (a, b) in ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))) {
            if is_inside(a) && !is_inside(b) {
                self.blocked.insert((a, b));
                if !is_one_way {
                    self.blocked.insert((b, a));
                }
            }
        }
    }

    /// A crash keeps the writes that happened to reach the disk, reported or not. Its clients lose their connections.
    pub(super) fn crash(&mut self, id: Incarnation) {
        if !self.down.insert(id) {
            return;
        }
        self.count("crash");
        let node = self.nodes.get_mut(&id).expect("a node");
        for _ in 0..self.rng.random_range(0..=node.writes.len()) {
            node.persist_one();
        }
        if !node.writes.is_empty() {
            self.count("lost write");
        }
        let lost: Vec<_> = self.waiting.extract_if(.., |_, waiting| waiting.node == id).collect();
        lost.into_iter().for_each(|(_, waiting)| self.on_nothing(waiting.asked));
        self.lose_streams(id);
    }

    fn restart(&mut self, id: Incarnation) {
        self.down.remove(&id);
        let mut node = self.nodes.remove(&id).expect("a node");
        self.lose_base(&mut node);
        if node.disk.restored().snapshot.is_some() {
            self.count("restart from a snapshot");
        }
        if node.is_snapshot_of_another_backend() {
            self.count("upgrade: restart from a snapshot of before");
        }
        self.start(id, node.disk, node.files, node.components);
    }

    pub(super) fn restart_all(&mut self) {
        for id in std::mem::take(&mut self.down) {
            self.restart(id);
        }
    }

    pub(super) fn heal(&mut self) {
        self.blocked.clear();
        self.stalled_disks.clear();
        self.slow_machines.clear();
        self.paused.clear();
        self.loss = 0.0;
        self.is_healed = true;
        for node in self.nodes.values() {
            // Clients may ask for nothing any more that could go wrong.
            node.factory.is_cursed.store(false, Ordering::Relaxed);
        }
        for client in &mut self.sessions {
            client.silent_until = client.silent_until.min(self.now + SILENT_STEPS);
        }
        self.restart_all();
    }
}

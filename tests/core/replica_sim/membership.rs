//! What operators do to the set of peers, and what must come of it.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::IteratorRandom;
use zraft::raft::{Entry, MemStorage, Payload};
use zraft::types::Incarnation;

use crate::peer::peers;

use super::{Node, SETTLED_STEPS, Sim};

/// The most nodes that ever exist in a run, and vote at once.
const MAX_NODES: u64 = 7;
const MAX_VOTERS: usize = 5;

impl Sim {
    /// An operator wants another set of peers. Who joins may be new, or have left earlier.
    pub(super) fn change_members(&mut self) {
        let Some(leader) = self.leaders().into_iter().choose(&mut self.rng) else { return };
        let configuration = self.nodes[&leader].replica.raft().configuration();
        let (is_waiting, now) = (configuration.is_waiting(), configuration.voters.clone());
        let mut new: BTreeSet<u64> = now.keys().map(|id| id.0).collect();
        let next = self.nodes.len() as u64 + 1;
        match self.rng.random_range(0..5) {
            0 if next <= MAX_NODES => drop(new.insert(next)),
            1 => new.retain(|_| self.rng.random_bool(0.7)),
            2 if is_waiting => {}
            2 | 3 => new = (1..next).filter(|_| self.rng.random()).collect(),
            _ => drop(new.insert(self.rng.random_range(1..next))),
        }
        while new.len() > MAX_VOTERS {
            new.pop_first();
        }
        let is_withdrawal = is_waiting && new.iter().copied().eq(now.keys().map(|id| id.0));
        let clocks = self.clocks(leader);
        if self.replica(leader).change_members(peers(new.iter().copied()), clocks).is_err() {
            return self.count("membership: refused");
        }
        self.count(if is_withdrawal { "membership: withdrawn" } else { "membership: change" });
        if !new.contains(&leader.0) {
            self.count("membership: the leader is to leave");
        }
        if new.contains(&next) {
            self.start(
                Incarnation(next),
                MemStorage::default(),
                BTreeMap::new(),
                BTreeSet::from([self.plan.genesis.component]),
            );
        }
    }

    /// An operator wants another leader.
    pub(super) fn transfer(&mut self) {
        let Some(leader) = self.leaders().into_iter().choose(&mut self.rng) else { return };
        let to = self.any_node();
        let _ = self.replica(leader).transfer(to);
        if self.nodes[&leader].replica.raft().transferring_to() == Some(to) {
            self.count("transfer");
        }
    }

    fn leaders(&self) -> Vec<Incarnation> {
        let leads = |id: &Incarnation| !self.down.contains(id) && self.nodes[id].replica.raft().is_leader();
        self.nodes.keys().copied().filter(leads).collect()
    }

    /// Counts what a new entry changes about the set of peers.
    pub(super) fn count_change(&mut self, entry: &Entry) {
        let Payload::Membership(configuration) = &entry.payload else { return };
        if configuration.is_waiting() {
            self.count("membership: learners");
        }
        if configuration.is_joint() {
            self.count("membership: joint");
            if configuration.voters.keys().any(|id| !configuration.outgoing.contains_key(id)) {
                self.count("membership: learners promoted");
            }
        }
    }

    /// The peers, where no change of them is under way and all of them know it.
    pub(super) fn settled_members(&self) -> Option<BTreeSet<Incarnation>> {
        let leader = self.leaders().into_iter().max_by_key(|id| self.nodes[id].replica.raft().term())?;
        let raft = self.nodes[&leader].replica.raft();
        let (configuration, at) = (raft.configuration(), raft.configuration_index());
        let knows = |id: &Incarnation| self.nodes[id].replica.raft().configuration() == configuration;
        let is_settled = configuration.is_settled() && raft.commit() >= at && configuration.contains(leader);
        Some(configuration.members()).filter(|members| is_settled && members.iter().all(knows))
    }

    /// With all faults gone, every change comes to its end, so do the verdicts on what was committed meanwhile, and who has
    /// gone wrong is replaced. Returns who leads then.
    pub(super) fn settled_leader(&mut self) -> Incarnation {
        let has_applied = |node: &Node| node.replica.machine().0 == node.replica.raft().status().last.index;
        let is_settled = (0..SETTLED_STEPS).any(|_| {
            let [leader] = self.leaders()[..] else {
                self.step(false);
                return false;
            };
            let is_right = self.wrong.is_none() && has_applied(&self.nodes[&leader]);
            let is_settled = is_right && self.settled_members().is_some();
            if !is_settled {
                self.step(false);
            }
            is_settled
        });
        assert!(is_settled, "after {SETTLED_STEPS} more quiet steps: {}", self.why_unsettled());
        self.leaders()[0]
    }

    fn why_unsettled(&self) -> String {
        let state = |(id, node): (&Incarnation, &Node)| {
            let raft = node.replica.raft();
            let lacks = (node.lacking, node.wanted, node.replica.quarantine());
            format!("\n{id} {:?}\n  {:?}\n  lacks {lacks:?}", raft.status(), raft.configuration())
        };
        format!("leaders: {:?}{}", self.leaders(), self.nodes.iter().map(state).collect::<String>())
    }
}

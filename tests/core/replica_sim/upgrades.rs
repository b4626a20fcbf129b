//! Upgrades at random points: some of the new backends die of the state, some refuse it. Nodes get them late, and forget
//! those that their files do not need.

use rand::Rng;
use rand::seq::IteratorRandom;
use zraft::machine::Outcome;
use zraft::protocol::UpgradeRefusal;
use zraft::raft::{Entry, Payload, Upgrade};
use zraft::types::{Digest, Incarnation};

use super::Sim;
use super::backend::{HandOver, command, component, hand_over, version_of};
use super::clients::Asked;

impl Sim {
    /// Asks whoever leads to move to a new version, which a majority of its voters has by then.
    pub(super) fn upgrade(&mut self) {
        let leads = |id: &Incarnation| !self.down.contains(id) && self.nodes[id].replica.raft().is_leader();
        let Some(leader) = self.nodes.keys().copied().filter(leads).choose(&mut self.rng) else { return };
        self.version += 1;
        let to = component(self.version);
        let voters: Vec<_> = self.nodes[&leader].replica.raft().configuration().members().into_iter().collect();
        let count = self.rng.random_range(voters.len() / 2 + 1..=voters.len());
        for id in voters.into_iter().choose_multiple(&mut self.rng, count) {
            self.nodes.get_mut(&id).expect("a node").components.insert(to);
        }
        // Now and then somebody else was faster.
        let known = self.witness.component();
        let from = if self.rng.random_bool(0.1) { component(self.version + 1) } else { known };
        self.count("ask: upgrade");
        let (ticket, deadline_ms) = self.ask(0, leader, Asked::Upgrade { from, to });
        let upgrade = Upgrade { from, to, migration: Some(command(self.version)) };
        let clocks = self.clocks(leader);
        self.replica(leader).upgrade(ticket, upgrade, deadline_ms, clocks);
    }

    pub(super) fn on_not_upgraded(&mut self, from: Digest, to: Digest, refusal: &UpgradeRefusal) {
        match refusal {
            UpgradeRefusal::Changed { now } => {
                assert_ne!(*now, from);
                self.count("upgrade: changed meanwhile");
            }
            UpgradeRefusal::Refused(_) => assert_eq!(hand_over(version_of(to)), HandOver::Refused),
            // Of what sessions have left behind it may die as well.
            UpgradeRefusal::Fault(_) => assert_ne!(hand_over(version_of(to)), HandOver::Refused),
            UpgradeRefusal::NotYet { .. } => self.count("upgrade: not supported by all"),
            UpgradeRefusal::NotDistributed(_) => panic!("nobody looks at that here"),
        }
    }

    pub(super) fn count_upgrade(&mut self, entry: &Entry, outcome: &Outcome) {
        let Payload::Upgrade(upgrade) = &entry.payload else { return };
        self.tried.insert(upgrade.to);
        self.count(match outcome {
            Outcome::Upgraded { .. } if self.witness.has_orphans() => "upgrade: done, and orphaned data is gone",
            Outcome::Upgraded { .. } => "upgrade: done",
            Outcome::NotUpgraded(UpgradeRefusal::Refused(_)) => "upgrade: refused, the old one goes on",
            Outcome::NotUpgraded(UpgradeRefusal::Fault(_)) => "upgrade: died, the old one goes on",
            Outcome::NotUpgraded(_) => "upgrade: from another than there is",
            outcome => panic!("an upgrade has come to {outcome:?}"),
        });
    }

    /// A node gets what it waits for from one that has it, and forgets what nobody needs.
    pub(super) fn bring_components(&mut self, id: Incarnation) {
        if let Some(wanted) = self.nodes[&id].wanted {
            let has = |(other, node): (&Incarnation, &super::Node)| {
                (*other == id || !self.down.contains(other) && !self.blocked.contains(&(*other, id)))
                    && node.components.contains(&wanted)
            };
            let is_there = self.nodes.iter().any(has) || self.is_stuck(id);
            if !self.nodes[&id].components.contains(&wanted) {
                self.count("upgrade: the backend is missing");
            }
            if is_there && (self.is_healed || self.rng.random_bool(0.1)) {
                self.nodes.get_mut(&id).expect("a node").bring(wanted);
            } else if !is_there && self.rng.random_bool(0.1) {
                let node = self.nodes.get_mut(&id).expect("a node");
                let before = node.replica.quarantine();
                node.replica.component_missing(wanted);
                if node.replica.quarantine() != before {
                    node.lacks_backend = true;
                    self.count("upgrade: the backend is nowhere to be had");
                }
            }
        }
        self.bring_base(id);
        if self.rng.random_bool(0.01) {
            let node = self.nodes.get_mut(&id).expect("a node");
            let in_use = node.components_in_use();
            // What was brought is kept for so long that the entry that needs it has been applied somewhere, as it is by nodes.
            let tried = &self.tried;
            node.components.retain(|component| !tried.contains(component) || in_use.contains(component));
        }
    }

    /// In the end an operator puts back what nobody has any more and a peer needs, if no other peer of the cluster has a later
    /// state to give: whoever had moved on may have left it, and taken the backend along.
    fn is_stuck(&self, id: Incarnation) -> bool {
        let members = self.nodes[&id].replica.raft().configuration().members();
        let own = self.nodes[&id].replica.machine().0;
        let has_later = |other: &Incarnation| {
            self.nodes.get(other).is_some_and(|other| other.lacking.is_none() && other.replica.machine().0 > own)
        };
        self.is_healed && !members.iter().any(has_later)
    }

    /// A node that has no machine for want of a backend gets it from another, or the state of others.
    fn bring_base(&mut self, id: Incarnation) {
        let Some(lacking) = self.nodes[&id].lacking else { return };
        let has = |(other, node): (&Incarnation, &super::Node)| {
            !self.down.contains(other) && !self.blocked.contains(&(*other, id)) && node.components.contains(&lacking)
        };
        let is_there = self.nodes.iter().any(has) || self.is_stuck(id);
        if is_there && (self.is_healed || self.rng.random_bool(0.1)) {
            self.count("upgrade: a lost backend is found");
            self.nodes.get_mut(&id).expect("a node").bring(lacking);
        } else if !is_there && self.rng.random_bool(0.1) {
            let node = self.nodes.get_mut(&id).expect("a node");
            let before = node.replica.quarantine();
            node.replica.machine_missing(lacking);
            if node.replica.quarantine() != before {
                node.lacks_backend = true;
                self.count("upgrade: a lost backend is nowhere to be had");
            }
        }
    }

    /// Now and then a node that is started has lost the backend of its snapshot. Nobody else has, and another peer of the cluster
    /// has it: that may move on, and then its state is taken. No log of another is about to need it.
    pub(super) fn lose_base(&mut self, node: &mut super::Node) {
        let base = node.base();
        let members = node.replica.raft().configuration().members();
        let is_known =
            |other: &Incarnation| self.nodes.get(other).is_some_and(|other| other.components.contains(&base));
        let needs = |other: &super::Node| {
            let applied = other.replica.machine().0;
            other.replica.raft().upgrades().iter().any(|(index, needed)| *index > applied && *needed == base)
        };
        let is_alone = self.nodes.values().all(|other| other.lacking.is_none() && !needs(other));
        let is_safe = is_alone && members.iter().any(is_known);
        if !self.is_healed && self.wrong.is_none() && is_safe && self.strikes(0.05) {
            self.count("upgrade: the backend of a snapshot is lost");
            node.components.remove(&base);
        }
    }
}

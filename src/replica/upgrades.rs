//! Entries that move the machine to another backend.
//!
//! A node that does not have the component cannot apply such an entry: the machine is given what comes before, and
//! [`Effects::component`](crate::replica::Effects) says what is missing. Nobody else waits for that, unless it is the leader.
//! Where nobody has it any more, because the others have long applied the entry, the state is replaced by a snapshot.
//! What is ruled to be skipped needs no component.

use std::collections::BTreeSet;

use crate::machine::{Outcome, Ruling};
use crate::protocol::{TriggerReason, UpgradeRefusal, UpgradeStatus};
use crate::replica::Replica;
use crate::types::{Digest, Index};

/// What one replica knows of upgrades.
#[derive(Default)]
pub(super) struct Upgrades {
    /// The components that this node has of those that the log needs.
    ready: BTreeSet<Digest>,
    /// The one that was asked for last, and whether it is yet to be said.
    asked: Option<(Digest, bool)>,
    /// Where the machine has gone since it was new, or restored.
    moved_to: Option<Digest>,
    /// How the latest upgrade since then has ended.
    latest: Option<UpgradeStatus>,
}

impl Upgrades {
    /// The machine is that of a snapshot.
    pub(super) fn restored(&mut self) {
        (self.moved_to, self.latest) = (None, None);
    }

    /// Takes out the component that is to be asked for, once.
    pub(super) fn take_wanted(&mut self) -> Option<Digest> {
        let (component, is_unsaid) = self.asked.as_mut()?;
        std::mem::take(is_unsaid).then_some(*component)
    }
}

impl Replica {
    /// This node has a component, and can run it.
    pub fn component_ready(&mut self, component: Digest) {
        self.upgrades.asked.take_if(|(asked, _)| *asked == component);
        self.need_no_state_of_others(component);
        if self.raft.upgrades().iter().any(|(_, needed)| *needed == component) {
            self.upgrades.ready.insert(component);
        }
    }

    /// Nobody that this node can reach has a component. Where others have applied the entry that needs it, they may have
    /// forgotten it since: their state is taken instead, or one of them leads.
    pub fn component_missing(&mut self, component: Digest) {
        let mut needed = self.raft.upgrades().iter().filter(|(index, _)| *index > self.applied);
        let Some((on, _)) = needed.find(|(_, needed)| *needed == component).copied() else { return };
        if !self.is_missing(on, &component) {
            return;
        }
        if self.raft.is_leader() {
            if let Some(able) = self.who_has_applied(on) {
                // It is asked again as long as this one leads.
                let _ = self.transfer(able);
            }
        } else if self.judge.judged() >= on {
            self.await_state_of_others(on, component);
        }
    }

    /// The machine cannot be made, since nobody that this node can reach has this component of its snapshot: the others have moved
    /// on since. Their state is taken instead, or one of them leads.
    pub fn machine_missing(&mut self, component: Digest) {
        // Who sleeps is told nothing.
        self.stir();
        let begins = self.raft.snapshot_index();
        if self.raft.is_leader() {
            if let Some(able) = self.who_has_applied(begins.next()) {
                // It is asked again as long as this one leads.
                let _ = self.transfer(able);
            }
        } else if self.judge.judged() > begins {
            self.await_state_of_others(begins, component);
        }
    }

    /// Whether this peer leads and knows what its cluster runs: its machine has applied all that former leaders have proposed,
    /// and no upgrade waits behind it.
    #[must_use]
    pub fn knows_component(&self) -> bool {
        let is_current = self.raft.is_leader() && self.feed.reported().term == self.raft.term();
        is_current && self.raft.upgrades().last().is_none_or(|(index, _)| *index <= self.applied)
    }

    /// The component that the machine was moved to; none if it was to none since it was new, or restored.
    #[must_use]
    pub fn moved_to(&self) -> Option<Digest> {
        self.upgrades.moved_to
    }

    /// How the latest upgrade has ended; none if the machine was restored since.
    #[must_use]
    pub fn latest_upgrade(&self) -> Option<&UpgradeStatus> {
        self.upgrades.latest.as_ref()
    }

    /// How far the machine may be given entries up to `limit`: not an upgrade whose component is missing.
    pub(super) fn before_missing_component(&mut self, limit: Index) -> Index {
        let needed = self.raft.upgrades();
        let is_needed = |component: &Digest| needed.iter().any(|(_, needed)| needed == component);
        self.upgrades.ready.retain(is_needed);
        self.upgrades.asked.take_if(|(asked, _)| !is_needed(asked));
        let given = self.feed.position().0.index;
        let mut ahead = needed.iter().filter(|(index, _)| given < *index && *index <= limit);
        let Some((index, component)) = ahead.find(|(index, component)| self.is_missing(*index, component)) else {
            return limit;
        };
        let (before, component) = (index.prev(), *component);
        if self.upgrades.asked.is_none_or(|(asked, _)| asked != component) {
            self.upgrades.asked = Some((component, true));
        }
        before
    }

    fn is_missing(&self, index: Index, component: &Digest) -> bool {
        let ruling = self.raft.rulings(index..=index).next().map(|(_, ruling)| Ruling::decode(ruling));
        let is_skipped = matches!(ruling, Some(Ok(Ruling::Skip(_))));
        !is_skipped && !self.upgrades.ready.contains(component)
    }

    /// An entry was applied. Behind an upgrade nobody knows what the new backend means by the keys of the old one: all
    /// triggers fire. Of one that was proposed twice, the second has nothing to tell.
    pub(super) fn upgrade_outcome(&mut self, index: Index, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Upgraded { component, version } => {
                tracing::info!(me = %self.raft.id(), entry = %index, %component, version, "the backend is another now");
                self.upgrades.moved_to = Some(*component);
                self.triggers.skip_to(index);
                let fired = self.triggers.take_before(index);
                self.tell_fired(fired, TriggerReason::LeaderChanged);
                Ok(version.clone())
            }
            Outcome::NotUpgraded(UpgradeRefusal::Changed { now }) if self.raft.upgrades().contains(&(index, *now)) => {
                return;
            }
            Outcome::NotUpgraded(refusal) => {
                tracing::warn!(me = %self.raft.id(), entry = %index, %refusal, "the backend stays what it was");
                Err(refusal.clone())
            }
            _ => return,
        };
        self.upgrades.latest = Some(UpgradeStatus { index, result });
    }
}

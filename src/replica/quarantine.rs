//! What becomes of a replica whose machine has parted from the others: by a defect of hardware, of the engine, or ours.
//!
//! Every follower tells the leader its hash chain ([`Report`](crate::replica::Report)), and the leader compares it with what
//! its own was at that entry.
//!
//! - Where a majority of voters agrees with the leader beyond the entries at which others differ, those are told, and go into
//!   quarantine: they store and vote, but do not apply, answer or lead, until they have a snapshot of the leader's.
//! - A leader that no majority can agree with any more goes into quarantine itself, and so steps down.
//! - While it is not known which side has the majority, the leader applies nothing but what another that may agree has applied
//!   already, so that the two can be compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::machine::HashChain;
use crate::protocol::{MachineStatus, RequestError};
use crate::raft::{Envelope, Message};
use crate::replica::chains::Chains;
use crate::replica::{Answer, Asker, Replica};
use crate::types::{Digest, Incarnation, Index, Term};

/// What one replica knows of who has parted from whom.
#[derive(Default)]
pub(super) struct Sides {
    chains: Chains,
    /// The machine is being replaced: what is still heard of the old one counts no more.
    is_replacing: bool,
    /// How the others stand to this leader, in this term of office.
    tally: BTreeMap<Incarnation, Standing>,
    term: Term,
    /// Where this replica's state was found to be another than the majority's, or what it cannot apply, while it is in quarantine.
    quarantine: Option<Index>,
    /// Set if it is in quarantine for want of this component alone: nothing is wrong with the state.
    lacks: Option<Digest>,
    /// What the machine reports is of such a state, until it is replaced.
    is_suspect: bool,
    /// The entry that this replica's backend has died of though others could apply it.
    unable_at: Option<Index>,
    /// Who is being sent a snapshot for its state.
    served: BTreeSet<Incarnation>,
}

/// How another replica stands to the leader.
#[derive(Default)]
struct Standing {
    /// The last entry that it has applied.
    applied: Index,
    /// The last entry at which the chains were found equal.
    agrees: Index,
    /// The first entry at which they were found to differ.
    differs: Option<Index>,
    /// The entry at which they were last found to differ, if they do.
    differs_lately: Index,
    /// Set while it is in quarantine: it needs a later snapshot than this.
    needs_after: Option<Index>,
}

/// Where the majority is, as far as this leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Majority {
    /// Nobody differs, or a majority is known to agree with this leader.
    Here,
    /// Not known. Up to this entry somebody has applied who may agree.
    Unknown(Index),
    /// Not here, from this entry on.
    Lost(Index),
}

impl Sides {
    /// The machine has applied an entry.
    pub(super) fn applied(&mut self, index: Index, chain: HashChain) {
        if !self.is_replacing {
            self.chains.push(index, chain);
        }
    }

    /// The machine is that of a snapshot. In quarantine it is not yet that of the leader's.
    pub(super) fn restored(&mut self, index: Index, chain: HashChain) {
        (self.is_replacing, self.is_suspect) = (false, self.quarantine.is_some() && self.lacks.is_none());
        self.chains.reset();
        self.chains.push(index, chain);
    }

    /// Whether a snapshot is to take the machine's place and has not been reported.
    pub(super) fn is_replacing(&self) -> bool {
        self.is_replacing
    }

    /// Whether what the machine reports is of a state that was found to be wrong: nobody may be told.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// What a follower tells of its chains: the last, and one before.
    pub(super) fn told(&self) -> [Option<(Index, HashChain)>; 2] {
        [self.chains.last(), self.chains.last_mark()]
    }

    /// Notes the chain of another replica at the last entry that it has applied, or at one before.
    fn compare(&mut self, from: Incarnation, at: Index, chain: HashChain, is_last: bool) {
        let Some(own) = self.chains.at(at) else { return };
        let standing = self.tally.entry(from).or_default();
        if own == chain {
            standing.agrees = standing.agrees.max(at);
            // A chain that is the same is so for all entries before: where they differed, another state has taken its place.
            standing.differs.take_if(|differs| is_last || at >= *differs);
        } else {
            standing.differs_lately = at;
            if standing.differs.is_none_or(|differs| at < differs) {
                tracing::error!(peer = %from, entry = %at, "a replica's state differs from this leader's");
                standing.differs = Some(at);
            }
        }
    }
}

impl Replica {
    /// Whether this replica's state is being replaced, since it is another than the majority's or since there is no component to go
    /// on with: where that was found.
    #[must_use]
    pub fn quarantine(&self) -> Option<Index> {
        self.sides.quarantine
    }

    /// Another replica has told its chains, and whether it needs a later snapshot than it has.
    pub(super) fn hear_chains(
        &mut self,
        from: Incarnation,
        mark: Option<(Index, HashChain)>,
        last: Option<(Index, HashChain)>,
        needs_after: Option<Index>,
    ) {
        if self.sides.term != self.raft.term() {
            (self.sides.term, self.sides.tally) = (self.raft.term(), BTreeMap::new());
        }
        if let Some((at, chain)) = mark {
            self.sides.compare(from, at, chain, false);
        }
        if let Some((at, chain)) = last {
            self.sides.compare(from, at, chain, true);
            let standing = self.sides.tally.entry(from).or_default();
            standing.applied = at;
            // A state of before where it differed has taken its place, be it one that this leader remembers no chain of.
            standing.differs.take_if(|differs| at < *differs);
        }
        self.sides.tally.entry(from).or_default().needs_after = needs_after;
    }

    /// Whether this leader has found another's state to be another than its own, and has not heard of its end.
    pub(super) fn differs(&self, other: Incarnation) -> bool {
        let standing = self.sides.tally.get(&other).filter(|_| self.sides.term == self.raft.term());
        standing.is_some_and(|standing| standing.differs.is_some())
    }

    /// Whether another has told this leader that it needs a snapshot in place of its state, and has not said since that it has one.
    pub(super) fn awaits_state(&self, other: Incarnation) -> bool {
        let standing = self.sides.tally.get(&other).filter(|_| self.sides.term == self.raft.term());
        self.sides.served.contains(&other) || standing.is_some_and(|standing| standing.needs_after.is_some())
    }

    /// Whether another has told this leader, in this term, that it has yet to apply an entry.
    pub(super) fn is_known_before(&self, other: Incarnation, on: Index) -> bool {
        let standing = self.sides.tally.get(&other).filter(|_| self.sides.term == self.raft.term());
        standing.is_some_and(|standing| standing.applied < on)
    }

    /// What another replica has told this leader of its machine, in this term.
    #[must_use]
    pub fn machine_of(&self, other: Incarnation) -> Option<MachineStatus> {
        let is_current = self.raft.is_leader() && self.sides.term == self.raft.term();
        let Standing { applied, agrees, differs, .. } = self.sides.tally.get(&other).filter(|_| is_current)?;
        Some(MachineStatus { applied: *applied, agrees: *agrees, differs: *differs })
    }

    /// A voter that has told this leader of having applied an entry.
    pub(super) fn who_has_applied(&self, on: Index) -> Option<Incarnation> {
        let mut others = self.sides.tally.iter().filter(|_| self.sides.term == self.raft.term());
        let is_able = |(other, standing): &(&Incarnation, &Standing)| {
            standing.applied >= on && self.raft.configuration().is_voter(**other)
        };
        others.find(is_able).map(|(other, _)| *other)
    }

    /// Where the majority is.
    pub(super) fn majority(&self) -> Majority {
        if self.sides.term != self.raft.term() {
            return Majority::Here;
        }
        let tally = &self.sides.tally;
        let Some(at) = tally.values().filter_map(|standing| standing.differs).max() else { return Majority::Here };
        let me = self.raft.id();
        let differs = |voter| self.differs(voter);
        let agrees = |voter| tally.get(&voter).is_some_and(|standing| standing.agrees >= at);
        let configuration = self.raft.configuration();
        if configuration.has_quorum(|voter| voter == me || (agrees(voter) && !differs(voter))) {
            Majority::Here
        } else if configuration.has_quorum(|voter| !differs(voter)) {
            let others = tally.values().filter(|standing| standing.differs.is_none());
            Majority::Unknown(others.map(|standing| standing.applied).max().unwrap_or_default())
        } else {
            Majority::Lost(at)
        }
    }

    /// What the leader tells a replica that has parted from the majority: the chain at an entry at which it differs.
    pub(super) fn outcast(&self, to: Incarnation) -> Option<(Index, HashChain)> {
        let standing = self.sides.tally.get(&to).filter(|_| self.differs(to))?;
        // Where it began to differ neither side may remember any more: it may have been far behind, and in a hurry.
        let at = standing.differs_lately;
        let chain = self.sides.chains.at(at)?;
        (self.majority() == Majority::Here).then_some((at, chain))
    }

    /// The leader says that the majority's chain is this one. What was replaced meanwhile is no longer meant.
    pub(super) fn hear_outcast(&mut self, (at, chain): (Index, HashChain)) {
        if self.sides.chains.at(at).is_some_and(|own| own != chain) {
            self.enter_quarantine(at);
        }
    }

    /// This replica's backend has died of an entry that the others can apply: a snapshot of theirs may help, once.
    pub(super) fn cannot_apply(&mut self, on: Index) -> bool {
        let has_tried = self.sides.unable_at.replace(on) == Some(on);
        if !has_tried {
            self.enter_quarantine(on);
        }
        has_tried
    }

    pub(super) fn enter_quarantine(&mut self, at: Index) {
        if self.sides.quarantine.is_some() && self.sides.lacks.is_none() {
            return;
        }
        tracing::error!(me = %self.raft.id(), entry = %at,
            "in quarantine: the state is not the majority's, and is replaced by a snapshot of the leader's");
        (self.sides.quarantine, self.sides.lacks, self.sides.is_suspect) = (Some(at), None, true);
        self.begin_quarantine();
    }

    /// The machine cannot apply an entry for want of a component: the others' state is to take the place of its own, unless the
    /// component comes first.
    pub(super) fn await_state_of_others(&mut self, at: Index, component: Digest) {
        if self.sides.quarantine.is_some() {
            return;
        }
        tracing::warn!(me = %self.raft.id(), entry = %at, %component,
            "in quarantine: a component is nowhere to be had, so a snapshot of the leader's replaces the state");
        (self.sides.quarantine, self.sides.lacks) = (Some(at), Some(component));
        self.begin_quarantine();
    }

    /// A component is there after all. Of those who are left, nobody else may have a state to give.
    pub(super) fn need_no_state_of_others(&mut self, component: Digest) {
        if self.sides.lacks.take_if(|lacks| *lacks == component).is_some() {
            tracing::info!(me = %self.raft.id(), %component, "out of quarantine: the component has been found");
            self.sides.quarantine = None;
            self.raft.end_quarantine();
        }
    }

    fn begin_quarantine(&mut self) {
        self.raft.quarantine();
        for query in self.reads.take_all() {
            if let Asker::Client(ticket) = query.asker {
                self.answers.push(Answer { ticket, result: Err(RequestError::Quarantined) });
            }
        }
    }

    /// The state is to be that of a snapshot from elsewhere.
    pub(super) fn leave_quarantine(&mut self) {
        self.sides.chains.reset();
        self.sides.is_replacing = true;
        self.sides.lacks = None;
        if self.sides.quarantine.take().is_some() {
            self.snapshots.void();
            tracing::info!(me = %self.raft.id(), "out of quarantine: the state is that of a snapshot of the leader's");
        }
    }

    /// Sends snapshots to those in quarantine that need one. If the own is not late enough, another is wanted.
    pub(super) fn serve_outcasts(&mut self, snapshots: &mut Vec<Envelope>) {
        if !self.raft.knows_all_verdicts() || self.sides.term != self.raft.term() {
            self.snapshots.wanted_after = None;
            return;
        }
        let (from, term, own) = (self.raft.id(), self.raft.term(), self.raft.snapshot().cloned());
        let mut wanted_after = None;
        for (to, standing) in &mut self.sides.tally {
            let Some(needs_after) = standing.needs_after.filter(|_| !self.sides.served.contains(to)) else { continue };
            match own.clone().filter(|meta| meta.position.index > needs_after) {
                Some(meta) => {
                    // It says so again if it does not come.
                    standing.needs_after = None;
                    self.sides.served.insert(*to);
                    snapshots.push(Envelope { from, to: *to, term, message: Message::Snapshot { meta } });
                }
                None => wanted_after = wanted_after.max(Some(needs_after)),
            }
        }
        self.snapshots.wanted_after = wanted_after;
    }

    /// A snapshot has reached its receiver, or has not.
    pub(super) fn outcast_served(&mut self, to: Incarnation) {
        self.sides.served.remove(&to);
    }
}

//! How far the machine may go, and what becomes of entries that a backend dies of: the leader judges, the log carries the
//! verdict.
//!
//! Fuel and memory that a call needs depend on an instance's history, so replicas must not decide each for itself that an
//! entry cannot be applied.
//!
//! - *Judged* is what the leader has applied, once it knows of all verdicts: when an entry of its own term is committed. It
//!   tells the others ([`Judgement`]), with where the last verdict on those entries stands. A follower applies up to judged,
//!   once that verdict is committed here as well.
//! - A leader runs entries with what is configured. If the backend dies of one that this leader has made, nobody else can have
//!   applied it, and the leader proposes to skip it. Nothing behind it is applied until that is committed.
//! - An entry of an older term may have been applied by a former leader. If the backend dies of it, the leader tries it with a
//!   relaxed budget. If that goes well, it proposes to keep it, and tells nobody of the outcome before that is committed. If
//!   not, it names the entry (`trial`), and the others try it as well and say how it went ([`Report`]). Who has passed takes
//!   over leadership, and proposes to keep it; where a majority has failed, it is skipped.
//! - What is judged is applied with the relaxed budget, and what is kept with none. A replica whose backend dies of that gets a
//!   snapshot of the leader's; if it then dies of the same, it can do no more, and stops.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::feature_level::FeatureLevel;
use crate::machine::{Applied, Budget, Died, HashChain, Ruling, Rulings, Run};
use crate::protocol::BackendFault;
use crate::raft::{Entry, Envelope, Raft, Verdict};
use crate::replica::quarantine::Majority;
use crate::replica::{Job, Replica};
use crate::types::{Incarnation, Index, Term};

/// A message of the core, and what replicas have to say to each other besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerMessage {
    /// The core's message.
    pub envelope: Envelope,
    /// What rides on it.
    pub rider: Option<Rider>,
}

/// What rides on messages between replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rider {
    /// From the leader.
    Judgement(Judgement),
    /// To the leader.
    Report(Report),
}

/// How far machines may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// What the leader has applied.
    pub judged: Index,
    /// Whose log is committed up to here knows every verdict on the entries up to there.
    pub verdict: Index,
    /// The entry after `judged`, if the leader's backend dies of it and the others are to try it.
    pub trial: Option<Index>,
    /// Set for a replica whose state differs from the majority's: the hash chain that it should have had at an entry.
    pub outcast: Option<(Index, HashChain)>,
}

/// How a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The last entry applied, and the hash chain there; none before the machine has said.
    pub applied: Option<(Index, HashChain)>,
    /// The same at an entry before, for who has not come so far or has forgotten.
    pub mark: Option<(Index, HashChain)>,
    /// The entry that the leader has asked to try, and whether it is applied, or could be.
    pub trial: Option<(Index, bool)>,
    /// Set in quarantine: a later snapshot than this is needed.
    pub needs_after: Option<Index>,
    /// What entries it supports.
    pub level: FeatureLevel,
}

/// What one replica knows of judgement.
#[derive(Default)]
pub(super) struct Judge {
    /// The last entry that this replica may apply without leading.
    judged: Index,
    /// What the leader of this term said last.
    told: Option<(Term, Judgement)>,
    /// The entry that this leader's machine has died of.
    trouble: Option<Trouble>,
    /// The entry that the machine was given to try.
    on_trial: Option<Trial>,
    /// The machine has passed a trial, and is ahead of what is judged.
    ahead: Option<Ahead>,
    /// The entry that the machine has failed on trial.
    failed: Option<(Index, BackendFault)>,
    /// Why the machine can do no more.
    stop: Option<String>,
}

/// An entry that the machine tries.
#[derive(Clone, Copy)]
struct Trial {
    on: Index,
    /// The machine is being replaced behind it: what comes of it counts no more.
    is_void: bool,
}

/// An entry that a leader's machine has died of.
struct Trouble {
    on: Index,
    /// The term of office.
    term: Term,
    remedy: Remedy,
}

enum Remedy {
    /// It is to be skipped.
    Skip(BackendFault),
    /// It is to be tried with a relaxed budget.
    Try,
    /// The others are to try it. Those that have, and failed; and those that passed.
    Ask { fault: BackendFault, failed: BTreeSet<Incarnation>, passed: BTreeSet<Incarnation> },
}

/// What came of a trial that was passed, until it may be told.
struct Ahead {
    applied: Applied,
    /// The hash chain before it.
    before: HashChain,
}

impl Judge {
    pub(super) fn new(snapshot: Index) -> Self {
        Self { judged: snapshot, ..Self::default() }
    }

    /// The machine is to go on from a snapshot.
    pub(super) fn install(&mut self, snapshot: Index) {
        self.judged = self.judged.max(snapshot);
        (self.trouble, self.ahead) = (None, None);
        self.on_trial = self.on_trial.map(|trial| Trial { is_void: true, ..trial });
    }

    /// The machine is that of a snapshot. What it was given before is reported by now, or never.
    pub(super) fn restored(&mut self) {
        self.on_trial.take_if(|trial| trial.is_void);
    }

    /// The last entry that this replica may apply without leading.
    pub(super) fn judged(&self) -> Index {
        self.judged
    }

    /// Whether the machine may be asked for anything: what it knows may not be told while it is ahead.
    pub(super) fn is_calm(&self) -> bool {
        self.on_trial.is_none() && self.ahead.is_none()
    }

    /// Whether this leader has nothing to decide.
    pub(super) fn has_no_trouble(&self) -> bool {
        self.trouble.is_none()
    }

    pub(super) fn take_stop(&mut self) -> Option<String> {
        self.stop.take()
    }

    /// Takes note of what the leader says. It takes effect once its verdict is committed here.
    fn take_effect(&mut self, raft: &Raft) {
        if let Some((_, told)) = self.told
            && told.verdict <= raft.commit()
        {
            self.judged = self.judged.max(told.judged);
        }
    }

    /// The entry that the leader of this term asks to try.
    fn asked_to_try(&self, raft: &Raft) -> Option<Index> {
        self.told.filter(|(term, _)| *term == raft.term() && !raft.is_leader())?.1.trial
    }
}

impl Replica {
    /// What rides on a message that leaves now.
    pub(super) fn rider(&self, to: Incarnation) -> Option<Rider> {
        if self.raft.is_leader() {
            let trouble = self.judge.trouble.as_ref().filter(|trouble| matches!(trouble.remedy, Remedy::Ask { .. }));
            let (judged, trial) = (self.applied, trouble.map(|trouble| trouble.on));
            let verdict = self.raft.last_verdict(judged);
            let judgement = || Judgement { judged, verdict, trial, outcast: self.outcast(to) };
            return self.raft.knows_all_verdicts().then(|| Rider::Judgement(judgement()));
        }
        if self.raft.leader() != Some(to) {
            return None;
        }
        // Nor may it take the place of one that is being written.
        let needs_after = self.quarantine().map(|_| self.raft.snapshot_index().max(self.snapshots.at));
        let trial = self.judge.asked_to_try(&self.raft).and_then(|on| Some((on, self.trial_of(on)?)));
        let [applied, mark] = self.sides.told();
        Some(Rider::Report(Report { applied, mark, trial, needs_after, level: self.levels.own }))
    }

    /// Whether the machine has passed a trial, if it has ended.
    fn trial_of(&self, on: Index) -> Option<bool> {
        let has_passed = self.applied >= on || self.judge.ahead.as_ref().is_some_and(|ahead| ahead.on() == on);
        let has_failed = || self.judge.failed.as_ref().is_some_and(|(failed, _)| *failed == on);
        (has_passed || has_failed()).then_some(has_passed)
    }

    /// A rider has come with a message of `term`, which the core has seen.
    pub(super) fn ride(&mut self, rider: Rider, from: Incarnation, term: Term) {
        if term != self.raft.term() {
            return;
        }
        match rider {
            Rider::Judgement(judgement) if self.raft.leader() == Some(from) && !self.raft.is_leader() => {
                self.judge.told = Some((term, judgement));
                judgement.outcast.into_iter().for_each(|outcast| self.hear_outcast(outcast));
            }
            Rider::Report(report) if self.raft.knows_all_verdicts() && self.raft.configuration().contains(from) => {
                let Report { applied, mark, trial, needs_after, level } = report;
                self.hear_level(from, level);
                self.hear_chains(from, mark, applied, needs_after);
                if let Some((on, has_passed)) = trial.filter(|_| self.raft.configuration().is_voter(from)) {
                    self.hear_trial(from, on, has_passed);
                }
            }
            Rider::Judgement(_) | Rider::Report(_) => {}
        }
    }

    fn hear_trial(&mut self, from: Incarnation, on: Index, has_passed: bool) {
        let term = self.raft.term();
        let trouble = self.judge.trouble.as_mut().filter(|trouble| (trouble.on, trouble.term) == (on, term));
        if let Some(Remedy::Ask { failed, passed, .. }) = trouble.map(|trouble| &mut trouble.remedy) {
            if has_passed { passed } else { failed }.insert(from);
        }
    }

    /// The machine has died of an entry. All before it is reported.
    pub fn died(&mut self, died: Died) {
        let Died { on, budget, fault } = died;
        let trial = self.judge.on_trial.take_if(|trial| trial.on == on);
        let Some(entry) = self.feed.first().filter(|entry| entry.index == on) else { return };
        if trial.is_some_and(|trial| trial.is_void) || self.sides.is_suspect() {
            return;
        }
        tracing::warn!(entry = %on, %fault, ?budget, "the backend died of an entry");
        let is_own = entry.term == self.raft.term();
        self.feed.take_back();
        if self.snapshots.at > self.applied {
            // The one that was asked for there will not be.
            self.snapshots.at = self.raft.status().snapshot.index;
        }
        if trial.is_some() {
            self.judge.failed = Some((on, fault.clone()));
            if let Some(trouble) = self.judge.trouble.as_mut().filter(|trouble| trouble.on == on) {
                let failed = [self.raft.id()].into();
                trouble.remedy = Remedy::Ask { fault, failed, passed: BTreeSet::new() };
            }
        } else if budget != Budget::Configured {
            if self.cannot_apply(on) {
                self.judge.stop = Some(format!("its backend died of entry {on}, which others could apply ({fault})"));
            }
        } else if self.raft.knows_all_verdicts() {
            let remedy = if is_own { Remedy::Skip(fault) } else { Remedy::Try };
            self.judge.trouble = Some(Trouble { on, term: self.raft.term(), remedy });
        }
    }

    /// Keeps back what came of a trial. Returns what may be told.
    pub(super) fn keep_back(&mut self, mut applied: Vec<Applied>) -> Vec<Applied> {
        let is_of = |trial: &mut Trial| applied.last().is_some_and(|last| last.position.index == trial.on);
        let Some(Trial { on, is_void }) = self.judge.on_trial.take_if(is_of) else { return applied };
        let last = applied.pop().expect("a trial has an outcome");
        if !is_void {
            tracing::info!(entry = %on, "the backend can apply the entry after all");
            self.judge.ahead = Some(Ahead { applied: last, before: self.chain });
        }
        applied
    }

    /// Gives the machine what it may do now.
    pub(super) fn feed_machine(&mut self, wall_ms: u64, jobs: &mut Vec<Job>) {
        self.judge.take_effect(&self.raft);
        if self.quarantine().is_some() {
            return;
        }
        if !self.resolve_ahead(wall_ms, jobs) || self.judge.on_trial.is_some() {
            return;
        }
        let limit = self.limit(wall_ms, jobs);
        let limit = self.before_missing_component(limit);
        let entries = self.feed.give(limit);
        let budget = if self.raft.is_leader() { Budget::Configured } else { Budget::Relaxed };
        self.run(entries, budget, jobs);
        if let Some(on) = self.judge.asked_to_try(&self.raft) {
            let has_failed = self.judge.failed.as_ref().is_some_and(|(failed, _)| *failed == on);
            if !has_failed {
                self.try_entry(on, jobs);
            }
        }
    }

    /// Follows the fate of an entry that the machine has passed on trial. Tells whether the machine may go on.
    fn resolve_ahead(&mut self, wall_ms: u64, jobs: &mut Vec<Job>) -> bool {
        let Some(ahead) = self.judge.ahead.take() else { return true };
        let on = ahead.on();
        let ruling = self.raft.rulings(on..=on).next().map(|(_, ruling)| Ruling::decode(ruling));
        let is_kept = matches!(ruling, Some(Ok(Ruling::Keep)));
        if is_kept || (ruling.is_none() && self.judge.judged >= on) {
            self.tell(vec![ahead.applied]);
            return true;
        }
        if ruling.is_some() {
            jobs.push(Job::Rewind(on.prev(), ahead.before));
            return true;
        }
        self.rule(on, &Ruling::Keep, wall_ms);
        self.judge.ahead = Some(ahead);
        false
    }

    /// The last entry that the machine may be given, after what can be done about one that it has died of.
    fn limit(&mut self, wall_ms: u64, jobs: &mut Vec<Job>) -> Index {
        if !self.raft.knows_all_verdicts() {
            self.judge.trouble = None;
            return self.judge.judged;
        }
        let most = match self.majority() {
            Majority::Here => self.raft.commit(),
            Majority::Unknown(limit) => limit.min(self.raft.commit()),
            Majority::Lost(at) => {
                self.enter_quarantine(at);
                return self.applied;
            }
        };
        let is_over = |trouble: &mut Trouble| {
            let is_ruled = self.raft.rulings(trouble.on..=trouble.on).next().is_some();
            is_ruled || trouble.term != self.raft.term() || trouble.on <= self.applied
        };
        self.judge.trouble.take_if(is_over);
        let Some(Trouble { on, remedy, .. }) = &mut self.judge.trouble else { return most };
        let on = *on;
        let skip = match remedy {
            Remedy::Skip(fault) => Some(fault.clone()),
            Remedy::Try => {
                self.try_entry(on, jobs);
                None
            }
            Remedy::Ask { fault, failed, passed } => {
                let has_quorum = self.raft.configuration().has_quorum(|voter| failed.contains(&voter));
                // Whoever does not take over, and is still there, says again that it has passed.
                match passed.pop_first() {
                    Some(able) => {
                        // It is asked again as long as this one leads.
                        let _ = self.transfer(able);
                        None
                    }
                    None => Some(fault.clone()).filter(|_| has_quorum),
                }
            }
        };
        if let Some(fault) = skip {
            self.rule(on, &Ruling::Skip(fault), wall_ms);
        }
        on.prev()
    }

    /// Proposes a ruling, if this replica leads and has not done so.
    fn rule(&mut self, on: Index, ruling: &Ruling, wall_ms: u64) {
        if self.raft.knows_all_verdicts() && !self.raft.has_verdict(on) {
            let verdict = Verdict { on, ruling: ruling.encode() };
            match self.raft.propose_verdict(verdict, wall_ms) {
                Ok(_) => tracing::info!(entry = %on, ?ruling, "proposed a verdict"),
                Err(error) => tracing::debug!(entry = %on, %error, "no verdict for now"),
            }
        }
    }

    /// Has the machine try an entry, once it has applied all before it.
    fn try_entry(&mut self, on: Index, jobs: &mut Vec<Job>) {
        let is_next = self.feed.is_idle() && self.feed.first().is_some_and(|entry| entry.index == on);
        if is_next && self.before_missing_component(on) == on {
            let entries = self.feed.first().cloned().into_iter().collect();
            self.judge.on_trial = Some(Trial { on, is_void: false });
            self.run(entries, Budget::Relaxed, jobs);
        }
    }

    /// Gives the machine entries, with what was ruled about them.
    fn run(&mut self, entries: Vec<Entry>, budget: Budget, jobs: &mut Vec<Job>) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let of_entries = self.raft.rulings(first.index..=last.index);
        let decoded = of_entries.map(|(on, ruling)| Ruling::decode(ruling).map(|ruling| (on, ruling)));
        match decoded.collect() {
            Ok(rulings) => jobs.push(Job::Apply(Run { entries, rulings: Rulings { budget, rulings } })),
            Err(error) => {
                self.judge.stop = Some(format!(
                    "its log holds a verdict that this version of zraft cannot read ({error}); run the version that the \
                     other replicas run"
                ));
            }
        }
    }
}

impl Ahead {
    fn on(&self) -> Index {
        self.applied.position.index
    }
}

//! Applying entries: first decide what each is to do, then call the backend for as many as possible at once, then say what
//! became of each, in order.
//!
//! How entries are cut into batches differs between replicas and must not show: decisions depend on the entries before
//! and on nothing that a backend call of the same batch is yet to return.

use std::fmt::Display;

use bytes::Bytes;

use crate::access::{Access, AccessControl, AccessDenied, AccessList, AccessRefusal};
use crate::feature_level::FeatureLevel;
use crate::machine::session::{Admission, Admitted, Sessions, Standing};
use crate::machine::{
    Applied, BackendCommand, BackendOutcome, BackendSource, Budget, Command, Fault, GuestFault, Key, Machine, Moment,
    Outcome, Ruling, Rulings, SessionTerms,
};
use crate::protocol::{BackendFault, CommandError, CommandReply, SessionEnd, SessionRefusal, UpgradeRefusal};
use crate::raft::{Entry, Payload, Upgrade};
use crate::types::{Index, SessionId};

/// Entries that are decided, and the commands that some of them have for the backend.
#[derive(Default)]
struct Batch<'a> {
    steps: Vec<(&'a Entry, Step, Option<Standing>)>,
    commands: Vec<BackendCommand>,
}

/// What an entry is to do.
enum Step {
    /// Nothing.
    Pass,
    /// Run the next of the batch's commands.
    Run,
    /// Run the next of the batch's commands, and remember the reply.
    RunInSession { session: SessionId, seq: u64 },
    /// Leave the backend out.
    Skip(BackendFault),
    /// Leave the backend out, and remember that.
    SkipInSession { session: SessionId, seq: u64, fault: BackendFault },
    /// Leave the backend out: the client may not write.
    Deny(AccessDenied),
    /// Leave the backend out, and remember why.
    DenyInSession { session: SessionId, seq: u64, denied: AccessDenied },
    /// Give the reply that is remembered.
    Again { session: SessionId, seq: u64 },
    /// Say no.
    Refuse(SessionRefusal),
    /// Say that the session was opened.
    Open(SessionTerms),
    /// Say that a session is not opened, or the access list not set.
    NotAllowed(AccessDenied),
    /// Say what became of the access list.
    Access(Result<AccessControl, AccessRefusal>),
    /// Say what entries there may be.
    Level(FeatureLevel),
    /// End the session, and have the backend forget what it owned. Always the last of its batch.
    End { session: SessionId, end: SessionEnd },
    /// End the session, and leave the backend out. The last of its batch as well.
    Orphan { session: SessionId, end: SessionEnd, fault: BackendFault },
    /// Go on with another backend. In no batch: all before it is run first.
    Upgrade(Upgrade),
    /// Say why the backend stays.
    Stay(UpgradeRefusal),
}

impl Machine {
    /// Applies entries that follow the last one applied, and says what became of each. What was ruled about them must be
    /// known; `others` has the backends that they move to.
    ///
    /// # Errors
    /// [`Fault`]: the machine is dead, and it is not known how far it came. It must be restored from a snapshot.
    ///
    /// # Panics
    /// If the entries do not follow: that is a defect of the caller.
    pub fn apply(
        &mut self,
        entries: &[Entry],
        rulings: &Rulings,
        others: &mut dyn BackendSource,
    ) -> Result<Vec<Applied>, Fault> {
        self.backend.set_budget(rulings.budget);
        let mut applied = Vec::with_capacity(entries.len());
        let mut batch = Batch::default();
        for entry in entries {
            let ruling = rulings.on(entry.index);
            let is_kept = ruling == Some(&Ruling::Keep);
            let mut budget = rulings.budget;
            if is_kept {
                self.run(std::mem::take(&mut batch), &mut applied)?;
                budget = Budget::Unlimited;
                self.backend.set_budget(budget);
            }
            let (step, standing) = self.decide(entry, ruling, &mut batch.commands)?;
            if let Step::Upgrade(upgrade) = &step {
                // What is handed over is the state behind all that came before.
                self.run(std::mem::take(&mut batch), &mut applied)?;
                let at = Moment { index: entry.index.0, time_ms: entry.time_ms };
                let (outcome, changed) = self.upgrade(at, upgrade, budget, others)?;
                self.tell(entry, outcome, changed, None, &mut applied);
            } else {
                // What comes after the end of a session must find it gone.
                let is_cut = is_kept || matches!(step, Step::End { .. } | Step::Orphan { .. });
                batch.steps.push((entry, step, standing));
                if is_cut {
                    self.run(std::mem::take(&mut batch), &mut applied)?;
                }
            }
            if is_kept {
                self.backend.set_budget(rulings.budget);
            }
        }
        self.run(batch, &mut applied)?;
        Ok(applied)
    }

    /// Decides what an entry is to do, and where that leaves its session. What it has for the backend is added to the
    /// commands.
    fn decide(
        &mut self,
        entry: &Entry,
        ruling: Option<&Ruling>,
        commands: &mut Vec<BackendCommand>,
    ) -> Result<(Step, Option<Standing>), Fault> {
        let skipped = || match ruling {
            Some(Ruling::Skip(fault)) => Some(fault.clone()),
            Some(Ruling::Keep) | None => None,
        };
        let data = match &entry.payload {
            Payload::Data(data) => data,
            Payload::Upgrade(upgrade) => return Ok((self.decide_upgrade(upgrade, skipped()), None)),
            Payload::Noop | Payload::Membership(_) | Payload::Verdict(_) => return Ok((Step::Pass, None)),
        };
        let at = Moment { index: entry.index.0, time_ms: entry.time_ms };
        Ok(match Command::decode(data).map_err(|error| unknown_command(entry, &error))? {
            Command::Write { data } => (decide_write(at, data, skipped(), commands), None),
            Command::WriteBy { client, data } => match self.access.list.check_client(&client, Access::Write) {
                Ok(()) => (decide_write(at, data, skipped(), commands), None),
                Err(denied) => (Step::Deny(denied), None),
            },
            Command::OpenSession(terms) => {
                let session = SessionId(entry.index.0);
                (self.decide_open(session, terms), self.sessions.standing(session))
            }
            Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data } => {
                let max_unacknowledged = self.genesis.settings.max_unacknowledged;
                let admitted = self.sessions.admit(session, seq, acked_up_to, max_unacknowledged);
                let Some(Admitted { admission, standing, identity }) = admitted else {
                    return Ok((Step::Refuse(SessionRefusal::Expired), None));
                };
                let step = match admission {
                    Ok(Admission::Run) => match (self.access.list.check_identity(identity, Access::Write), skipped()) {
                        (Err(denied), _) => Step::DenyInSession { session, seq, denied },
                        (Ok(()), Some(fault)) => Step::SkipInSession { session, seq, fault },
                        (Ok(()), None) => {
                            commands.push(BackendCommand { at, session: is_ephemeral.then_some(session.0), data });
                            Step::RunInSession { session, seq }
                        }
                    },
                    Ok(Admission::Again) => Step::Again { session, seq },
                    Err(refusal) => Step::Refuse(refusal),
                };
                (step, Some(standing))
            }
            Command::CloseSession { session } => (self.decide_end(session, SessionEnd::Closed, skipped()), None),
            Command::ExpireSession { session } => (self.decide_end(session, SessionEnd::Expired, skipped()), None),
            Command::SetAccess { by, expected, list } => {
                (self.decide_access(entry.index, by.as_deref(), expected, list), None)
            }
            Command::RaiseLevel { level } if level.is_supported() => {
                self.level = self.level.max(level);
                (Step::Level(self.level), None)
            }
            Command::RaiseLevel { level } => return Err(unsupported(format_args!("entry {}", entry.index), level)),
        })
    }

    /// The list is another for the entries behind this one, also those of the same batch.
    fn decide_access(&mut self, at: Index, by: Option<&str>, expected: Index, list: AccessList) -> Step {
        if let Some(Err(denied)) = by.map(|client| self.access.list.check_client(client, Access::Admin)) {
            return Step::NotAllowed(denied);
        }
        if expected != self.access.set_at {
            return Step::Access(Err(AccessRefusal::Changed { now: self.access.set_at }));
        }
        if let Err(error) = list.check() {
            return Step::Access(Err(AccessRefusal::Invalid(error)));
        }
        self.access = AccessControl { list, set_at: at };
        Step::Access(Ok(self.access.clone()))
    }

    fn decide_open(&mut self, session: SessionId, terms: SessionTerms) -> Step {
        if let Err(denied) = self.access.list.check_identity(&terms.identity, Access::Read) {
            return Step::NotAllowed(denied);
        }
        if self.sessions.len() as u64 >= self.genesis.settings.max_sessions {
            return Step::Refuse(SessionRefusal::TooManySessions);
        }
        if self.sessions.count_of(&terms.identity) >= self.genesis.settings.max_sessions_per_identity {
            return Step::Refuse(SessionRefusal::TooManyOfIdentity);
        }
        self.sessions.open(session, terms.clone());
        Step::Open(terms)
    }

    /// Whether there is to be another backend. The batch was run where the one before has changed it.
    fn decide_upgrade(&self, upgrade: &Upgrade, skipped: Option<BackendFault>) -> Step {
        if upgrade.from != self.genesis.component {
            return Step::Stay(UpgradeRefusal::Changed { now: self.genesis.component });
        }
        skipped.map_or_else(|| Step::Upgrade(upgrade.clone()), |fault| Step::Stay(UpgradeRefusal::Fault(fault)))
    }

    /// The session stays open until the entry takes effect: replies before it are still to be remembered.
    fn decide_end(&self, session: SessionId, end: SessionEnd, skipped: Option<BackendFault>) -> Step {
        match (self.sessions.contains(session), skipped) {
            (true, None) => Step::End { session, end },
            (true, Some(fault)) => Step::Orphan { session, end, fault },
            (false, _) => Step::Refuse(SessionRefusal::Expired),
        }
    }

    /// Calls the backend, and says what became of each entry.
    fn run(&mut self, batch: Batch<'_>, applied: &mut Vec<Applied>) -> Result<(), Fault> {
        let mut outcomes = self.backend_outcomes(&batch.commands)?.into_iter();
        for (entry, step, standing) in batch.steps {
            let mut changed = Vec::new();
            let mut next_reply = || {
                let BackendOutcome { reply, changed: keys } = outcomes.next().expect("there are as many as commands");
                changed = keys;
                reply.map_err(CommandError::Refused)
            };
            let remember = |sessions: &mut Sessions, session, seq, reply: CommandReply| {
                sessions.remember(session, seq, entry.index, reply.clone());
                Outcome::Answered { session, seq, index: entry.index, reply }
            };
            let outcome = match step {
                Step::Pass => Outcome::Nothing,
                Step::Run => Outcome::Written(next_reply()),
                Step::RunInSession { session, seq } => remember(&mut self.sessions, session, seq, next_reply()),
                Step::Skip(fault) => Outcome::Written(Err(CommandError::Fault(fault))),
                Step::SkipInSession { session, seq, fault } => {
                    remember(&mut self.sessions, session, seq, Err(CommandError::Fault(fault)))
                }
                Step::Deny(denied) => Outcome::Written(Err(CommandError::Denied(denied))),
                Step::DenyInSession { session, seq, denied } => {
                    remember(&mut self.sessions, session, seq, Err(CommandError::Denied(denied)))
                }
                Step::Again { session, seq } => {
                    let (index, reply) = self.sessions.reply(session, seq);
                    Outcome::Answered { session, seq, index, reply }
                }
                Step::Refuse(refusal) => Outcome::Refused(refusal),
                Step::Open(terms) => Outcome::Opened(terms),
                Step::NotAllowed(denied) => Outcome::Denied(denied),
                Step::Access(set) => set.map_or_else(Outcome::AccessNotSet, Outcome::AccessSet),
                Step::Level(level) => Outcome::Level(level),
                Step::Stay(refusal) => Outcome::NotUpgraded(refusal),
                Step::Upgrade(_) => unreachable!("it is in no batch"),
                Step::End { session, end } => {
                    let at = Moment { index: entry.index.0, time_ms: entry.time_ms };
                    changed = self.backend.expire_session(at, session.0)?;
                    self.sessions.end(session);
                    Outcome::Ended { session, end }
                }
                Step::Orphan { session, end, fault } => {
                    self.sessions.end(session);
                    self.sessions.orphan(session);
                    Outcome::Orphaned { session, end, fault }
                }
            };
            self.tell(entry, outcome, changed, standing, applied);
        }
        Ok(())
    }

    /// Links an entry to the chain and adds what became of it.
    fn tell(
        &mut self,
        entry: &Entry,
        outcome: Outcome,
        changed: Vec<Key>,
        standing: Option<Standing>,
        applied: &mut Vec<Applied>,
    ) {
        assert_eq!(entry.index, self.applied.index.next(), "entries are applied in order and without gaps");
        if let Some(standing) = standing {
            self.sessions.forget(standing);
        }
        self.chain.extend(entry, &outcome, &changed, standing);
        self.applied = entry.position();
        self.time_ms = entry.time_ms;
        applied.push(Applied { position: entry.position(), outcome, changed, chain: self.chain });
    }

    /// Has the backend apply commands, all in one call.
    fn backend_outcomes(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = self.backend.apply(commands)?;
        if outcomes.len() != commands.len() {
            let message = format!("{} outcomes for {} commands", outcomes.len(), commands.len());
            return Err(Fault::Guest { kind: GuestFault::BrokenContract, message });
        }
        Ok(outcomes)
    }
}

/// A write that is allowed runs, unless it was ruled to be skipped.
fn decide_write(at: Moment, data: Bytes, skipped: Option<BackendFault>, commands: &mut Vec<BackendCommand>) -> Step {
    if let Some(fault) = skipped {
        return Step::Skip(fault);
    }
    commands.push(BackendCommand { at, session: None, data });
    Step::Run
}

/// A replica that does not support what may come must stop before it comes.
pub(super) fn unsupported(what: impl Display, level: FeatureLevel) -> Fault {
    let newest = FeatureLevel::NEWEST;
    Fault::Host(format!(
        "{what} needs feature level {level}, and this version of zraft supports {newest}; run the version that the other replicas run"
    ))
}

/// A replica that cannot read a committed entry must stop: skipping it would part it from those that can.
fn unknown_command(entry: &Entry, error: &crate::codec::DecodeError) -> Fault {
    Fault::Host(format!(
        "entry {} holds no command that this version of zraft knows ({error}); run the version that the other replicas run",
        entry.index
    ))
}

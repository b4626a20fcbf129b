//! A machine that is made again when its backend dies.
//!
//! An instance that has trapped is dead, and nobody knows how far it came. What it was can be made again from the latest
//! snapshot and the log ([`Past`]); entries that it died of are then tried one at a time, to find the one to blame. What
//! follows from that is not decided here: see `replica/`.

use crate::machine::{Applied, BackendAnswer, BackendSource, Budget, Fault, HashChain, Machine, Ruling, Rulings};
use crate::protocol::BackendFault;
use crate::raft::Entry;
use crate::types::Index;

/// What a machine can be made from again, and where it finds the backends that its log moves it to.
pub trait Past: BackendSource {
    /// Why it cannot.
    type Error;

    /// The machine as of the latest snapshot, or a new one.
    ///
    /// # Errors
    /// When there is no such machine.
    fn begin(&mut self) -> Result<Machine, Self::Error>;

    /// Applied entries `from..=to`: as many as are convenient, at least one. None when the log has given way to a snapshot
    /// that is yet to be restored.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn entries(&mut self, from: Index, to: Index) -> Result<Option<Vec<Entry>>, Self::Error>;
}

/// Entries to apply, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The entries, without gaps.
    pub entries: Vec<Entry>,
    /// What was ruled about them, and the budget for the rest.
    pub rulings: Rulings,
}

/// What came of a [`Run`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// What became of the entries that were applied.
    pub applied: Vec<Applied>,
    /// Set if the backend died of the next one.
    pub died: Option<Died>,
}

/// The backend died of an entry. Those before it are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Died {
    /// The entry.
    pub on: Index,
    /// What it was given.
    pub budget: Budget,
    /// What it died of.
    pub fault: BackendFault,
}

impl Died {
    fn of(entry: &Entry, run: &Run, fault: BackendFault) -> Self {
        let is_kept = run.rulings.on(entry.index) == Some(&Ruling::Keep);
        let budget = if is_kept { Budget::Unlimited } else { run.rulings.budget };
        Self { on: entry.index, budget, fault }
    }
}

/// Why a machine is gone for good.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// This node could not run the backend.
    #[error("this node could not run the backend: {0}")]
    Host(String),
    /// The backend died of an entry again that it has applied before.
    #[error("the backend died of what it has applied before, between snapshot and entry {to}: {fault}")]
    DiedAgain {
        /// Where the machine was to stand.
        to: Index,
        /// What it died of.
        fault: BackendFault,
    },
    /// The machine is not what it was.
    #[error("after a rebuild from snapshot and log, the machine differs from before (hash chain at {0})")]
    Diverged(Index),
    /// The snapshot or the log cannot be read.
    #[error(transparent)]
    Past(#[from] E),
}

/// What a machine must come to when it is made again.
#[derive(Clone, Debug)]
pub struct Target {
    /// The last entry to apply, and the hash chain there.
    at: (Index, HashChain),
    /// What was ruled about entries since the latest snapshot.
    rulings: Vec<(Index, Ruling)>,
}

impl Target {
    /// The last entry to apply.
    #[must_use]
    pub fn index(&self) -> Index {
        self.at.0
    }

    /// The machine, made from its past. None when the log has given way to a snapshot that is yet to be restored.
    ///
    /// # Errors
    /// [`RunError`]: there is no such machine.
    pub fn reach<P: Past>(&self, past: &mut P) -> Result<Option<Machine>, RunError<P::Error>> {
        let (to, chain) = self.at;
        let mut machine = past.begin()?;
        // It was borne once, perhaps on trial and with nothing ruled yet: it ends.
        let rulings = Rulings { budget: Budget::Unlimited, rulings: self.rulings.clone() };
        while machine.applied().index < to {
            let Some(entries) = past.entries(machine.applied().index.next(), to)? else { return Ok(None) };
            if let Err(fault) = survive(machine.apply(&entries, &rulings, past))? {
                return Err(RunError::DiedAgain { to, fault });
            }
        }
        if machine.applied().index == to && machine.chain() != chain {
            return Err(RunError::Diverged(to));
        }
        // A later snapshot than was asked for is one that a job to come restores.
        Ok(Some(machine).filter(|machine| machine.applied().index == to))
    }
}

/// One peer's machine, and what is needed to make it again.
pub struct Runner {
    /// None while it is dead, or rests.
    machine: Option<Box<Machine>>,
    /// It was dropped to save its memory.
    is_resting: bool,
    /// How far the machine came.
    target: Target,
}

impl Runner {
    /// Runs a machine.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        let at = (machine.applied().index, machine.chain());
        Self { machine: Some(Box::new(machine)), is_resting: false, target: Target { at, rulings: Vec::new() } }
    }

    /// The machine. None if it rests, or died and waits for the snapshot that its log has given way to.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_deref()
    }

    /// The same, to be read or written out.
    pub fn machine_mut(&mut self) -> Option<&mut Machine> {
        self.machine.as_deref_mut()
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.target.at.0
    }

    /// The last entry applied, and the hash chain there.
    #[must_use]
    pub fn at(&self) -> (Index, HashChain) {
        self.target.at
    }

    /// What another machine must come to, to be as this one is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Another machine as this one is, made from its past.
    ///
    /// # Errors
    /// [`RunError`]: there is no such machine.
    pub fn another<P: Past>(&self, past: &mut P) -> Result<Self, RunError<P::Error>> {
        Ok(Self { machine: self.target.reach(past)?.map(Box::new), is_resting: false, target: self.target.clone() })
    }

    /// A snapshot at this entry is there to begin from: what was ruled about those before is not needed again.
    pub fn snapshot_taken(&mut self, at: Index) {
        self.target.rulings.retain(|(on, _)| *on > at);
    }

    /// Applies entries, as far as the backend survives them. Entries that do not follow were meant for a machine that did not
    /// die on the way, and are left.
    ///
    /// # Errors
    /// [`RunError`]: there is no machine any more.
    pub fn apply<P: Past>(&mut self, run: &Run, past: &mut P) -> Result<Ran, RunError<P::Error>> {
        let follows = run.entries.first().is_some_and(|first| first.index == self.applied().next());
        let Some(machine) = self.machine.as_mut().filter(|_| follows) else { return Ok(Ran::default()) };
        // Entries may be given again.
        let Target { at: (applied, _), rulings } = &mut self.target;
        rulings.retain(|(on, _)| on <= applied);
        rulings.extend(run.rulings.rulings.iter().cloned());
        let outcome = survive(machine.apply(&run.entries, &run.rulings, past))?;
        match outcome {
            Ok(applied) => {
                self.note(&applied);
                Ok(Ran { applied, died: None })
            }
            Err(fault) => {
                self.rewind_here(past)?;
                match &run.entries[..] {
                    [entry] => Ok(Ran { applied: Vec::new(), died: Some(Died::of(entry, run, fault)) }),
                    entries => self.apply_one_by_one(entries, run, past),
                }
            }
        }
    }

    fn apply_one_by_one<P: Past>(
        &mut self,
        entries: &[Entry],
        run: &Run,
        past: &mut P,
    ) -> Result<Ran, RunError<P::Error>> {
        let mut ran = Ran::default();
        for entry in entries {
            // Without a machine, the rest is in a snapshot to come.
            let Some(machine) = self.machine.as_mut() else { break };
            match survive(machine.apply(std::slice::from_ref(entry), &run.rulings, past))? {
                Ok(applied) => {
                    self.note(&applied);
                    ran.applied.extend(applied);
                }
                Err(fault) => {
                    self.rewind_here(past)?;
                    ran.died = Some(Died::of(entry, run, fault));
                    break;
                }
            }
        }
        Ok(ran)
    }

    /// Answers a query from the state as it is. A backend that dies of it is made again.
    ///
    /// # Errors
    /// [`RunError`]: there is no machine any more.
    pub fn query<P: Past>(
        &mut self,
        request: &[u8],
        past: &mut P,
    ) -> Result<Option<Result<BackendAnswer, BackendFault>>, RunError<P::Error>> {
        let Some(machine) = self.machine.as_mut() else { return Ok(None) };
        let answer = survive(machine.query(request))?;
        if answer.is_err() {
            self.rewind_here(past)?;
        }
        Ok(Some(answer))
    }

    /// Makes the machine again as it was at an entry, where its hash chain must come out the same.
    ///
    /// # Errors
    /// [`RunError`]: there is no machine any more.
    pub fn rewind<P: Past>(&mut self, (to, chain): (Index, HashChain), past: &mut P) -> Result<(), RunError<P::Error>> {
        // The old machine goes first: two states at once may not fit.
        (self.machine, self.is_resting) = (None, false);
        self.target.at = (to, chain);
        self.machine = self.target.reach(past)?.map(Box::new);
        Ok(())
    }

    /// Drops the machine, which nobody needs for the time being. It must be woken before it is given anything.
    pub fn rest(&mut self) {
        self.is_resting |= self.machine.take().is_some();
    }

    /// Whether the machine was dropped by [`Self::rest`].
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.is_resting
    }

    /// Makes a machine that rests again as it was.
    ///
    /// # Errors
    /// [`RunError`]: there is no machine any more.
    pub fn wake<P: Past>(&mut self, past: &mut P) -> Result<(), RunError<P::Error>> {
        if self.is_resting { self.rewind_here(past) } else { Ok(()) }
    }

    /// Makes the machine again as it is, after it died of something else than an entry or a query.
    ///
    /// # Errors
    /// [`RunError`]: there is no machine any more.
    pub fn rewind_here<P: Past>(&mut self, past: &mut P) -> Result<(), RunError<P::Error>> {
        self.rewind(self.target.at, past)
    }

    fn note(&mut self, applied: &[Applied]) {
        if let Some(last) = applied.last() {
            self.target.at = (last.position.index, last.chain);
        }
    }
}

/// Tells what a guest died of from what this node could not do.
fn survive<T, E>(result: Result<T, Fault>) -> Result<Result<T, BackendFault>, RunError<E>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Fault::Guest { kind, message }) => Ok(Err(BackendFault { kind, message })),
        Err(Fault::Host(message)) => Err(RunError::Host(message)),
    }
}

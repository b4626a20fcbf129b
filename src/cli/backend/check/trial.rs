//! Machines that live through a history with the component under them, and the first of them, which the others are
//! compared with.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha12Rng;

use super::history::{History, shorten};
use super::promises::{Finding, Promise, Stop};
use crate::machine::{
    Applied, BackendAnswer, BackendFactory, BackendSource, Fault, Genesis, HashChain, HostPart, Machine, NoOthers,
    Outcome, Past, Ruling, Rulings, Run, RunError, Runner, StartError,
};
use crate::protocol::{BackendFault, CommandError, CommandReply};
use crate::raft::{Configuration, Entry, SnapshotMeta};
use crate::types::{Digest, Index};
use crate::wasm::{Meter, Usage};

/// After how many deaths the history is broken off.
pub(super) const MAX_DEATHS: usize = 10;

/// What all machines of a check share.
pub(super) struct Trial<'a> {
    pub(super) factory: &'a dyn BackendFactory,
    pub(super) meter: &'a Meter,
    pub(super) genesis: Genesis,
    pub(super) history: History,
}

impl Trial<'_> {
    /// A machine before the first entry.
    pub(super) fn start(&self) -> Result<Machine, Stop> {
        let started = Machine::start(self.genesis.clone(), self.factory);
        started.map_err(|error| Stop::of_start("starting", Promise::Contract, error))
    }

    /// The component's state as a snapshot has it, cut into chunks of at most so many bytes.
    pub(super) fn write(&self, machine: &mut Machine, max_chunk_bytes: u32) -> Result<Vec<u8>, Stop> {
        let mut bytes = Vec::new();
        let mut sink = |chunk: Bytes| {
            bytes.extend_from_slice(&chunk);
            Ok(())
        };
        let written = machine.write_snapshot_cut(max_chunk_bytes, &mut sink);
        let what = || format!("writing a snapshot behind entry {}", machine.applied().index);
        written.map_err(|error| Stop::of_snapshot(&what(), error))?;
        Ok(bytes)
    }

    /// Another machine, restored from what one has written, in pieces of any size.
    pub(super) fn restore(&self, machine: &Machine, bytes: &[u8], rng: &mut ChaCha12Rng) -> Result<Machine, Stop> {
        let position = machine.applied();
        let entry = position.index.0.checked_sub(1).and_then(|before| self.history.entries.get(before as usize));
        let time_ms = entry.map_or(0, |entry| entry.time_ms);
        let mut head =
            machine.snapshot_head(SnapshotMeta { position, time_ms, configuration: Configuration::default() });
        // As it comes from a disk.
        head.host = HostPart::decode(&head.host.encode()).map_err(|error| Stop::Host(error.to_string()))?;
        let mut rest = bytes;
        let mut next = || {
            if rest.is_empty() {
                return Ok(None);
            }
            let most = rest.len().min(Machine::MAX_CHUNK_BYTES as usize);
            let (chunk, after) = rest.split_at(rng.random_range(1..=most));
            rest = after;
            Ok(Some(Bytes::copy_from_slice(chunk)))
        };
        let restored = Machine::restore(head, self.factory, &mut next);
        let what = format!("restoring its own snapshot behind entry {}", position.index);
        restored.map_err(|error| Stop::of_start(&what, Promise::Restore, error))
    }

    /// Has a runner apply one entry, or tells what the component died of.
    pub(super) fn apply(
        &self,
        runner: &mut Runner,
        entry: &Entry,
        rulings: &Rulings,
    ) -> Result<Result<Applied, BackendFault>, Stop> {
        let of_entry = rulings.rulings.iter().filter(|(on, _)| *on == entry.index).cloned().collect();
        let rulings = Rulings { budget: rulings.budget, rulings: of_entry };
        let run = Run { entries: vec![entry.clone()], rulings };
        let ran = runner.apply(&run, &mut Replay(self)).map_err(stop_of_run)?;
        match (ran.applied.into_iter().next(), ran.died) {
            (Some(applied), _) => Ok(Ok(applied)),
            (None, Some(died)) => Ok(Err(died.fault)),
            (None, None) => Err(Stop::Host(format!("no machine stands before entry {}", entry.index))),
        }
    }

    /// Has a query answered, or tells what the component died of.
    pub(super) fn query(
        &self,
        runner: &mut Runner,
        request: &[u8],
    ) -> Result<Result<BackendAnswer, BackendFault>, Stop> {
        let answer = runner.query(request, &mut Replay(self)).map_err(stop_of_run)?;
        answer.ok_or_else(|| Stop::Host("no machine is there to ask".to_owned()))
    }

    /// The first life: one entry at a time and nothing between, within the budgets. What the component dies of is skipped, as a
    /// cluster does.
    pub(super) fn first_life(&self) -> Result<FirstLife, Stop> {
        let mut runner = Runner::new(self.start()?);
        let mut life = FirstLife { usage: self.meter.take(), ..FirstLife::default() };
        let configured = Rulings::default();
        for entry in &self.history.entries {
            let first = self.apply(&mut runner, entry, &configured)?;
            let usage = self.meter.take();
            let applied = match first {
                Ok(applied) => {
                    life.note_usage(entry.index, usage);
                    applied
                }
                Err(fault) => {
                    life.findings.push(Finding::died(&self.history.describe(entry.index), &fault));
                    if life.findings.len() > MAX_DEATHS {
                        break;
                    }
                    life.rulings.rulings.push((entry.index, Ruling::Skip(fault)));
                    self.apply(&mut runner, entry, &life.rulings)?.map_err(|fault| {
                        Stop::Host(format!("entry {} was skipped and killed it all the same: {fault}", entry.index))
                    })?
                }
            };
            life.refused += usize::from(is_refused(&applied));
            life.lived.push(Lived::of(&applied));
        }
        let state = runner.machine_mut().map(|machine| self.write(machine, Machine::MAX_CHUNK_BYTES));
        match state {
            Some(Ok(state)) => life.state = Some(state),
            Some(Err(Stop::Found(finding))) => life.findings.push(finding),
            Some(Err(host)) => return Err(host),
            None => {}
        }
        life.usage = life.usage.max(self.meter.take());
        Ok(life)
    }
}

/// What the first machine came to.
#[derive(Debug, Default)]
pub(super) struct FirstLife {
    /// How others are to apply the same entries: what it died of is skipped, and the rest may take more than is configured, as on
    /// followers.
    pub(super) rulings: Rulings,
    /// What became of the entries, up to where it was broken off.
    pub(super) lived: Vec<Lived>,
    /// How many commands were refused.
    pub(super) refused: usize,
    /// Its state in the end, if that can be written.
    pub(super) state: Option<Vec<u8>>,
    /// The most that calls have used, not counting those that killed it.
    pub(super) usage: Usage,
    /// The entry that used the most fuel.
    pub(super) thirstiest: Option<Index>,
    /// What it died of.
    pub(super) findings: Vec<Finding>,
}

impl FirstLife {
    fn note_usage(&mut self, index: Index, usage: Usage) {
        if usage.apply_fuel > self.usage.apply_fuel {
            self.thirstiest = Some(index);
        }
        self.usage = self.usage.max(usage);
    }

    /// What is different about an entry that was applied to another machine, if anything.
    pub(super) fn difference(&self, other: &Applied) -> Option<String> {
        let place = usize::try_from(other.position.index.0).ok().and_then(|index| index.checked_sub(1))?;
        let first = self.lived.get(place).filter(|first| first.chain != other.chain)?;
        let other = Lived::of(other);
        Some(if first.outcome != other.outcome {
            format!("it came to {}, and to {} on the first instance", other.outcome, first.outcome)
        } else if first.changed != other.changed {
            format!("it changed {}, and {} on the first instance", other.changed, first.changed)
        } else {
            "it has another hash than on the first instance".to_owned()
        })
    }

    /// Whether another machine's state in the end is the same, as far as states can be written.
    pub(super) fn is_state(&self, other: &[u8]) -> bool {
        self.state.as_ref().is_none_or(|state| state == other)
    }
}

/// What is remembered of an entry that was applied: replies may be long.
#[derive(Debug)]
pub(super) struct Lived {
    chain: HashChain,
    outcome: String,
    changed: String,
}

impl Lived {
    fn of(applied: &Applied) -> Self {
        Self { chain: applied.chain, outcome: tell(applied), changed: tell_keys(applied) }
    }
}

/// A machine is made again from the beginning: there is no snapshot.
struct Replay<'a>(&'a Trial<'a>);

impl BackendSource for Replay<'_> {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        NoOthers.factory(component)
    }
}

impl Past for Replay<'_> {
    type Error = StartError;

    fn begin(&mut self) -> Result<Machine, StartError> {
        Machine::start(self.0.genesis.clone(), self.0.factory)
    }

    fn entries(&mut self, from: Index, to: Index) -> Result<Option<Vec<Entry>>, StartError> {
        let in_range = |entry: &&Entry| (from..=to).contains(&entry.index);
        // One by one, so that a breach of batching is not taken for another.
        Ok(Some(self.0.history.entries.iter().filter(in_range).take(1).cloned().collect()))
    }
}

fn stop_of_run(error: RunError<StartError>) -> Stop {
    let what = "making it again from the log";
    match error {
        RunError::Host(message) => Stop::Host(message),
        RunError::Past(error) => Stop::of_start(what, Promise::Contract, error),
        RunError::DiedAgain { fault, .. } => Stop::Found(Finding::died(what, &fault)),
        RunError::Diverged(_) => Stop::Found(Finding::new(Promise::Batches, error.to_string())),
    }
}

fn reply(applied: &Applied) -> Option<&CommandReply> {
    match &applied.outcome {
        Outcome::Written(reply) | Outcome::Answered { reply, .. } => Some(reply),
        _ => None,
    }
}

fn is_refused(applied: &Applied) -> bool {
    matches!(reply(applied), Some(Err(CommandError::Refused(_))))
}

fn tell(applied: &Applied) -> String {
    match reply(applied) {
        Some(Ok(reply)) => format!("'{}'", shorten(reply)),
        Some(Err(CommandError::Refused(reason))) => format!("the refusal '{}'", shorten(reason.as_bytes())),
        Some(Err(CommandError::Denied(denied))) => format!("'{denied}'"),
        Some(Err(CommandError::Fault(fault))) => format!("the fault '{fault}'"),
        None => format!("{:?}", applied.outcome),
    }
}

fn tell_keys(applied: &Applied) -> String {
    match &applied.changed[..] {
        [] => "no key".to_owned(),
        [key] => format!("'{}'", shorten(key)),
        [key, rest @ ..] => format!("'{}' and {} more keys", shorten(key), rest.len()),
    }
}

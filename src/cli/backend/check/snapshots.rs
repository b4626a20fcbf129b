//! A state survives being written and read back, and is written one way only.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::promises::{Finding, Promise, Stop};
use super::trial::{FirstLife, Trial};
use crate::machine::{Machine, NoOthers};

/// How often it is restored on the way.
const RESTORES: usize = 8;

/// Into chunks of how many bytes else a state is cut, and up to which size of it.
const CUTS: [(u32, usize); 2] = [(4093, usize::MAX), (61, 1 << 20)];

pub(super) fn check(trial: &Trial<'_>, first: &FirstLife, seed: u64) -> Result<Vec<Finding>, Stop> {
    // It is known already that it cannot be written.
    if first.state.is_none() {
        return Ok(Vec::new());
    }
    let mut life = Life { trial, rng: ChaCha12Rng::seed_from_u64(seed), cut: None, rewritten: None };
    let restored = match life.live(first) {
        Ok(()) => None,
        // What goes on otherwise is another state, and is rightly written as one.
        Err(Stop::Found(finding)) => {
            life.rewritten = None;
            Some(finding)
        }
        Err(host) => return Err(host),
    };
    Ok([life.cut, life.rewritten, restored].into_iter().flatten().collect())
}

/// The first life once more, restored again and again on the way.
struct Life<'a> {
    trial: &'a Trial<'a>,
    rng: ChaCha12Rng,
    /// How it is cut shows.
    cut: Option<Finding>,
    /// What was restored is written otherwise.
    rewritten: Option<Finding>,
}

impl Life<'_> {
    fn live(&mut self, first: &FirstLife) -> Result<(), Stop> {
        let entries = &self.trial.history.entries[..first.lived.len()];
        let mut restores: Vec<usize> = (1..RESTORES).map(|_| self.rng.random_range(0..=entries.len())).collect();
        restores.push(entries.len());
        let mut machine = self.trial.start()?;
        for place in 0..=entries.len() {
            if restores.contains(&place) {
                machine = self.restore(machine)?;
            }
            let Some(entry) = entries.get(place) else { break };
            let what = format!("{}, restored before", self.trial.history.describe(entry.index));
            let applied = machine.apply(std::slice::from_ref(entry), &first.rulings, &mut NoOthers);
            for one in applied.map_err(|fault| Stop::of(&what, fault))? {
                if let Some(difference) = first.difference(&one) {
                    return Err(Stop::Found(Finding::new(Promise::Restore, format!("{what}: {difference}"))));
                }
            }
        }
        let state = self.trial.write(&mut machine, Machine::MAX_CHUNK_BYTES)?;
        if !first.is_state(&state) {
            let message = "restored on the way, it has come to the same and writes its state otherwise".to_owned();
            self.rewritten.get_or_insert(Finding::new(Promise::Snapshots, message));
        }
        Ok(())
    }

    /// Goes on with a machine made from the state of this one.
    fn restore(&mut self, mut machine: Machine) -> Result<Machine, Stop> {
        let index = machine.applied().index;
        let bytes = self.trial.write(&mut machine, Machine::MAX_CHUNK_BYTES)?;
        for (most, max_state_bytes) in CUTS {
            if bytes.len() <= max_state_bytes
                && let Some(difference) = difference(&bytes, &self.trial.write(&mut machine, most)?)
            {
                let message = format!("behind entry {index}, cut into chunks of at most {most} bytes, {difference}");
                self.cut.get_or_insert(Finding::new(Promise::Snapshots, message));
            }
        }
        let mut restored = self.trial.restore(&machine, &bytes, &mut self.rng)?;
        drop(machine);
        if let Some(difference) = difference(&bytes, &self.trial.write(&mut restored, Machine::MAX_CHUNK_BYTES)?) {
            let message = format!("behind entry {index}, what was restored is written otherwise: {difference}");
            self.rewritten.get_or_insert(Finding::new(Promise::Snapshots, message));
        }
        Ok(restored)
    }
}

fn difference(expected: &[u8], other: &[u8]) -> Option<String> {
    let (expected_len, len) = (expected.len(), other.len());
    if expected_len != len {
        return Some(format!("it has {len} bytes in place of {expected_len}"));
    }
    let place = expected.iter().zip(other).position(|(left, right)| left != right)?;
    Some(format!("it differs from byte {place} on"))
}

//! How commands are cut into batches must not matter: it differs between replicas.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::promises::{Finding, Promise, Stop};
use super::trial::{FirstLife, Trial};
use crate::machine::{Machine, NoOthers};

/// The most entries in a batch, for each further instance.
const BATCHES: [usize; 3] = [1000, 30, 3];

pub(super) fn check(trial: &Trial<'_>, first: &FirstLife, seed: u64) -> Result<Vec<Finding>, Stop> {
    let mut findings = Vec::new();
    for most in BATCHES {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        match run(trial, first, most, &mut rng) {
            Ok(()) => {}
            Err(Stop::Found(finding)) => findings.push(finding),
            Err(host) => return Err(host),
        }
    }
    Ok(findings)
}

fn run(trial: &Trial<'_>, first: &FirstLife, most: usize, rng: &mut ChaCha12Rng) -> Result<(), Stop> {
    let found = |message: String| Err(Stop::Found(Finding::new(Promise::Batches, message)));
    let mut machine = trial.start()?;
    let mut rest = &trial.history.entries[..first.lived.len()];
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(rng.random_range(1..=most.min(rest.len())));
        let at = format!("in a batch of {} from entry {}", batch.len(), batch[0].index);
        let applied =
            machine.apply(batch, &first.rulings, &mut NoOthers).map_err(|fault| match Stop::of(&at, fault) {
                Stop::Found(finding) => Stop::Found(Finding { promise: Promise::Batches, ..finding }),
                host => host,
            })?;
        for one in &applied {
            if let Some(difference) = first.difference(one) {
                return found(format!("{} {at}: {difference}", trial.history.describe(one.position.index)));
            }
        }
        rest = after;
    }
    if first.state.is_some() && !first.is_state(&trial.write(&mut machine, Machine::MAX_CHUNK_BYTES)?) {
        return found(format!("in batches of up to {most} entries all came to the same, and the state is another"));
    }
    Ok(())
}

//! Queries change nothing: only some replicas are asked.

use super::history::shorten;
use super::promises::{Finding, Promise, Stop};
use super::trial::{FirstLife, MAX_DEATHS, Trial};
use crate::machine::{Machine, Runner};

pub(super) fn check(trial: &Trial<'_>, first: &FirstLife) -> Result<Vec<Finding>, Stop> {
    let mut asked = Asked::default();
    match run(trial, first, &mut asked) {
        Ok(()) => {}
        Err(Stop::Found(finding)) => asked.findings.push(finding),
        Err(host) => return Err(host),
    }
    Ok(asked.findings)
}

#[derive(Default)]
struct Asked {
    queries: usize,
    deaths: usize,
    findings: Vec<Finding>,
}

/// The first life once more, with the queries between the entries.
fn run(trial: &Trial<'_>, first: &FirstLife, asked: &mut Asked) -> Result<(), Stop> {
    let found = |message: String| Err(Stop::Found(Finding::new(Promise::Queries, message)));
    let mut runner = Runner::new(trial.start()?);
    let mut queries = trial.history.queries.iter().peekable();
    for place in 0..=first.lived.len() {
        while let Some((_, request)) = queries.next_if(|(at, _)| *at <= place) {
            asked.ask(trial, &mut runner, request)?;
        }
        let Some(entry) = trial.history.entries[..first.lived.len()].get(place) else { break };
        let described = trial.history.describe(entry.index);
        let applied = trial.apply(&mut runner, entry, &first.rulings)?;
        let applied = applied.map_err(|fault| Stop::Found(Finding::died(&described, &fault)))?;
        if let Some(difference) = first.difference(&applied) {
            return found(format!("{described}, after queries ({} of them): {difference}", asked.queries));
        }
    }
    let state = runner.machine_mut().map(|machine| trial.write(machine, Machine::MAX_CHUNK_BYTES));
    if first.state.is_some()
        && let Some(state) = state
        && !first.is_state(&state?)
    {
        return found(format!(
            "after queries ({} of them) all came to the same, and the state is another",
            asked.queries
        ));
    }
    Ok(())
}

impl Asked {
    /// Asks twice. Once enough queries were deadly, nothing is asked any more.
    fn ask(&mut self, trial: &Trial<'_>, runner: &mut Runner, request: &[u8]) -> Result<(), Stop> {
        if self.deaths >= MAX_DEATHS {
            return Ok(());
        }
        self.queries += 1;
        let mut answers = Vec::new();
        for _ in 0..2 {
            match trial.query(runner, request)? {
                Ok(answer) => answers.push(answer),
                Err(fault) => {
                    self.deaths += 1;
                    self.findings.push(Finding::died(&format!("query {}", shorten(request)), &fault));
                    return Ok(());
                }
            }
        }
        if answers[0] != answers[1] {
            let message = format!("query {} was answered otherwise the second time", shorten(request));
            self.findings.push(Finding::new(Promise::Queries, message));
        }
        Ok(())
    }
}

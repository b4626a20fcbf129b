//! What was found, for people and for programs.

use std::path::Path;

use serde_json::{Value, json};

use super::promises::{Finding, MAX_FINDINGS, Promise};
use crate::cli::units::size;
use crate::settings::Budgets;
use crate::types::{Digest, Index};
use crate::wasm::Usage;

/// The result of a check.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) size_bytes: usize,
    pub(super) digest: Digest,
    pub(super) budgets: Budgets,
    pub(super) seed: u64,
    /// Absent if it could not be run at all.
    pub(super) run: Option<Ran>,
    pub(super) findings: Vec<Finding>,
}

/// What was done, and what it took.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) version: String,
    pub(super) is_one_by_one: bool,
    pub(super) made_up: MadeUp,
    pub(super) entries: usize,
    pub(super) commands: usize,
    pub(super) ephemerals: usize,
    pub(super) ends: usize,
    pub(super) queries: usize,
    pub(super) refused: usize,
    /// Whether it died so often that entries were left out.
    pub(super) is_broken_off: bool,
    pub(super) usage: Usage,
    /// The command that used the most fuel, in words.
    pub(super) thirstiest: Option<(Index, String)>,
    pub(super) state_bytes: Option<usize>,
}

/// Which messages are random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MadeUp {
    Nothing,
    Queries,
    All,
}

impl MadeUp {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Queries => "queries",
            Self::All => "all messages",
        }
    }
}

/// Of how many commands of a hundred that are refused a report warns.
const MANY_REFUSED_PERCENT: usize = 90;

impl Report {
    /// How many promises are broken.
    pub(super) fn broken(&self) -> usize {
        Promise::ALL.into_iter().filter(|promise| self.findings_of(*promise).next().is_some()).count()
    }

    fn findings_of(&self, promise: Promise) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.promise == promise)
    }

    fn verdict(&self, promise: Promise) -> &'static str {
        match (self.findings_of(promise).next(), &self.run) {
            (Some(_), _) => "broken",
            (None, Some(_)) => "kept",
            (None, None) => "not tried",
        }
    }

    pub(super) fn as_text(&self, file: &Path) -> String {
        let mut lines = vec![format!("{}: {}, sha256 {}", file.display(), size(self.size_bytes as u64), self.digest)];
        if let Some(run) = &self.run {
            lines.extend(run.as_text(self.seed));
        }
        for promise in Promise::ALL {
            lines.push(format!("{:9}  {:9}  {}", self.verdict(promise), promise.name(), promise.text()));
            let count = self.findings_of(promise).count();
            for finding in self.findings_of(promise).take(MAX_FINDINGS) {
                lines.push(format!("                      - {}", finding.message));
            }
            if count > MAX_FINDINGS {
                lines.push(format!("                      - and {} more", count - MAX_FINDINGS));
            }
        }
        if let Some(run) = &self.run {
            lines.extend(run.usage_as_text(&self.budgets));
        }
        lines.join("\n")
    }

    pub(super) fn as_json(&self, file: &Path) -> Value {
        let promise = |promise: Promise| {
            let findings: Vec<_> = self.findings_of(promise).map(|finding| &finding.message).collect();
            json!({ "promise": promise.name(), "verdict": self.verdict(promise), "findings": findings })
        };
        json!({
            "file": file,
            "size_bytes": self.size_bytes,
            "digest": self.digest.to_string(),
            "seed": self.seed,
            "passed": self.findings.is_empty(),
            "promises": Promise::ALL.map(promise),
            "run": self.run.as_ref().map(|run| run.as_json(&self.budgets)),
        })
    }
}

impl Ran {
    fn as_text(&self, seed: u64) -> Vec<String> {
        let Self { version, entries, commands, ephemerals, ends, queries, refused, .. } = self;
        let mut lines = vec![format!(
            "'{version}', {entries} entries (seed {seed}): {commands} commands, {refused} refused, {ephemerals} \
             ephemeral, {ends} ends of sessions; {queries} queries"
        )];
        if self.made_up != MadeUp::Nothing {
            let made_up = self.made_up.name();
            lines.push(format!("note: {made_up} are random bytes; give it such as it knows with --samples"));
        }
        if refused * 100 >= commands * MANY_REFUSED_PERCENT && *commands > 0 {
            lines.push(format!("note: it refused {refused} of {commands} commands, so little of it was tried"));
        }
        if self.is_one_by_one {
            lines.push("note: it imports clocks or randomness, and so is given one command a call".to_owned());
        }
        if self.is_broken_off {
            lines.push("note: it died so often that the rest was not tried".to_owned());
        }
        lines
    }

    fn usage_as_text(&self, budgets: &Budgets) -> Vec<String> {
        let Usage { apply_fuel, query_fuel, chunk_fuel, memory_bytes } = self.usage;
        let share = |used: u64, budget: u64| format!("{:.3}%", used as f64 * 100.0 / budget as f64);
        let fuel = |what, used, budget| format!("{what}: {used} fuel, {} of the budget", share(used, budget));
        let thirstiest = self.thirstiest.as_ref().map_or_else(String::new, |(_, what)| format!(", {what}"));
        let state =
            self.state_bytes.map_or_else(String::new, |bytes| format!("; its state takes {}", size(bytes as u64)));
        vec![
            "the most that was used:".to_owned(),
            fuel("  a command", apply_fuel, budgets.apply_fuel) + &thirstiest,
            fuel("  a query", query_fuel, budgets.query_fuel),
            fuel("  a start, or a chunk of a snapshot", chunk_fuel, budgets.chunk_fuel),
            format!(
                "  memory: {}, {} of the budget{state}",
                size(memory_bytes),
                share(memory_bytes, budgets.memory_bytes)
            ),
        ]
    }

    fn as_json(&self, budgets: &Budgets) -> Value {
        let used = |used: u64, budget: u64| json!({ "most": used, "budget": budget });
        json!({
            "version": self.version,
            "one_command_a_call": self.is_one_by_one,
            "made_up": self.made_up.name(),
            "entries": self.entries,
            "commands": self.commands,
            "ephemerals": self.ephemerals,
            "session_ends": self.ends,
            "queries": self.queries,
            "refused": self.refused,
            "broken_off": self.is_broken_off,
            "state_bytes": self.state_bytes,
            "apply_fuel": used(self.usage.apply_fuel, budgets.apply_fuel),
            "most_apply_fuel_at": self.thirstiest.as_ref().map(|(index, _)| index.0),
            "query_fuel": used(self.usage.query_fuel, budgets.query_fuel),
            "chunk_fuel": used(self.usage.chunk_fuel, budgets.chunk_fuel),
            "memory_bytes": used(self.usage.memory_bytes, budgets.memory_bytes),
        })
    }
}

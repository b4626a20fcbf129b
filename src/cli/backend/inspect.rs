//! `zraft backend inspect`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::read;
use crate::cli::output::{Failure, Output};
use crate::cli::units::size;
use crate::settings::Settings;
use crate::wasm::{CallUse, Compiled, Given, Import, Inspection, Kind, MACHINE, MAX_MEMORIES, MAX_TABLES, Trial};

#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// The component, or a core module.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the backend is initialized with: text.
    #[arg(long, default_value = "")]
    config: String,
}

impl Inspect {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let bytes = read(&self.file)?;
        let budgets = Settings::default().budgets;
        let inspection = Inspection::of(&bytes, self.config.as_bytes(), budgets);
        let inspection = inspection.map_err(|error| Failure::failed(error.to_string()))?;
        output.result(as_text(&inspection, budgets.memory_bytes), &as_json(&inspection, budgets.memory_bytes));
        match failure(&inspection) {
            None => Ok(()),
            Some(reason) => Err(Failure::failed(format!("a node refuses {}: {reason}", self.file.display()))),
        }
    }
}

/// Why no cluster can be created of it.
fn failure(inspection: &Inspection) -> Option<String> {
    let refusal = inspection.refusal.as_ref().map(ToString::to_string);
    refusal.or_else(|| inspection.trial.as_ref()?.failure.as_ref().map(ToString::to_string))
}

fn kind_name(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Component) => "component",
        Some(Kind::CoreModule) => "core module",
        None => "unknown",
    }
}

fn as_text(inspection: &Inspection, memory_budget_bytes: u64) -> String {
    let kind = kind_name(inspection.kind);
    let mut lines = vec![
        format!("kind     {kind}"),
        format!("size     {}", size(inspection.size_bytes)),
        format!("digest   {}", inspection.digest),
    ];
    if let Some(compiled) = &inspection.compiled {
        compiled_as_text(compiled, inspection, &mut lines);
    }
    if let Some(trial) = &inspection.trial {
        trial_as_text(trial, memory_budget_bytes, &mut lines);
    }
    if failure(inspection).is_none() {
        lines.push("It fits the contract, and an instance starts.".to_owned());
    }
    lines.join("\n")
}

fn compiled_as_text(compiled: &Compiled, inspection: &Inspection, lines: &mut Vec<String>) {
    if inspection.kind == Some(Kind::CoreModule) {
        lines.push(format!("made     a component of {}", size(compiled.size_bytes)));
    }
    lines.push(format!("compiled in {:.2} s", compiled.compile_time.as_secs_f64()));
    lines.push(format!("imports  {}", if compiled.imports.is_empty() { "nothing" } else { "" }).trim_end().to_owned());
    lines.extend(compiled.imports.iter().map(|import| format!("  {:<40} {}", import.name, given_as_text(import))));
    lines.push(format!("exports  {}", if compiled.exports.is_empty() { "nothing" } else { "" }).trim_end().to_owned());
    for export in &compiled.exports {
        let role = match (export == MACHINE, &inspection.refusal) {
            (true, None) => "as in the contract",
            (true, Some(_)) => "the contract's",
            (false, _) => "not called",
        };
        lines.push(format!("  {export:<40} {role}"));
    }
    if let Some(parts) = compiled.parts {
        lines.push(format!(
            "memories {} of at most {MAX_MEMORIES}, the largest {}",
            parts.memories,
            size(parts.largest_memory_bytes)
        ));
        lines.push(format!(
            "tables   {} of at most {MAX_TABLES}, the longest with {} elements",
            parts.tables, parts.longest_table
        ));
    }
}

fn given_as_text(import: &Import) -> String {
    match &import.given {
        Given::All if import.shows_the_moment => "given, and makes each call of apply one command".to_owned(),
        Given::All => "given".to_owned(),
        Given::Traps => "given, and a call ends the instance".to_owned(),
        Given::Not(items) if items.is_empty() => "REFUSED".to_owned(),
        Given::Not(items) => format!("REFUSED for {}", items.join(", ")),
    }
}

fn trial_as_text(trial: &Trial, memory_budget_bytes: u64, lines: &mut Vec<String>) {
    if let Some(version) = &trial.version {
        lines.push(format!("version  {version}"));
    }
    for CallUse { call, fuel, fuel_budget, memory_bytes } in &trial.calls {
        lines.push(format!(
            "{call:<8} took {fuel} of {fuel_budget} fuel; {} of {} memory in use",
            size(*memory_bytes),
            size(memory_budget_bytes)
        ));
    }
    if trial.failure.is_none() {
        lines.push(format!("snapshot {} of the empty state", size(trial.snapshot_bytes)));
    }
}

fn as_json(inspection: &Inspection, memory_budget_bytes: u64) -> Value {
    json!({
        "kind": inspection.kind.map(|kind| kind_name(Some(kind))),
        "size_bytes": inspection.size_bytes,
        "digest": inspection.digest.to_string(),
        "component": inspection.compiled.as_ref().map(compiled_as_json),
        "first_calls": inspection.trial.as_ref().map(|trial| trial_as_json(trial, memory_budget_bytes)),
        "refused": failure(inspection),
    })
}

fn compiled_as_json(compiled: &Compiled) -> Value {
    let import = |import: &Import| {
        let (given, missing) = match &import.given {
            Given::All => ("all", &[][..]),
            Given::Traps => ("traps", &[][..]),
            Given::Not(items) => ("refused", &items[..]),
        };
        let one_by_one = import.shows_the_moment;
        json!({ "name": import.name, "given": given, "missing": missing, "one_command_a_call": one_by_one })
    };
    let parts = compiled.parts.map(|parts| {
        json!({
            "memories": parts.memories,
            "max_memories": MAX_MEMORIES,
            "largest_memory_bytes": parts.largest_memory_bytes,
            "tables": parts.tables,
            "max_tables": MAX_TABLES,
            "longest_table": parts.longest_table,
        })
    });
    json!({
        "size_bytes": compiled.size_bytes,
        "compile_ms": u64::try_from(compiled.compile_time.as_millis()).unwrap_or(u64::MAX),
        "imports": compiled.imports.iter().map(import).collect::<Vec<_>>(),
        "exports": compiled.exports,
        "parts": parts,
    })
}

fn trial_as_json(trial: &Trial, memory_budget_bytes: u64) -> Value {
    let call = |used: &CallUse| {
        json!({
            "call": used.call,
            "fuel": used.fuel,
            "fuel_budget": used.fuel_budget,
            "memory_bytes": used.memory_bytes,
        })
    };
    json!({
        "version": trial.version,
        "calls": trial.calls.iter().map(call).collect::<Vec<_>>(),
        "memory_budget_bytes": memory_budget_bytes,
        "snapshot_bytes": trial.snapshot_bytes,
    })
}

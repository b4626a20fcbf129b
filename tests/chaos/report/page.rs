//! The report as a page, and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::RunInfo;
use super::numbers::Numbers;
use crate::check::{Outcome, Verdict};
use crate::timeline::FaultRecord;

/// How often each kind of fault was applied, and how often it bit.
fn by_kind(faults: &[FaultRecord]) -> BTreeMap<&'static str, (usize, usize)> {
    let mut kinds = BTreeMap::<_, (usize, usize)>::new();
    for fault in faults {
        let (applied, bit) = kinds.entry(fault.kind).or_default();
        *applied += 1;
        *bit += usize::from(!fault.bite.is_empty());
    }
    kinds
}

fn outcome(verdict: &Verdict) -> (&'static str, String) {
    match &verdict.outcome {
        Outcome::Valid { operations } => ("valid", format!("{operations} operations")),
        Outcome::Violation(why) => ("VIOLATION", why.clone()),
        Outcome::Unknown(why) => ("unknown", why.clone()),
    }
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\r', '\n'], " ")
}

pub fn markdown(run: &RunInfo, numbers: &[Numbers], faults: &[FaultRecord], verdicts: &[Verdict]) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, run, numbers, faults, verdicts);
    page
}

fn write_page(
    page: &mut String,
    run: &RunInfo,
    numbers: &[Numbers],
    faults: &[FaultRecord],
    verdicts: &[Verdict],
) -> std::fmt::Result {
    let result = if run.is_pass(verdicts) { "pass" } else { "FAIL" };
    writeln!(page, "# Chaos: {result}, seed {}\n", run.seed)?;
    writeln!(page, "{} nodes, {:.0} s.\n", run.nodes, run.took.as_secs_f64())?;
    for failure in &run.failures {
        writeln!(page, "- not a pass: {}", cell(failure))?;
    }
    writeln!(page, "\n![what was done and what was broken](timeline.svg)\n\n## Verdicts\n")?;
    writeln!(page, "| workload | verdict | |\n|---|---|---|")?;
    for verdict in verdicts {
        let (outcome, why) = outcome(verdict);
        writeln!(page, "| {} | {outcome} | {} |", cell(&verdict.workload), cell(&why))?;
    }
    writeln!(page, "\n## Operations\n")?;
    writeln!(page, "| workload | ok | failed | unknown | p50 ms | p99 ms | max ms | longest without a success |")?;
    writeln!(page, "|---|---|---|---|---|---|---|---|")?;
    for numbers in numbers {
        let Numbers { workload, ok, failed, unknown, p50_ms, p99_ms, max_ms, longest_gap_ms, gap_from_s } = numbers;
        write!(page, "| {workload} | {ok} | {failed} | {unknown} | {p50_ms:.1} | {p99_ms:.1} | {max_ms:.1} ")?;
        writeln!(page, "| {:.1} s, from {gap_from_s:.1} s on |", longest_gap_ms / 1e3)?;
    }
    writeln!(page, "\n## Faults\n\n| fault | applied | bit |\n|---|---|---|")?;
    for (kind, (applied, bit)) in by_kind(faults) {
        writeln!(page, "| {} | {applied} | {bit} |", cell(kind))?;
    }
    writeln!(page, "\n| from | to | fault | nodes | what shows that it bit |\n|---|---|---|---|---|")?;
    for FaultRecord { kind, nodes, from, to, bite } in faults {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        let bite = if bite.is_empty() { "nothing".to_owned() } else { cell(bite) };
        writeln!(page, "| {from:.1} s | {to:.1} s | {} | {nodes:?} | {bite} |", cell(kind))?;
    }
    writeln!(page, "\n## Settings and versions\n\n| what | |\n|---|---|")?;
    run.facts.iter().try_for_each(|(what, is)| writeln!(page, "| {} | {} |", cell(what), cell(is)))
}

pub fn json(run: &RunInfo, numbers: &[Numbers], faults: &[FaultRecord], verdicts: &[Verdict]) -> String {
    let verdicts_json: Vec<Value> = verdicts
        .iter()
        .map(|verdict| {
            let (outcome, why) = outcome(verdict);
            json!({ "workload": verdict.workload, "outcome": outcome.to_lowercase(), "why": why })
        })
        .collect();
    let numbers: Vec<Value> = numbers
        .iter()
        .map(|numbers| {
            json!({
                "workload": numbers.workload,
                "ok": numbers.ok,
                "failed": numbers.failed,
                "unknown": numbers.unknown,
                "p50_ms": numbers.p50_ms,
                "p99_ms": numbers.p99_ms,
                "max_ms": numbers.max_ms,
                "longest_gap_ms": numbers.longest_gap_ms,
                "gap_from_s": numbers.gap_from_s,
            })
        })
        .collect();
    let kinds: BTreeMap<_, _> = by_kind(faults)
        .into_iter()
        .map(|(kind, (applied, bit))| (kind, json!({ "applied": applied, "bit": bit })))
        .collect();
    let faults: Vec<Value> = faults
        .iter()
        .map(|fault| {
            json!({
                "kind": fault.kind,
                "nodes": fault.nodes,
                "from_s": fault.from.as_secs_f64(),
                "to_s": fault.to.as_secs_f64(),
                "bite": fault.bite,
            })
        })
        .collect();
    let report = json!({
        "pass": run.is_pass(verdicts),
        "seed": run.seed,
        "nodes": run.nodes,
        "seconds": run.took.as_secs_f64(),
        "facts": run.facts.iter().cloned().collect::<BTreeMap<String, String>>(),
        "failures": run.failures,
        "verdicts": verdicts_json,
        "workloads": numbers,
        "fault_kinds": kinds,
        "faults": faults,
    });
    format!("{report:#}\n")
}

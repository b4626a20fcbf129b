//! Every promise with a component that breaks it and keeps the others, and those that come with zraft, which keep all.

use super::*;
use crate::settings::Settings;

const BROKEN: &[u8] = include_bytes!("../../../../tests/components/broken.wasm");

/// Soon used up by what never ends.
const SMALL: Budgets =
    Budgets { apply_fuel: 20_000_000, query_fuel: 20_000_000, chunk_fuel: 20_000_000, memory_bytes: 16 << 20 };

fn report_of(component: &'static [u8], config: &str, samples: Option<&str>) -> Report {
    let plan = Plan {
        config: Bytes::copy_from_slice(config.as_bytes()),
        settings: Settings { budgets: SMALL, ..Settings::default() },
        samples: samples.map(|text| samples::parse(text).unwrap()),
        steps: 200,
        seed: 1,
    };
    let folder = tempfile::tempdir().unwrap();
    let run = move || check(&Bytes::from_static(component), plan, folder.path(), Compiler::InProcess).unwrap();
    std::thread::Builder::new().stack_size(GUEST_THREAD_STACK_BYTES).spawn(run).unwrap().join().unwrap()
}

fn broken_promises(report: &Report) -> Vec<Promise> {
    Promise::ALL.into_iter().filter(|promise| report.findings.iter().any(|found| found.promise == *promise)).collect()
}

#[test]
fn each_breach_is_found_under_its_own_name_and_no_other() {
    use Promise::{Batches, Budgets, Contract, Queries, Restore, Snapshots, Survival};
    let cases: [(&str, &[Promise], &str); 23] = [
        ("", &[], ""),
        ("nameless", &[Contract], "version is empty"),
        ("no such breach", &[Contract], "no breach is called"),
        ("short", &[Contract], "0 outcomes for 1 commands"),
        ("traps", &[Survival], "trap"),
        ("end-traps", &[Survival], "end "),
        ("query-traps", &[Survival], "query "),
        ("init-traps", &[Survival], "starting: trap"),
        ("snapshot-traps", &[Survival], "writing a snapshot"),
        ("loops", &[Budgets], "out of fuel"),
        ("hungry", &[Budgets], "out of memory"),
        ("init-loops", &[Budgets], "starting: out of fuel"),
        ("init-hungry", &[Budgets], "starting: out of memory"),
        ("query-loops", &[Budgets], "query "),
        ("snapshot-loops", &[Budgets], "writing a snapshot"),
        ("snapshot-endless", &[Contract], "does not end"),
        ("batches", &[Batches], "in a batch of"),
        ("queries", &[Queries], "after queries"),
        ("counted-queries", &[Queries], "after queries"),
        ("moods", &[Queries], "otherwise the second time"),
        ("cuts", &[Snapshots], "cut into chunks of at most"),
        ("restores", &[Snapshots], "written otherwise"),
        ("refuses", &[Restore], "no snapshot is good enough"),
    ];
    for (config, promises, expected) in cases {
        let report = report_of(BROKEN, config, None);
        assert_eq!(broken_promises(&report), promises, "{config}: {:?}", report.findings);
        let is_told = report.findings.iter().any(|found| found.message.contains(expected));
        assert!(is_told || promises.is_empty(), "{config}: {:?}", report.findings);
    }
}

#[test]
fn what_a_snapshot_leaves_out_is_found_by_what_comes_after() {
    for config in ["forgets", "snapshot-empty"] {
        let report = report_of(BROKEN, config, None);
        assert_eq!(broken_promises(&report), [Promise::Restore], "{config}: {:?}", report.findings);
    }
}

#[test]
fn what_is_no_component_breaks_the_contract() {
    let report = report_of(b"hello", "", None);
    assert_eq!(broken_promises(&report), [Promise::Contract]);
    assert!(report.as_text(Path::new("hello.wasm")).contains("not WebAssembly"));
    assert!(report.run.is_none());
}

#[test]
fn a_component_that_dies_often_is_not_tried_to_the_end() {
    let run = report_of(BROKEN, "traps", None).run.unwrap();
    assert!(run.is_broken_off);
}

#[test]
fn what_comes_along_keeps_its_promises_with_garbage_and_with_what_it_knows() {
    let bundled: [(&[u8], &str); 4] = [
        (include_bytes!("../../../../guests/dist/kv.wasm"), include_str!("../../../../guests/kv/samples.txt")),
        (include_bytes!("../../../../guests/dist/counter.wasm"), "write 1\nwrite -7\nephemeral s 3\nend s\nquery null"),
        (include_bytes!("../../../../guests/dist/lock.wasm"), include_str!("../../../../guests/lock/samples.txt")),
        (include_bytes!("../../../../guests/dist/queue.wasm"), include_str!("../../../../guests/queue/samples.txt")),
    ];
    for (component, samples) in bundled {
        let garbage = report_of(component, "", None);
        assert_eq!(garbage.findings, []);
        let text = garbage.as_text(Path::new("it"));
        assert!(text.contains("random bytes") && text.contains("little of it was tried"), "{text}");
        let known = report_of(component, "", Some(samples));
        assert_eq!(known.findings, []);
        let run = known.run.unwrap();
        assert!(run.refused < run.commands && run.ephemerals > 0 && run.ends > 0 && run.queries > 0, "{run:?}");
    }
}

#[test]
fn a_component_that_looks_at_clocks_is_given_one_command_a_call() {
    let hostile = include_bytes!("../../../../tests/components/hostile.wasm");
    let report = report_of(hostile, "", Some("write look\nquery look"));
    let run = report.run.as_ref().unwrap();
    assert!(run.is_one_by_one && run.refused == 0);
    // Much is wrong with it: its hash maps, for one, have an order that depends on how many there were before.
    let broken = broken_promises(&report);
    assert!(!broken.contains(&Promise::Batches) && broken.contains(&Promise::Queries), "{broken:?}");
}

#[test]
fn a_report_is_the_same_for_a_seed_and_names_what_was_used() {
    let text = |seed| {
        let mut report = report_of(BROKEN, "", None);
        report.seed = seed;
        report.as_text(Path::new("it"))
    };
    assert_eq!(text(1), text(1));
    let report = report_of(BROKEN, "", None);
    let json = report.as_json(Path::new("it"));
    assert_eq!((&json["passed"], &json["promises"][0]["verdict"]), (&true.into(), &"kept".into()));
    let most = |what: &str| json["run"][what]["most"].as_u64().unwrap();
    for what in ["apply_fuel", "query_fuel", "chunk_fuel", "memory_bytes"] {
        assert!(most(what) > 0, "{what}: {json}");
    }
    // One such command takes some thousand, and a hundred in a batch are not one.
    assert!(most("apply_fuel") < 20_000, "{json}");
}

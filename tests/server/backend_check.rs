//! `zraft backend check` as people and scripts use it.

use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zraft"));
    command.current_dir(ROOT).args(["backend", "check"]).args(arguments).output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_good_backend_passes_and_its_report_says_with_what() {
    let output = check(&["kv", "--samples", "guests/kv/samples.txt", "--steps", "100"]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("'kv 1'") && text.contains("kept       restore"), "{text}");
    assert!(text.contains("the most that was used"), "{text}");
    let output = check(&["guests/dist/counter.wasm", "--steps", "100"]);
    assert!(output.status.success() && printed(&output).contains("random bytes"), "{}", printed(&output));
}

#[test]
fn a_bad_one_fails_and_programs_can_read_why() {
    let output = check(&["tests/components/broken.wasm", "--config", "forgets", "--steps", "100", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    let report: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(report["passed"], false);
    let verdict = |name: &str| {
        let promises = report["promises"].as_array().unwrap();
        promises.iter().find(|promise| promise["promise"] == name).unwrap()["verdict"].clone()
    };
    assert_eq!((verdict("restore"), verdict("batches")), ("broken".into(), "kept".into()));
}

#[test]
fn what_is_typed_wrong_is_told_apart_from_what_is_broken() {
    for (arguments, expected) in [
        (&["no/such/file.wasm"][..], "no/such/file.wasm"),
        (&["kv", "--samples", "no/such/samples"], "no/such/samples"),
        (&["kv", "--samples", "README.md"], "line 3"),
        (&["kv", "--apply-fuel", "1"], "apply_fuel"),
    ] {
        let output = check(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(expected), "{complaint}");
    }
}

//! `zraft backend`: what an author types. Building in each language is shown by `tests/languages/run`.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn zraft(folder: &Path, arguments: &[&str]) -> Output {
    // No language's tools are found.
    let mut command = Command::new(env!("CARGO_BIN_EXE_zraft"));
    command.args(arguments).current_dir(folder).env("PATH", "").env_remove("WASI_SDK_PATH").output().unwrap()
}

fn run_ok(folder: &TempDir, arguments: &[&str]) -> String {
    let output = zraft(folder.path(), arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run_err(folder: &TempDir, code: i32, arguments: &[&str]) -> String {
    let output = zraft(folder.path(), arguments);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
    complaint
}

#[test]
fn a_project_is_begun_once_and_what_its_build_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (lang, needs) in
        [("rust", "wasm32-wasip2"), ("c", "wasi-libc"), ("python", "componentize-py"), ("js", "apt-get install nodejs")]
    {
        let begun: Value =
            serde_json::from_str(&run_ok(&folder, &["--json", "backend", "new", lang, "--lang", lang])).unwrap();
        for file in begun["files"].as_array().unwrap() {
            assert!(folder.path().join(lang).join(file.as_str().unwrap()).is_file(), "{file}");
        }
        let again = run_err(&folder, 2, &["backend", "new", lang, "--lang", lang]);
        assert!(again.contains("exists already"), "{again}");
        let missing = run_err(&folder, 1, &["backend", "build", lang]);
        assert!(missing.contains(needs), "{missing}");
    }
    let nothing = run_err(&folder, 2, &["backend", "build"]);
    assert!(nothing.contains("no project"), "{nothing}");
    run_err(&folder, 2, &["backend", "new", "../elsewhere", "--lang", "c"]);
}

#[test]
fn a_component_is_inspected_and_one_that_a_node_refuses_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("kv.wasm", include_bytes!("../../guests/dist/kv.wasm"));
    let seen: Value = serde_json::from_str(&run_ok(&folder, &["--json", "backend", "inspect", "kv.wasm"])).unwrap();
    assert_eq!((&seen["kind"], &seen["refused"]), (&Value::from("component"), &Value::Null));
    assert_eq!(seen["component"]["exports"][0], "zraft:backend/machine@0.1.0");
    assert_eq!(seen["first_calls"]["version"], "kv 1");
    assert_eq!(seen["first_calls"]["calls"][1]["call"], "init");
    assert!(seen["first_calls"]["calls"][1]["fuel"].as_u64().unwrap() > 0);

    write("core.wasm", &wat::parse_str(include_str!("../components/core.wat")).unwrap());
    let text = run_ok(&folder, &["backend", "inspect", "core.wasm"]);
    assert!(text.contains("core module") && text.contains("wasi:clocks/wall-clock"), "{text}");

    let config = run_err(&folder, 1, &["backend", "inspect", "kv.wasm", "--config", "fast=yes"]);
    assert!(config.contains("kv backend takes no config"), "{config}");

    let import = r#"(component (import "wasi:http/types@0.2.0" (instance)))"#;
    write("http.wasm", &wat::parse_str(import).unwrap());
    let output = zraft(folder.path(), &["--json", "backend", "inspect", "http.wasm"]);
    assert_eq!(output.status.code(), Some(1));
    let lines = String::from_utf8(output.stdout).unwrap();
    let seen: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(seen["component"]["imports"][0]["given"], "refused");
    assert!(seen["refused"].as_str().unwrap().contains("wasi:http/types@0.2.0"), "{seen}");

    write("text.wasm", b"hello");
    assert!(run_err(&folder, 1, &["backend", "inspect", "text.wasm"]).contains("not WebAssembly"));
    assert!(run_err(&folder, 2, &["backend", "inspect", "absent.wasm"]).contains("absent.wasm"));
}

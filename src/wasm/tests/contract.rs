//! What is not a backend is refused by name.

use super::*;
use crate::wasm::{ComponentError, MAX_COMPONENT_BYTES};

fn refused(bytes: &[u8]) -> ComponentError {
    WASM.1.compile(bytes).expect_err("this is no backend")
}

fn refused_text(text: &str) -> ComponentError {
    refused(&wat::parse_str(text).unwrap())
}

#[test]
fn other_files_are_told_apart() {
    assert_eq!(refused(b""), ComponentError::NotWasm);
    assert_eq!(refused(b"\x7fELF"), ComponentError::NotWasm);
    assert_eq!(refused(b"(component)"), ComponentError::Text);
    assert!(matches!(refused_text("(module)"), ComponentError::CoreModule(_)));
    assert_eq!(refused(&vec![0; MAX_COMPONENT_BYTES + 1]), ComponentError::TooLarge(MAX_COMPONENT_BYTES + 1));
    assert!(matches!(refused(&KV[..KV.len() / 2]), ComponentError::Malformed(_)));
    assert!(matches!(refused(b"\0asm\x0d\0\x01\0garbage"), ComponentError::Malformed(_)));
}

#[test]
fn features_that_are_not_deterministic_are_refused() {
    let text = "(component (core module (memory 1 1 shared)))";
    assert!(matches!(refused_text(text), ComponentError::Malformed(_)));
}

#[test]
fn a_missing_interface_is_named_with_what_is_there_instead() {
    let text = r#"(component (component $c) (instance $i (instantiate $c)) (export "zraft:backend/machine@9.0.0" (instance $i)))"#;
    let message = refused_text(text).to_string();
    assert!(message.contains("does not export zraft:backend/machine@0.1.0"), "{message}");
    assert!(message.contains("it exports zraft:backend/machine@9.0.0"), "{message}");
}

/// A component that exports the machine interface, with every function of type `func()`.
fn machine(exports: &[&str]) -> String {
    let functions = ["version", "init", "apply", "query", "expire-session", "snapshot", "restore"];
    let simple: String = functions
        .iter()
        .filter(|name| exports.contains(name))
        .map(|name| format!(r#"(export "{name}" (func $f))"#))
        .collect();
    let resources = if exports.contains(&"resources") {
        r#"(func $next (param "self" (borrow $reader)) (canon lift (core func $i "g")))
           (func $write (param "self" (borrow $writer)) (canon lift (core func $i "g")))
           (export "[method]snapshot-reader.next" (func $next))
           (export "[method]snapshot-writer.write" (func $write))
           (export "[static]snapshot-writer.finish" (func $f))"#
    } else {
        ""
    };
    format!(
        r#"(component
            (component $machine
                (core module $m (func (export "f")) (func (export "g") (param i32)))
                (core instance $i (instantiate $m))
                (type $own-reader (resource (rep i32)))
                (type $own-writer (resource (rep i32)))
                (export $reader "snapshot-reader" (type $own-reader))
                (export $writer "snapshot-writer" (type $own-writer))
                (func $f (canon lift (core func $i "f")))
                {simple} {resources})
            (instance $exported (instantiate $machine))
            (export "zraft:backend/machine@0.1.0" (instance $exported)))"#
    )
}

const ALL: &[&str] = &["version", "init", "apply", "query", "expire-session", "snapshot", "restore", "resources"];

#[test]
fn missing_functions_are_all_named() {
    let message = refused_text(&machine(&["version", "init", "query"])).to_string();
    for name in ["apply", "expire-session", "[method]snapshot-reader.next", "[static]snapshot-writer.finish", "restore"]
    {
        assert!(message.contains(&format!("machine@0.1.0 {name}")), "{name}: {message}");
    }
    assert!(!message.contains("machine@0.1.0 query"), "{message}");
}

#[test]
fn a_function_of_another_type_is_named() {
    let error = refused_text(&machine(ALL));
    assert!(matches!(&error, ComponentError::WrongType(reason) if reason.contains("machine@0.1.0 version")), "{error}");
    let imports = r#"(import "wasi:cli/environment@0.2.6" (instance (export "get-arguments" (func (result u32)))))"#;
    let error = refused_text(&format!("(component {imports})"));
    assert!(matches!(&error, ComponentError::WrongType(reason) if reason.contains("get-arguments")), "{error}");
}

#[test]
fn all_of_the_given_wasi_can_be_imported() {
    // What is wrong with it is only that it exports nothing.
    let error = refused_text(include_str!("../../../tests/components/wasi.wat"));
    assert!(matches!(error, ComponentError::MissingExports { .. }), "{error}");
}

#[test]
fn files_and_sockets_can_be_imported() {
    let imports = r#"(import "wasi:sockets/tcp@0.2.3" (instance
        (export "tcp-socket" (type (sub resource)))
        (export "anything" (func (param "x" u32) (result (list u8))))))"#;
    // What is wrong with it is something else.
    assert!(matches!(refused_text(&format!("(component {imports})")), ComponentError::MissingExports { .. }));
}

#[test]
fn imports_that_are_not_given_are_all_named() {
    let imports = r#"
        (import "acme:db/store@1.0.0" (instance (export "get" (func))))
        (import "log" (func))
        (import "wasi:http/types@0.2.6" (instance))
        (import "wasi:cli/environment@0.3.0" (instance))
        (import "wasi:cli/exit@0.2.6" (instance (export "exit-twice" (func))))
        (import "wasi:io/poll@0.2.0" (instance (export "thing" (type (sub resource)))))"#;
    let ComponentError::UnknownImports(names) = refused_text(&format!("(component {imports})")) else {
        panic!("not refused for its imports")
    };
    let expected = [
        "acme:db/store@1.0.0",
        "log",
        "wasi:cli/environment@0.3.0",
        "wasi:cli/exit@0.2.6 exit-twice",
        "wasi:http/types@0.2.6",
        "wasi:io/poll@0.2.0 thing",
    ];
    assert_eq!(names, expected);
}

#[test]
fn more_memories_than_an_instance_may_have_are_refused() {
    let modules = "(core instance (instantiate $memory))".repeat(9);
    let imports = format!("(core module $memory (memory 1)) {modules}");
    let error = refused_text(&format!("(component {imports})"));
    assert_eq!(error, ComponentError::TooMany { what: "memories".into(), count: 9, most: 8 });
}

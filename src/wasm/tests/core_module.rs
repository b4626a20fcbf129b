//! A core module is as good as the component that is made of it, and a bad one harms nobody.

use wit_component::{StringEncoding, metadata};
use wit_parser::Resolve;

use super::*;
use crate::wasm::{ComponentError, Inspection, Kind, to_component};

const CORE: &str = include_str!("../../../tests/components/core.wat");

fn refused(bytes: &[u8]) -> String {
    match WASM.1.compile(bytes) {
        Err(ComponentError::CoreModule(reason)) => reason,
        other => panic!("not refused as a core module: {other:?}"),
    }
}

/// A custom section in binary form.
fn custom_section(name: &str, data: &[u8]) -> Vec<u8> {
    section(0, &[leb(name.len()), name.as_bytes().to_vec(), data.to_vec()].concat())
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], leb(content.len()), content.to_vec()].concat()
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

#[test]
fn a_core_module_runs_under_its_own_digest_with_wasi_of_both_previews() {
    let module = wat::parse_str(CORE).unwrap();
    let backend = WASM.1.compile(&module).unwrap();
    assert_eq!(backend.digest(), Digest::of(&module));
    let mut instance = backend.factory(CLUSTER, SMALL).init(at(0), b"").unwrap();
    assert_eq!(instance.version().unwrap(), "core 1");
    assert_eq!(instance.apply(&[command(1, "a"), command(2, "b")]).unwrap().len(), 2);
    let time_ns = at(2).time_ms * 1_000_000;
    assert_eq!(&instance.query(at(2), b"").unwrap().reply.unwrap()[..], time_ns.to_le_bytes());
    assert!(WASM.1.has_compiled(Digest::of(&module)), "it is made a component once");
    let restored = restore(&backend, "core 1", snapshot(&mut *instance, 1000));
    assert_eq!(restored.unwrap().version().unwrap(), "core 1");
}

#[test]
fn making_a_component_of_it_beforehand_makes_no_difference_but_the_digest() {
    let module = wat::parse_str(CORE).unwrap();
    let component = to_component(module.clone()).unwrap();
    assert_eq!(to_component(module.clone()), Ok(component.clone()), "the same on every node");
    assert_eq!(to_component(component.clone()), Ok(component.clone()));
    let [of_module, of_component] =
        [&module, &component].map(|bytes| Inspection::of(bytes, b"", Budgets::default()).unwrap());
    assert_eq!((of_module.kind, of_component.kind), (Some(Kind::CoreModule), Some(Kind::Component)));
    let of_module = (of_module.compiled.unwrap(), of_module.trial.unwrap());
    let of_component = (of_component.compiled.unwrap(), of_component.trial.unwrap());
    assert_eq!(of_module.0.imports, of_component.0.imports);
    assert_eq!(of_module.0.size_bytes, component.len() as u64);
    let fuel = |trial: &crate::wasm::Trial| trial.calls.iter().map(|used| used.fuel).collect::<Vec<_>>();
    assert_eq!(fuel(&of_module.1), fuel(&of_component.1));
}

#[test]
fn what_a_core_module_lacks_is_named() {
    let reason = refused(&wat::parse_str("(module)").unwrap());
    assert!(reason.contains("zraft:backend/machine@0.1.0"), "{reason}");
    let unknown = CORE.replace("wasi_snapshot_preview1", "env");
    let reason = refused(&wat::parse_str(&unknown).unwrap());
    assert!(reason.contains("env") && reason.contains("clock_time_get"), "{reason}");
    let wrong = CORE.replace(r#"machine@0.1.0#init") (param i32 i32)"#, r#"machine@0.1.0#init") (param i32)"#);
    let reason = refused(&wat::parse_str(&wrong).unwrap());
    assert!(reason.contains("init"), "{reason}");
}

#[test]
fn a_core_module_that_is_not_deterministic_or_not_whole_is_refused_by_the_engine() {
    let malformed = |bytes: &[u8]| matches!(WASM.1.compile(bytes), Err(ComponentError::Malformed(_)));
    let module = wat::parse_str(CORE).unwrap();
    assert!(malformed(&module[..module.len() / 2]));
    assert!(malformed(&wat::parse_str("(module (memory 1 1 shared))").unwrap()));
    assert!(malformed(&wat::parse_str("(module (memory i64 1))").unwrap()));
}

#[test]
fn a_description_that_makes_no_sense_is_refused() {
    let module = wat::parse_str(CORE).unwrap();
    let with = |data: &[u8]| [module.clone(), custom_section("component-type", data)].concat();
    refused(&with(b""));
    refused(&with(b"nonsense"));
    refused(&with(&wat::parse_str("(component)").unwrap()));
    let reason = refused(&with(&vec![0; 65 << 10]));
    assert!(reason.contains("66560 bytes"), "{reason}");
}

/// Whoever reads types does so by recursion.
#[test]
fn types_that_are_nested_as_deeply_as_fit_do_not_run_over_the_stack() {
    // Once as nameless types, of which more fit, and once as a world that makes sense but for its depth.
    let lists: String = (1..10_000).map(|number| format!("(type (list {}))", number - 1)).collect();
    let nameless = wat::parse_str(format!(
        r#"(component (type (component (type (component
            (type (list u8)) {lists} (import "f" (func (param "x" 9999)))))
            (export "a:b/world" (component (type 0))))) (export "world" (type 0)))"#
    ));
    let lists: String = (1..2_000).map(|number| format!("type t{number} = list<t{}>;", number - 1)).collect();
    let world = format!("package a:b; world w {{ type t0 = list<u8>; {lists} export f: func(x: t1999); }}");
    let named = on_guest_thread(move || {
        let mut resolve = Resolve::new();
        let package = resolve.push_source("deep.wit", &world).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        metadata::encode(&resolve, world, StringEncoding::UTF8, None).unwrap()
    });
    for description in [nameless.unwrap(), named] {
        assert!((20_000..64 << 10).contains(&description.len()), "{}", description.len());
        let module = wat::parse_str(CORE).unwrap();
        let reason = refused(&[module, custom_section("component-type", &description)].concat());
        assert!(reason.contains("nesting is too deep"), "{reason}");
    }
}

/// Nothing nests in fewer bytes than the type of an instance or of a component that declares such a type and nothing else.
#[test]
fn types_within_types_as_many_as_fit_do_not_run_over_the_stack() {
    const BYTES: usize = 64 << 10;
    let module = wat::parse_str(CORE).unwrap();
    for (kind, code) in [("instance", 0x42), ("component", 0x41)] {
        // One more, with one declaration, which is a type.
        let level = [code, 1, 1];
        let types = level.repeat(BYTES / level.len() - 10);
        let description = [b"\0asm\x0d\0\x01\0", &section(7, &[&[1], &types[..], &[code, 0]].concat())[..]].concat();
        assert!((BYTES - 100..BYTES).contains(&description.len()), "{}", description.len());
        let reason = refused(&[module.clone(), custom_section("component-type", &description)].concat());
        assert!(reason.contains("expected one export"), "{kind}: {reason}");
    }
}

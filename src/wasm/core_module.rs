//! Makes a component of a core module, as compilers of C and Rust make them for `wasm32-wasi` and
//! `wasm32-unknown-unknown`.
//!
//! A module says what its exports mean in a custom section that binding generators add. One without is taken for a
//! backend and nothing else: its exports must be named as in the contract. Imports of WASI's first preview become imports
//! of WASI 0.2, which this host gives.

use std::thread;

use wasi_preview1_component_adapter_provider as preview1;
use wasmparser::{Parser, Payload};
use wasmtime::{Engine, Module};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::component::{ComponentError, Kind};
use super::engine::new_engine;

/// How the names of sections begin that say what a module's exports mean.
const METADATA: &str = "component-type";

/// Most bytes of such sections; the contract takes little more than a thousand. How deeply types nest in them is bounded
/// by their reader, how many there are is bounded here.
const MAX_METADATA_BYTES: usize = 64 << 10;

/// The stack on which they are read, in bytes. The deepest that fit, 21,800 types of instances in each other, take 88 MiB. Only
/// what is used of it is taken.
const STACK_BYTES: usize = 128 << 20;

/// Makes a component of a core module, and leaves a component as it is.
///
/// # Errors
/// [`ComponentError`] when the bytes are neither, or no component can be made of them. Whether it fits the contract is
/// not checked.
pub fn to_component(bytes: Vec<u8>) -> Result<Vec<u8>, ComponentError> {
    match Kind::of(&bytes)? {
        Kind::Component => Ok(bytes),
        Kind::CoreModule => {
            let engine = new_engine().map_err(|error| ComponentError::Host(error.to_string()))?;
            componentize(&engine, &bytes)
        }
    }
}

/// Makes a component of a core module.
///
/// # Errors
/// [`ComponentError::Malformed`] when it is no module that this engine would run, [`ComponentError::CoreModule`] when
/// no component can be made of it, [`ComponentError::Host`] when this node has no room to try.
pub(super) fn componentize(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, ComponentError> {
    // What the encoder gets is valid, and of it it expects the right shape alone.
    Module::validate(engine, module).map_err(|error| ComponentError::Malformed(format!("{error:#}")))?;
    let module = with_metadata(module)?;
    // Not on the caller's stack, and not so that a panic about what a stranger wrote would be the caller's.
    let encoded = thread::scope(|scope| {
        let encoding = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || encode(&module));
        let encoding = encoding.map_err(|error| ComponentError::Host(error.to_string()))?;
        encoding.join().map_err(|_| refused("its description of itself makes no sense"))
    })?;
    encoded.map_err(|error| refused(&error))
}

/// The module with a description of its exports: its own, or else the contract's.
fn with_metadata(module: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let mut metadata_bytes = 0;
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload.map_err(|error| refused(&error.to_string()))?
            && section.name().starts_with(METADATA)
        {
            metadata_bytes += section.data().len();
        }
    }
    if metadata_bytes > MAX_METADATA_BYTES {
        return Err(refused(&format!(
            "its sections '{METADATA}' have {metadata_bytes} bytes, and {MAX_METADATA_BYTES} is the most"
        )));
    }
    let mut module = module.to_vec();
    if metadata_bytes == 0 {
        let mut resolve = Resolve::new();
        let package = resolve.push_source("zraft.wit", include_str!("../../wit/zraft.wit"));
        let package = package.expect("the contract is valid WIT");
        let world = resolve.select_world(&[package], None).expect("the contract has one world");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the contract can be encoded");
    }
    Ok(module)
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let adapter = preview1::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
    // The component is validated by the engine that compiles it.
    let encoded = ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.adapter(preview1::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter))
        .and_then(|mut encoder| encoder.encode());
    // The alternate form tells the whole chain of causes.
    encoded.map_err(|error| format!("{error:#}"))
}

fn refused(reason: &str) -> ComponentError {
    ComponentError::CoreModule(reason.to_owned())
}

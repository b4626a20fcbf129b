//! What the child does: it binds itself, reads one component, compiles it and answers.
//!
//! It reads the component's length in 8 bytes, little-endian, and the component. It writes one byte and what that announces,
//! and ends well.

use std::io::{self, Read, Write};
use std::{process, thread};

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
use wasmtime::{Engine, OutOfMemory};

use crate::codec;
use crate::wasm::GUEST_THREAD_STACK_BYTES;
use crate::wasm::component::{ComponentError, Kind, MAX_COMPONENT_BYTES};
use crate::wasm::core_module::componentize;
use crate::wasm::engine::single_threaded_engine;

/// How much nicer than the node the child is: where both want a processor, it gets a quarter of it. With much less, a busy
/// node would never end compiling.
const NICER: i32 = 5;

/// The stack on which a component is compiled, in bytes.
const STACK_BYTES: usize = GUEST_THREAD_STACK_BYTES;

/// Announces the compiled form.
const COMPILED: u8 = 0;
/// Announces an encoded [`ComponentError`].
const REFUSED: u8 = 1;

/// The child's whole life, within an address space of `memory_bytes`: compiles the component on standard input and answers on
/// standard output. Ends this process, with exit code 1, when standard input ends before that: its parent has died.
///
/// # Errors
/// What the operating system says when the limits cannot be set, the component not be read or the answer not be written.
pub fn compile_for_parent(memory_bytes: u64) -> io::Result<()> {
    restrict(memory_bytes)?;
    let component = read_component(&mut io::stdin().lock())?;
    thread::Builder::new().spawn(|| {
        // There is nothing to come but the end.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        process::exit(1);
    })?;
    let compile = move || {
        let engine = single_threaded_engine().map_err(|error| ComponentError::Host(error.to_string()))?;
        compile(&engine, &component)
    };
    let compiling = thread::Builder::new().stack_size(STACK_BYTES).spawn(compile)?;
    let compiled = compiling.join().map_err(|_| io::Error::other("compiling panicked: a defect of zraft"))?;
    let mut output = io::stdout().lock();
    match compiled {
        Ok(compiled) => {
            output.write_all(&[COMPILED])?;
            output.write_all(&compiled)?;
        }
        Err(error) => {
            output.write_all(&[REFUSED])?;
            output.write_all(&codec::encode(&error))?;
        }
    }
    output.flush()
}

fn restrict(memory_bytes: u64) -> io::Result<()> {
    let limits = [
        (Resource::As, memory_bytes),
        // No core dumps, and no files: it has nothing to write.
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ];
    for (resource, most) in limits {
        // Not even the operator's limits can be raised.
        let most = getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    nice(NICER)?;
    Ok(())
}

fn read_component(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok().filter(|length| *length <= MAX_COMPONENT_BYTES);
    let mut component = vec![0; length.ok_or_else(|| io::Error::other("no component is so large"))?];
    input.read_exact(&mut component)?;
    Ok(component)
}

/// Compiles a component, or the component that is made of a core module.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, ComponentError> {
    let made = match Kind::of(bytes)? {
        Kind::Component => None,
        Kind::CoreModule => Some(componentize(engine, bytes)?),
    };
    let compiled = engine.precompile_component(made.as_deref().unwrap_or(bytes));
    compiled.map_err(|error| match getrlimit(Resource::As).current {
        Some(memory_bytes) if error.is::<OutOfMemory>() => ComponentError::CompileMemory(memory_bytes),
        None if error.is::<OutOfMemory>() => ComponentError::Host(error.to_string()),
        _ => ComponentError::Malformed(format!("{error:#}")),
    })
}

/// Reads what a child that ended well has answered.
pub(super) fn read_answer(mut answer: Vec<u8>) -> Result<Vec<u8>, ComponentError> {
    match answer.first() {
        Some(&COMPILED) => Ok(answer.split_off(1)),
        Some(&REFUSED) => Err(codec::decode(&answer[1..]).unwrap_or_else(|_| senseless())),
        _ => Err(senseless()),
    }
}

fn senseless() -> ComponentError {
    ComponentError::Compiler("answered what makes no sense: it is not this version of zraft".to_owned())
}

//! A small WASI 0.2 in which nothing is ambient: what a component sees follows from the cluster and the call.
//!
//! Clocks, randomness, output and an empty environment work. Files and sockets can be imported, because the runtimes of
//! some languages do, and trap when used. Interfaces of any other kind are not given.

use wasmtime::StoreContextMut;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentType, LinkerInstance, Lower, Resource, ResourceType};

use super::guest::Guest;

/// A call that a backend may not make. It ends the instance.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Forbidden(pub(super) String);

/// What this host does about an imported interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// All of it works.
    Works,
    /// It can be imported; its functions trap.
    Traps,
}

/// Interfaces that work, without their version.
const WORKING: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

/// Interfaces that a language's runtime may import and must not use.
const TRAPPING: &[&str] = &[
    "wasi:filesystem/types",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// What this host does about an interface named as in a component, such as `wasi:cli/exit@0.2.6`, if anything.
pub(super) fn support(interface: &str) -> Option<Support> {
    let (name, version) = interface.split_once('@')?;
    // Versions 0.2.x only ever add to each other.
    let patch = version.strip_prefix("0.2.")?;
    if !patch.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let works = WORKING.contains(&name).then_some(Support::Works);
    works.or_else(|| TRAPPING.contains(&name).then_some(Support::Traps))
}

/// Whether what an interface shows changes from one entry to the next.
pub(super) fn shows_the_moment(interface: &str) -> bool {
    interface.starts_with("wasi:clocks/")
        || (interface.starts_with("wasi:random/") && !interface.starts_with("wasi:random/insecure-seed@"))
}

/// Gives an item of a supported interface to a component. Returns whether there is such an item.
pub(super) fn define(
    linker: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    item: &str,
    ty: &ComponentItem,
) -> wasmtime::Result<bool> {
    match ty {
        ComponentItem::Type(_) => Ok(true),
        ComponentItem::Resource(_) => match resource(item) {
            Some(resource) => linker.resource(item, resource, |_, _| Ok(())).map(|()| true),
            None => Ok(false),
        },
        ComponentItem::ComponentFunc(_) if support(interface) == Some(Support::Traps) => {
            trap(linker, interface, item).map(|()| true)
        }
        ComponentItem::ComponentFunc(_) => {
            let (name, _) = interface.split_once('@').unwrap_or((interface, ""));
            define_function(linker, name, item)
        }
        _ => Ok(false),
    }
}

fn trap(linker: &mut LinkerInstance<'_, Guest>, interface: &str, item: &str) -> wasmtime::Result<()> {
    let message = format!("it called {interface} {item}, and a backend has no files and no sockets");
    linker.func_new(item, move |_, _, _, _| Err(Forbidden(message.clone()).into()))
}

/// Resources of the supported interfaces. None has a state of its own, so a representation is a name or nothing.
macro_rules! resources {
    ($($type:ident = $name:literal,)*) => {
        $(enum $type {})*

        fn resource(name: &str) -> Option<ResourceType> {
            match name {
                $($name => Some(ResourceType::host::<$type>()),)*
                _ => None,
            }
        }
    };
}

resources! {
    Descriptor = "descriptor",
    DirectoryEntryStream = "directory-entry-stream",
    IncomingDatagramStream = "incoming-datagram-stream",
    InputStream = "input-stream",
    IoError = "error",
    Network = "network",
    OutgoingDatagramStream = "outgoing-datagram-stream",
    OutputStream = "output-stream",
    Pollable = "pollable",
    ResolveAddressStream = "resolve-address-stream",
    TcpSocket = "tcp-socket",
    TerminalInput = "terminal-input",
    TerminalOutput = "terminal-output",
    UdpSocket = "udp-socket",
}

/// Representations of the two output streams.
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// `wasi:io/streams.stream-error`. Nothing here fails otherwise.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code)]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// `wasi:clocks/wall-clock.datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Most bytes that one write is told to bring, and one request for randomness may ask for.
const MAX_CHUNK_BYTES: u64 = 64 << 10;

/// The resolution of both clocks.
const MILLISECOND_NS: u32 = 1_000_000;

type Context<'a> = StoreContextMut<'a, Guest>;
type Written = (Result<(), StreamError>,);

fn define_function(linker: &mut LinkerInstance<'_, Guest>, interface: &str, item: &str) -> wasmtime::Result<bool> {
    match interface {
        "wasi:io/streams" if item.contains("input-stream.") => define_input(linker, item),
        "wasi:io/streams" => define_output(linker, item),
        "wasi:io/error" | "wasi:io/poll" => define_poll(linker, item),
        "wasi:clocks/monotonic-clock" | "wasi:clocks/wall-clock" => define_clock(linker, interface, item),
        "wasi:random/random" | "wasi:random/insecure" | "wasi:random/insecure-seed" => define_random(linker, item),
        _ => define_environment(linker, item),
    }
}

fn define_environment(linker: &mut LinkerInstance<'_, Guest>, item: &str) -> wasmtime::Result<bool> {
    match item {
        "get-environment" => linker.func_wrap(item, |_, (): ()| Ok((Vec::<(String, String)>::new(),)))?,
        "get-arguments" => linker.func_wrap(item, |_, (): ()| Ok((Vec::<String>::new(),)))?,
        "initial-cwd" => linker.func_wrap(item, |_, (): ()| Ok((None::<String>,)))?,
        "get-directories" => linker.func_wrap(item, |_, (): ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))?,
        "get-stdin" => linker.func_wrap(item, |_, (): ()| Ok((Resource::<InputStream>::new_own(0),)))?,
        "get-stdout" => linker.func_wrap(item, |_, (): ()| Ok((Resource::<OutputStream>::new_own(STDOUT),)))?,
        "get-stderr" => linker.func_wrap(item, |_, (): ()| Ok((Resource::<OutputStream>::new_own(STDERR),)))?,
        "get-terminal-stdin" => linker.func_wrap(item, |_, (): ()| Ok((None::<Resource<TerminalInput>>,)))?,
        "get-terminal-stdout" | "get-terminal-stderr" => {
            linker.func_wrap(item, |_, (): ()| Ok((None::<Resource<TerminalOutput>>,)))?
        }
        "exit" => linker.func_wrap(item, |_, (status,): (Result<(), ()>,)| -> wasmtime::Result<()> {
            let outcome = if status.is_ok() { "success" } else { "failure" };
            Err(Forbidden(format!("it called exit with {outcome}")).into())
        })?,
        "exit-with-code" => linker.func_wrap(item, |_, (code,): (u8,)| -> wasmtime::Result<()> {
            Err(Forbidden(format!("it called exit with code {code}")).into())
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Standard input is closed.
fn define_input(linker: &mut LinkerInstance<'_, Guest>, item: &str) -> wasmtime::Result<bool> {
    type Input = Resource<InputStream>;
    match item {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            linker.func_wrap(item, |_, (_, _): (Input, u64)| Ok((Err::<Vec<u8>, StreamError>(StreamError::Closed),)))?
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            linker.func_wrap(item, |_, (_, _): (Input, u64)| Ok((Err::<u64, StreamError>(StreamError::Closed),)))?
        }
        "[method]input-stream.subscribe" => linker.func_wrap(item, |_, (_,): (Input,)| Ok((ready(),)))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Output goes to the node's log and never blocks.
fn define_output(linker: &mut LinkerInstance<'_, Guest>, item: &str) -> wasmtime::Result<bool> {
    type Output = Resource<OutputStream>;
    match item {
        "[method]output-stream.check-write" => {
            linker.func_wrap(item, |_, (_,): (Output,)| Ok((Ok::<u64, StreamError>(MAX_CHUNK_BYTES),)))?
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => linker.func_wrap(
            item,
            |mut context: Context<'_>, (stream, bytes): (Output, Vec<u8>)| -> wasmtime::Result<Written> {
                context.data_mut().print(stream.rep() == STDERR, &bytes);
                Ok((Ok(()),))
            },
        )?,
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            linker.func_wrap(item, |_, (_,): (Output,)| -> wasmtime::Result<Written> { Ok((Ok(()),)) })?
        }
        // Zeroes in a log help nobody.
        "[method]output-stream.write-zeroes" | "[method]output-stream.blocking-write-zeroes-and-flush" => {
            linker.func_wrap(item, |_, (_, _): (Output, u64)| -> wasmtime::Result<Written> { Ok((Ok(()),)) })?
        }
        "[method]output-stream.splice" | "[method]output-stream.blocking-splice" => linker
            .func_wrap(item, |_, (_, _, _): (Output, Resource<InputStream>, u64)| {
                Ok((Err::<u64, StreamError>(StreamError::Closed),))
            })?,
        "[method]output-stream.subscribe" => linker.func_wrap(item, |_, (_,): (Output,)| Ok((ready(),)))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Nothing is ever waited for: time stands still during a call.
fn ready() -> Resource<Pollable> {
    Resource::new_own(0)
}

fn define_poll(linker: &mut LinkerInstance<'_, Guest>, item: &str) -> wasmtime::Result<bool> {
    match item {
        "[method]pollable.ready" => linker.func_wrap(item, |_, (_,): (Resource<Pollable>,)| Ok((true,)))?,
        "[method]pollable.block" => linker.func_wrap(item, |_, (_,): (Resource<Pollable>,)| Ok(()))?,
        "poll" => linker.func_wrap(item, |_, (pollables,): (Vec<Resource<Pollable>>,)| {
            let all = 0..u32::try_from(pollables.len())?;
            Ok((all.collect::<Vec<u32>>(),))
        })?,
        "[method]error.to-debug-string" => {
            linker.func_wrap(item, |_, (_,): (Resource<IoError>,)| Ok((String::new(),)))?
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn define_clock(linker: &mut LinkerInstance<'_, Guest>, interface: &str, item: &str) -> wasmtime::Result<bool> {
    match (interface, item) {
        ("wasi:clocks/wall-clock", "now") => linker.func_wrap(item, |context: Context<'_>, (): ()| {
            let time_ms = context.data().time_ms();
            let nanoseconds = (time_ms % 1000) as u32 * MILLISECOND_NS;
            Ok((Datetime { seconds: time_ms / 1000, nanoseconds },))
        })?,
        ("wasi:clocks/wall-clock", "resolution") => {
            linker.func_wrap(item, |_, (): ()| Ok((Datetime { seconds: 0, nanoseconds: MILLISECOND_NS },)))?
        }
        ("wasi:clocks/monotonic-clock", "now") => {
            linker.func_wrap(item, |mut context: Context<'_>, (): ()| Ok((context.data_mut().monotonic_ns(),)))?
        }
        ("wasi:clocks/monotonic-clock", "resolution") => {
            linker.func_wrap(item, |_, (): ()| Ok((u64::from(MILLISECOND_NS),)))?
        }
        ("wasi:clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            linker.func_wrap(item, |_, (_,): (u64,)| Ok((ready(),)))?
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn define_random(linker: &mut LinkerInstance<'_, Guest>, item: &str) -> wasmtime::Result<bool> {
    match item {
        "get-random-bytes" | "get-insecure-random-bytes" => {
            linker.func_wrap(item, |mut context: Context<'_>, (length,): (u64,)| {
                if length > MAX_CHUNK_BYTES {
                    let message =
                        format!("it asked for {length} random bytes at once, and {MAX_CHUNK_BYTES} is the most");
                    return Err(Forbidden(message).into());
                }
                Ok((context.data_mut().random_bytes(length as usize),))
            })?
        }
        "get-random-u64" | "get-insecure-random-u64" => {
            linker.func_wrap(item, |mut context: Context<'_>, (): ()| Ok((context.data_mut().random_u64(),)))?
        }
        "insecure-seed" => linker.func_wrap(item, |context: Context<'_>, (): ()| Ok((context.data().hash_seed(),)))?,
        _ => return Ok(false),
    }
    Ok(true)
}

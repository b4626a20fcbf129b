//! The deterministic engine and the cache of compiled components.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;

use wasmtime::component::Component;
use wasmtime::{Config, Engine, WasmFeatures};

use super::compiler::{CompileLimits, Compiler, Compiling};
use super::component::{ComponentError, Kind, WasmBackend};
use super::watchdog::{TICK, Watchdog};
use crate::types::Digest;

/// The engine and its version: they decide what a call costs and how deep a guest may recurse.
pub const ENGINE: &str = "wasmtime 48.0.8";

/// The stack of a guest, in bytes. Running over it is [`StackOverflow`](crate::machine::GuestFault::StackOverflow).
pub const GUEST_STACK_BYTES: usize = 4 << 20;

/// The least stack of a thread that calls guests, in bytes: theirs, and as much again for the host's frames around and
/// above them.
pub const GUEST_THREAD_STACK_BYTES: usize = 2 * GUEST_STACK_BYTES;

/// Length of the checksum in front of a compiled component in the cache.
const CHECKSUM_BYTES: usize = size_of::<Digest>();

/// Why the engine could not be started. This node is to blame.
#[derive(Debug, thiserror::Error)]
pub enum WasmError {
    /// This machine or operating system cannot run the engine.
    #[error("the WebAssembly engine does not start here: {0}")]
    Engine(String),
    /// The folder of compiled components cannot be used.
    #[error("cannot use {path} for compiled components: {source}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The WebAssembly engine: one a node, shared by all its backends.
pub struct Wasm {
    engine: Engine,
    compiling: Compiling,
    limits: CompileLimits,
    cache: PathBuf,
    watchdog: Watchdog,
    _ticker: Ticker,
}

impl Wasm {
    /// Starts the engine. Components are compiled by `compiler`, a child within `limits`. Compiled ones are kept in the folder
    /// `cache`, which is made if needed. Nobody else may be able to write there: what it holds is run as machine code.
    ///
    /// # Errors
    /// [`WasmError`] when this node cannot run the engine or use the folder.
    pub fn new(cache: &Path, compiler: Compiler, limits: CompileLimits) -> Result<Self, WasmError> {
        let failed = |source| WasmError::Cache { path: cache.to_owned(), source };
        fs::create_dir_all(cache).map_err(failed)?;
        let engine = new_engine()?;
        let watchdog = Watchdog::default();
        let ticker = Ticker::start(watchdog.clone()).map_err(|error| WasmError::Engine(error.to_string()))?;
        let compiling = Compiling::new(compiler);
        Ok(Self { engine, compiling, limits, cache: cache.to_owned(), watchdog, _ticker: ticker })
    }

    /// The same for components that are trusted: this process compiles them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_process(cache: &Path) -> Result<Self, WasmError> {
        Self::new(cache, Compiler::InProcess, CompileLimits::default())
    }

    /// Compiles a component, or takes its compiled form from the cache, and checks it against the contract. Of a core
    /// module a component is made first; the backend goes by the digest of the module, as it was given.
    ///
    /// Compiling takes from 50 ms for a small component to seconds for one that brings a language's runtime, and much
    /// memory.
    ///
    /// # Errors
    /// [`ComponentError`] says what is wrong with the component, or with this node.
    pub fn compile(&self, bytes: &[u8]) -> Result<WasmBackend, ComponentError> {
        self.compile_within(bytes, self.limits)
    }

    /// The same for a component that was taken in before: it may take four times as much. Where its compiled form is not in the
    /// cache, that is of another version of the engine, or was lost.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_again(&self, bytes: &[u8]) -> Result<WasmBackend, ComponentError> {
        self.compile_within(bytes, self.limits.if_accepted())
    }

    /// Ends what compiles, and compiles no more.
    pub fn stop(&self) {
        self.compiling.stop();
    }

    fn compile_within(&self, bytes: &[u8], limits: CompileLimits) -> Result<WasmBackend, ComponentError> {
        Kind::of(bytes)?;
        let digest = Digest::of(bytes);
        let path = self.cached_path(digest);
        let component = match self.cached(&path) {
            Some(component) => component,
            None => {
                let compiled = self.compiling.compile(&self.engine, bytes, limits)?;
                let component = load_compiled(&self.engine, &compiled);
                let component = component.map_err(|error| ComponentError::Host(format!("{error:#}")))?;
                // Without the cache everything works, only slower.
                if let Err(error) = write_checked(&path, &compiled) {
                    tracing::warn!(path = %path.display(), %error, "cannot keep a compiled component");
                }
                component
            }
        };
        WasmBackend::new(&self.engine, component, digest, self.watchdog.clone())
    }

    /// Whether [`Self::compile`] would find the component in the cache.
    #[cfg(test)]
    pub(super) fn has_compiled(&self, digest: Digest) -> bool {
        self.cached_path(digest).exists()
    }

    /// Deletes the compiled forms of all components but those in `keep`, and what other versions of the engine left.
    ///
    /// # Errors
    /// What the operating system says about the first file that could not be deleted.
    pub fn forget_all_but(&self, keep: &BTreeSet<Digest>) -> io::Result<()> {
        let kept: BTreeSet<PathBuf> = keep.iter().map(|digest| self.cached_path(*digest)).collect();
        for entry in fs::read_dir(&self.cache)? {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn cached(&self, path: &Path) -> Option<Component> {
        let bytes = fs::read(path).ok()?;
        let (checksum, compiled) = bytes.split_at_checked(CHECKSUM_BYTES)?;
        if Digest::of(compiled).0 != checksum {
            tracing::warn!(path = %path.display(), "a compiled component fails its checksum and is compiled again");
            return None;
        }
        match load_compiled(&self.engine, compiled) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), "cannot load a compiled component: {error:#}");
                None
            }
        }
    }

    /// The name tells by which engine and settings a component was compiled: what another one left is not found.
    fn cached_path(&self, digest: Digest) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        self.cache.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }
}

impl std::fmt::Debug for Wasm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wasm").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// An engine as every node has it.
pub(super) fn new_engine() -> Result<Engine, WasmError> {
    Engine::new(&config()).map_err(|error| WasmError::Engine(format!("{error:#}")))
}

/// An engine that compiles the same, on the calling thread alone.
pub(super) fn single_threaded_engine() -> Result<Engine, WasmError> {
    Engine::new(config().parallel_compilation(false)).map_err(|error| WasmError::Engine(format!("{error:#}")))
}

/// Everything that could make two nodes disagree about a run is switched off or fixed.
fn config() -> Config {
    let mut config = Config::new();
    config
        // Budgets are counted in fuel, which is the same on every machine.
        .consume_fuel(true)
        // The bits of a NaN depend on the processor; all become one.
        .cranelift_nan_canonicalization(true)
        // Relaxed SIMD may differ between processors; it is off, and would be deterministic were it on.
        .relaxed_simd_deterministic(true)
        .wasm_relaxed_simd(false)
        // Threads have no deterministic order.
        .shared_memory(false)
        // Budgets and snapshots are sized for 32-bit memories, and 64-bit ones are slower.
        .wasm_memory64(false)
        // One call at a time; support for more costs half as much again for each call.
        .concurrency_support(false)
        // The depth at which a recursion ends is the same on every node of one version.
        .max_wasm_stack(GUEST_STACK_BYTES)
        // Not used, but must be larger than the stack above.
        .async_stack_size(GUEST_STACK_BYTES + (1 << 20))
        // A memory never moves, and accesses need no bounds checks: the guard pages do that.
        .memory_reservation(4 << 30)
        .memory_may_move(false);
    // Young proposals, whose limits and costs are not settled.
    config
        .wasm_features(WasmFeatures::THREADS, false)
        .wasm_features(WasmFeatures::GC, false)
        .wasm_features(WasmFeatures::EXCEPTIONS, false)
        .wasm_features(WasmFeatures::STACK_SWITCHING, false);
    config
}

/// Writes a file that either is complete under its name or is not there.
fn write_checked(path: &Path, compiled: &[u8]) -> io::Result<()> {
    // Other threads and processes may be writing the same component.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&Digest::of(compiled).0)?;
        file.write_all(compiled)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // Best effort: the error that matters is the first.
        let _ = fs::remove_file(&temporary);
    })
}

/// Loads what [`Engine::precompile_component`] made.
#[allow(unsafe_code)]
fn load_compiled(engine: &Engine, compiled: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes must come from an engine's compiler. They have just come from it, in this process or by the pipe of
    // a child that runs the program that the operator set; or they are read from the node's own folder, which only the node
    // writes, and their checksum, made when they were written, was right. They are in memory that nobody else changes.
    unsafe { Component::deserialize(engine, compiled) }
}

/// Has the watchdog look at the calls until it is dropped.
struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(watchdog: Watchdog) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                watchdog.tick();
            }
        };
        let thread = std::thread::Builder::new().name("wasm-watchdog".to_owned()).spawn(tick)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // The thread runs no code that panics.
            let _ = thread.join();
        }
    }
}

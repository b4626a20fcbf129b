//! What can be told about a file that somebody means to make a backend.

use std::thread;
use std::time::{Duration, Instant};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::component::{ComponentError, Kind, WasmBackend, export_names};
use super::core_module::componentize;
use super::engine::{GUEST_THREAD_STACK_BYTES, WasmError, new_engine};
use super::imports::{self, Import};
use super::instance::{Instance, WasmFactory};
use super::watchdog::Watchdog;
use crate::machine::{Backend, Budget, Moment, StartError};
use crate::settings::Budgets;
use crate::types::{ClusterId, Digest};

/// The size of chunks in which the empty state is written, in bytes.
const CHUNK_BYTES: u32 = 256 << 10;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// What a file is, what it asks for, and what its first calls take.
#[derive(Debug)]
pub struct Inspection {
    /// What it is, if it can be told.
    pub kind: Option<Kind>,
    /// Its digest: the backend's name.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// What was compiled, once it could be.
    pub compiled: Option<Compiled>,
    /// Why a node refuses it.
    pub refusal: Option<ComponentError>,
    /// How an instance began, if a node takes it.
    pub trial: Option<Trial>,
}

/// A component, whether or not it fits the contract.
#[derive(Debug)]
pub struct Compiled {
    /// Its size, in bytes: of a core module, after it was made a component.
    pub size_bytes: u64,
    /// How long compiling took on this machine, on all its processors.
    pub compile_time: Duration,
    /// Everything that it imports, in the order of the names.
    pub imports: Vec<Import>,
    /// The names of everything that it exports.
    pub exports: Vec<String>,
    /// What it has from the start. Not known of a component that imports modules, which is refused.
    pub parts: Option<Parts>,
}

/// How much of a kind a component has from the start.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Linear memories.
    pub memories: u32,
    /// The size of the largest, in bytes.
    pub largest_memory_bytes: u64,
    /// Tables.
    pub tables: u32,
    /// The length of the longest.
    pub longest_table: u64,
}

/// The first calls of an instance, within a cluster's budgets.
#[derive(Debug, Default)]
pub struct Trial {
    /// What the backend calls the format of its state.
    pub version: Option<String>,
    /// The calls that returned, in order.
    pub calls: Vec<CallUse>,
    /// How many bytes the empty state is written in.
    pub snapshot_bytes: u64,
    /// Why there were no more calls.
    pub failure: Option<StartError>,
}

/// What one call took.
#[derive(Clone, Copy, Debug)]
pub struct CallUse {
    /// The call. `start` is what runs before any function of the contract.
    pub call: &'static str,
    /// How much fuel it took.
    pub fuel: u64,
    /// How much it might have taken.
    pub fuel_budget: u64,
    /// The linear memory of the instance after it, in bytes.
    pub memory_bytes: u64,
}

impl Inspection {
    /// Inspects a file: compiles it and begins to run it as a backend that is created with `config`, within `budgets`.
    ///
    /// # Errors
    /// [`WasmError`] when this machine cannot run the engine. What is wrong with the file is told as its refusal.
    pub fn of(bytes: &[u8], config: &[u8], budgets: Budgets) -> Result<Self, WasmError> {
        let engine = new_engine()?;
        let mut inspection = Self {
            kind: None,
            digest: Digest::of(bytes),
            size_bytes: bytes.len() as u64,
            compiled: None,
            refusal: None,
            trial: None,
        };
        match inspection.compile(&engine, bytes) {
            Ok(backend) => inspection.trial = Some(Trial::of(backend.factory(ClusterId(0), budgets), config)?),
            Err(error) => inspection.refusal = Some(error),
        }
        Ok(inspection)
    }

    /// Goes as far as a node would, and keeps what there is to tell.
    fn compile(&mut self, engine: &Engine, bytes: &[u8]) -> Result<WasmBackend, ComponentError> {
        let kind = *self.kind.insert(Kind::of(bytes)?);
        let made = match kind {
            Kind::Component => None,
            Kind::CoreModule => Some(componentize(engine, bytes)?),
        };
        let bytes = made.as_deref().unwrap_or(bytes);
        let started = Instant::now();
        let component = Component::new(engine, bytes);
        let component = component.map_err(|error| ComponentError::Malformed(format!("{error:#}")))?;
        let compile_time = started.elapsed();
        let parts = component.resources_required().map(|required| Parts {
            memories: required.num_memories,
            largest_memory_bytes: required.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE_BYTES),
            tables: required.num_tables,
            longest_table: required.max_initial_table_size.unwrap_or(0),
        });
        self.compiled = Some(Compiled {
            size_bytes: bytes.len() as u64,
            compile_time,
            imports: imports::link(engine, &component)?.1,
            exports: export_names(engine, &component),
            parts,
        });
        WasmBackend::new(engine, component, self.digest, Watchdog::default())
    }
}

impl Trial {
    fn of(factory: WasmFactory, config: &[u8]) -> Result<Self, WasmError> {
        thread::scope(|scope| {
            let run = || {
                let mut trial = Self::default();
                trial.failure = trial.run(&factory, config).err();
                trial
            };
            let thread = thread::Builder::new().stack_size(GUEST_THREAD_STACK_BYTES).spawn_scoped(scope, run);
            let thread = thread.map_err(|error| WasmError::Engine(error.to_string()))?;
            Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn run(&mut self, factory: &WasmFactory, config: &[u8]) -> Result<(), StartError> {
        let mut instance = factory.start(Moment::default(), Budget::Configured)?;
        self.note("start", &instance);
        instance.init(Moment::default(), config)?;
        self.note("init", &instance);
        self.version = Some(instance.version()?);
        self.note("version", &instance);
        let mut snapshot_bytes = 0;
        let written = instance.snapshot(Moment::default(), CHUNK_BYTES, &mut |chunk| {
            snapshot_bytes += chunk.len() as u64;
            Ok(())
        });
        self.snapshot_bytes = snapshot_bytes;
        written.map_err(|error| match error {
            crate::machine::SnapshotError::Fault(fault) => StartError::Fault(fault),
            crate::machine::SnapshotError::Sink(reason) => StartError::Source(reason),
        })
    }

    fn note(&mut self, call: &'static str, instance: &Instance) {
        let (fuel, fuel_budget) = instance.last_fuel();
        self.calls.push(CallUse { call, fuel, fuel_budget, memory_bytes: instance.memory_bytes() });
    }
}

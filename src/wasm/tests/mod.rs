//! The components in `guests/dist` and `tests/components`, run through the seams that the rest of zraft uses.

mod conformance;
mod contract;
mod core_module;
mod engine;
mod faults;
mod hostile;
mod kv;
mod surroundings;

use std::sync::LazyLock;

use bytes::Bytes;
use tempfile::TempDir;

use super::{GUEST_THREAD_STACK_BYTES, Wasm, WasmBackend};
use crate::machine::{
    Backend, BackendCommand, BackendFactory, BackendOutcome, Fault, GuestFault, Moment, Origin, StartError,
};
use crate::settings::Budgets;
use crate::types::{ClusterId, Digest};

const KV: &[u8] = include_bytes!("../../../guests/dist/kv.wasm");
const HOSTILE: &[u8] = include_bytes!("../../../tests/components/hostile.wasm");
const CLUSTER: ClusterId = ClusterId(7);

static WASM: LazyLock<(TempDir, Wasm)> = LazyLock::new(|| {
    let cache = tempfile::tempdir().unwrap();
    let wasm = Wasm::in_process(cache.path()).unwrap();
    (cache, wasm)
});
static KV_BACKEND: LazyLock<WasmBackend> = LazyLock::new(|| WASM.1.compile(KV).unwrap());
static HOSTILE_BACKEND: LazyLock<WasmBackend> = LazyLock::new(|| WASM.1.compile(HOSTILE).unwrap());

/// Enough for what tests do, and soon used up by what never ends.
const SMALL: Budgets =
    Budgets { apply_fuel: 50_000_000, query_fuel: 50_000_000, chunk_fuel: 100_000_000, memory_bytes: 16 << 20 };

fn at(index: u64) -> Moment {
    Moment { index, time_ms: 1_000_000 + index }
}

fn command(index: u64, data: impl Into<Bytes>) -> BackendCommand {
    BackendCommand { at: at(index), session: None, data: data.into() }
}

fn kv() -> Box<dyn Backend> {
    KV_BACKEND.factory(CLUSTER, SMALL).init(at(0), b"").unwrap()
}

fn hostile() -> Box<dyn Backend> {
    HOSTILE_BACKEND.factory(CLUSTER, SMALL).init(at(0), b"").unwrap()
}

fn snapshot(backend: &mut dyn Backend, max_chunk_bytes: u32) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut sink = |chunk| {
        chunks.push(chunk);
        Ok(())
    };
    backend.snapshot(at(0), max_chunk_bytes, &mut sink).unwrap();
    chunks
}

fn restore(backend: &WasmBackend, version: &str, chunks: Vec<Bytes>) -> Result<Box<dyn Backend>, StartError> {
    let origin = Origin { version: version.to_owned(), config: Bytes::new(), migration: None };
    let mut chunks = chunks.into_iter();
    backend.factory(CLUSTER, SMALL).restore(at(0), &origin, &mut || Ok(chunks.next()))
}

/// Guests must run on large stacks, which those of tests are not.
fn on_guest_thread<R: Send + 'static>(run: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::Builder::new().stack_size(GUEST_THREAD_STACK_BYTES).spawn(run).unwrap().join().unwrap()
}

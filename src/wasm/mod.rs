//! Runs a user's component as a [`Backend`](crate::machine::Backend). The only place that knows wasmtime.
//!
//! - [`Wasm`] is the engine, one a node: it has components compiled deterministically and keeps the compiled form on disk.
//! - [`Compiler`] says who compiles: for a node, a child process with limits.
//! - [`WasmBackend`] is a component that fits the contract `wit/zraft.wit`, ready to be instantiated.
//! - [`WasmFactory`] makes instances of it for one cluster, within that cluster's budgets.
//!
//! What a component sees besides the contract is a small WASI 0.2 in which nothing is ambient: time, randomness and
//! output follow from the cluster and the entry being applied.
//!
//! Calls into guests must be made on threads with at least [`GUEST_THREAD_STACK_BYTES`] of stack. On a smaller one, a
//! guest that recurses deeply overflows the thread's stack before its own limit, and that ends the process.

mod compiler;
mod component;
mod contract;
mod core_module;
mod engine;
mod guest;
mod imports;
mod inspection;
mod instance;
mod limits;
mod meter;
mod wasi;
mod watchdog;

#[cfg(test)]
mod tests;

pub use compiler::{COMPILE_COMMAND, CompileLimits, Compiler, MEMORY_FLAG, compile_for_parent};
pub use component::{ComponentError, Kind, MACHINE, MAX_COMPONENT_BYTES, WasmBackend};
pub use core_module::to_component;
pub use engine::{ENGINE, GUEST_THREAD_STACK_BYTES, Wasm, WasmError};
pub use imports::{Given, Import};
pub use inspection::{CallUse, Compiled, Inspection, Parts, Trial};
pub use instance::{MAX_BATCH_BYTES, MAX_BATCH_COMMANDS, MAX_RETURN_BYTES, WasmFactory};
pub use limits::{MAX_MEMORIES, MAX_TABLES};
pub use meter::{Meter, Usage};

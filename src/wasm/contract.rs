//! Rust types for `wit/zraft.wit`.

// The generated code is documented in the contract, and is not ours to lint.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    path: "wit/zraft.wit",
    world: "backend",
    ownership: Borrowing { duplicate_if_necessary: true },
});

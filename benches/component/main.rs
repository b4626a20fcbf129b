//! Measures what it costs that a backend is a component: `guests/dist/kv.wasm` against the same code natively, behind the
//! same trait and with all budgets on.
//!
//! ```text
//! cargo bench --bench component    # a minute, 3 GB of memory
//! ```
//!
//! The targets are ratios of neighbours in time, and medians of several rounds, so that they stand other load on the
//! machine. Ends with exit code 1 when a target is missed.

mod calls;
mod growth;
#[path = "../common/judge.rs"]
mod judge;
mod loading;
#[path = "../common/native.rs"]
mod native;
mod states;

use std::process::ExitCode;

use zraft::settings::Budgets;
use zraft::types::ClusterId;
use zraft::wasm::{Wasm, WasmFactory};

/// The component that is measured.
const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");

fn main() -> ExitCode {
    let measures = std::thread::Builder::new().stack_size(zraft::wasm::GUEST_THREAD_STACK_BYTES);
    let held = measures.spawn(measure).unwrap().join().unwrap();
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let wasm = Wasm::in_process(folder.path()).unwrap();
    let component = factory(&wasm);
    let held = [calls::measure(&component), growth::measure(&component), loading::measure()];
    states::measure(&component);
    held.into_iter().all(|held| held)
}

/// Makes instances of the component as a cluster with the default settings does.
fn factory(wasm: &Wasm) -> WasmFactory {
    wasm.compile(KV).unwrap().factory(ClusterId(1), Budgets::default())
}

//! A whole state, written out and read in.

use std::time::Instant;

use bytes::Bytes;
use zraft::client::KvCommand;
use zraft::codec;
use zraft::machine::{Backend, BackendCommand, BackendFactory, Moment, Origin};
use zraft::wasm::WasmFactory;

use super::judge::median;
use super::native::NativeFactory;

const TURNS: usize = 3;

/// 100 MB.
const ENTRIES: usize = 400_000;
const VALUE_BYTES: usize = 240;

/// As nodes ask for them.
const CHUNK_BYTES: u32 = 256 << 10;

/// Commands a call while the state is made.
const BATCH: usize = 1024;

/// Measures and prints the table.
pub fn measure(component: &WasmFactory) {
    println!("\nA state of {ENTRIES} entries with values of {VALUE_BYTES} bytes, in MB/s; medians of {TURNS} turns.\n");
    println!("         | native  component | component/native");
    let sides: [&dyn BackendFactory; 2] = [&NativeFactory, component];
    let mut states = sides.map(filled);
    let turns: Vec<[Turn; 2]> =
        (0..TURNS).map(|_| [turn(sides[0], states[0].as_mut()), turn(sides[1], states[1].as_mut())]).collect();
    for (name, speed) in [("snapshot", (|turn| turn.snapshot) as fn(&Turn) -> f64), ("restore", |turn| turn.restore)] {
        let of = |side: usize| median(turns.iter().map(|turn| speed(&turn[side])).collect());
        let ratio = median(turns.iter().map(|[native, component]| speed(component) / speed(native)).collect());
        println!("{name:<9}| {:>6.0}  {:>9.0} | {ratio:>16.2}", of(0), of(1));
    }
}

/// MB/s.
struct Turn {
    snapshot: f64,
    restore: f64,
}

fn turn(factory: &dyn BackendFactory, state: &mut dyn Backend) -> Turn {
    let mut chunks = Vec::new();
    let started = Instant::now();
    let mut sink = |chunk| {
        chunks.push(chunk);
        Ok(())
    };
    state.snapshot(Moment::default(), CHUNK_BYTES, &mut sink).unwrap();
    let snapshot = started.elapsed();
    let megabytes = chunks.iter().map(Bytes::len).sum::<usize>() as f64 / 1e6;
    let origin = Origin { version: state.version().unwrap(), config: Bytes::new(), migration: None };
    let mut chunks = chunks.into_iter();
    let started = Instant::now();
    let restored = factory.restore(Moment::default(), &origin, &mut || Ok(chunks.next())).unwrap();
    let restore = started.elapsed();
    drop(restored);
    Turn { snapshot: megabytes / snapshot.as_secs_f64(), restore: megabytes / restore.as_secs_f64() }
}

fn filled(factory: &dyn BackendFactory) -> Box<dyn Backend> {
    let mut state = factory.init(Moment::default(), b"").unwrap();
    for begin in (0..ENTRIES).step_by(BATCH) {
        let batch: Vec<_> = (begin..ENTRIES.min(begin + BATCH)).map(put).collect();
        state.apply(&batch).unwrap();
    }
    state
}

fn put(number: usize) -> BackendCommand {
    let command = KvCommand::Put { key: format!("key {number:08}").into_bytes(), value: vec![b'v'; VALUE_BYTES] };
    let at = Moment { index: number as u64 + 1, time_ms: 0 };
    BackendCommand { at, session: None, data: codec::encode(&command).into() }
}

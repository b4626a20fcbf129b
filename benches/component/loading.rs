//! From bytes to an instance: compiled, loaded from the cache, and instantiated.

use std::time::{Duration, Instant};

use zraft::machine::{BackendFactory as _, Moment};
use zraft::wasm::Wasm;

use super::judge::{judge, median};
use super::{KV, factory};

const TURNS: usize = 9;

/// Instances and loads are over too soon to be measured one by one.
const INSTANCES: u32 = 1000;
const LOADS: u32 = 10;

/// What a load from the cache may take, of what compiling takes.
const MOST_OF_COMPILE: f64 = 0.02;

struct Turn {
    compile: Duration,
    load: Duration,
    instantiate: Duration,
}

/// Measures, prints the table, and returns whether the target holds.
pub fn measure() -> bool {
    let turns: Vec<Turn> = (0..TURNS).map(|_| turn()).collect();
    let in_us = |part: fn(&Turn) -> Duration| median(turns.iter().map(|turn| part(turn).as_secs_f64() * 1e6).collect());
    println!("\nOf kv.wasm, {} KiB, in us; medians of {TURNS} turns.\n", KV.len() >> 10);
    println!("compile, cold            {:>9.0}", in_us(|turn| turn.compile));
    println!("load from the cache      {:>9.0}", in_us(|turn| turn.load));
    println!("instantiate, init, drop  {:>9.1}\n", in_us(|turn| turn.instantiate));
    let ratio = median(turns.iter().map(|turn| turn.load.as_secs_f64() / turn.compile.as_secs_f64()).collect());
    let target = format!("a load from the cache: under {:.0}% of compiling", MOST_OF_COMPILE * 1e2);
    judge(&target, ratio * 1e2, "%", ratio < MOST_OF_COMPILE)
}

fn turn() -> Turn {
    let cache = tempfile::tempdir().unwrap();
    let wasm = Wasm::in_process(cache.path()).unwrap();
    let compile = time(|| drop(wasm.compile(KV).unwrap()));
    // As after a restart: by an engine that has not seen it.
    let wasm = Wasm::in_process(cache.path()).unwrap();
    let load = time(|| (0..LOADS).for_each(|_| drop(wasm.compile(KV).unwrap()))) / LOADS;
    let factory = factory(&wasm);
    let start = || drop(factory.init(Moment::default(), b"").unwrap());
    let instantiate = time(|| (0..INSTANCES).for_each(|_| start())) / INSTANCES;
    Turn { compile, load, instantiate }
}

fn time(run: impl FnOnce()) -> Duration {
    let started = Instant::now();
    run();
    started.elapsed()
}

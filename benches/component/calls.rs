//! Commands and queries, in turns with the same natively.

use std::time::{Duration, Instant};

use zraft::client::{KvCommand, KvQuery};
use zraft::codec;
use zraft::machine::{Backend, BackendCommand, BackendFactory, Moment};
use zraft::wasm::WasmFactory;

use super::judge::{judge, median};
use super::native::NativeFactory;

/// How often each subject has its turn, and how long a turn is.
const TURNS: usize = 25;
const TURN: Duration = Duration::from_millis(20);

const BATCHES: [usize; 4] = [1, 16, 128, 1024];
const VALUE_BYTES: usize = 64;

/// With few keys all is in the processor's caches and the boundary weighs most; with many, it waits for memory.
const KEYS: [usize; 2] = [1_000, 100_000];

/// Commands and queries that are made before anything is measured, and then given again and again.
const PREPARED: usize = 1 << 14;

/// Commands a call while a state is made.
const FILLED_A_CALL: usize = 1024;

/// What a command may cost in a component, natively being 1: in batches of so many, with so many keys.
const MOST_OF_NATIVE: f64 = 2.5;
const JUDGED: (usize, usize) = (1_000, 128);

/// Measures, prints the table, and returns whether the target holds.
pub fn measure(component: &WasmFactory) -> bool {
    println!(
        "Puts of {VALUE_BYTES} bytes and gets, in ns each; medians of {TURNS} turns of {} ms.\n",
        TURN.as_millis()
    );
    println!("   keys  call          | native  component | component/native");
    let mut judged = None;
    for keys in KEYS {
        let mut sides =
            [NativeFactory.init(Moment::default(), b"").unwrap(), component.init(Moment::default(), b"").unwrap()];
        let (commands, queries) = (commands(keys, VALUE_BYTES), queries(keys));
        for side in &mut sides {
            fill(side.as_mut(), keys, VALUE_BYTES);
        }
        for batch in BATCHES {
            let ratio = puts(keys, batch, &commands, &mut sides);
            if (keys, batch) == JUDGED {
                judged = Some(ratio);
            }
        }
        line(keys, "get", &mut sides, |side, number| {
            side.query(Moment::default(), &queries[number % PREPARED]).unwrap();
            1
        });
    }
    println!();
    let ratio = judged.expect("it is in the table");
    let target = format!("puts by {} a call, {} keys: at most {MOST_OF_NATIVE} times native", JUDGED.1, JUDGED.0);
    judge(&target, ratio, "", ratio <= MOST_OF_NATIVE)
}

/// A line of the table for puts, so many in each call.
pub fn puts(keys: usize, batch: usize, commands: &[BackendCommand], sides: &mut [Box<dyn Backend>; 2]) -> f64 {
    line(keys, &format!("put, {batch:>4} a call"), sides, |side, number| {
        let at = (number * batch) % PREPARED;
        side.apply(&commands[at..at + batch]).unwrap();
        batch
    })
}

/// Measures and prints a line of the table, and returns the ratio: the median of those within a turn, whose parts had about
/// the same of the machine.
fn line(
    keys: usize,
    name: &str,
    sides: &mut [Box<dyn Backend>; 2],
    call: impl Fn(&mut dyn Backend, usize) -> usize,
) -> f64 {
    let turns: Vec<[f64; 2]> =
        (0..TURNS).map(|_| sides.each_mut().map(|side| nanoseconds(|number| call(side.as_mut(), number)))).collect();
    let of = |side: usize| median(turns.iter().map(|turn| turn[side]).collect());
    let ratio = median(turns.iter().map(|[native, component]| component / native).collect());
    println!("{keys:>7}  {name:<14}| {:>6.0}  {:>9.0} | {ratio:>16.2}", of(0), of(1));
    ratio
}

/// Calls again and again for a turn. `call` returns for how many commands it counts.
fn nanoseconds(mut call: impl FnMut(usize) -> usize) -> f64 {
    let (started, mut calls, mut done) = (Instant::now(), 0, 0);
    while started.elapsed() < TURN {
        done += call(calls);
        calls += 1;
    }
    started.elapsed().as_nanos() as f64 / done as f64
}

/// Puts all keys into a state.
pub fn fill(side: &mut dyn Backend, keys: usize, value_bytes: usize) {
    for begin in (0..keys).step_by(FILLED_A_CALL) {
        let some: Vec<_> =
            (begin..keys.min(begin + FILLED_A_CALL)).map(|number| put(number, number, value_bytes)).collect();
        side.apply(&some).unwrap();
    }
}

/// Puts of keys in no order.
pub fn commands(keys: usize, value_bytes: usize) -> Vec<BackendCommand> {
    scattered(keys).enumerate().map(|(index, key)| put(index, key, value_bytes)).collect()
}

fn queries(keys: usize) -> Vec<Vec<u8>> {
    scattered(keys).map(|number| codec::encode(&KvQuery::Get { key: key(number) })).collect()
}

fn put(index: usize, number: usize, value_bytes: usize) -> BackendCommand {
    let command = KvCommand::Put { key: key(number), value: vec![b'v'; value_bytes] };
    let at = Moment { index: index as u64 + 1, time_ms: 0 };
    BackendCommand { at, session: None, data: codec::encode(&command).into() }
}

fn key(number: usize) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// Numbers below `keys` in no order that a processor could guess, the same in each run.
fn scattered(keys: usize) -> impl Iterator<Item = usize> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % keys
    })
    .take(PREPARED)
}

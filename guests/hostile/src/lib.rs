//! A backend that does on command what a backend must not do, to test that zraft survives it, and one that shows all
//! that it can see of its surroundings. It goes below the SDK's API, which would not let it break the contract.
//!
//! A command or query is a word: see [`obey`]. Anything else is stored and echoed. The config picks the size of
//! snapshot chunks: `chunk N`; by default they are as asked for.
//!
//! It is made of the contract's bindings, which there are for WebAssembly alone.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use zraft_backend::export::bindings;
use zraft_backend::export::bindings::exports::zraft::backend::machine;

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State { stored: Vec::new(), chunk_bytes: None }) };
}

struct State {
    stored: Vec<u8>,
    chunk_bytes: Option<usize>,
}

struct Hostile;

impl machine::Guest for Hostile {
    type SnapshotReader = Reader;
    type SnapshotWriter = Writer;

    fn version() -> String {
        "hostile 1".to_owned()
    }

    fn init(config: Vec<u8>) -> Result<(), String> {
        let config = String::from_utf8(config).map_err(|error| error.to_string())?;
        let chunk_bytes = match config.strip_prefix("chunk ") {
            Some(size) => Some(size.parse().map_err(|_| format!("'{size}' is no size"))?),
            None if config.is_empty() => None,
            None => return Err(format!("unknown config '{config}'")),
        };
        STATE.with_borrow_mut(|state| state.chunk_bytes = chunk_bytes);
        Ok(())
    }

    fn apply(commands: Vec<machine::Command>) -> Vec<machine::Outcome> {
        let outcomes = commands.into_iter().filter(|command| command.data != b"short");
        let outcome = |command: machine::Command| {
            let reply = Ok(obey(&command.data));
            STATE.with_borrow_mut(|state| state.stored = command.data.clone());
            machine::Outcome { reply, changed: vec![command.data] }
        };
        outcomes.map(outcome).collect()
    }

    fn query(request: Vec<u8>) -> machine::Answer {
        machine::Answer { reply: Ok(obey(&request)), watched: Vec::new() }
    }

    fn expire_session(_index: u64, _time_ms: u64, _session: u64) -> Vec<Vec<u8>> {
        obey(b"panic");
        Vec::new()
    }

    fn snapshot() -> machine::SnapshotReader {
        machine::SnapshotReader::new(Reader(RefCell::new(false)))
    }

    fn restore(_origin: machine::Origin) -> Result<machine::SnapshotWriter, String> {
        Ok(machine::SnapshotWriter::new(Writer))
    }
}

/// Writes one chunk.
struct Reader(RefCell<bool>);

impl machine::GuestSnapshotReader for Reader {
    fn next(&self, max_bytes: u32) -> Option<Vec<u8>> {
        let is_done = self.0.replace(true);
        let bytes = STATE.with_borrow(|state| state.chunk_bytes).unwrap_or(max_bytes as usize);
        (!is_done).then(|| vec![7; bytes])
    }
}

/// Takes only what is not zero.
struct Writer;

impl machine::GuestSnapshotWriter for Writer {
    fn write(&self, chunk: Vec<u8>) -> Result<(), String> {
        if chunk.contains(&0) { Err("a zero".to_owned()) } else { Ok(()) }
    }

    fn finish(_writer: machine::SnapshotWriter) -> Result<(), String> {
        Ok(())
    }
}

fn obey(word: &[u8]) -> Vec<u8> {
    match word {
        b"panic" => panic!("told to panic"),
        b"exit" => std::process::exit(3),
        b"loop" => loop {
            std::hint::black_box(());
        },
        b"bomb" => bomb(),
        b"try-bomb" => try_bomb(),
        b"recurse" => recurse(u64::MAX).to_le_bytes().to_vec(),
        b"flood" => vec![1; 64 << 20],
        b"babble" => babble(),
        b"look" => look().into_bytes(),
        b"file" => format!("{:?}", std::fs::read("/etc/passwd").is_ok()).into_bytes(),
        other => other.to_vec(),
    }
}

/// Takes memory until there is none.
fn bomb() -> Vec<u8> {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}

/// The same, and lives to tell when it is refused.
fn try_bomb() -> Vec<u8> {
    let mut hoard: Vec<u8> = Vec::new();
    while hoard.try_reserve_exact(hoard.capacity() + (1 << 20)).is_ok() {
        hoard.resize(hoard.capacity(), 1);
    }
    format!("refused at {}", hoard.len()).into_bytes()
}

/// Recurses without touching linear memory, so that it meets the engine's limit and not that of the stack in there.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if depth == 0 {
        return 1;
    }
    recurse(depth - 1).wrapping_mul(depth | 1) ^ recurse(depth / 2)
}

/// Writes more and longer lines than anybody reads.
fn babble() -> Vec<u8> {
    for _ in 0..1000 {
        println!("{}", "x".repeat(5000));
    }
    b"babbled".to_vec()
}

/// Everything that differs between two runs of an ordinary program.
fn look() -> String {
    let order: Vec<u32> = (0..20u32).map(|number| (number, ())).collect::<HashMap<_, _>>().into_keys().collect();
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let (first, second) = (Instant::now(), Instant::now());
    let address = &raw const order as usize;
    let (arguments, variables) = (std::env::args().count(), std::env::vars().count());
    println!("looked at {time_ms}");
    eprintln!("and said so");
    format!("{order:?} {time_ms} {:?} {address} {arguments} {variables}", second - first)
}

bindings::export_backend!(Hostile with_types_in bindings);

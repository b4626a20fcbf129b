//! A backend that keeps every promise of the contract but the one that its config names, to test that each breach is
//! found and called by its name. It imports nothing, so that commands come in batches. It goes below the SDK's API, which
//! would not let it break most of them.
//!
//! The state is the list of all commands, and the reply to one is its place in that. Every tenth place is a bad one: see
//! [`Breach`].
//!
//! It is made of the contract's bindings, which there are for WebAssembly alone.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;

use zraft_backend::export::bindings;
use zraft_backend::export::bindings::exports::zraft::backend::machine;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breach {
    /// Nothing.
    None,
    /// The reply tells how many calls there were.
    Batches,
    /// A query is added to the state.
    Queries,
    /// A query is added to a count that is seen in replies alone.
    CountedQueries,
    /// The answer to a query tells how many were asked.
    Moods,
    /// A restored state lacks the last command.
    Forgets,
    /// The state written is followed by how many chunks it took.
    Cuts,
    /// The state written is followed by how often it was restored.
    Restores,
    /// No snapshot is good enough.
    Refuses,
    /// A bad command traps when half of it is done.
    Traps,
    /// A bad command has no outcome.
    Short,
    /// A bad command never ends.
    Loops,
    /// A bad command takes memory without end.
    Hungry,
    /// A bad command makes handles without end.
    Leaks,
    /// A bad command is answered at length: 128 MiB.
    Floods,
    /// The reply shows the bits of numbers that are not.
    Nans,
    /// Starting never ends, traps, or takes memory without end.
    InitLoops,
    InitTraps,
    InitHungry,
    /// No query ends.
    QueryLoops,
    /// Every query traps.
    QueryTraps,
    /// The end of a session traps.
    EndTraps,
    /// No snapshot ends, by chunk or by number of chunks; it traps, or there is nothing in it.
    SnapshotLoops,
    SnapshotEndless,
    SnapshotTraps,
    SnapshotEmpty,
    /// Its version is no name.
    Nameless,
}

const BREACHES: &[(&str, Breach)] = &[
    ("", Breach::None),
    ("batches", Breach::Batches),
    ("queries", Breach::Queries),
    ("counted-queries", Breach::CountedQueries),
    ("moods", Breach::Moods),
    ("forgets", Breach::Forgets),
    ("cuts", Breach::Cuts),
    ("restores", Breach::Restores),
    ("refuses", Breach::Refuses),
    ("traps", Breach::Traps),
    ("short", Breach::Short),
    ("loops", Breach::Loops),
    ("hungry", Breach::Hungry),
    ("leaks", Breach::Leaks),
    ("floods", Breach::Floods),
    ("nans", Breach::Nans),
    ("init-loops", Breach::InitLoops),
    ("init-traps", Breach::InitTraps),
    ("init-hungry", Breach::InitHungry),
    ("query-loops", Breach::QueryLoops),
    ("query-traps", Breach::QueryTraps),
    ("end-traps", Breach::EndTraps),
    ("snapshot-loops", Breach::SnapshotLoops),
    ("snapshot-endless", Breach::SnapshotEndless),
    ("snapshot-traps", Breach::SnapshotTraps),
    ("snapshot-empty", Breach::SnapshotEmpty),
    ("nameless", Breach::Nameless),
];

/// Every how many commands one is bad.
const BAD: usize = 10;

/// What was applied, and what a backend must not look at.
struct State {
    breach: Breach,
    commands: Vec<Vec<u8>>,
    calls: usize,
    queries: usize,
    restores: u8,
}

thread_local! {
    static STATE: RefCell<State> = const {
        RefCell::new(State { breach: Breach::None, commands: Vec::new(), calls: 0, queries: 0, restores: 0 })
    };
}

fn with<R>(call: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(call)
}

fn breach_named(config: &[u8]) -> Result<Breach, String> {
    let found = BREACHES.iter().find(|(name, _)| name.as_bytes() == config);
    found.map(|(_, breach)| *breach).ok_or_else(|| format!("no breach is called '{}'", String::from_utf8_lossy(config)))
}

struct Broken;

impl machine::Guest for Broken {
    type SnapshotReader = Reader;
    type SnapshotWriter = Writer;

    fn version() -> String {
        if with(|state| state.breach) == Breach::Nameless { String::new() } else { "broken 1".to_owned() }
    }

    fn init(config: Vec<u8>) -> Result<(), String> {
        let breach = breach_named(&config)?;
        with(|state| state.breach = breach);
        match breach {
            Breach::InitLoops => never_end(),
            Breach::InitTraps => panic!("told to"),
            Breach::InitHungry => take_memory(),
            _ => Ok(()),
        }
    }

    fn apply(commands: Vec<machine::Command>) -> Vec<machine::Outcome> {
        with(|state| {
            state.calls += 1;
            commands.into_iter().filter_map(|command| state.apply(command.data)).collect()
        })
    }

    fn query(request: Vec<u8>) -> machine::Answer {
        with(|state| {
            state.queries += 1;
            match state.breach {
                Breach::QueryLoops => never_end(),
                Breach::QueryTraps => panic!("told to"),
                Breach::Queries => state.commands.push(request),
                _ => {}
            }
            let seen = if state.breach == Breach::Moods { state.queries } else { state.commands.len() };
            machine::Answer { reply: Ok(seen.to_string().into_bytes()), watched: vec![b"all".to_vec()] }
        })
    }

    fn expire_session(_index: u64, _time_ms: u64, session: u64) -> Vec<Vec<u8>> {
        with(|state| {
            assert!(state.breach != Breach::EndTraps, "told to");
            state.commands.push(session.to_le_bytes().to_vec());
            vec![b"all".to_vec()]
        })
    }

    fn snapshot() -> machine::SnapshotReader {
        with(|state| assert!(state.breach != Breach::SnapshotTraps, "told to"));
        machine::SnapshotReader::new(Reader::default())
    }

    fn restore(origin: machine::Origin) -> Result<machine::SnapshotWriter, String> {
        let breach = breach_named(&origin.config)?;
        with(|state| state.breach = breach);
        if breach == Breach::Refuses {
            return Err("no snapshot is good enough".to_owned());
        }
        Ok(machine::SnapshotWriter::new(Writer::default()))
    }
}

impl State {
    fn apply(&mut self, command: Vec<u8>) -> Option<machine::Outcome> {
        self.commands.push(command);
        let place = self.commands.len();
        let is_bad = place.is_multiple_of(BAD);
        let reply = match self.breach {
            Breach::Batches => format!("{place} in call {}", self.calls).into_bytes(),
            Breach::CountedQueries => format!("{place} after {} queries", self.queries).into_bytes(),
            Breach::Nans => nans(),
            Breach::Traps if is_bad => panic!("told to"),
            Breach::Short if is_bad => return None,
            Breach::Loops if is_bad => never_end(),
            Breach::Hungry if is_bad => take_memory(),
            Breach::Leaks if is_bad => leak(),
            Breach::Floods if is_bad => vec![1; 128 << 20],
            _ => place.to_string().into_bytes(),
        };
        Some(machine::Outcome { reply: Ok(reply), changed: vec![b"all".to_vec()] })
    }

    /// A byte for how often it was restored, the number of calls, then each command behind its length. Neither of the first
    /// two but where it is what is broken.
    fn encode(&self) -> Vec<u8> {
        let restores = if self.breach == Breach::Restores { self.restores } else { 0 };
        let calls = if self.breach == Breach::Batches { self.calls } else { 0 };
        let mut bytes = vec![restores];
        bytes.extend(calls.to_le_bytes());
        for command in &self.commands {
            bytes.extend((command.len() as u32).to_le_bytes());
            bytes.extend(command);
        }
        bytes
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (restores, rest) = bytes.split_first().ok_or("an empty snapshot")?;
        let (calls, mut rest) = rest.split_first_chunk().ok_or("a snapshot that is cut short")?;
        (self.restores, self.calls) = (restores + 1, usize::from_le_bytes(*calls));
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (command, after) =
                after.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a command is cut short")?;
            self.commands.push(command.to_vec());
            rest = after;
        }
        if self.breach == Breach::Forgets {
            self.commands.pop();
        }
        Ok(())
    }
}

#[derive(Default)]
struct Reader(RefCell<Reading>);

#[derive(Default)]
struct Reading {
    rest: Option<Vec<u8>>,
    chunks: u8,
}

impl machine::GuestSnapshotReader for Reader {
    fn next(&self, max_bytes: u32) -> Option<Vec<u8>> {
        let breach = with(|state| state.breach);
        match breach {
            Breach::SnapshotLoops => never_end(),
            Breach::SnapshotEndless => return Some(vec![7; max_bytes as usize]),
            Breach::SnapshotEmpty => return None,
            _ => {}
        }
        let mut reading = self.0.borrow_mut();
        let mut chunk = match reading.rest.take() {
            Some(rest) => rest,
            None => with(|state| state.encode()),
        };
        reading.rest = Some(chunk.split_off(chunk.len().min(max_bytes as usize)));
        if chunk.is_empty() && breach == Breach::Cuts && reading.chunks > 0 {
            // Read back as the beginning of a length that never comes.
            chunk.push(std::mem::take(&mut reading.chunks));
            return Some(chunk);
        }
        reading.chunks = reading.chunks.wrapping_add(1).max(1);
        (!chunk.is_empty()).then_some(chunk)
    }
}

#[derive(Default)]
struct Writer(RefCell<Vec<u8>>);

impl machine::GuestSnapshotWriter for Writer {
    fn write(&self, chunk: Vec<u8>) -> Result<(), String> {
        self.0.borrow_mut().extend(chunk);
        Ok(())
    }

    fn finish(writer: machine::SnapshotWriter) -> Result<(), String> {
        let bytes = writer.into_inner::<Writer>().0.into_inner();
        with(|state| state.decode(&bytes))
    }
}

fn never_end() -> ! {
    loop {
        std::hint::black_box(());
    }
}

fn take_memory() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}

fn leak() -> ! {
    loop {
        std::mem::forget(machine::SnapshotReader::new(Reader::default()));
    }
}

/// The bits of what several operations make of numbers; processors have bits of their own for such results.
fn nans() -> Vec<u8> {
    let hide = std::hint::black_box::<f64>;
    let (zero, infinity, signalling) = (hide(0.0), hide(f64::INFINITY), hide(f64::from_bits(0xfff0_0000_dead_beef)));
    let results = [
        zero / hide(0.0),
        infinity - hide(f64::INFINITY),
        infinity * zero,
        signalling + 1.0,
        hide(-1.0).sqrt(),
        f64::from(signalling as f32),
    ];
    results.into_iter().flat_map(|result| hide(result).to_bits().to_le_bytes()).collect()
}

bindings::export_backend!(Broken with_types_in bindings);

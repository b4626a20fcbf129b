//! Components that are made to hurt, through the seams that the rest of zraft uses. `docs/hostile.md` lists all cases with
//! their tests.

use std::sync::Arc;

use super::*;
use crate::machine::{
    BackendFactory, BackendSource, Command, Fault, Genesis, Machine, NoOthers, Outcome, Past, Ran, Ruling, Rulings,
    Run, Runner, SnapshotError,
};
use crate::raft::{Entry, Payload};
use crate::settings::Settings;
use crate::types::{Digest, Index, Term};
use crate::wasm::ComponentError;

const BROKEN: &[u8] = include_bytes!("../../../tests/components/broken.wasm");
const MINIMAL: &str = include_str!("../../../tests/components/minimal.wat");

static BROKEN_BACKEND: LazyLock<WasmBackend> = LazyLock::new(|| WASM.1.compile(BROKEN).unwrap());

/// The one command in so many of `broken` that is bad.
const BAD: u64 = 10;

fn start(backend: &WasmBackend, config: &str) -> Result<Box<dyn Backend>, StartError> {
    backend.factory(CLUSTER, SMALL).init(at(0), config.as_bytes())
}

fn broken(config: &str) -> Box<dyn Backend> {
    start(&BROKEN_BACKEND, config).unwrap()
}

/// The minimal component with something else in place of a part of it.
fn minimal(part: &str, replacement: &str) -> Result<WasmBackend, ComponentError> {
    assert!(MINIMAL.contains(part), "there is no {part}");
    WASM.1.compile(&wat::parse_str(MINIMAL.replace(part, replacement)).unwrap())
}

fn died<T: std::fmt::Debug>(result: Result<T, Fault>) -> (GuestFault, String) {
    match result {
        Err(Fault::Guest { kind, message }) => (kind, message),
        other => panic!("the guest was not blamed: {other:?}"),
    }
}

fn died_starting(backend: &WasmBackend, config: &str) -> (GuestFault, String) {
    match start(backend, config) {
        Err(StartError::Fault(fault)) => died(Err::<(), _>(fault)),
        other => panic!("{config}: {:?}", other.err()),
    }
}

fn commands() -> Vec<BackendCommand> {
    (1..=BAD).map(|index| command(index, "x")).collect()
}

#[test]
fn the_minimal_component_is_a_backend() {
    let backend = minimal("(;apply;)", "").unwrap();
    let mut instance = start(&backend, "").unwrap();
    assert_eq!(instance.version().unwrap(), "minimal 1");
    assert_eq!(instance.apply(&commands()).unwrap().len() as u64, BAD);
    assert_eq!(instance.query(at(1), b"x").unwrap().reply, Ok(Bytes::new()));
    assert_eq!(instance.expire_session(at(2), 1), Ok(vec![]));
    assert_eq!(snapshot(&mut *instance, 100), Vec::<Bytes>::new());
    restore(&backend, "minimal 1", vec!["x".into()]).unwrap();
}

#[test]
fn features_that_differ_between_machines_are_refused() {
    let cases = [
        ("(func (param i32) (drop (i32.atomic.load (local.get 0))))", "threads"),
        ("(func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))", "relaxed SIMD"),
        ("(memory i64 1)", "64-bit memories"),
        ("(tag) (func (throw 0))", "exceptions"),
        ("(type (struct))", "garbage collection"),
    ];
    for (code, what) in cases {
        let refused = minimal("(;functions;)", code).map(drop);
        assert!(matches!(refused, Err(ComponentError::Malformed(_))), "{what}: {refused:?}");
    }
}

#[test]
fn a_hundred_thousand_functions_and_deep_types_are_borne_or_refused() {
    let functions = "(func)".repeat(100_000);
    let backend = minimal("(;functions;)", &functions).unwrap();
    assert_eq!(start(&backend, "").unwrap().version().unwrap(), "minimal 1");

    let depth = 100_000;
    let types: String = (1..depth).map(|number| format!("(type $t{number} (list $t{}))", number - 1)).collect();
    let nested =
        format!("(component (type $t0 (list u8)) {types} (import \"deep\" (func (param \"x\" $t{}))))", depth - 1);
    let refused = WASM.1.compile(&wat::parse_str(nested).unwrap()).map(drop);
    assert!(refused.is_err(), "it imports what nobody is given, at best");
}

/// A function whose body is as large as the engine takes: it compiles, or is refused, and no more.
#[test]
fn a_function_that_is_all_branches_is_borne_or_refused() {
    let body = "(block (br_if 0 (i32.const 1)) (drop (i32.add (i32.const 1) (i32.const 2))))".repeat(20_000);
    match minimal("(;functions;)", &format!("(func {body})")) {
        Ok(backend) => assert_eq!(start(&backend, "").unwrap().version().unwrap(), "minimal 1"),
        Err(error) => assert!(matches!(error, ComponentError::Malformed(_)), "{error}"),
    }
}

#[test]
fn a_component_that_is_too_large_from_the_start_is_refused_by_its_budget() {
    let memory = minimal("\"memory\") 2)", "\"memory\") 65536)").unwrap();
    let (kind, message) = died_starting(&memory, "");
    assert_eq!(kind, GuestFault::OutOfMemory);
    assert!(message.contains("4294967296 bytes of memory and may have 16777216"), "{message}");
    let table = minimal("(table $table 1", "(table $table 5000000").unwrap();
    let (kind, message) = died_starting(&table, "");
    assert_eq!(kind, GuestFault::OutOfMemory);
    assert!(message.contains("5000000 table elements"), "{message}");
}

#[test]
fn starting_is_bounded_like_every_call() {
    let looping = minimal("(;functions;)", "(func $forever (loop (br 0))) (start $forever)").unwrap();
    assert_eq!(died_starting(&looping, "").0, GuestFault::OutOfFuel);
    assert_eq!(died_starting(&BROKEN_BACKEND, "init-loops").0, GuestFault::OutOfFuel);
    assert_eq!(died_starting(&BROKEN_BACKEND, "init-traps").0, GuestFault::Trap);
    assert_eq!(died_starting(&BROKEN_BACKEND, "init-hungry").0, GuestFault::OutOfMemory);
}

#[test]
fn loops_in_every_call_end_with_the_fuel() {
    assert_eq!(died(broken("loops").apply(&commands())).0, GuestFault::OutOfFuel);
    assert_eq!(died(broken("query-loops").query(at(1), b"x")).0, GuestFault::OutOfFuel);
    let looping = minimal("(;version;)", "(loop (br 0))").unwrap();
    assert_eq!(died(start(&looping, "").unwrap().version()).0, GuestFault::OutOfFuel);
}

#[test]
fn growing_without_end_is_a_fault_and_never_a_refusal_that_the_guest_sees() {
    for (grow, what) in [
        ("(loop (drop (memory.grow (i32.const 1))) (br 0))", "bytes of memory"),
        ("(loop (drop (table.grow $table (ref.null func) (i32.const 1000))) (br 0))", "table elements"),
    ] {
        let backend = minimal("(;apply;)", grow).unwrap();
        let (kind, message) = died(start(&backend, "").unwrap().apply(&commands()));
        assert_eq!(kind, GuestFault::OutOfMemory, "{grow}: {message}");
        assert!(message.contains(what), "{grow}: {message}");
    }
    assert_eq!(died(broken("hungry").apply(&commands())).0, GuestFault::OutOfMemory);
}

/// What is returned is read with care.
#[test]
fn pointers_and_texts_that_are_none_break_the_contract() {
    let query = |body: &str| {
        let backend = minimal("(;query;)", body).unwrap();
        died(start(&backend, "").unwrap().query(at(1), b"x"))
    };
    let returning = |kind: u32, pointer: u32, length: u32| {
        format!(
            "(i32.store (i32.const 16) (i32.const {kind})) (i32.store (i32.const 20) (i32.const {pointer}))
             (i32.store (i32.const 24) (i32.const {length})) (i32.const 16) return"
        )
    };
    for (body, what) in [
        ("(return (i32.const 0x7fffff00))".to_owned(), "an answer beyond memory"),
        ("(return (i32.const 17))".to_owned(), "an answer that is not aligned"),
        (returning(0, 0x7fff_0000, 8), "a reply beyond memory"),
        (returning(0, 0, u32::MAX), "a reply longer than memory"),
        (returning(7, 0, 0), "neither a reply nor a refusal"),
        ("(i32.store (i32.const 128) (i32.const 0xffffffff))".to_owned() + &returning(1, 128, 4), "not UTF-8"),
    ] {
        let (kind, message) = query(&body);
        assert_eq!(kind, GuestFault::BrokenContract, "{what}: {message}");
    }
    // Where arguments are to be put is a pointer as well, first those of the start.
    let end = "(local.get $at))\n      (func (export \"version\")";
    let beyond = minimal(end, &end.replace("(local.get $at)", "(i32.const 0x7fffff00)")).unwrap();
    assert_eq!(died_starting(&beyond, "").0, GuestFault::BrokenContract);
    let handle = minimal("(call $new-reader (i32.const 0))", "(i32.const 77)").unwrap();
    let failed = start(&handle, "").unwrap().snapshot(at(1), 100, &mut |_| Ok(()));
    let Err(SnapshotError::Fault(fault)) = failed else { panic!("{failed:?}") };
    died(Err::<(), _>(fault));
}

#[test]
fn an_answer_of_128_mib_breaks_the_contract() {
    let roomy = Budgets { memory_bytes: 512 << 20, apply_fuel: 1_000_000_000, ..SMALL };
    let mut backend = BROKEN_BACKEND.factory(CLUSTER, roomy).init(at(0), b"floods").unwrap();
    let bad = commands();
    let (good, bad) = bad.split_at(bad.len() - 1);
    backend.apply(good).unwrap();
    let (kind, message) = died(backend.apply(bad));
    assert_eq!(kind, GuestFault::BrokenContract, "{message}");
}

#[test]
fn handles_without_end_are_a_fault() {
    let (kind, message) = died(broken("leaks").apply(&commands()));
    assert!(matches!(kind, GuestFault::Trap | GuestFault::BrokenContract), "{kind}: {message}");
    assert!(message.contains("handle") || message.contains("resource"), "{message}");
}

#[test]
fn what_is_not_a_number_has_the_same_bits_everywhere() {
    let outcomes = broken("nans").apply(&commands()).unwrap();
    let reply = outcomes[0].reply.clone().unwrap();
    let bits = reply.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    assert_eq!(bits.collect::<Vec<_>>(), [0x7ff8_0000_0000_0000; 6]);
}

#[test]
fn a_snapshot_that_does_not_end_traps_or_is_refused_is_told_apart() {
    let failed = |config: &str| {
        let mut backend = broken(config);
        backend.apply(&commands()).unwrap();
        match backend.snapshot(at(BAD), 1 << 16, &mut |_| Ok(())) {
            Err(SnapshotError::Fault(fault)) => died(Err::<(), _>(fault)),
            other => panic!("{config}: {other:?}"),
        }
    };
    assert_eq!(failed("snapshot-traps").0, GuestFault::Trap);
    assert_eq!(failed("snapshot-loops").0, GuestFault::OutOfFuel);
    let (kind, message) = failed("snapshot-endless");
    assert_eq!(kind, GuestFault::BrokenContract);
    assert!(message.contains("does not end"), "{message}");

    let mut empty = broken("snapshot-empty");
    empty.apply(&commands()).unwrap();
    assert_eq!(snapshot(&mut *empty, 100), Vec::<Bytes>::new());
    let refused = |config: &'static str, chunks: Vec<Bytes>| {
        let origin = Origin { version: "broken 1".to_owned(), config: config.into(), migration: None };
        let mut chunks = chunks.into_iter();
        let restored = BROKEN_BACKEND.factory(CLUSTER, SMALL).restore(at(0), &origin, &mut || Ok(chunks.next()));
        assert!(matches!(restored, Err(StartError::Refused(_))), "{config}");
    };
    refused("snapshot-empty", Vec::new());
    refused("refuses", snapshot(&mut *broken("refuses"), 100));
}

/// A log from its beginning.
struct Log(Vec<Entry>);

impl Log {
    fn genesis(config: &'static str) -> Genesis {
        let settings = Settings { budgets: SMALL, ..Settings::default() };
        Genesis { cluster: CLUSTER, component: Digest::of(BROKEN), config: config.into(), settings }
    }
}

impl BackendSource for Log {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        NoOthers.factory(component)
    }
}

impl Past for Log {
    type Error = StartError;

    fn begin(&mut self) -> Result<Machine, StartError> {
        Machine::start(Self::genesis("traps"), &BROKEN_BACKEND.factory(CLUSTER, SMALL))
    }

    fn entries(&mut self, from: Index, to: Index) -> Result<Option<Vec<Entry>>, StartError> {
        Ok(Some(self.0.iter().filter(|entry| (from..=to).contains(&entry.index)).cloned().collect()))
    }
}

#[test]
fn of_a_command_that_traps_halfway_nothing_is_left() {
    let entry = |index| {
        let payload = Payload::Data(Command::Write { data: "x".into() }.encode());
        Entry { term: Term(1), index: Index(index), time_ms: 0, payload }
    };
    let mut log = Log((1..=BAD + 1).map(entry).collect());
    let mut runner = Runner::new(log.begin().unwrap());
    let all = Run { entries: log.0.clone(), rulings: Rulings::default() };
    let Ran { applied, died } = runner.apply(&all, &mut log).unwrap();
    let died = died.expect("the tenth command is bad");
    assert_eq!((applied.len() as u64, died.on), (BAD - 1, Index(BAD)));

    // It had added itself to the state before it trapped. Without it, the next is the tenth, and just as bad.
    let skip = |index, fault| (Index(index), Ruling::Skip(fault));
    let rest = log.0[BAD as usize - 1..].to_vec();
    let rulings = Rulings { rulings: vec![skip(BAD, died.fault)], ..Rulings::default() };
    let ran = runner.apply(&Run { entries: rest, rulings }, &mut log).unwrap();
    assert!(matches!(ran.applied[0].outcome, Outcome::Written(Err(_))));
    assert_eq!(ran.died.map(|died| died.on), Some(Index(BAD + 1)));
}

//! The key-value backend through the trait: what a replica does with it.

use super::*;
use crate::codec::{decode, encode};

type Entry = (Vec<u8>, Vec<u8>, u64, Option<u64>);

// The wire format as `guests/kv/src/api.rs` has it, spelled out: a variant's number, then its fields.
const PUT: u32 = 0;
const GET: u32 = 0;
const RANGE: u32 = 1;
const WRITTEN: u32 = 0;
const ENTRY: u32 = 3;
const ENTRIES: u32 = 4;

fn put(index: u64, key: &str, value: &str) -> BackendCommand {
    command(index, encode(&(PUT, key.as_bytes(), value.as_bytes())))
}

fn get(backend: &mut dyn Backend, key: &str) -> Option<Entry> {
    let answer = backend.query(at(9), &encode(&(GET, key.as_bytes()))).unwrap();
    assert_eq!(answer.watched, [Bytes::copy_from_slice(key.as_bytes())]);
    let (variant, entry): (u32, Option<Entry>) = decode(&answer.reply.unwrap()).unwrap();
    assert_eq!(variant, ENTRY);
    entry
}

fn puts(count: u64) -> Vec<BackendCommand> {
    (1..=count).map(|index| put(index, &format!("k/{}", index % 100), &format!("value {index}"))).collect()
}

#[test]
fn commands_get_outcomes_in_order_and_queries_see_them() {
    let mut kv = kv();
    let outcomes = kv.apply(&[put(5, "a", "1"), command(6, "?"), put(7, "d/b", "2")]).unwrap();
    assert_eq!(outcomes[0].reply, Ok(encode(&(WRITTEN, 5u64)).into()));
    assert_eq!(outcomes[0].changed, [Bytes::new(), Bytes::from("a")]);
    assert!(outcomes[1].reply.as_ref().unwrap_err().starts_with("malformed command"), "{:?}", outcomes[1]);
    assert_eq!(outcomes[2].changed, [Bytes::new(), Bytes::from("d/"), Bytes::from("d/b")]);
    assert_eq!(get(&mut *kv, "a"), Some((b"a".to_vec(), b"1".to_vec(), 5, None)));
    assert_eq!(get(&mut *kv, "b"), None);
    let answer = kv.query(at(9), &encode(&(RANGE, "", None::<Vec<u8>>, 10u32))).unwrap();
    let (variant, entries, more): (u32, Vec<Entry>, bool) = decode(&answer.reply.unwrap()).unwrap();
    assert_eq!((variant, entries.len(), more), (ENTRIES, 2, false));
}

#[test]
fn an_expired_session_takes_its_entries_along() {
    let mut kv = kv();
    kv.apply(&[BackendCommand { session: Some(3), ..put(4, "mine", "1") }, put(5, "other", "1")]).unwrap();
    assert_eq!(get(&mut *kv, "mine").unwrap().3, Some(3));
    assert_eq!(kv.expire_session(at(6), 3).unwrap(), [Bytes::new(), Bytes::from("mine")]);
    assert_eq!(get(&mut *kv, "mine"), None);
    assert!(get(&mut *kv, "other").is_some());
}

#[test]
fn a_restored_instance_is_equal_and_goes_on_equally() {
    let mut original = kv();
    original.apply(&puts(500)).unwrap();
    let chunks = snapshot(&mut *original, 1000);
    assert!(chunks.len() > 1 && chunks.iter().all(|chunk| chunk.len() <= 1000));
    let version = original.version().unwrap();
    let mut restored = restore(&KV_BACKEND, &version, chunks).unwrap();
    let next = [put(501, "k/1", "x"), put(502, "new", "y")];
    assert_eq!(restored.apply(&next), original.apply(&next));
    assert_eq!(snapshot(&mut *restored, 4096).concat(), snapshot(&mut *original, 512).concat());
}

#[test]
fn how_commands_are_batched_does_not_matter() {
    let commands = puts(300);
    let run = |size: usize| {
        let mut kv = kv();
        let outcomes: Vec<BackendOutcome> = commands.chunks(size).flat_map(|batch| kv.apply(batch).unwrap()).collect();
        (outcomes, snapshot(&mut *kv, 1 << 20))
    };
    let expected = run(300);
    assert_eq!(run(1), expected);
    assert_eq!(run(7), expected);
}

#[test]
fn a_batch_larger_than_the_guests_memory_is_split() {
    let mut kv = kv();
    let value = "v".repeat(64 << 10);
    let commands: Vec<BackendCommand> = (1..=1000).map(|index| put(index, "same", &value)).collect();
    assert!(commands.iter().map(|command| command.data.len() as u64).sum::<u64>() > SMALL.memory_bytes);
    assert_eq!(kv.apply(&commands).unwrap().len(), commands.len());
}

#[test]
fn no_commands_are_no_call() {
    assert_eq!(kv().apply(&[]), Ok(Vec::new()));
}

#[test]
fn a_bad_config_and_bad_snapshots_are_refused() {
    let factory = KV_BACKEND.factory(CLUSTER, SMALL);
    assert!(matches!(factory.init(at(0), b"x"), Err(StartError::Refused(_))));
    let refused = |version, chunk: &'static [u8]| match restore(&KV_BACKEND, version, vec![chunk.into()]) {
        Err(StartError::Refused(reason)) => reason,
        other => panic!("not refused: {:?}", other.err()),
    };
    assert!(refused("kv 0", b"").contains("'kv 0'"));
    assert!(refused("kv 1", b"\x05\x00\x00\x00ab").contains("cut short"));
    refused("kv 1", b"\x01\x00\x00\x00\xff");
}

#[test]
fn a_source_or_sink_that_fails_is_told_apart_and_leaves_the_instance_alive() {
    let origin = Origin { version: "kv 1".to_owned(), config: Bytes::new(), migration: None };
    let mut source = || Err("the disk".to_owned());
    let failed = KV_BACKEND.factory(CLUSTER, SMALL).restore(at(0), &origin, &mut source);
    assert_eq!(failed.err(), Some(StartError::Source("the disk".to_owned())));

    let mut kv = kv();
    kv.apply(&puts(100)).unwrap();
    let failed = kv.snapshot(at(100), 100, &mut |_| Err("the disk".to_owned()));
    assert_eq!(failed, Err(crate::machine::SnapshotError::Sink("the disk".to_owned())));
    assert!(get(&mut *kv, "k/1").is_some());
    assert!(!snapshot(&mut *kv, 100).is_empty());
}

use super::*;
use api::prefix_end;
use zraft_backend::testing::Cluster;

fn key(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn put(kv: &mut Kv, index: u64, session: Option<u64>, name: &str, value: &str) -> Vec<Vec<u8>> {
    let mut at = Apply::at(index, 0).ephemeral(session);
    let command = KvCommand::Put { key: key(name), value: key(value) };
    assert_eq!(kv.apply(command, &mut at), Ok(KvReply::Written { index }));
    at.into_changed()
}

fn apply(kv: &mut Kv, index: u64, command: KvCommand) -> KvReply {
    kv.apply(command, &mut Apply::at(index, 0)).unwrap()
}

fn keys(kv: &Kv, start: &str, end: Option<Vec<u8>>, limit: u32) -> (Vec<String>, bool) {
    let query = KvQuery::Range { start: key(start), end, limit };
    let Ok(KvReply::Entries { entries, more }) = kv.query(query, &mut Query::default()) else {
        panic!("a range is answered with entries")
    };
    (entries.into_iter().map(|entry| String::from_utf8(entry.key).unwrap()).collect(), more)
}

fn watched(start: &str, end: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut at = Query::default();
    Kv::default().query(KvQuery::Range { start: key(start), end, limit: 1 }, &mut at).unwrap();
    at.into_watched()
}

#[test]
fn what_was_put_is_read_until_it_is_deleted() {
    let mut kv = Kv::default();
    put(&mut kv, 7, None, "a", "1");
    let expected = KvEntry { key: key("a"), value: key("1"), index: 7, session: None };
    let get = KvQuery::Get { key: key("a") };
    assert_eq!(kv.query(get.clone(), &mut Query::default()), Ok(KvReply::Entry(Some(expected))));
    assert_eq!(apply(&mut kv, 8, KvCommand::Delete { key: key("a") }), KvReply::Deleted { existed: true });
    assert_eq!(apply(&mut kv, 9, KvCommand::Delete { key: key("a") }), KvReply::Deleted { existed: false });
    assert_eq!(kv.query(get, &mut Query::default()), Ok(KvReply::Entry(None)));
}

#[test]
fn compare_and_set_changes_only_what_is_as_expected() {
    let mut kv = Kv::default();
    let mut cas = |index, expected, new: Option<&str>| {
        let command = KvCommand::CompareAndSet { key: key("a"), expected, new: new.map(key) };
        apply(&mut kv, index, command)
    };
    assert_eq!(cas(1, KvExpected::Value(key("x")), Some("1")), KvReply::Conflict { current: None });
    assert_eq!(cas(2, KvExpected::Absent, Some("1")), KvReply::Written { index: 2 });
    assert!(matches!(cas(3, KvExpected::Absent, Some("2")), KvReply::Conflict { current: Some(_) }));
    assert_eq!(cas(4, KvExpected::Value(key("1")), Some("2")), KvReply::Written { index: 4 });
    assert!(matches!(cas(5, KvExpected::Index(2), None), KvReply::Conflict { .. }));
    assert_eq!(cas(6, KvExpected::Index(4), None), KvReply::Deleted { existed: true });
}

#[test]
fn a_session_takes_its_entries_along_unless_they_were_taken_over() {
    let mut kv = Kv::default();
    put(&mut kv, 1, Some(50), "mine", "1");
    put(&mut kv, 2, Some(50), "taken", "1");
    put(&mut kv, 3, Some(50), "stolen", "1");
    put(&mut kv, 4, None, "taken", "2");
    put(&mut kv, 5, Some(60), "stolen", "2");
    let mut at = Apply::at(6, 0);
    kv.expire_session(50, &mut at);
    assert_eq!(at.into_changed(), [key(""), key("mine")]);
    assert_eq!(keys(&kv, "", None, 9), (vec!["stolen".to_owned(), "taken".to_owned()], false));
    kv.expire_session(60, &mut Apply::at(7, 0));
    assert_eq!(keys(&kv, "", None, 9), (vec!["taken".to_owned()], false));
    assert!(kv.owned.is_empty());
}

#[test]
fn ranges_are_ordered_bounded_and_never_panic() {
    let mut kv = Kv::default();
    for (index, name) in ["b", "a/2", "a/1", "c"].into_iter().enumerate() {
        put(&mut kv, index as u64 + 1, None, name, "");
    }
    assert_eq!(keys(&kv, "a/", prefix_end(b"a/"), 9), (vec!["a/1".to_owned(), "a/2".to_owned()], false));
    assert_eq!(keys(&kv, "a/2", None, 2), (vec!["a/2".to_owned(), "b".to_owned()], true));
    assert_eq!(keys(&kv, "c", Some(key("b")), 9), (vec![], false));
    assert_eq!(keys(&kv, "b", Some(key("b")), 9), (vec![], false));
    assert_eq!(prefix_end(b"a\xff"), Some(key("b")));
    assert_eq!(prefix_end(b"\xff"), None);
}

#[test]
fn a_range_ends_at_its_byte_bound() {
    let mut kv = Kv::default();
    let big = "x".repeat(MAX_RANGE_BYTES);
    put(&mut kv, 1, None, "a", &big);
    put(&mut kv, 2, None, "b", &big);
    assert_eq!(keys(&kv, "", None, 9), (vec!["a".to_owned()], true));
}

#[test]
fn a_range_watches_a_folder_that_every_change_within_it_names() {
    let changed = put(&mut Kv::default(), 1, None, "a/b/c", "");
    assert_eq!(changed, [key(""), key("a/"), key("a/b/"), key("a/b/c")]);
    assert_eq!(watched("a/b/", prefix_end(b"a/b/")), [key("a/b/")]);
    assert_eq!(watched("a/b", prefix_end(b"a/b")), [key("a/")]);
    assert_eq!(watched("a/b/", Some(key("a/b/x"))), [key("a/b/")]);
    assert_eq!(watched("a/", None), [key("")]);
    assert_eq!(watched("a/b", Some(key("b"))), [key("")]);
    // A key below more folders than are named still names the first ones.
    let deep = "d/".repeat(MAX_FOLDERS + 2);
    let changed = put(&mut Kv::default(), 1, None, &format!("{deep}x"), "");
    assert!(changed.contains(&watched(&deep, prefix_end(deep.as_bytes())).remove(0)));
}

#[test]
fn a_key_has_bounds() {
    let mut kv = Kv::default();
    for bad in [vec![], vec![0; MAX_KEY_BYTES + 1]] {
        let command = KvCommand::Put { key: bad, value: vec![] };
        assert!(kv.apply(command, &mut Apply::at(1, 0)).is_err());
    }
    assert_eq!(kv, Kv::default());
}

#[test]
fn a_snapshot_gives_the_same_state_for_every_chunk_size() {
    let mut kv = Kv::default();
    for index in 1..50u64 {
        let session = index.is_multiple_of(3).then_some(2);
        put(&mut kv, index, session, &format!("k{}", index % 20), &"v".repeat(index as usize));
    }
    let write = |max_bytes| {
        let (mut reader, mut chunks) = (Reader::default(), Vec::new());
        while let Some(chunk) = kv.next_chunk(&mut reader, max_bytes) {
            assert!((1..=max_bytes).contains(&chunk.len()));
            chunks.push(chunk);
        }
        chunks
    };
    for max_bytes in [1, 10, 64, 1 << 20] {
        let chunks = write(max_bytes);
        assert_eq!(chunks.concat(), write(4096).concat());
        let mut writer = Kv::begin(&Origin::default()).unwrap();
        chunks.into_iter().for_each(|chunk| Kv::take_chunk(&mut writer, chunk).unwrap());
        assert_eq!(Kv::finish(writer).as_ref(), Ok(&kv));
    }
}

/// The samples for `zraft backend check`, which the default tests of zraft run.
#[test]
fn the_samples_are_those_of_all_commands_and_queries() {
    let mut cluster = Cluster::<Kv>::start(b"").unwrap();
    let put = |name: &str, value: &str| KvCommand::Put { key: key(name), value: key(value) };
    let compare_and_set =
        |expected, new: Option<&str>| KvCommand::CompareAndSet { key: key("folder/b"), expected, new: new.map(key) };
    let session = cluster.open_session();
    cluster.write(&put("folder/a", "1")).unwrap();
    cluster.write_ephemeral(session, &put("folder/b", "2")).unwrap();
    let (range, on_folder) =
        cluster.watch(&KvQuery::Range { start: key("folder/"), end: Some(key("folder0")), limit: 9 });
    assert!(matches!(range, Ok(KvReply::Entries { entries, more: false }) if entries.len() == 2));
    cluster.write(&put("other", "3")).unwrap();
    assert!(!cluster.has_fired(on_folder));
    cluster.end_session(session);
    assert!(cluster.has_fired(on_folder));
    cluster.write(&compare_and_set(KvExpected::Absent, Some("4"))).unwrap();
    cluster.write(&compare_and_set(KvExpected::Value(key("4")), Some("5"))).unwrap();
    cluster.write(&compare_and_set(KvExpected::Index(cluster.index()), None)).unwrap();
    cluster.query(&KvQuery::Get { key: key("folder/a") }).unwrap();
    cluster.write(&KvCommand::Delete { key: key("folder/a") }).unwrap();
    cluster.write(&put("", "a key must not be empty")).unwrap_err();
    cluster.check();
    assert_eq!(cluster.samples(), include_str!("../samples.txt"));
}

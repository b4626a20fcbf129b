//! An ordered key-value store, replicated by zraft.
//!
//! Every entry keeps the log index of its last change, which serves for compare-and-set and as a fencing token. An entry
//! put by an ephemeral command goes when its session ends.
//!
//! # Keys of triggers
//!
//! A change of a key names the key itself and the folders it lies in: for `a/b/c`, these are `a/b/`, `a/` and the root,
//! which is empty. A get watches its key. A range watches the deepest folder that holds all of it, so its trigger may
//! fire for a change beside the range, never miss one within it. Only the first [`MAX_FOLDERS`] levels count.

pub mod api;
mod key;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use api::{KvCommand, KvEntry, KvExpected, KvQuery, KvReply, MAX_KEY_BYTES, MAX_RANGE_BYTES, MAX_RANGE_ENTRIES};
use key::Key;
use serde::{Serialize, Serializer};
use zraft_backend::{Apply, Backend, Bincode, Origin, Query, RecordReader, RecordWriter, Snapshot};

/// How many levels of folders have triggers of their own, the root not counted.
pub const MAX_FOLDERS: usize = 8;

/// The store. `owned` follows from `entries`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kv {
    entries: BTreeMap<Key, Stored>,
    owned: BTreeMap<u64, BTreeSet<Key>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    value: Vec<u8>,
    index: u64,
    session: Option<u64>,
}

impl Backend for Kv {
    const VERSION: &'static str = "kv 1";
    type Codec = Bincode;
    type Command = KvCommand;
    type Query = KvQuery;
    type Reply = KvReply;

    fn init(config: &[u8]) -> Result<Self, String> {
        if config.is_empty() { Ok(Self::default()) } else { Err("the kv backend takes no config".to_owned()) }
    }

    fn apply(&mut self, command: KvCommand, at: &mut Apply) -> Result<KvReply, String> {
        match command {
            KvCommand::Put { key, value } => self.put(key.into(), value, at),
            KvCommand::Delete { key } => self.delete(&key.into(), at),
            KvCommand::CompareAndSet { key, expected, new } => self.compare_and_set(key.into(), &expected, new, at),
        }
    }

    fn query(&self, query: KvQuery, at: &mut Query) -> Result<KvReply, String> {
        match query {
            KvQuery::Get { key } => {
                let key = Key::from(key);
                let entry = self.entry(&key);
                at.watch(key);
                Ok(KvReply::Entry(entry))
            }
            KvQuery::Range { start, end, limit } => {
                at.watch(folder_of_range(&start, end.as_deref()));
                Ok(self.range(start, end, limit))
            }
        }
    }

    fn expire_session(&mut self, session: u64, at: &mut Apply) {
        for key in self.owned.remove(&session).unwrap_or_default() {
            self.entries.remove(&key);
            name_changed(key, at);
        }
    }
}

impl Kv {
    fn put(&mut self, key: Key, value: Vec<u8>, at: &mut Apply) -> Result<KvReply, String> {
        let key_bytes = key.as_bytes().len();
        if !(1..=MAX_KEY_BYTES).contains(&key_bytes) {
            return Err(format!("a key has 1 to {MAX_KEY_BYTES} bytes, this one {key_bytes}"));
        }
        let stored = Stored { value, index: at.index(), session: at.session() };
        match self.entries.get_mut(&key) {
            // Most puts are like this, and need no other copy of the key.
            Some(before) if before.session == stored.session => *before = stored,
            _ => self.insert(key.clone(), stored),
        }
        name_changed(key, at);
        Ok(KvReply::Written { index: at.index() })
    }

    fn delete(&mut self, key: &Key, at: &mut Apply) -> Result<KvReply, String> {
        let Some((key, stored)) = self.entries.remove_entry(key) else {
            return Ok(KvReply::Deleted { existed: false });
        };
        self.disown(&key, stored.session);
        name_changed(key, at);
        Ok(KvReply::Deleted { existed: true })
    }

    fn compare_and_set(
        &mut self,
        key: Key,
        expected: &KvExpected,
        new: Option<Vec<u8>>,
        at: &mut Apply,
    ) -> Result<KvReply, String> {
        let stored = self.entries.get(&key);
        let matches = match expected {
            KvExpected::Absent => stored.is_none(),
            KvExpected::Value(value) => stored.is_some_and(|stored| stored.value == *value),
            KvExpected::Index(index) => stored.is_some_and(|stored| stored.index == *index),
        };
        match new {
            _ if !matches => Ok(KvReply::Conflict { current: self.entry(&key) }),
            Some(value) => self.put(key, value, at),
            None => self.delete(&key, at),
        }
    }

    fn insert(&mut self, key: Key, stored: Stored) {
        if let Some(session) = stored.session {
            self.owned.entry(session).or_default().insert(key.clone());
        }
        let session = stored.session;
        match self.entries.entry(key) {
            Entry::Vacant(place) => drop(place.insert(stored)),
            Entry::Occupied(mut place) => {
                let before = place.insert(stored).session;
                if before != session {
                    let key = place.key().clone();
                    self.disown(&key, before);
                }
            }
        }
    }

    fn disown(&mut self, key: &Key, session: Option<u64>) {
        let Some(session) = session else { return };
        let Some(keys) = self.owned.get_mut(&session) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.owned.remove(&session);
        }
    }

    fn entry(&self, key: &Key) -> Option<KvEntry> {
        self.entries.get_key_value(key).map(to_entry)
    }

    fn range(&self, start: Vec<u8>, end: Option<Vec<u8>>, limit: u32) -> KvReply {
        let (start, end) = (Key::from(start), end.map(Key::from));
        // BTreeMap::range panics on a range that ends before it starts.
        if end.as_ref().is_some_and(|end| *end <= start) {
            return KvReply::Entries { entries: Vec::new(), more: false };
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.entries.range((Bound::Included(start), end)).peekable();
        let limit = MAX_RANGE_ENTRIES.min(limit as usize);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while entries.len() < limit && bytes < MAX_RANGE_BYTES {
            let Some(entry) = rest.next().map(to_entry) else { break };
            bytes += entry.key.len() + entry.value.len();
            entries.push(entry);
        }
        KvReply::Entries { entries, more: rest.peek().is_some() }
    }
}

fn to_entry((key, stored): (&Key, &Stored)) -> KvEntry {
    KvEntry { key: key.as_bytes().to_vec(), value: stored.value.clone(), index: stored.index, session: stored.session }
}

/// Lengths of the folders that `key` lies in, the root first.
fn folders(key: &[u8]) -> impl Iterator<Item = usize> {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(position, _)| position + 1);
    std::iter::once(0).chain(slashes.take(MAX_FOLDERS)).filter(|length| *length < key.len())
}

fn name_changed(key: Key, at: &mut Apply) {
    for length in folders(key.as_bytes()) {
        at.changed(&key.as_bytes()[..length]);
    }
    at.changed(key);
}

/// The deepest folder that holds every key from `start` to before `end`.
fn folder_of_range(start: &[u8], end: Option<&[u8]>) -> Vec<u8> {
    let Some(end) = end else { return Vec::new() };
    // What all keys of the range begin with is what its first and its last do. The end is not in the range: that of
    // a prefix differs from the prefix in the last byte, and where it is a slash, the common part is too short by it.
    let common = match api::prefix_end(start) {
        Some(of_start) if of_start == end => start.len(),
        _ => start.iter().zip(end).take_while(|(left, right)| left == right).count(),
    };
    let slashes =
        start[..common].iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(position, _)| position + 1);
    let length = slashes.take(MAX_FOLDERS).last().unwrap_or(0);
    start[..length].to_vec()
}

/// How far a snapshot has been written.
#[derive(Debug, Default)]
pub struct Reader {
    last: Option<Key>,
    records: RecordWriter,
}

/// Bytes of an entry. With what else it has behind them in a tuple they are encoded as a [`KvEntry`] is, and nothing is copied
/// for that.
struct Piece<'a>(&'a [u8]);

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl Snapshot for Kv {
    type Reader = Reader;
    type Writer = (Kv, RecordReader);

    fn next_chunk(&self, reader: &mut Reader, max_bytes: usize) -> Option<Vec<u8>> {
        let start = reader.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = self.entries.range::<Key, _>((start, Bound::Unbounded));
        let mut last = None;
        while reader.records.pending_bytes() < max_bytes {
            let Some((key, Stored { value, index, session })) = entries.next() else { break };
            reader.records.push(&(Piece(key.as_bytes()), Piece(value), index, session));
            last = Some(key);
        }
        if let Some(last) = last {
            reader.last = Some(last.clone());
        }
        reader.records.take(max_bytes)
    }

    fn begin(_origin: &Origin) -> Result<(Kv, RecordReader), String> {
        Ok(Default::default())
    }

    fn take_chunk((kv, records): &mut (Kv, RecordReader), chunk: Vec<u8>) -> Result<(), String> {
        records.feed(&chunk, |KvEntry { key, value, index, session }| {
            kv.insert(key.into(), Stored { value, index, session });
            Ok(())
        })
    }

    fn finish((kv, records): (Kv, RecordReader)) -> Result<Kv, String> {
        records.finish()?;
        Ok(kv)
    }
}

zraft_backend::export!(Kv);

#[cfg(test)]
mod tests;

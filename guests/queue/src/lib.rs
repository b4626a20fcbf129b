//! Queues that deliver at least once, replicated by zraft.
//!
//! A worker takes an item in a session, by an ephemeral command, and acknowledges it when the work is done. The session
//! is the lease: when it ends before that, closed or not heard of for its timeout, the item comes back, before those
//! that were put later. So an item may be worked on more than once; its id tells a repetition. One that was taken
//! `max_attempts` times and never acknowledged is *dead*: it is kept, and not delivered any more, until somebody has
//! looked at it.
//!
//! # Messages
//!
//! JSON. Items are text. Commands of workers must be ephemeral, since a lease belongs to a session:
//!
//! | command | answer |
//! |---|---|
//! | `{"put":{"queue":"mail","item":"hello"}}` | `{"put":{"id":5}}` |
//! | `{"take":"mail"}`, ephemeral | `{"taken":{"id":5,"item":"hello","attempt":1}}`, or `"empty"` |
//! | `{"ack":5}`, ephemeral | `"done"`: the item is gone |
//! | `{"give_back":5}`, ephemeral | `"done"`: as if the session had ended |
//! | `{"revive":5}` | `"done"`: a dead item is delivered again, with all its attempts |
//! | `{"discard":5}` | `"done"`: a dead item is gone |
//!
//! | query | answer | watches |
//! |---|---|---|
//! | `{"count":"mail"}` | `{"counted":{"ready":3,"taken":1,"dead":0}}` | that an item becomes ready |
//! | `{"dead":"mail"}` | `{"dead":[{"id":5,"item":"hello"}]}`: the oldest [`MAX_LISTED`] | that an item dies, or is dead no more |
//!
//! A worker that found nothing asks `count` with a trigger, which fires when there is something to take. If several
//! are told, all but the first find nothing, and ask again.
//!
//! The config is JSON as well: `{"max_attempts":3}`. By default it is [`DEFAULT_MAX_ATTEMPTS`].
//!
//! ```text
//! $ zraft create jobs@127.0.0.1:7400 --backend queue --config '{"max_attempts":3}'
//! $ zraft write jobs@127.0.0.1:7400 '{"put":{"queue":"mail","item":"hello"}}'
//! {"put":{"id":2}}
//! $ zraft session jobs@127.0.0.1:7400
//! session 3 is open; `help` tells what to type
//! > ephemeral {"take":"mail"}
//! {"taken":{"id":2,"item":"hello","attempt":1}}
//! > ephemeral {"ack":2}
//! "done"
//! ```

pub mod api;

use std::collections::{BTreeMap, BTreeSet};

use api::{Answer, Command, DeadItem, Question};
use serde::{Deserialize, Serialize};
use zraft_backend::{Apply, Backend, Json, Origin, Query, RecordReader, RecordWriter, Snapshot};

/// Longest name of a queue, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// Most items of all queues together.
pub const MAX_ITEMS: usize = 1_000_000;

/// Most dead items in an answer.
pub const MAX_LISTED: usize = 100;

/// How often an item is taken before it is dead.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;

/// What a cluster is created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    max_attempts: u32,
}

impl Config {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Ok(Self { max_attempts: DEFAULT_MAX_ATTEMPTS });
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|error| format!("the queue's config: {error}"))?;
        if config.max_attempts == 0 { Err("max_attempts is at least 1".to_owned()) } else { Ok(config) }
    }
}

/// All items. Everything but `config` and `items` follows from these.
#[derive(Debug, PartialEq, Eq)]
pub struct Queues {
    config: Config,
    items: BTreeMap<u64, Item>,
    queues: BTreeMap<String, Queue>,
    taken_by: BTreeMap<u64, BTreeSet<u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    queue: String,
    text: String,
    attempts: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Ready,
    Taken { by: u64 },
    Dead,
}

/// The items of one queue, by where they are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Queue {
    ready: BTreeSet<u64>,
    taken: BTreeSet<u64>,
    dead: BTreeSet<u64>,
}

impl Queue {
    fn at(&mut self, place: Place) -> &mut BTreeSet<u64> {
        match place {
            Place::Ready => &mut self.ready,
            Place::Taken { .. } => &mut self.taken,
            Place::Dead => &mut self.dead,
        }
    }

    fn counts(&self) -> (u64, u64, u64) {
        (self.ready.len() as u64, self.taken.len() as u64, self.dead.len() as u64)
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.taken.is_empty() && self.dead.is_empty()
    }
}

impl Backend for Queues {
    const VERSION: &'static str = "queue 1";
    type Codec = Json;
    type Command = Command;
    type Query = Question;
    type Reply = Answer;

    fn init(config: &[u8]) -> Result<Self, String> {
        Config::read(config).map(Self::new)
    }

    fn apply(&mut self, command: Command, at: &mut Apply) -> Result<Answer, String> {
        match command {
            Command::Put { queue, item } => return self.put(queue, item, at),
            Command::Take(queue) => return self.take(&queue, at),
            Command::Ack(id) => {
                self.check_taken(id, at)?;
                self.remove(id);
            }
            Command::GiveBack(id) => {
                self.check_taken(id, at)?;
                self.take_back(id, at);
            }
            Command::Revive(id) => {
                let item = self.remove_dead(id, at)?;
                at.changed(ready_key(&item.queue));
                self.insert(id, Item { attempts: 0, place: Place::Ready, ..item });
            }
            Command::Discard(id) => drop(self.remove_dead(id, at)?),
        }
        Ok(Answer::Done)
    }

    fn query(&self, question: Question, at: &mut Query) -> Result<Answer, String> {
        match question {
            Question::Count(name) => {
                at.watch(ready_key(&name));
                let (ready, taken, dead) = self.queues.get(&name).map_or((0, 0, 0), Queue::counts);
                Ok(Answer::Counted { ready, taken, dead })
            }
            Question::Dead(name) => {
                at.watch(dead_key(&name));
                let dead = self.queues.get(&name).into_iter().flat_map(|queue| &queue.dead).take(MAX_LISTED);
                Ok(Answer::Dead(dead.map(|id| DeadItem { id: *id, item: self.items[id].text.clone() }).collect()))
            }
        }
    }

    fn expire_session(&mut self, session: u64, at: &mut Apply) {
        for id in self.taken_by.get(&session).cloned().unwrap_or_default() {
            self.take_back(id, at);
        }
    }
}

impl Queues {
    fn new(config: Config) -> Self {
        Self { config, items: BTreeMap::new(), queues: BTreeMap::new(), taken_by: BTreeMap::new() }
    }

    fn put(&mut self, queue: String, text: String, at: &mut Apply) -> Result<Answer, String> {
        if queue.is_empty() || queue.len() > MAX_NAME_BYTES {
            return Err(format!("a queue's name has 1 to {MAX_NAME_BYTES} bytes, this one {}", queue.len()));
        }
        if self.items.len() >= MAX_ITEMS {
            return Err(format!("there are {MAX_ITEMS} items already"));
        }
        at.changed(ready_key(&queue));
        let id = at.index();
        self.insert(id, Item { queue, text, attempts: 0, place: Place::Ready });
        Ok(Answer::Put { id })
    }

    fn take(&mut self, queue: &str, at: &Apply) -> Result<Answer, String> {
        let by = session(at)?;
        let Some(id) = self.queues.get(queue).and_then(|queue| queue.ready.first().copied()) else {
            return Ok(Answer::Empty);
        };
        let mut item = self.remove(id);
        item.attempts += 1;
        let taken = Answer::Taken { id, item: item.text.clone(), attempt: item.attempts };
        self.insert(id, Item { place: Place::Taken { by }, ..item });
        Ok(taken)
    }

    fn check_taken(&self, id: u64, at: &Apply) -> Result<(), String> {
        let by = session(at)?;
        match self.items.get(&id) {
            Some(item) if item.place == (Place::Taken { by }) => Ok(()),
            _ => Err(format!("session {by} does not have item {id}: it was done, or has gone back")),
        }
    }

    /// Nobody works on a taken item any more: it goes back in line, unless that was its last attempt.
    fn take_back(&mut self, id: u64, at: &mut Apply) {
        let item = self.remove(id);
        let is_dead = item.attempts >= self.config.max_attempts;
        at.changed(if is_dead { dead_key(&item.queue) } else { ready_key(&item.queue) });
        self.insert(id, Item { place: if is_dead { Place::Dead } else { Place::Ready }, ..item });
    }

    fn remove_dead(&mut self, id: u64, at: &mut Apply) -> Result<Item, String> {
        if self.items.get(&id).is_none_or(|item| item.place != Place::Dead) {
            return Err(format!("there is no dead item {id}"));
        }
        let item = self.remove(id);
        at.changed(dead_key(&item.queue));
        Ok(item)
    }

    fn insert(&mut self, id: u64, item: Item) {
        self.queues.entry(item.queue.clone()).or_default().at(item.place).insert(id);
        if let Place::Taken { by } = item.place {
            self.taken_by.entry(by).or_default().insert(id);
        }
        self.items.insert(id, item);
    }

    /// Takes out an item that is there.
    fn remove(&mut self, id: u64) -> Item {
        let item = self.items.remove(&id).expect("the caller has seen the item");
        if let Some(queue) = self.queues.get_mut(&item.queue) {
            queue.at(item.place).remove(&id);
            if queue.is_empty() {
                self.queues.remove(&item.queue);
            }
        }
        if let Place::Taken { by } = item.place
            && let Some(taken) = self.taken_by.get_mut(&by)
        {
            taken.remove(&id);
            if taken.is_empty() {
                self.taken_by.remove(&by);
            }
        }
        item
    }
}

fn session(at: &Apply) -> Result<u64, String> {
    at.session()
        .ok_or_else(|| "what is taken belongs to a session: send this as an ephemeral command of one".to_owned())
}

/// What changes when an item becomes ready.
fn ready_key(queue: &str) -> String {
    format!("ready/{queue}")
}

/// What changes when an item dies, or is dead no more.
fn dead_key(queue: &str) -> String {
    format!("dead/{queue}")
}

/// How far a snapshot has been written: one record an item.
#[derive(Debug, Default)]
pub struct Reader {
    next: u64,
    records: RecordWriter,
}

impl Snapshot for Queues {
    type Reader = Reader;
    type Writer = (Queues, RecordReader);

    fn next_chunk(&self, reader: &mut Reader, max_bytes: usize) -> Option<Vec<u8>> {
        let mut items = self.items.range(reader.next..);
        while reader.records.pending_bytes() < max_bytes
            && let Some(record) = items.next()
        {
            reader.records.push(&record);
            // An id is an index of the log, which does not get so far.
            reader.next = record.0.saturating_add(1);
        }
        reader.records.take(max_bytes)
    }

    fn begin(origin: &Origin) -> Result<(Queues, RecordReader), String> {
        Ok((Self::new(Config::read(&origin.config)?), RecordReader::default()))
    }

    fn take_chunk((queues, records): &mut (Queues, RecordReader), chunk: Vec<u8>) -> Result<(), String> {
        records.feed(&chunk, |(id, item): (u64, Item)| {
            queues.insert(id, item);
            Ok(())
        })
    }

    fn finish((queues, records): (Queues, RecordReader)) -> Result<Self, String> {
        records.finish()?;
        Ok(queues)
    }
}

zraft_backend::export!(Queues);

#[cfg(test)]
mod tests;

//! Tests a backend with a plain `cargo test`: a cluster of one, in this process, without WebAssembly.
//!
//! ```
//! # use zraft_backend::{Apply, Backend, Bincode, Query};
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Counter(i64);
//! # impl Backend for Counter {
//! #     const VERSION: &str = "counter 1";
//! #     type Codec = Bincode;
//! #     type Command = i64;
//! #     type Query = ();
//! #     type Reply = i64;
//! #     fn init(_config: &[u8]) -> Result<Self, String> {
//! #         Ok(Counter(0))
//! #     }
//! #     fn apply(&mut self, by: i64, at: &mut Apply) -> Result<i64, String> {
//! #         self.0 = self.0.checked_add(by).ok_or("the counter is full")?;
//! #         at.changed("value");
//! #         Ok(self.0)
//! #     }
//! #     fn query(&self, _: (), at: &mut Query) -> Result<i64, String> {
//! #         at.watch("value");
//! #         Ok(self.0)
//! #     }
//! # }
//! use zraft_backend::testing::Cluster;
//!
//! let mut cluster = Cluster::<Counter>::start(b"").unwrap();
//! assert_eq!(cluster.write(&3), Ok(3));
//! let (sum, trigger) = cluster.watch(&());
//! assert_eq!(sum, Ok(3));
//! assert!(!cluster.has_fired(trigger));
//! assert!(cluster.write(&i64::MAX).is_err());
//! assert_eq!(cluster.write(&4), Ok(7));
//! assert!(cluster.has_fired(trigger));
//! cluster.check();
//! ```
//!
//! Messages go through the backend's codec, as those of clients do. How commands are batched is not varied: the SDK hands
//! a backend one after the other in any case.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::{Apply, Backend, Decode, Encode, Origin, calls};

/// Into how large chunks snapshots are cut, in bytes.
const CHUNK_BYTES: [usize; 3] = [7, 1000, 256 << 10];

/// How many milliseconds pass from one entry to the next.
const STEP_MS: u64 = 1;

/// The time of the first entry: a day in 2026.
const START_MS: u64 = 1_780_000_000_000;

/// A cluster of one with the backend `B`.
///
/// Its methods panic where the backend breaks its contract with zraft, as the assertions of a test do.
pub struct Cluster<B> {
    backend: B,
    config: Vec<u8>,
    index: u64,
    time_ms: u64,
    history: Vec<Event>,
    triggers: Vec<BTreeSet<Vec<u8>>>,
    fired: BTreeSet<usize>,
    changed: Vec<Vec<u8>>,
}

/// A client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(u64);

impl Session {
    /// What the backend knows it by: the log index that opened it.
    #[must_use]
    pub fn id(self) -> u64 {
        self.0
    }
}

/// What tells once that an answer may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger(usize);

/// What was done, and what came of it.
#[derive(Clone, Debug)]
struct Event {
    index: u64,
    time_ms: u64,
    deed: Deed,
}

#[derive(Clone, Debug)]
enum Deed {
    Apply { session: Option<u64>, data: Vec<u8>, outcome: (calls::Reply, Vec<Vec<u8>>) },
    Query { request: Vec<u8> },
    End { session: u64, changed: Vec<Vec<u8>> },
    Open,
    Wait { ms: u64 },
}

impl<B: Backend> Cluster<B>
where
    B::Codec: Encode<B::Command> + Encode<B::Query> + Decode<B::Reply>,
{
    /// A new cluster, created with these bytes.
    ///
    /// # Errors
    /// The backend's refusal of the config.
    pub fn start(config: &[u8]) -> Result<Self, String> {
        Ok(Self {
            backend: B::init(config)?,
            config: config.to_vec(),
            index: 0,
            time_ms: START_MS,
            history: Vec::new(),
            triggers: Vec::new(),
            fired: BTreeSet::new(),
            changed: Vec::new(),
        })
    }

    /// Has a command applied.
    ///
    /// # Errors
    /// The refusal.
    pub fn write(&mut self, command: &B::Command) -> Result<B::Reply, String> {
        self.apply(None, encode::<B, _>(command))
    }

    /// Has an ephemeral command of a session applied.
    ///
    /// # Errors
    /// The refusal.
    pub fn write_ephemeral(&mut self, session: Session, command: &B::Command) -> Result<B::Reply, String> {
        self.apply(Some(session.0), encode::<B, _>(command))
    }

    /// Has bytes applied as a command, such as no client of the backend would send.
    ///
    /// # Errors
    /// The refusal.
    pub fn write_bytes(&mut self, command: &[u8]) -> Result<B::Reply, String> {
        self.apply(None, command.to_vec())
    }

    /// Opens a session.
    pub fn open_session(&mut self) -> Session {
        self.next_entry();
        self.remember(Deed::Open);
        Session(self.index)
    }

    /// Ends a session: its client has closed it, or was not heard of for its timeout.
    pub fn end_session(&mut self, Session(session): Session) {
        let at = self.next_entry();
        let changed = end(&mut self.backend, session, at);
        self.note(Deed::End { session, changed: changed.clone() }, changed);
    }

    /// Has a query answered.
    ///
    /// # Errors
    /// The refusal.
    pub fn query(&mut self, query: &B::Query) -> Result<B::Reply, String> {
        self.watch(query).0
    }

    /// The same, and tells once when the answer may have changed.
    pub fn watch(&mut self, query: &B::Query) -> (Result<B::Reply, String>, Trigger) {
        let request = encode::<B, _>(query);
        let (reply, watched) = calls::query(&self.backend, request.clone());
        self.remember(Deed::Query { request });
        self.triggers.push(watched.into_iter().collect());
        (reply.map(decode::<B>), Trigger(self.triggers.len() - 1))
    }

    /// Whether a trigger has fired: since its query, a key was changed that it watched.
    #[must_use]
    pub fn has_fired(&self, trigger: Trigger) -> bool {
        self.fired.contains(&trigger.0)
    }

    /// The keys that the last command, or the end of a session, has changed.
    #[must_use]
    pub fn changed(&self) -> &[Vec<u8>] {
        &self.changed
    }

    /// The log index of the last entry.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Lets time pass: the next entry is stamped so many milliseconds later.
    pub fn wait_ms(&mut self, ms: u64) {
        self.time_ms += ms;
        self.remember(Deed::Wait { ms });
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &B {
        &self.backend
    }

    /// Goes on with what a snapshot of the state restores, as a replica does that was away for long.
    ///
    /// # Panics
    /// If the backend refuses its own snapshot, or what was restored would be written otherwise.
    pub fn restart(&mut self) {
        self.backend = restored(&self.backend, &self.config);
    }

    /// Does everything that was done so far again, as replicas may do it: with a restart before each entry, and without the
    /// queries. Every outcome and the last state must be the same.
    ///
    /// # Panics
    /// If one is not.
    pub fn check(&self) {
        let last = written(&self.backend);
        let init = || B::init(&self.config).expect("a config that was accepted is accepted again");
        for restarts in [false, true] {
            let how = if restarts { "restored before each entry" } else { "without the queries" };
            let mut backend = init();
            for event in &self.history {
                if restarts {
                    backend = restored(&backend, &self.config);
                }
                event.repeat(&mut backend, how);
            }
            assert!(written(&backend) == last, "{how}, the state is written otherwise in the end");
        }
    }

    /// What was done so far, for `zraft backend check --samples`: a line each.
    #[must_use]
    pub fn samples(&self) -> String {
        let mut lines = String::new();
        for Event { index, deed, .. } in &self.history {
            // Writing to a string cannot fail.
            let _ = match deed {
                Deed::Apply { session: None, data, .. } => writeln!(lines, "write {}", as_data(data)),
                Deed::Apply { session: Some(session), data, .. } => {
                    writeln!(lines, "ephemeral s{session} {}", as_data(data))
                }
                Deed::Query { request } => writeln!(lines, "query {}", as_data(request)),
                Deed::End { session, .. } => writeln!(lines, "end s{session}"),
                Deed::Open => writeln!(lines, "session s{index}"),
                Deed::Wait { ms } => writeln!(lines, "wait {ms}"),
            };
        }
        lines
    }

    fn apply(&mut self, session: Option<u64>, data: Vec<u8>) -> Result<B::Reply, String> {
        let at = self.next_entry().ephemeral(session);
        let outcome = calls::apply(&mut self.backend, data.clone(), at);
        let (reply, changed) = outcome.clone();
        self.note(Deed::Apply { session, data, outcome }, changed);
        reply.map(decode::<B>)
    }

    fn next_entry(&mut self) -> Apply {
        self.index += 1;
        self.time_ms += STEP_MS;
        Apply::at(self.index, self.time_ms)
    }

    fn note(&mut self, deed: Deed, changed: Vec<Vec<u8>>) {
        let is_concerned = |watched: &BTreeSet<Vec<u8>>| changed.iter().any(|key| watched.contains(key));
        let concerned = self.triggers.iter().enumerate().filter(|(_, watched)| is_concerned(watched));
        self.fired.extend(concerned.map(|(trigger, _)| trigger));
        self.changed = changed;
        self.remember(deed);
    }

    fn remember(&mut self, deed: Deed) {
        let Self { index, time_ms, .. } = *self;
        self.history.push(Event { index, time_ms, deed });
    }
}

impl Event {
    fn repeat<B: Backend>(&self, backend: &mut B, how: &str) {
        let Self { index, time_ms, deed } = self;
        let at = Apply::at(*index, *time_ms);
        match deed {
            Deed::Apply { session, data, outcome } => {
                let again = calls::apply(backend, data.clone(), at.ephemeral(*session));
                assert!(again == *outcome, "{how}, the command at {index} came to {again:?} and not {outcome:?}");
            }
            Deed::Query { .. } | Deed::Open | Deed::Wait { .. } => {}
            Deed::End { session, changed } => {
                let again = end(backend, *session, at);
                assert!(again == *changed, "{how}, the end of session {session} changed {again:?} and not {changed:?}");
            }
        }
    }
}

fn end<B: Backend>(backend: &mut B, session: u64, mut at: Apply) -> Vec<Vec<u8>> {
    backend.expire_session(session, &mut at);
    at.into_changed()
}

fn encode<B: Backend, T>(message: &T) -> Vec<u8>
where
    B::Codec: Encode<T>,
{
    B::Codec::encode(message).expect("the message has an encoding")
}

fn decode<B: Backend>(reply: Vec<u8>) -> B::Reply
where
    B::Codec: Decode<B::Reply>,
{
    B::Codec::decode(reply).expect("the client can read the reply")
}

/// The state as a snapshot has it, the same however it is cut.
fn written<B: Backend>(backend: &B) -> Vec<u8> {
    let cut = |max_bytes| {
        let (mut reader, mut bytes) = (B::Reader::default(), Vec::new());
        while let Some(chunk) = backend.next_chunk(&mut reader, max_bytes) {
            let length = chunk.len();
            assert!(
                (1..=max_bytes).contains(&length),
                "a chunk of {length} bytes where 1 to {max_bytes} were asked for"
            );
            bytes.extend(chunk);
        }
        bytes
    };
    let [first, rest @ ..] = CHUNK_BYTES.map(cut);
    assert!(rest.iter().all(|bytes| *bytes == first), "how a snapshot is cut shows in its bytes");
    first
}

/// What the backend's snapshot restores: the same state.
fn restored<B: Backend>(backend: &B, config: &[u8]) -> B {
    let bytes = written(backend);
    let origin = Origin { version: B::VERSION.to_owned(), config: config.to_vec(), migration: None };
    let restore = |chunk_bytes| {
        B::accept(&origin)?;
        let mut writer = B::begin(&origin)?;
        bytes.chunks(chunk_bytes).try_for_each(|chunk| B::take_chunk(&mut writer, chunk.to_vec()))?;
        B::finish(writer)
    };
    let [first, ..] = CHUNK_BYTES.map(|chunk_bytes| {
        let restored: Result<B, String> = restore(chunk_bytes);
        let restored = restored.unwrap_or_else(|error| panic!("the backend refused its own snapshot: {error}"));
        assert!(written(&restored) == bytes, "what was restored is written otherwise than what was snapshotted");
        restored
    });
    first
}

/// Bytes as they stand in a file of samples: as text where that can be read back, otherwise in hex.
fn as_data(bytes: &[u8]) -> String {
    let is_plain = |text: &&str| {
        text.trim() == *text
            && !text.contains(char::is_control)
            && !["hex:", "base64:"].iter().any(|form| text.starts_with(form))
    };
    match std::str::from_utf8(bytes).ok().filter(is_plain) {
        Some(text) => text.to_owned(),
        None => bytes.iter().fold("hex:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests;

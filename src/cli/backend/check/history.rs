//! A log for a component to live through, and the queries between its entries.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::samples::Step;
use crate::machine::{Command, SessionTerms};
use crate::raft::{Entry, Payload};
use crate::types::{Digest, Index, SessionId, Term};

/// The time of the first entry: a day in 2026.
const START_MS: u64 = 1_780_000_000_000;

/// How many milliseconds pass from one entry to the next.
const STEP_MS: u64 = 1;

/// What a component is to live through.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The log, from index 1.
    pub(super) entries: Vec<Entry>,
    /// Each with how many entries come before it, ascending.
    pub(super) queries: Vec<(usize, Bytes)>,
    /// How many of the entries are commands.
    pub(super) commands: usize,
    /// And how many of these are ephemeral.
    pub(super) ephemerals: usize,
    /// How many entries end a session.
    pub(super) ends: usize,
}

impl History {
    /// The log that these steps make. The end of a session that is not open is left out, since nothing comes of it.
    pub(super) fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        let mut writer = Writer { history: Self::default(), time_ms: START_MS, open: BTreeMap::new() };
        steps.into_iter().for_each(|step| writer.add(step));
        writer.history
    }

    /// What an entry gives the backend, for people.
    pub(super) fn describe(&self, index: Index) -> String {
        let entry = usize::try_from(index.0).ok().and_then(|index| self.entries.get(index.checked_sub(1)?));
        let command = entry.and_then(|entry| match &entry.payload {
            Payload::Data(data) => Command::decode(data).ok(),
            _ => None,
        });
        let what = match command {
            Some(Command::Write { data } | Command::WriteBy { data, .. }) => format!("write {}", shorten(&data)),
            Some(Command::SessionWrite { session, data, .. }) => format!("ephemeral {session} {}", shorten(&data)),
            Some(Command::CloseSession { session } | Command::ExpireSession { session }) => format!("end {session}"),
            Some(Command::OpenSession(_) | Command::SetAccess { .. } | Command::RaiseLevel { .. }) | None => {
                "nothing".to_owned()
            }
        };
        format!("entry {index} ({what})")
    }
}

struct Writer {
    history: History,
    time_ms: u64,
    /// The open sessions by name, each with how many commands it has sent.
    open: BTreeMap<String, (SessionId, u64)>,
}

impl Writer {
    fn add(&mut self, step: Step) {
        match step {
            Step::Write(data) => {
                self.history.commands += 1;
                self.append(&Command::Write { data });
            }
            Step::Open(name) => {
                self.open(name);
            }
            Step::Ephemeral(name, data) => {
                let (session, seq) = self.open(name);
                *seq += 1;
                let (session, seq) = (*session, *seq);
                self.history.commands += 1;
                self.history.ephemerals += 1;
                // The client has had all replies before.
                self.append(&Command::SessionWrite { session, seq, acked_up_to: seq - 1, is_ephemeral: true, data });
            }
            Step::End(name) => {
                if let Some((session, _)) = self.open.remove(&name) {
                    self.history.ends += 1;
                    self.append(&Command::CloseSession { session });
                }
            }
            Step::Query(request) => self.history.queries.push((self.history.entries.len(), request)),
            Step::Wait(ms) => self.time_ms = self.time_ms.saturating_add(ms),
        }
    }

    /// The session of that name, opened if need be.
    fn open(&mut self, name: String) -> &mut (SessionId, u64) {
        if !self.open.contains_key(&name) {
            let terms = SessionTerms { identity: "check".to_owned(), secret: Digest::of(b"check"), timeout_ms: 10_000 };
            self.append(&Command::OpenSession(terms));
        }
        self.open.entry(name).or_insert((SessionId(self.history.entries.len() as u64), 0))
    }

    fn append(&mut self, command: &Command) {
        self.time_ms = self.time_ms.saturating_add(STEP_MS);
        let index = Index(self.history.entries.len() as u64 + 1);
        let payload = Payload::Data(command.encode());
        self.history.entries.push(Entry { term: Term(1), index, time_ms: self.time_ms, payload });
    }
}

/// The beginning of a message: as text where it is, otherwise in hex.
pub(super) fn shorten(data: &[u8]) -> String {
    const MAX_CHARS: usize = 40;
    let (text, rest) = match std::str::from_utf8(data) {
        Ok(text) if !text.contains(char::is_control) => {
            let end = text.floor_char_boundary(MAX_CHARS);
            (text[..end].to_owned(), text.len() - end)
        }
        _ => {
            let shown = &data[..data.len().min(MAX_CHARS / 2)];
            (format!("hex:{}", data_encoding::HEXLOWER.encode(shown)), data.len() - shown.len())
        }
    };
    if rest == 0 { text } else { format!("{text}… and {rest} bytes") }
}

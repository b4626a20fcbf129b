//! A backend in process: keys with values, some of them owned by a session.
//!
//! | command | what it does | reply |
//! |---|---|---|
//! | `put KEY VALUE` | sets the key | what it was |
//! | `add KEY NUMBER` | adds to the key | the sum |
//! | `take KEY` | removes the key | its value; refused when there is none |
//!
//! Whoever sets a key decides whether it goes with a session. Words after these are ignored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use zraft::codec;
use zraft::machine::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, BackendReply, Budget, Fault, Key, Moment,
    Origin, StartError, StateReader,
};

/// Bytes in a chunk of a snapshot.
const CHUNK_BYTES: usize = 7;

/// Each key's value, and the session that it goes with.
type Data = BTreeMap<String, (String, Option<u64>)>;

/// One call into a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Apply(Vec<BackendCommand>),
    Expire { at: Moment, session: u64 },
}

impl Call {
    /// Whether the backend is told that it stands there.
    pub fn is_at(&self, moment: Moment) -> bool {
        match self {
            Self::Apply(commands) => commands.iter().all(|command| command.at == moment),
            Self::Expire { at, .. } => *at == moment,
        }
    }
}

/// Makes backends that write down how they are called.
#[derive(Clone, Default)]
pub struct KeysFactory {
    calls: Arc<Mutex<Vec<Call>>>,
}

struct Keys {
    data: Data,
    factory: KeysFactory,
}

impl KeysFactory {
    /// The calls since this was last asked.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().expect("nobody panics with the lock"))
    }

    fn note(&self, call: Call) {
        self.calls.lock().expect("nobody panics with the lock").push(call);
    }
}

impl BackendFactory for KeysFactory {
    fn init(&self, _at: Moment, _config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::new(Keys { data: Data::new(), factory: self.clone() }))
    }

    fn restore(
        &self,
        _at: Moment,
        _origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            bytes.extend_from_slice(&chunk);
        }
        let data = codec::decode(&bytes).map_err(|error| StartError::Refused(error.to_string()))?;
        Ok(Box::new(Keys { data, factory: self.clone() }))
    }
}

impl Keys {
    /// The reply, and the key that has changed.
    fn run(&mut self, command: &BackendCommand) -> Result<(String, String), String> {
        let text = std::str::from_utf8(&command.data).map_err(|error| error.to_string())?;
        let words: Vec<_> = text.split(' ').collect();
        let mut set = |key: &str, value: &str| self.data.insert(key.to_owned(), (value.to_owned(), command.session));
        match words[..] {
            ["put", key, value, ..] => {
                let before = set(key, value);
                Ok((before.map_or("was nothing".to_owned(), |(value, _)| format!("was {value}")), key.to_owned()))
            }
            ["add", key, number, ..] => {
                let number: u64 = number.parse().map_err(|_| format!("'{number}' is no number"))?;
                let before = self.data.get(key).map_or(Ok(0), |(value, _)| value.parse());
                let before: u64 = before.map_err(|_| format!("{key} is no number"))?;
                let sum = (before + number).to_string();
                self.data.insert(key.to_owned(), (sum.clone(), command.session));
                Ok((sum, key.to_owned()))
            }
            ["take", key, ..] => {
                let (value, _) = self.data.remove(key).ok_or(format!("there is no {key}"))?;
                Ok((value, key.to_owned()))
            }
            _ => Err(format!("'{text}' is no command")),
        }
    }
}

impl Backend for Keys {
    fn version(&mut self) -> Result<String, Fault> {
        Ok("keys 1".to_owned())
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        self.factory.note(Call::Apply(commands.to_vec()));
        let outcome = |command: &BackendCommand| match self.run(command) {
            Ok((reply, key)) => BackendOutcome { reply: Ok(reply.into()), changed: vec![key.into()] },
            Err(refusal) => BackendOutcome { reply: BackendReply::Err(refusal), changed: vec![] },
        };
        Ok(commands.iter().map(outcome).collect())
    }

    /// Every key with its value and its session, if it has one.
    fn query(&mut self, _at: Moment, _request: &[u8]) -> Result<BackendAnswer, Fault> {
        let show = |(key, (value, owner)): (&String, &(String, Option<u64>))| match owner {
            None => format!("{key}={value}"),
            Some(session) => format!("{key}={value} of session {session}"),
        };
        let all: Vec<_> = self.data.iter().map(show).collect();
        Ok(BackendAnswer { reply: Ok(all.join(", ").into()), watched: vec![] })
    }

    fn expire_session(&mut self, at: Moment, session: u64) -> Result<Vec<Key>, Fault> {
        self.factory.note(Call::Expire { at, session });
        let gone = self.data.extract_if(.., |_, (_, owner)| *owner == Some(session));
        Ok(gone.map(|(key, _)| key.into()).collect())
    }

    fn read_state(&mut self, _at: Moment, _budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        let bytes = codec::encode(&self.data);
        let chunks: Vec<_> = bytes.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
        Ok(Box::new(chunks.into_iter()))
    }
}

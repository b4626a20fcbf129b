//! The bundled key-value backend, typed, over a session.

use crate::client::{CompareAndSet, KvCommand, KvEntry, KvError, KvExpected, KvQuery, KvReply, Session, Written};
use crate::codec;
use crate::protocol::TriggerId;
use crate::types::Index;

/// A session with a cluster that runs the bundled key-value backend. Ephemeral entries go when the session ends; whoever else
/// puts such a key takes it over.
pub struct KvSession {
    session: Session,
}

/// An entry that was read, and the trigger on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvWatched {
    /// The entry, if there is one.
    pub entry: Option<KvEntry>,
    /// The state that was read: that after this log index.
    pub index: Index,
    /// Fires once the entry is put or removed.
    pub trigger: TriggerId,
}

impl KvSession {
    /// A key-value store behind a session.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self { session }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Stores a value, and returns the index of the write.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<Index, KvError> {
        put(&self.session.write(put_command(key, value)).await?)
    }

    /// As [`KvSession::put`]; the entry goes when the session ends.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn put_ephemeral(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<Index, KvError> {
        put(&self.session.write_ephemeral(put_command(key, value)).await?)
    }

    /// Removes an entry, and tells whether there was one.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<bool, KvError> {
        let written = self.session.write(codec::encode(&KvCommand::Delete { key: key.into() })).await?;
        match codec::decode(&written.reply)? {
            KvReply::Deleted { existed } => Ok(existed),
            _ => Err(KvError::Mismatched),
        }
    }

    /// Stores a value (`None` removes the entry) if the entry is as expected.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn compare_and_set(
        &self,
        key: impl Into<Vec<u8>>,
        expected: KvExpected,
        new: Option<Vec<u8>>,
    ) -> Result<CompareAndSet, KvError> {
        let command = codec::encode(&KvCommand::CompareAndSet { key: key.into(), expected, new });
        compared(&self.session.write(command).await?)
    }

    /// As [`KvSession::compare_and_set`]; the entry goes when the session ends.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn compare_and_set_ephemeral(
        &self,
        key: impl Into<Vec<u8>>,
        expected: KvExpected,
        new: Option<Vec<u8>>,
    ) -> Result<CompareAndSet, KvError> {
        let command = codec::encode(&KvCommand::CompareAndSet { key: key.into(), expected, new });
        compared(&self.session.write_ephemeral(command).await?)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<KvEntry>, KvError> {
        entry(&self.session.query(get_query(key)).await?)
    }

    /// Reads an entry, and arms a trigger on it, also where there is none yet.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn watch(&self, key: impl Into<Vec<u8>>) -> Result<KvWatched, KvError> {
        let watched = self.session.query_watch(get_query(key)).await?;
        Ok(KvWatched { entry: entry(&watched.reply)?, index: watched.index, trigger: watched.trigger })
    }
}

fn put_command(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Vec<u8> {
    codec::encode(&KvCommand::Put { key: key.into(), value: value.into() })
}

fn get_query(key: impl Into<Vec<u8>>) -> Vec<u8> {
    codec::encode(&KvQuery::Get { key: key.into() })
}

fn put(written: &Written) -> Result<Index, KvError> {
    match codec::decode(&written.reply)? {
        KvReply::Written { index } => Ok(Index(index)),
        _ => Err(KvError::Mismatched),
    }
}

fn compared(written: &Written) -> Result<CompareAndSet, KvError> {
    match codec::decode(&written.reply)? {
        KvReply::Written { .. } | KvReply::Deleted { .. } => Ok(CompareAndSet::Done(written.index)),
        KvReply::Conflict { current } => Ok(CompareAndSet::Conflict(current)),
        _ => Err(KvError::Mismatched),
    }
}

fn entry(reply: &[u8]) -> Result<Option<KvEntry>, KvError> {
    match codec::decode(reply)? {
        KvReply::Entry(entry) => Ok(entry),
        _ => Err(KvError::Mismatched),
    }
}

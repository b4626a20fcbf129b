//! The bundled key-value backend, typed.

use crate::client::kv_api::{KvExpected, prefix_end};
use crate::client::{KvCommand, KvEntry, KvQuery, KvReply, LightSession, SessionError, SessionFailure};
use crate::codec::{self, DecodeError};
use crate::types::Index;

/// A light session with a cluster that runs the bundled key-value backend.
pub struct Kv {
    session: LightSession,
}

/// Why a call on a key-value store failed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The call failed, or the backend refused it.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The call on a [`KvSession`](crate::client::KvSession) failed, or the backend refused it.
    #[error(transparent)]
    InSession(#[from] SessionFailure),
    /// The backend answered what no key-value store answers.
    #[error("the answer is not one of a kv backend; does the cluster run another? ({0})")]
    Malformed(#[from] DecodeError),
    /// The backend answered another question.
    #[error("the answer is to another question; does the cluster run another version of kv?")]
    Mismatched,
}

/// What a compare-and-set led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareAndSet {
    /// The entry was as expected, and is now as wanted since this index.
    Done(Index),
    /// The entry is another, and was not changed.
    Conflict(Option<KvEntry>),
}

impl Kv {
    /// A key-value store behind a light session.
    #[must_use]
    pub fn new(session: LightSession) -> Self {
        Self { session }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &LightSession {
        &self.session
    }

    /// Stores a value, and returns the index of the write.
    ///
    /// # Errors
    /// [`KvError`]; after [`SessionError::Unknown`] the value may be there or not.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<Index, KvError> {
        match self.command(&KvCommand::Put { key: key.into(), value: value.into() }).await? {
            KvReply::Written { index } => Ok(Index(index)),
            _ => Err(KvError::Mismatched),
        }
    }

    /// Removes an entry, and tells whether there was one.
    ///
    /// # Errors
    /// [`KvError`]; after [`SessionError::Unknown`] the entry may be there or not.
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<bool, KvError> {
        match self.command(&KvCommand::Delete { key: key.into() }).await? {
            KvReply::Deleted { existed } => Ok(existed),
            _ => Err(KvError::Mismatched),
        }
    }

    /// Stores a value (`None` removes the entry) if the entry is as expected.
    ///
    /// # Errors
    /// [`KvError`]; after [`SessionError::Unknown`] it may have been done or not.
    pub async fn compare_and_set(
        &self,
        key: impl Into<Vec<u8>>,
        expected: KvExpected,
        new: Option<Vec<u8>>,
    ) -> Result<CompareAndSet, KvError> {
        let command = codec::encode(&KvCommand::CompareAndSet { key: key.into(), expected, new });
        let written = self.session.write(command).await?;
        match codec::decode(&written.reply)? {
            KvReply::Written { .. } | KvReply::Deleted { .. } => Ok(CompareAndSet::Done(written.index)),
            KvReply::Conflict { current } => Ok(CompareAndSet::Conflict(current)),
            _ => Err(KvError::Mismatched),
        }
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<KvEntry>, KvError> {
        match self.query(&KvQuery::Get { key: key.into() }).await? {
            KvReply::Entry(entry) => Ok(entry),
            _ => Err(KvError::Mismatched),
        }
    }

    /// Reads up to `limit` entries whose keys begin with `prefix`, in the order of their keys. They are of one
    /// moment only where one answer holds them all (about 1,000 entries or 1 MiB).
    ///
    /// # Errors
    /// [`KvError`].
    pub async fn list(&self, prefix: impl Into<Vec<u8>>, limit: usize) -> Result<Vec<KvEntry>, KvError> {
        let mut start = prefix.into();
        let end = prefix_end(&start);
        let mut all = Vec::new();
        while all.len() < limit {
            let wanted = u32::try_from(limit - all.len()).unwrap_or(u32::MAX);
            let query = KvQuery::Range { start, end: end.clone(), limit: wanted };
            let KvReply::Entries { entries, more } = self.query(&query).await? else {
                return Err(KvError::Mismatched);
            };
            let Some(last) = entries.last() else { break };
            // The smallest key behind the last one.
            start = [&last.key[..], &[0]].concat();
            all.extend(entries);
            if !more {
                break;
            }
        }
        Ok(all)
    }

    async fn command(&self, command: &KvCommand) -> Result<KvReply, KvError> {
        Ok(codec::decode(&self.session.write(codec::encode(command)).await?.reply)?)
    }

    async fn query(&self, query: &KvQuery) -> Result<KvReply, KvError> {
        Ok(codec::decode(&self.session.query(codec::encode(query)).await?)?)
    }
}

//! Messages of a backend, typed, over either kind of session.
//!
//! The types are the backend's own: the crate that they are in is compiled into the component and into its clients.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{LightSession, Session, SessionError, SessionFailure};
use crate::codec;
use crate::protocol::TriggerId;
use crate::types::Index;

/// The messages of a backend, as its `Backend` in the SDK names them. Implemented by a type without a value:
///
/// ```
/// use zraft::client::{Api, Json};
///
/// /// The bundled counter.
/// enum Counter {}
///
/// impl Api for Counter {
///     type Codec = Json;
///     type Command = i64;
///     type Query = ();
///     type Reply = i64;
/// }
/// ```
pub trait Api {
    /// How messages become bytes.
    type Codec: Codec;
    /// What changes something.
    type Command: Serialize;
    /// What reads something.
    type Query: Serialize;
    /// The answer to either.
    type Reply: DeserializeOwned;
}

/// How messages become bytes: the SDK's codecs of the same names.
pub trait Codec {
    /// # Errors
    /// Why the message has no encoding.
    fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, String>;

    /// # Errors
    /// Why the bytes are no such message.
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String>;
}

/// bincode 2 in its standard configuration.
#[derive(Clone, Copy, Debug)]
pub enum Bincode {}

/// JSON.
#[derive(Clone, Copy, Debug)]
pub enum Json {}

impl Codec for Bincode {
    fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
        codec::try_encode(message).map_err(|error| error.to_string())
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        codec::decode(bytes).map_err(|error| error.to_string())
    }
}

impl Codec for Json {
    fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
        serde_json::to_vec(message).map_err(|error| error.to_string())
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

/// A session, of either kind, with a cluster whose backend has the messages of `A`.
#[derive(Debug)]
pub struct Typed<A, S> {
    session: S,
    api: PhantomData<fn() -> A>,
}

/// Why a typed call failed.
#[derive(Debug, thiserror::Error)]
pub enum TypedError {
    /// The call over a light session failed, or the backend refused it.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The call in a session failed, or the backend refused it.
    #[error(transparent)]
    InSession(#[from] SessionFailure),
    /// The message has no encoding. Nothing was sent.
    #[error("the message cannot be sent: {0}")]
    Unsendable(String),
    /// The answer is not one of the backend. A command has been applied all the same.
    #[error("the answer is not one of this backend; does the cluster run another? ({0})")]
    Malformed(String),
}

/// What was read, and the trigger on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedWatched<R> {
    /// The answer.
    pub reply: R,
    /// The state that was read: that after this log index.
    pub index: Index,
    /// Fires once the answer may have changed.
    pub trigger: TriggerId,
}

impl<A: Api, S> Typed<A, S> {
    /// The same session, typed.
    #[must_use]
    pub fn new(session: S) -> Self {
        Self { session, api: PhantomData }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &S {
        &self.session
    }

    fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, TypedError> {
        A::Codec::encode(message).map_err(TypedError::Unsendable)
    }

    fn decode(reply: &[u8]) -> Result<A::Reply, TypedError> {
        A::Codec::decode(reply).map_err(TypedError::Malformed)
    }
}

impl<A: Api> Typed<A, LightSession> {
    /// Has the cluster apply a command.
    ///
    /// # Errors
    /// [`TypedError`]; after [`SessionError::Unknown`] it may have been applied or not.
    pub async fn write(&self, command: &A::Command) -> Result<A::Reply, TypedError> {
        Self::decode(&self.session.write(Self::encode(command)?).await?.reply)
    }

    /// Has the cluster answer a query.
    ///
    /// # Errors
    /// [`TypedError`].
    pub async fn query(&self, query: &A::Query) -> Result<A::Reply, TypedError> {
        Self::decode(&self.session.query(Self::encode(query)?).await?)
    }
}

impl<A: Api> Typed<A, Session> {
    /// Has the cluster apply a command, once.
    ///
    /// # Errors
    /// [`TypedError`].
    pub async fn write(&self, command: &A::Command) -> Result<A::Reply, TypedError> {
        Self::decode(&self.session.write(Self::encode(command)?).await?.reply)
    }

    /// The same; what it writes goes when the session ends.
    ///
    /// # Errors
    /// [`TypedError`].
    pub async fn write_ephemeral(&self, command: &A::Command) -> Result<A::Reply, TypedError> {
        Self::decode(&self.session.write_ephemeral(Self::encode(command)?).await?.reply)
    }

    /// Has the cluster answer a query.
    ///
    /// # Errors
    /// [`TypedError`].
    pub async fn query(&self, query: &A::Query) -> Result<A::Reply, TypedError> {
        Self::decode(&self.session.query(Self::encode(query)?).await?)
    }

    /// The same, and arms a trigger on the answer.
    ///
    /// # Errors
    /// [`TypedError`].
    pub async fn watch(&self, query: &A::Query) -> Result<TypedWatched<A::Reply>, TypedError> {
        let watched = self.session.query_watch(Self::encode(query)?).await?;
        Ok(TypedWatched { reply: Self::decode(&watched.reply)?, index: watched.index, trigger: watched.trigger })
    }
}

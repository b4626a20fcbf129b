//! What an entry of the log can tell the machine.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};

/// A command in an entry's data. Variants are only ever added at the end: the log outlives the program that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A write of a client without a session. A client that repeats it may have it applied twice.
    Write {
        /// What the backend gets.
        data: Bytes,
    },
}

impl Command {
    /// The bytes that go into an entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// Reads an entry's bytes.
    ///
    /// # Errors
    /// [`DecodeError`] when they are no command that this version of the program knows.
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(data)
    }
}

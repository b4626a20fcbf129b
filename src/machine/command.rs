//! What an entry of the log can tell the machine.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::AccessList;
use crate::codec::{self, DecodeError};
use crate::feature_level::FeatureLevel;
use crate::machine::SessionTerms;
use crate::types::{Index, SessionId};

/// A command in an entry's data. Variants are only ever added at the end: the log outlives the program that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A write without a session, of somebody who may always write. Who repeats it may have it applied twice.
    Write {
        /// What the backend gets.
        data: Bytes,
    },
    /// Opens a session, whose id is the entry's index.
    OpenSession(SessionTerms),
    /// A write of a session.
    SessionWrite {
        /// The session.
        session: SessionId,
        /// The command's number in the session, from 1.
        seq: u64,
        /// Up to which number the client has its replies.
        acked_up_to: u64,
        /// Whether what it writes goes with the session.
        is_ephemeral: bool,
        /// What the backend gets.
        data: Bytes,
    },
    /// The client of a session wants it to end.
    CloseSession {
        /// The session.
        session: SessionId,
    },
    /// The leader has not heard of the client of a session for the session's timeout.
    ExpireSession {
        /// The session.
        session: SessionId,
    },
    /// A write without a session, of a client that may write if the access list says so where the entry stands. A client that
    /// repeats it may have it applied twice.
    WriteBy {
        /// The client, as the list names it.
        client: String,
        /// What the backend gets.
        data: Bytes,
    },
    /// Another access list from here on.
    SetAccess {
        /// The client that wants it; none if it is somebody who may do everything.
        by: Option<String>,
        /// The entry that has set the present list, zero if none has: else nothing is changed.
        expected: Index,
        /// The list.
        list: AccessList,
    },
    /// What entries there may be from here on.
    RaiseLevel {
        /// What all peers support.
        level: FeatureLevel,
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

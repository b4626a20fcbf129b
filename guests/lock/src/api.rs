//! What clients of the lock backend send and receive, in JSON. It needs nothing of the backend, so that clients can be
//! built with it alone.

use serde::{Deserialize, Serialize};

/// What a session can do. Ephemeral.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Takes the lock of this name, or a place in line for it.
    Acquire(String),
    /// Takes the lock if nobody has it.
    TryAcquire(String),
    /// Gives the lock, or the place in line, up.
    Release(String),
}

/// What anybody can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Where a session stands with a lock.
    Place {
        /// The lock.
        lock: String,
        /// The session.
        session: u64,
    },
    /// Who has the lock of this name.
    Holder(String),
}

/// The answer to either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The lock is the session's.
    Granted {
        /// The fencing token: the log index of the grant.
        token: u64,
    },
    /// The session stands in line.
    Waiting {
        /// How many stand before it.
        ahead: u64,
    },
    /// The lock is another session's.
    Held {
        /// Whose.
        by: u64,
    },
    /// The session has neither the lock nor a place in line any more.
    Released,
    /// The session has neither the lock nor a place in line.
    None,
    /// Who has the lock.
    HeldBy {
        /// The session.
        session: u64,
        /// Its fencing token.
        token: u64,
        /// How many stand in line.
        waiting: u64,
    },
    /// Nobody has the lock.
    Free,
}

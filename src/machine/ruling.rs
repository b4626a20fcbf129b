//! What a verdict tells the machine about an entry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::protocol::BackendFault;
use crate::types::Index;

/// How an entry is taken. Equal on all replicas, since it is in the log.
///
/// Fuel and memory that a call needs depend on the history of the instance that runs it, so no replica may decide by itself
/// that an entry cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ruling {
    /// The backend's call is left out: it died of it. The rest of the entry takes effect.
    Skip(BackendFault),
    /// The entry is applied, whatever it takes: an instance could, but needed more than the budget.
    Keep,
}

impl Ruling {
    /// The bytes that go into a verdict.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode(self).into()
    }

    /// Reads a verdict's bytes.
    ///
    /// # Errors
    /// [`DecodeError`] when they are no ruling that this version of the program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}

/// How much a backend may use in a call, as a multiple of what is configured.
///
/// Only the first run of an entry, by the leader that made it, is held to what is configured. Every other run must be able to
/// repeat it on an instance with another history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Budget {
    /// What is configured.
    #[default]
    Configured,
    /// Ten times the fuel and four times the memory.
    Relaxed,
    /// As much fuel as can be counted, and the same memory.
    Unlimited,
}

/// How entries are applied: what was ruled about some of them, and the budget for the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rulings {
    /// For what was not ruled about.
    pub budget: Budget,
    /// By entry, oldest first.
    pub rulings: Vec<(Index, Ruling)>,
}

impl Rulings {
    /// What was ruled about an entry.
    #[must_use]
    pub fn on(&self, index: Index) -> Option<&Ruling> {
        self.rulings.iter().find(|(on, _)| *on == index).map(|(_, ruling)| ruling)
    }
}

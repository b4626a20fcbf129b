//! Commands that a backend died of.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::access::AccessDenied;

/// What a guest did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestFault {
    /// It trapped: a panic, a bad access, an explicit `unreachable`.
    Trap,
    /// It used up its fuel.
    OutOfFuel,
    /// It asked for more memory or table space than its budget.
    OutOfMemory,
    /// It recursed too deeply.
    StackOverflow,
    /// It returned something the contract does not allow, such as too few outcomes.
    BrokenContract,
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trap => "trap",
            Self::OutOfFuel => "out of fuel",
            Self::OutOfMemory => "out of memory",
            Self::StackOverflow => "stack overflow",
            Self::BrokenContract => "broken contract",
        })
    }
}

/// What a backend died of when it ran a command. The cluster has agreed to skip the command: it changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFault {
    /// What it did.
    pub kind: GuestFault,
    /// What the engine or the guest said about it.
    pub message: String,
}

impl fmt::Display for BackendFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// What a command came to if not to a reply. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandError {
    /// The backend refused it: a normal answer.
    Refused(String),
    /// The backend died of it, and it was skipped.
    Fault(BackendFault),
    /// The access list did not let the client write where the command stands in the log; the backend was not asked.
    Denied(AccessDenied),
}

/// What a command came to.
pub type CommandReply = Result<Bytes, CommandError>;

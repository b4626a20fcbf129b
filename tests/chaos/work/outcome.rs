//! What an error of the library says of what was asked: that it changed nothing, or that nobody knows.

use zraft::client::{KvError, SessionError, SessionFailure, TypedError};

use crate::history::{Answer, Outcome};

/// What came of a write.
pub fn of_write<E: SaysWhatBecame>(result: Result<Answer, E>) -> Outcome {
    match result {
        Ok(answer) => Outcome::Ok(answer),
        Err(error) if error.changed_nothing() => Outcome::Failed(error.to_string()),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// What came of a read, which changes nothing in any case.
pub fn of_read<E: std::fmt::Display>(result: Result<Answer, E>) -> Outcome {
    result.map_or_else(|error| Outcome::Failed(error.to_string()), Outcome::Ok)
}

/// An error after which it is known that a write changed nothing and will not, or that this is not known.
pub trait SaysWhatBecame: std::fmt::Display {
    fn changed_nothing(&self) -> bool;
}

impl SaysWhatBecame for SessionError {
    fn changed_nothing(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

impl SaysWhatBecame for SessionFailure {
    fn changed_nothing(&self) -> bool {
        !matches!(self, Self::Unanswered { .. } | Self::Unknown(_) | Self::ReplyLost | Self::Dropped)
    }
}

impl SaysWhatBecame for KvError {
    fn changed_nothing(&self) -> bool {
        match self {
            Self::Session(error) => error.changed_nothing(),
            Self::InSession(failure) => failure.changed_nothing(),
            Self::Malformed(_) | Self::Mismatched => false,
        }
    }
}

impl SaysWhatBecame for TypedError {
    fn changed_nothing(&self) -> bool {
        match self {
            Self::Session(error) => error.changed_nothing(),
            Self::InSession(failure) => failure.changed_nothing(),
            Self::Unsendable(_) => true,
            Self::Malformed(_) => false,
        }
    }
}

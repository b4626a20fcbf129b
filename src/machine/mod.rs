//! The deterministic replicated machine.

mod backend;
mod settings;

pub use backend::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, BackendReply, Fault, GuestFault, Key,
    Moment, Origin, SnapshotError, StartError,
};
pub use settings::{Budgets, Settings};

//! Consensus: the Raft of Ongaro's thesis, sans-IO.

mod message;
mod ready;
mod storage;

pub use crate::types::RoleName;
pub use message::{AppendReply, Configuration, Entry, Envelope, HardState, Message, Payload, ReadId, SnapshotMeta};
pub use ready::{LogRead, LogReadPurpose, ReadReady, Ready, SoftState, Write, WriteToken};
pub use storage::{InvalidWrite, Restored};

//! Consensus: the Raft of Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014), sans-IO.
//!
//! A [`Raft`] is one peer. It knows no clock, disk or network: inputs are calls, and what is to be done comes out of
//! [`Raft::ready`] as data. A tour that follows the thesis:
//!
//! | thesis | here |
//! |---|---|
//! | 3.3 terms and roles | `role`: what each role alone knows; `dispatch`: terms first, then messages; `message` |
//! | 3.4 leader election, 9.6 pre-vote | `candidate` |
//! | 3.5 log replication | `replication` by the leader, `follower`; `progress`: one follower as its leader sees it |
//! | 3.6 safety: who may be elected, what is committed | `candidate`, `leader`, `quorum` |
//! | 3.8 persisted state | `entry`; `log`: how far it is durable; `storage`; `outbox`; `ready`: the order of effects |
//! | 3.10 leadership transfer | `transfer` |
//! | 4.1 configurations take effect when appended | `log`, `storage` |
//! | 4.2.1 learners catch up, 4.2.2 who is removed steps down, 4.3 joint consensus | `configuration`, `membership` |
//! | 5 log compaction | [`Raft::snapshot_taken`], `follower` for installing, `delivery` to the machine |
//! | 6.2 leaders that are cut off step down | `leader`, `dispatch` |
//! | 6.4 linearizable reads | `read_index`; 6.4.1 by lease: `lease` |
//! | 10.2 writing in parallel, pipelining, batching | `log`, `cache`, `progress`, `inflights`, [`Raft::ready`] |
//!
//! What the thesis does not have: `verdict`, for entries that a machine cannot simply apply, `upgrade`, for those that need
//! another backend, `quarantine`, for a peer whose machine is wrong, and `quiesce`, for clusters that nobody uses.
//!
//! `node` is the public face; `config` has what can be tuned, `status` what can be seen.
//!
//! Nothing is said before what it implies is durable: such messages wait inside for [`Raft::persisted`]. What arrives
//! is never trusted to be sensible: see `nonsense`.

mod cache;
mod candidate;
mod config;
mod configuration;
mod delivery;
mod dispatch;
mod entry;
mod follower;
mod inflights;
mod leader;
mod lease;
mod log;
mod mem_storage;
mod membership;
mod message;
mod node;
mod nonsense;
mod outbox;
mod progress;
mod quarantine;
mod quiesce;
mod quorum;
mod read_index;
mod ready;
mod replication;
mod role;
mod status;
mod storage;
mod transfer;
mod upgrade;
mod verdict;

pub use crate::types::RoleName;
pub use config::{Config, ConfigError, ConfigValues};
pub use configuration::Configuration;
pub use entry::{Entry, HardState, Payload, SnapshotMeta, Upgrade, Verdict};
pub use mem_storage::MemStorage;
pub use membership::MembershipError;
pub use message::{AppendReply, Envelope, Message, ReadId};
pub use node::{ProposeError, Raft, ReadError};
pub use read_index::MAX_WAITING_READS;
pub use ready::{LogRead, LogReadPurpose, ReadReady, Ready, SoftState, Write, WriteToken};
pub use status::{FollowerState, FollowerStatus, Status};
pub use storage::{InvalidWrite, Restored};
pub use transfer::TransferError;

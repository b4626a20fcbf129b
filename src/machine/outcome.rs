//! What becomes of an entry.

use serde::{Deserialize, Serialize};

use crate::access::{AccessControl, AccessDenied, AccessRefusal};
use crate::feature_level::FeatureLevel;
use crate::machine::{HashChain, Key, SessionTerms};
use crate::protocol::{BackendFault, CommandReply, SessionEnd, SessionRefusal, UpgradeRefusal};
use crate::types::{Digest, Index, LogPosition, SessionId};

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub position: LogPosition,
    /// What came of it.
    pub outcome: Outcome,
    /// The keys whose data changed.
    pub changed: Vec<Key>,
    /// The hash chain behind it.
    pub chain: HashChain,
}

/// What an entry led to; equal on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing that anybody waits for.
    Nothing,
    /// A write without a session was run, or skipped.
    Written(CommandReply),
    /// A session was opened; its id is the entry's index.
    Opened(SessionTerms),
    /// A session's command was run or skipped, now or before.
    Answered {
        /// The session.
        session: SessionId,
        /// The command's number.
        seq: u64,
        /// The entry that ran it.
        index: Index,
        /// What it came to.
        reply: CommandReply,
    },
    /// A session's command was not run, or a session was not opened.
    Refused(SessionRefusal),
    /// A session has ended, and its ephemeral data is gone.
    Ended {
        /// The session.
        session: SessionId,
        /// Why.
        end: SessionEnd,
    },
    /// A session has ended. The backend died of that, and its ephemeral data is still there.
    Orphaned {
        /// The session.
        session: SessionId,
        /// Why.
        end: SessionEnd,
        /// What the backend died of.
        fault: BackendFault,
    },
    /// The access list is another now.
    AccessSet(AccessControl),
    /// The access list is what it was.
    AccessNotSet(AccessRefusal),
    /// A client may not open a session, or not set the access list.
    Denied(AccessDenied),
    /// The backend is another from here on.
    Upgraded {
        /// Its component.
        component: Digest,
        /// Its name for the format of its state.
        version: String,
    },
    /// The backend is what it was.
    NotUpgraded(UpgradeRefusal),
    /// What entries there may be.
    Level(FeatureLevel),
}

//! What a session's stream carries. It begins with [`Request::Session`](super::Request::Session); then the client
//! sends [`SessionRequest`]s and the node [`SessionEvent`]s, each a frame of its own.
//!
//! Only the leader serves sessions. One that ceases to lead says so and ends the stream; a session outlives its streams,
//! and its client goes on with it elsewhere: it sends again what was not answered, and arms its triggers again.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CommandReply, RequestError};
use crate::types::{Digest, Index, SessionId};

/// Shortest timeout of a session, in milliseconds.
pub const MIN_SESSION_TIMEOUT_MS: u64 = 100;
/// Longest timeout of a session, in milliseconds: a day.
pub const MAX_SESSION_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
/// Most triggers that may be armed on a stream, and most queries that may wait there.
pub const MAX_TRIGGERS: usize = 1024;
/// Most bytes of the keys that the triggers of a stream watch.
pub const MAX_WATCHED_BYTES: usize = 1 << 20;

/// What proves that a client is the one that opened a session: 128 random bits that only it knows. Replicas keep a
/// digest, so whoever reads a log or a snapshot cannot take a session over.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSecret(pub u128);

impl SessionSecret {
    /// What is kept of it.
    #[must_use]
    pub fn digest(self) -> Digest {
        Digest::of(&self.0.to_le_bytes())
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
}

/// Which session a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionStart {
    /// A new one.
    Open {
        /// How long it is to live without a sign of its client, in milliseconds.
        timeout_ms: u64,
        /// What will prove that it is this client's.
        secret: SessionSecret,
    },
    /// One that the client has opened before. A stream that serves it elsewhere is ended.
    Resume {
        /// The session.
        session: SessionId,
        /// What was given when it was opened.
        secret: SessionSecret,
    },
}

/// Names a trigger on its stream. The client chooses it, and never twice on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TriggerId(pub u64);

/// What a client asks on its session's stream. Anything counts as a sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionRequest {
    /// Run a command, once. Answered by [`SessionEvent::Written`].
    Write {
        /// Its number: 1, 2, 3 and so on.
        seq: u64,
        /// Up to which number the client has its replies, and will not ask for them again.
        acked_up_to: u64,
        /// Whether what it writes goes with the session.
        is_ephemeral: bool,
        /// What the backend gets.
        data: Bytes,
    },
    /// Read linearizably. Answered by [`SessionEvent::Answered`].
    Query {
        /// The client's number for it, and the name of its trigger.
        id: TriggerId,
        /// What the backend gets.
        request: Bytes,
        /// Whether a trigger is to be armed on what the answer depends on.
        watch: bool,
    },
    /// Arm a trigger that was armed on another stream. Fires at once if a key has changed since, or if that is not known.
    Rearm {
        /// The trigger.
        id: TriggerId,
        /// What it watches.
        keys: Vec<Bytes>,
        /// The index of the answer that the client has.
        since: Index,
    },
    /// Forget a trigger. No answer; it may still fire if it was about to.
    Disarm {
        /// The trigger.
        id: TriggerId,
    },
    /// Is the session alive? Answered by [`SessionEvent::Pong`].
    Ping {
        /// The client's number for it.
        number: u64,
    },
    /// End the session. Answered by [`SessionEvent::Ended`].
    Close,
}

/// What a node says on a session's stream. Replies and triggers come in the order of the log: who has been told of an
/// index has been told of everything before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEvent {
    /// The session is served here. The first event of a stream that is not refused.
    Attached {
        /// The session.
        session: SessionId,
    },
    /// What became of a write.
    Written {
        /// Its number.
        seq: u64,
        /// The entry that ran it, and what it came to. Or why it was not run.
        result: Result<(Index, CommandReply), SessionRefusal>,
    },
    /// What the backend said to a query.
    Answered {
        /// The query.
        id: TriggerId,
        /// The state that was read: that after this entry.
        index: Index,
        /// The backend's answer, or why there is none; no trigger is armed then.
        result: Result<Result<Bytes, String>, RequestError>,
        /// What the trigger watches, if one is armed.
        watched: Vec<Bytes>,
    },
    /// A trigger has fired, and is gone.
    Fired {
        /// The trigger.
        id: TriggerId,
        /// Why.
        reason: TriggerReason,
    },
    /// The session was alive when the ping came, as a majority knows.
    Pong {
        /// The ping.
        number: u64,
    },
    /// The session has ended, and its ephemeral data is gone. The last event.
    Ended(SessionEnd),
    /// The stream ends; the session does not. The last event.
    Detached(RequestError),
}

/// Why a trigger has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TriggerReason {
    /// What the answer depended on has changed.
    DataChanged,
    /// It may have changed: the peer that knows has changed.
    LeaderChanged,
    /// The session has ended.
    SessionExpired,
}

impl fmt::Display for TriggerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DataChanged => "data-changed",
            Self::LeaderChanged => "leader-changed",
            Self::SessionExpired => "session-expired",
        })
    }
}

/// Why a session's command was not run now; the same on every replica. One that was sent before may have run then:
/// [`AlreadyAcknowledged`](Self::AlreadyAcknowledged) has, and before [`Expired`](Self::Expired) it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SessionRefusal {
    /// The session has ended, or never was.
    #[error("the session has ended")]
    Expired,
    /// It has run, and the client has said that it has the reply.
    #[error("the reply to this command was acknowledged and is forgotten")]
    AlreadyAcknowledged,
    /// Commands before this one are missing: send again from `expected` on.
    #[error("commands of a session run in order, and {expected} comes next")]
    OutOfOrder {
        /// The next command to run.
        expected: u64,
    },
    /// Too many replies wait for acknowledgement: acknowledge some, then send the command again.
    #[error("too many replies of the session are not acknowledged")]
    TooManyUnacknowledged,
    /// The cluster has as many sessions as its settings allow.
    #[error("the cluster has as many sessions as it may have")]
    TooManySessions,
    /// The client's identity has as many sessions as the cluster's settings allow to one.
    #[error("this client has as many sessions on the cluster as one may have")]
    TooManyOfIdentity,
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEnd {
    /// Its client closed it.
    Closed,
    /// Its client was not heard of for its timeout; or no such session is known.
    Expired,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Expired => "expired",
        })
    }
}

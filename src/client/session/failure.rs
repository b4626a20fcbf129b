//! Why something asked of a session failed, and why a session is over.

use std::fmt;
use std::time::Duration;

use crate::access::AccessDenied;
use crate::protocol::{BackendFault, MAX_DATA_BYTES, RequestError, SessionEnd, SessionRefusal};
use crate::types::Index;

/// Why a session is over for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was closed, as its client wished.
    Closed,
    /// Nobody heard of its client for its timeout.
    Expired,
    /// The cluster refuses to serve it to this client.
    Refused(RequestError),
}

impl From<SessionEnd> for Ending {
    fn from(end: SessionEnd) -> Self {
        match end {
            SessionEnd::Closed => Self::Closed,
            SessionEnd::Expired => Self::Expired,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("was closed"),
            Self::Expired => f.write_str("has expired"),
            Self::Refused(error) => write!(f, "is refused ({error})"),
        }
    }
}

/// Why a call on a session failed, and so what became of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionFailure {
    /// The backend refused the command or the query: a normal answer. A write that was refused has run, and its number is
    /// used up.
    #[error("{0}")]
    Refused(String),
    /// The backend died of the command, and every replica has skipped it. It changed nothing, and its number is used up.
    #[error("the backend died of this command ({fault}); it was skipped and changed nothing")]
    Skipped {
        /// The command's place in the log.
        index: Index,
        /// What the backend died of.
        fault: BackendFault,
    },
    /// The write is queued and was not answered in time. Do not write it again: it will still run, once, as soon as the
    /// cluster can be reached, unless the session ends before. [`Session::submit`](super::Session::submit) is for those who
    /// want to go on waiting.
    #[error(
        "the write was not answered within {} ms; it stays queued and will run once, unless the session ends{}",
        after.as_millis(), reason(trouble)
    )]
    Unanswered {
        /// How long was waited.
        after: Duration,
        /// What the last attempt to reach the cluster failed of.
        trouble: Option<String>,
    },
    /// The cluster's access list did not let this client write. Nothing was changed, and the write's number is used up.
    #[error(transparent)]
    Denied(AccessDenied),
    /// Time is up. A session was not opened, a query not answered, or a write found no room in the queue: nothing was
    /// changed. After [`Session::close`](super::Session::close) the session ends as soon as the cluster can be reached, or
    /// at its timeout.
    #[error("there was no answer within {} ms{}", after.as_millis(), reason(trouble))]
    Timeout {
        /// How long was waited.
        after: Duration,
        /// What the last attempt to reach the cluster failed of.
        trouble: Option<String>,
    },
    /// The session has ended. What was asked was not done and never will be; open another session.
    #[error("the session {0}; what was asked was not done")]
    Ended(Ending),
    /// The session was over before the write's answer came. It was run once, or never: look at the data.
    #[error("the session {0} before the write was answered: it was run once, or never")]
    Unknown(Ending),
    /// The write was run, and the cluster has forgotten its reply, which was acknowledged by somebody else: another program
    /// uses this session's secret.
    #[error("the write has run, but its reply is lost: somebody else uses this session")]
    ReplyLost,
    /// The cluster does not run a write for another reason than its backend's. Nothing was changed.
    #[error("the write was not run: {0}")]
    NotRun(SessionRefusal),
    /// A command or a query is too large. Nothing was changed.
    #[error("{size_bytes} bytes are more than the {MAX_DATA_BYTES} that a command or a query may have")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
    },
    /// The session has as many triggers as it may have, or they watch too much. Take notices, or disarm some.
    #[error("the session's triggers are too many or watch too much; take the notices that wait, or disarm some")]
    TooManyTriggers,
    /// The cluster said no, and would say it again. Nothing was changed.
    #[error(transparent)]
    Failed(RequestError),
    /// No session was opened, because no peer could be reached. Nothing was changed.
    #[error("every peer failed: {0}")]
    AllFailed(String),
    /// There are no peers to ask.
    #[error("no peers were given")]
    NoPeers,
    /// The session was dropped while somebody still waited for a write's answer. It may run, once.
    #[error("the session was dropped before the write was answered: it may run once, or never")]
    Dropped,
}

fn reason(trouble: &Option<String>) -> String {
    trouble.as_ref().map_or_else(String::new, |trouble| format!(" ({trouble})"))
}

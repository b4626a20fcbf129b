//! A light session: follows the leader, passes over failed peers, and keeps nothing on the servers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::peers::Peers;
use crate::client::{CallError, Client};
use crate::protocol::{Reply, Request, RequestError};
use crate::types::{Index, PeerId};

/// How long a session, light or not, waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// The time for a whole call, with all its attempts.
    pub request_timeout: Duration,
    /// The time for one attempt at one peer.
    pub attempt_timeout: Duration,
    /// How long a peer that failed is passed over while others are left.
    pub fail_timeout: Duration,
    /// How long a peer that failed is not believed to lead, though others may say so: about the time that they need
    /// to notice.
    pub leader_fail_timeout: Duration,
    /// The pause before the next attempt when a peer knows no leader.
    pub retry_pause: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            fail_timeout: Duration::from_secs(5),
            leader_fail_timeout: Duration::from_millis(500),
            retry_pause: Duration::from_millis(30),
        }
    }
}

/// A client's view of one cluster. Many calls may run at once on one of them.
///
/// A write whose outcome is not known is [`SessionError::Unknown`] and never repeated here: repeating it may apply
/// it twice. A read is repeated until it succeeds or time is up.
pub struct LightSession {
    client: Client,
    options: SessionOptions,
    peers: Mutex<Peers>,
}

/// A write that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its place in the log: grows with each write, so it can serve as a fencing token.
    pub index: Index,
    /// The backend's reply.
    pub reply: Bytes,
}

/// Why a call on a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The backend refused the command or the query: a normal answer.
    #[error("{0}")]
    Refused(String),
    /// The write may have been applied, or may yet be.
    #[error("it is not known whether the write was applied: {0}")]
    Unknown(String),
    /// The cluster said no. Nothing was changed.
    #[error(transparent)]
    Failed(RequestError),
    /// Every peer failed. Nothing was changed.
    #[error("every peer failed: {}", format_attempts(.0))]
    AllFailed(Vec<(PeerId, CallError)>),
    /// Time is up. Nothing was changed.
    #[error("no peer could serve the request within {} ms; the last one said: {last}", after.as_millis())]
    Timeout {
        /// How long was tried.
        after: Duration,
        /// What the last attempt failed of.
        last: String,
    },
    /// The call failed in a way that no other peer would mend.
    #[error(transparent)]
    Call(CallError),
    /// There are no peers to ask.
    #[error("no peers were given")]
    NoPeers,
}

fn format_attempts(attempts: &[(PeerId, CallError)]) -> String {
    let lines: Vec<_> = attempts.iter().map(|(peer, error)| format!("{peer}: {error}")).collect();
    lines.join("; ")
}

/// What to do after an attempt, and why.
enum Next {
    /// Another peer is known to be better, or this one has failed: at once.
    Elsewhere(String),
    /// Nobody can do it just now.
    Later(String),
}

impl LightSession {
    /// A session with the cluster that has these peers; some of them are enough.
    #[must_use]
    pub fn new(client: Client, peers: Vec<PeerId>) -> Self {
        Self::with_options(client, peers, SessionOptions::default())
    }

    /// A session with the cluster of one peer, which is asked for the others.
    ///
    /// # Errors
    /// [`SessionError::Call`] when its node gives no answer, [`SessionError::Failed`] when there is no such peer on it.
    pub async fn connect(client: Client, peer: &PeerId) -> Result<Self, SessionError> {
        let members = client.members(peer).await?;
        Ok(Self::new(client, members))
    }

    /// A session with other timeouts.
    #[must_use]
    pub fn with_options(client: Client, peers: Vec<PeerId>, options: SessionOptions) -> Self {
        Self { client, options, peers: Mutex::new(Peers::new(peers, options)) }
    }

    /// Has the cluster apply a command, once.
    ///
    /// # Errors
    /// [`SessionError`]; all but [`SessionError::Unknown`] mean that the command was not applied.
    pub async fn write(&self, data: impl Into<Bytes>) -> Result<Written, SessionError> {
        let data = data.into();
        let request =
            |peer: &PeerId, timeout_ms| Request::Write { peer: peer.name().to_owned(), data: data.clone(), timeout_ms };
        match self.run(request, true).await? {
            Reply::Written { index, reply } => {
                reply.map(|reply| Written { index, reply }).map_err(SessionError::Refused)
            }
            _ => Err(SessionError::Unknown("the answer is to another question".to_owned())),
        }
    }

    /// Reads: the answer reflects every write that was acknowledged before the call.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn query(&self, request: impl Into<Bytes>) -> Result<Bytes, SessionError> {
        let data = request.into();
        let request = |peer: &PeerId, timeout_ms| Request::Query {
            peer: peer.name().to_owned(),
            request: data.clone(),
            timeout_ms,
        };
        match self.run(request, false).await? {
            Reply::Answered { reply } => reply.map_err(SessionError::Refused),
            _ => Err(SessionError::Unknown("the answer is to another question".to_owned())),
        }
    }

    /// The leader, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<PeerId> {
        self.peers().leader().cloned()
    }

    /// Tries peer after peer until one has answered, or time is up.
    async fn run(&self, request: impl Fn(&PeerId, u64) -> Request, is_write: bool) -> Result<Reply, SessionError> {
        let started = Instant::now();
        let deadline = started + self.options.request_timeout;
        let mut attempts = Vec::new();
        let mut rounds = 0;
        loop {
            let chosen = self.peers().choose_unless_lost(|node| self.client.has_lost(node));
            let peer = chosen.ok_or(SessionError::NoPeers)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = left.min(self.options.attempt_timeout);
            // The node gives up a little before we do, so that its own word on the outcome still reaches us.
            let at_node = timeout.mul_f32(0.9).as_millis().try_into().unwrap_or(u64::MAX);
            let began = Instant::now();
            let result = self.client.call(peer.node(), &request(&peer, at_node), timeout).await;
            let last = match self.judge((&peer, began), result, is_write, &mut attempts)? {
                Ok(reply) => return Ok(reply),
                Err(Next::Elsewhere(reason)) => reason,
                Err(Next::Later(reason)) => {
                    tokio::time::sleep(self.options.retry_pause).await;
                    reason
                }
            };
            if self.peers().all_failed(&attempts) {
                return Err(SessionError::AllFailed(attempts));
            }
            if Instant::now() >= deadline {
                return Err(SessionError::Timeout { after: started.elapsed(), last: format!("{peer}: {last}") });
            }
            // Peers may each take another for the leader: nobody is asked over and over without a pause.
            rounds += 1;
            if rounds % self.peers().len() == 0 {
                tokio::time::sleep(self.options.retry_pause).await;
            }
        }
    }

    /// Takes in what an attempt led to: an answer, a final error, or what to do next.
    fn judge(
        &self,
        (peer, began): (&PeerId, Instant),
        result: Result<Reply, CallError>,
        is_write: bool,
        attempts: &mut Vec<(PeerId, CallError)>,
    ) -> Result<Result<Reply, Next>, SessionError> {
        match result {
            Ok(Reply::Failed(RequestError::PeerStopped { reason })) => {
                let error = CallError::Stopped { node: peer.node().clone(), reason };
                Ok(Err(self.pass_over((peer, began), error, attempts)))
            }
            Ok(Reply::Failed(error @ RequestError::Quarantined)) => {
                let error = CallError::Stopped { node: peer.node().clone(), reason: error.to_string() };
                Ok(Err(self.pass_over((peer, began), error, attempts)))
            }
            // A peer that has left its cluster is no longer there, but others may be.
            Ok(Reply::Failed(error @ RequestError::NoSuchPeer { .. })) if self.peers().len() > 1 => {
                let error = CallError::Absent(error);
                Ok(Err(self.pass_over((peer, began), error, attempts)))
            }
            Ok(Reply::Failed(error)) => self.judge_refusal(peer, error, is_write).map(Err),
            Ok(reply) => {
                self.peers().succeeded(peer, is_write);
                Ok(Ok(reply))
            }
            Err(error) if is_write && error.may_have_arrived() => {
                self.peers().attempt_failed((peer, began), error.is_loss());
                Err(SessionError::Unknown(error.to_string()))
            }
            Err(error) => Ok(Err(self.pass_over((peer, began), error, attempts))),
        }
    }

    /// A peer has failed and nothing was changed. The last failure of each is kept.
    fn pass_over(
        &self,
        (peer, began): (&PeerId, Instant),
        error: CallError,
        attempts: &mut Vec<(PeerId, CallError)>,
    ) -> Next {
        self.peers().attempt_failed((peer, began), error.is_loss());
        let reason = error.to_string();
        attempts.retain(|(failed, _)| failed != peer);
        attempts.push((peer.clone(), error));
        Next::Elsewhere(reason)
    }

    fn judge_refusal(&self, peer: &PeerId, error: RequestError, is_write: bool) -> Result<Next, SessionError> {
        let reason = error.to_string();
        match error {
            RequestError::NotLeader { leader: Some(leader) } => {
                let node = leader.node().clone();
                let is_usable = self.peers().follow(leader, |node| self.client.is_connected(node));
                if !is_usable {
                    self.client.dial(&node);
                }
                Ok(if is_usable { Next::Elsewhere(reason) } else { Next::Later(reason) })
            }
            RequestError::NotLeader { leader: None } => {
                self.peers().lost_leader();
                Ok(Next::Later(reason))
            }
            RequestError::Overloaded | RequestError::NotApplied => Ok(Next::Later(reason)),
            RequestError::NoLeader | RequestError::Stopping => {
                self.peers().failed(peer);
                Ok(Next::Later(reason))
            }
            RequestError::Unknown if is_write => Err(SessionError::Unknown(RequestError::Unknown.to_string())),
            error => Err(SessionError::Failed(error)),
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

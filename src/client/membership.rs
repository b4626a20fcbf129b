//! The peers of a cluster: asking for them, and changing them.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::client::{CallError, Client, SessionOptions};
use crate::protocol::{ChangeMembers, ChangeRefusal, Membership, Reply, Request, RequestError};
use crate::types::PeerId;

/// Why a cluster's leader did not do or tell what an operator asked of it, or is not known to have done it.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The leader did not change them, or not yet: [`ChangeRefusal`] tells, and whether the change has begun.
    #[error(transparent)]
    NotChanged(ChangeRefusal),
    /// No leader answered in time. Nothing was changed.
    #[error("no leader answered within {} ms; the last one asked said: {last}", after.as_millis())]
    Timeout {
        /// How long was tried.
        after: Duration,
        /// What the last attempt failed of.
        last: String,
    },
    /// The leader was lost while it had the request: what was asked may have been done, or may yet be. Ask how it stands.
    #[error("it is not known whether that was done: {0}")]
    Unknown(CallError),
    /// The cluster said no, and would say it again. Nothing was changed, unless it is [`RequestError::Unknown`].
    #[error(transparent)]
    Failed(RequestError),
    /// The node could not be asked, and no other is known. Nothing was changed.
    #[error(transparent)]
    Call(CallError),
}

impl Client {
    /// The peers of a cluster, as its leader has them; `peer` is any of them. A leader that was deposed a moment ago, and
    /// does not know it, may still tell the former ones; [`Client::set_new_conf`] is not misled by that.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn get_conf(&self, peer: &PeerId, timeout: Duration) -> Result<Membership, MembershipError> {
        let request = |peer: &PeerId, _| Request::Members { peer: peer.name().to_owned() };
        match self.ask_leader(peer, request, timeout, false).await? {
            (_, Reply::Members(membership)) => Ok(membership),
            (leader, _) => Err(MembershipError::Call(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Changes the peers of a cluster to exactly `new`, if they are exactly `old`; `peer` is any of them. Returns once the
    /// new peers alone decide. Peers that are new are made on their nodes, get the component and the state, and vote once
    /// they have caught up; peers that leave are removed from theirs. Needs an admin certificate, or admin access.
    ///
    /// Waits while the leader is not stable yet. Where the peers are `new` already, nothing is done: so it may be repeated.
    /// Setting the present peers withdraws a change whose new peers do not catch up.
    ///
    /// # Errors
    /// [`MembershipError`]. The change may have begun, and then goes on by itself, with [`MembershipError::Unknown`] and
    /// where [`ChangeRefusal::has_begun`]; in all other cases nothing was changed.
    pub async fn set_new_conf(
        &self,
        peer: &PeerId,
        new: &[PeerId],
        old: &[PeerId],
        timeout: Duration,
    ) -> Result<(), MembershipError> {
        let change = ChangeMembers { new: new.to_vec(), old: old.to_vec() };
        let request = |peer: &PeerId, timeout_ms| Request::ChangeMembers {
            peer: peer.name().to_owned(),
            change: change.clone(),
            timeout_ms,
        };
        match self.ask_leader(peer, request, timeout, true).await? {
            (_, Reply::MembersChanged) => Ok(()),
            (leader, _) => Err(MembershipError::Unknown(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Asks a peer, and then whom it takes for the leader, until a leader has answered or time is up.
    pub(super) async fn ask_leader(
        &self,
        peer: &PeerId,
        request: impl Fn(&PeerId, u64) -> Request,
        timeout: Duration,
        is_change: bool,
    ) -> Result<(PeerId, Reply), MembershipError> {
        self.ask_leader_with(peer, request, &Bytes::new(), timeout, is_change).await
    }

    /// The same with bytes that follow the request.
    pub(super) async fn ask_leader_with(
        &self,
        peer: &PeerId,
        request: impl Fn(&PeerId, u64) -> Request,
        body: &Bytes,
        timeout: Duration,
        is_change: bool,
    ) -> Result<(PeerId, Reply), MembershipError> {
        let SessionOptions { attempt_timeout, retry_pause, .. } = SessionOptions::default();
        let deadline = Instant::now() + timeout;
        let mut target = peer.clone();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A change takes its time; a leader that cannot even say who it is does not get all of it.
            let limit = if is_change { left } else { left.min(attempt_timeout) };
            // The node gives up a little before we do, so that its own word still reaches us.
            let at_node = limit.mul_f32(0.9).as_millis().try_into().unwrap_or(u64::MAX);
            let mut next = peer.clone();
            let last = match self.call_with_body(target.node(), &request(&target, at_node), body, limit).await {
                Ok(Reply::Failed(RequestError::NotLeader { leader })) => {
                    let reason = RequestError::NotLeader { leader: leader.clone() }.to_string();
                    next = leader.filter(|leader| *leader != target).unwrap_or(next);
                    reason
                }
                Ok(Reply::Failed(RequestError::NotChanged(refusal))) => {
                    let passes_soon = refusal == ChangeRefusal::NotStable && Instant::now() < deadline;
                    if !passes_soon {
                        return Err(MembershipError::NotChanged(refusal));
                    }
                    refusal.to_string()
                }
                // Another leads since, and what was asked was not done: that one may do it.
                Ok(Reply::Failed(error @ RequestError::NotApplied)) if Instant::now() < deadline => error.to_string(),
                // The leader has just left, or its node stops: others will know.
                Ok(Reply::Failed(error @ (RequestError::Stopping | RequestError::NoSuchPeer { .. })))
                    if target != *peer =>
                {
                    error.to_string()
                }
                Ok(Reply::Failed(error)) => return Err(MembershipError::Failed(error)),
                Ok(reply) => return Ok((target, reply)),
                Err(error) if is_change && error.may_have_arrived() => return Err(MembershipError::Unknown(error)),
                Err(error) if target == *peer => return Err(MembershipError::Call(error)),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(MembershipError::Timeout { after: timeout, last: format!("{target}: {last}") });
            }
            tokio::time::sleep(retry_pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            target = next;
        }
    }
}

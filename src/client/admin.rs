//! What operators ask of nodes.

use std::time::Duration;

use bytes::Bytes;

use crate::access::{AccessControl, AccessList};
use crate::client::{CallError, Client, MembershipError, SessionError};
use crate::protocol::{CanaryReport, NodeStatus, Reply, Request, RequestError, RunCanary, UpgradeCluster};
use crate::types::{Index, NodeAddr, PeerId};

impl Client {
    const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

    /// How long a canary may take to compile, and to be given a large state.
    const CANARY_BEGINS_WITHIN: Duration = Duration::from_secs(600);

    /// How a node and its peers are.
    ///
    /// # Errors
    /// [`CallError`] when the node gives no answer.
    pub async fn status(&self, node: &NodeAddr) -> Result<NodeStatus, CallError> {
        match self.call(node, &Request::Status, Self::STATUS_TIMEOUT).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(CallError::Mismatched { node: node.clone() }),
        }
    }

    /// The peers of a cluster, as one of them knows them.
    ///
    /// # Errors
    /// [`SessionError::Call`] when its node gives no answer, [`SessionError::Failed`] when there is no such peer on it.
    pub async fn members(&self, peer: &PeerId) -> Result<Vec<PeerId>, SessionError> {
        let status = self.status(peer.node()).await.map_err(SessionError::Call)?;
        let found = status.peers.into_iter().find(|status| status.peer.name() == peer.name());
        let no_such_peer = || RequestError::NoSuchPeer { name: peer.name().to_owned(), node: peer.node().clone() };
        Ok(found.ok_or_else(|| SessionError::Failed(no_such_peer()))?.members)
    }

    /// Has leadership of a cluster handed to a peer, or without a name to the one on another node that has most of the log;
    /// `peer` is any of them. Returns who leads then. Needs an admin certificate, or admin
    /// access.
    ///
    /// # Errors
    /// [`MembershipError`]; with [`RequestError::NotTransferred`] somebody else leads, or will.
    pub async fn transfer(
        &self,
        peer: &PeerId,
        to: Option<&PeerId>,
        timeout: Duration,
    ) -> Result<PeerId, MembershipError> {
        let request =
            |peer: &PeerId, timeout_ms| Request::Transfer { peer: peer.name().to_owned(), to: to.cloned(), timeout_ms };
        match self.ask_leader(peer, request, timeout, true).await? {
            (_, Reply::Transferred { leader }) => Ok(leader),
            (leader, _) => Err(MembershipError::Unknown(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Who may do what on a cluster; `peer` is any of its peers. Needs an admin certificate, or admin access.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn access(&self, peer: &PeerId, timeout: Duration) -> Result<AccessControl, MembershipError> {
        let request = |peer: &PeerId, timeout_ms| Request::Access { peer: peer.name().to_owned(), timeout_ms };
        match self.ask_leader(peer, request, timeout, false).await? {
            (_, Reply::Access(access)) => Ok(access),
            (leader, _) => Err(MembershipError::Call(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Sets who may do what on a cluster, if the present list is the one that was set at entry `expected`; `peer` is any of its
    /// peers. Returns the entry that has set it. From then on no write gets in that the list does not allow, and streams of
    /// sessions whose clients may not read any more have ended. Needs an admin certificate, or admin access.
    ///
    /// ```no_run
    /// # async fn example(client: zraft::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use zraft::access::{Access, AccessControl};
    ///
    /// let (peer, timeout) = ("kv@10.0.0.1:7400".parse()?, Duration::from_secs(10));
    /// let AccessControl { mut list, set_at } = client.access(&peer, timeout).await?;
    /// list.default = None;
    /// list.named.insert("alice".to_owned(), Access::Write);
    /// client.set_access(&peer, &list, set_at, timeout).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MembershipError`]; with [`RequestError::AccessNotSet`] somebody else has set another list meanwhile. With
    /// [`MembershipError::Unknown`] and [`RequestError::Unknown`] it may be set, or may yet be: look at it.
    pub async fn set_access(
        &self,
        peer: &PeerId,
        list: &AccessList,
        expected: Index,
        timeout: Duration,
    ) -> Result<Index, MembershipError> {
        let request = |peer: &PeerId, timeout_ms| Request::SetAccess {
            peer: peer.name().to_owned(),
            expected,
            list: list.clone(),
            timeout_ms,
        };
        match self.ask_leader(peer, request, timeout, true).await? {
            (_, Reply::AccessSet { set_at }) => Ok(set_at),
            (leader, _) => Err(MembershipError::Unknown(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Moves a cluster to another backend; `peer` is any of its peers. The nodes of all members that can be reached get the
    /// component, a quorum at least; then one entry of the log hands the state over on all replicas, to what `restore` of the new
    /// component makes of it and of `migration`. Commands before that entry run on the old backend, those behind it on the new
    /// one. Returns that entry, or none if the cluster runs this component already. Needs an admin certificate.
    ///
    /// # Errors
    /// [`MembershipError`]; with [`RequestError::NotUpgraded`] the old backend goes on, on all replicas. With
    /// [`MembershipError::Unknown`] and [`RequestError::Unknown`] it may have been moved, or may yet be: ask for the status, or
    /// again.
    pub async fn upgrade(
        &self,
        peer: &PeerId,
        component: Bytes,
        migration: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Option<Index>, MembershipError> {
        let upgrade = UpgradeCluster::to(&component, migration);
        let request = |peer: &PeerId, timeout_ms| Request::Upgrade {
            peer: peer.name().to_owned(),
            upgrade: upgrade.clone(),
            timeout_ms,
        };
        match self.ask_leader_with(peer, request, &component, timeout, true).await? {
            (_, Reply::Upgraded { index }) => Ok(index),
            (leader, _) => Err(MembershipError::Unknown(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Runs another backend beside that of a peer: it is given the peer's state, as in an upgrade, and then what the peer applies, and
    /// what both come to is compared, until it has run `max_commands` or for `max_time`. Nothing of the cluster is changed. The
    /// peer must not lead, unless it is alone. Needs an admin certificate.
    ///
    /// # Errors
    /// [`SessionError::Call`] when its node gives no answer, [`SessionError::Failed`] when the canary cannot begin.
    pub async fn canary(
        &self,
        peer: &PeerId,
        component: Bytes,
        migration: Option<Bytes>,
        max_commands: u64,
        max_time: Duration,
    ) -> Result<CanaryReport, SessionError> {
        let upgrade = UpgradeCluster::to(&component, migration);
        let max_ms = max_time.as_millis().try_into().unwrap_or(u64::MAX);
        let canary = RunCanary { upgrade, max_commands, max_ms };
        let request = Request::Canary { peer: peer.name().to_owned(), canary };
        let timeout = max_time.saturating_add(Self::CANARY_BEGINS_WITHIN);
        match self.call_with_body(peer.node(), &request, &component, timeout).await.map_err(SessionError::Call)? {
            Reply::Canary(report) => Ok(report),
            Reply::Failed(error) => Err(SessionError::Failed(error)),
            _ => Err(SessionError::Call(CallError::Mismatched { node: peer.node().clone() })),
        }
    }

    /// Deletes a cluster with all its data; `peer` is any of its peers. Where a node of the cluster cannot be reached nothing
    /// is deleted. Needs an admin certificate, or admin access.
    ///
    /// # Errors
    /// [`MembershipError`]; with [`RequestError::PartlyDeleted`] some of its peers are left.
    pub async fn delete(&self, peer: &PeerId, timeout: Duration) -> Result<(), MembershipError> {
        let request = |peer: &PeerId, _| Request::Delete { peer: peer.name().to_owned(), is_forced: false };
        match self.ask_leader(peer, request, timeout, true).await? {
            (_, Reply::Deleted) => Ok(()),
            (leader, _) => Err(MembershipError::Unknown(CallError::Mismatched { node: leader.node().clone() })),
        }
    }

    /// Deletes what is left of a cluster, as far as this peer of it knows the others and they can be told: for one that has
    /// lost its majority, or was deleted in part. Needs an admin certificate.
    ///
    /// # Errors
    /// [`MembershipError`]; with [`RequestError::PartlyDeleted`] some of its peers are left.
    pub async fn delete_by_force(&self, peer: &PeerId, timeout: Duration) -> Result<(), MembershipError> {
        let request = Request::Delete { peer: peer.name().to_owned(), is_forced: true };
        match self.call(peer.node(), &request, timeout).await {
            Ok(Reply::Deleted) => Ok(()),
            Ok(Reply::Failed(error)) => Err(MembershipError::Failed(error)),
            Ok(_) => Err(MembershipError::Unknown(CallError::Mismatched { node: peer.node().clone() })),
            Err(error) if error.may_have_arrived() => Err(MembershipError::Unknown(error)),
            Err(error) => Err(MembershipError::Call(error)),
        }
    }
}

//! What operators and tests see of a peer.

use crate::raft::inflights::Inflights;
use crate::raft::progress::State;
use crate::raft::role::Role;
use crate::raft::{Raft, RoleName};
use crate::types::{Incarnation, Index, LogPosition, Term};

/// A peer at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The peer.
    pub id: Incarnation,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader of the term, as far as known.
    pub leader: Option<Incarnation>,
    /// The last entry known to be committed.
    pub commit: Index,
    /// The last entry that the machine has applied.
    pub applied: Index,
    /// The first entry that the log still has, or would have.
    pub first: Index,
    /// The last entry in the log.
    pub last: LogPosition,
    /// The last entry that is durable here.
    pub stable: Index,
    /// The latest snapshot, or zero.
    pub snapshot: LogPosition,
    /// The followers as a leader sees them; empty on others.
    pub followers: Vec<FollowerStatus>,
    /// Whether it sleeps: see [`Raft::is_asleep`].
    pub is_asleep: bool,
    /// How many messages have come that no correct peer sends. Anything but 0 calls for a look at the log.
    pub refused: u64,
}

/// A follower as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The follower.
    pub id: Incarnation,
    /// The last entry known to be durable there.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// How it is sent to.
    pub state: FollowerState,
    /// Appends with entries that are on their way to it.
    pub inflight_messages: usize,
    /// The bytes of those entries.
    pub inflight_bytes: usize,
}

/// How a leader sends to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerState {
    /// Looks for the place where the logs part.
    Probe,
    /// Sends ahead of the answers.
    Replicate,
    /// Waits until the follower has a snapshot.
    Snapshot,
}

impl Status {
    pub(super) fn of(raft: &Raft) -> Self {
        Self {
            id: raft.id,
            role: raft.role.name(),
            term: raft.term(),
            leader: raft.leader(),
            commit: raft.log.commit(),
            applied: raft.delivery.applied(),
            first: raft.log.base().index.next(),
            last: raft.log.last_position(),
            stable: raft.log.stable(),
            snapshot: raft.log.snapshot().map_or(LogPosition::ZERO, |meta| meta.position),
            followers: followers(&raft.role),
            is_asleep: raft.is_asleep(),
            refused: raft.refused(),
        }
    }
}

fn followers(role: &Role) -> Vec<FollowerStatus> {
    let Role::Leader(leader) = role else { return Vec::new() };
    let status = |(id, progress): (&Incarnation, &crate::raft::progress::Progress)| FollowerStatus {
        id: *id,
        matched: progress.matched,
        next: progress.next,
        state: match progress.state {
            State::Probe { .. } => FollowerState::Probe,
            State::Replicate(_) => FollowerState::Replicate,
            State::Snapshot(_) => FollowerState::Snapshot,
        },
        inflight_messages: progress.inflights().map_or(0, Inflights::count),
        inflight_bytes: progress.inflights().map_or(0, Inflights::bytes),
    };
    leader.progress.iter().map(status).collect()
}

//! The roles of a peer, what each of them alone knows, and how a peer goes from one to another (thesis section 3.3).

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::raft::inflights::Inflights;
use crate::raft::lease::Lease;
use crate::raft::progress::Progress;
use crate::raft::quiesce::Rest;
use crate::raft::read_index::{ForwardedReads, ReadRounds};
use crate::raft::transfer::Transfer;
use crate::raft::{Raft, ReadId, RoleName};
use crate::types::{Incarnation, Index, Term};

/// What a peer is at the moment.
#[derive(Clone, Debug)]
pub(super) enum Role {
    Follower(Follower),
    /// Asks whether an election would succeed (thesis section 9.6).
    PreCandidate(Candidacy),
    Candidate(Candidacy),
    Leader(Leader),
}

/// Follows a leader, or waits for one.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    pub(super) leader: Option<Incarnation>,
    /// Ticks since the leader was heard, a vote was given, or the waiting began.
    pub(super) silent_ticks: u32,
    /// The silence after which to ask for an election.
    pub(super) timeout_ticks: u32,
    /// Counts no time: see `quiesce`.
    pub(super) is_asleep: bool,
    /// Reads that the leader was asked for.
    pub(super) reads: ForwardedReads,
}

/// Collects votes, or promises of votes.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidacy {
    pub(super) granted: BTreeSet<Incarnation>,
    pub(super) refused: BTreeSet<Incarnation>,
    pub(super) elapsed_ticks: u32,
    /// The time after which to begin again.
    pub(super) timeout_ticks: u32,
}

impl Candidacy {
    /// Notes a voter's answer; the first one counts.
    pub(super) fn note(&mut self, voter: Incarnation, granted: bool) {
        if granted && !self.refused.contains(&voter) {
            self.granted.insert(voter);
        } else if !self.granted.contains(&voter) {
            self.refused.insert(voter);
        }
    }

    pub(super) fn vote(&self, voter: Incarnation) -> Option<bool> {
        (self.granted.contains(&voter) || self.refused.contains(&voter)).then(|| self.granted.contains(&voter))
    }
}

/// Leads its term.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    /// The other members.
    pub(super) progress: BTreeMap<Incarnation, Progress>,
    pub(super) reads: ReadRounds,
    pub(super) lease: Lease,
    /// Own proposals that are not committed.
    pub(super) uncommitted: Inflights,
    /// The first entry of its term. Once it is committed, so are all before it.
    pub(super) term_start: Index,
    pub(super) heartbeat_ticks: u32,
    pub(super) quorum_ticks: u32,
    pub(super) transfer: Option<Transfer>,
    pub(super) rest: Rest,
    /// Something has happened that may let appends, heartbeats or answers leave.
    pub(super) flush: bool,
}

impl Role {
    pub(super) fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::PreCandidate(_) => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }

    /// The own reads that end with this role.
    pub(super) fn own_reads(&self) -> Vec<ReadId> {
        match self {
            Self::Follower(follower) => follower.reads.ids().collect(),
            Self::PreCandidate(_) | Self::Candidate(_) => Vec::new(),
            Self::Leader(leader) => leader.reads.own().collect(),
        }
    }
}

impl Raft {
    /// Follows a leader of `term`, or waits for one. A later term than the current one is entered without a vote.
    pub(super) fn follow(&mut self, term: Term, leader: Option<Incarnation>) {
        if term > self.term() {
            self.enter_term(term, None);
        }
        let timeout_ticks = self.election_timeout();
        self.change_role(Role::Follower(Follower { leader, timeout_ticks, ..Follower::default() }));
    }

    /// Enters a term. What waits to be said in an older one would no longer count.
    pub(super) fn enter_term(&mut self, term: Term, vote: Option<Incarnation>) {
        self.log.set_term(term, vote);
        self.held.clear();
    }

    pub(super) fn change_role(&mut self, role: Role) {
        let old = std::mem::replace(&mut self.role, role);
        self.out.reads_lost.extend(old.own_reads());
    }

    /// Randomized, so that split votes are rare and resolved quickly (thesis section 3.4).
    pub(super) fn election_timeout(&mut self) -> u32 {
        let ticks = self.config.election_ticks;
        self.rng.random_range(ticks..2 * ticks)
    }
}

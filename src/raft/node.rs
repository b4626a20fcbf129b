//! The public face: inputs are calls, outputs come out of [`Raft::ready`].

use std::collections::VecDeque;
use std::mem::{Discriminant, discriminant};
use std::ops::RangeInclusive;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::log_limit::LogLimit;
use crate::raft::delivery::{Delivery, Next};
use crate::raft::log::Log;
use crate::raft::nonsense::{self, Nonsense};
use crate::raft::progress::Progress;
use crate::raft::role::{Follower, Role};
use crate::raft::{
    Config, ConfigValues, Configuration, Entry, Envelope, LogRead, LogReadPurpose, Message, Payload, ReadId, Ready,
    Restored, SnapshotMeta, SoftState, WriteToken,
};
use crate::types::{Incarnation, Index, LogPosition, PeerId, Term};

/// Why a proposal was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Only a leader takes proposals.
    #[error("this peer is not the leader: ask the leader instead")]
    NotLeader {
        /// The leader, if known.
        leader: Option<Incarnation>,
    },
    /// Leadership is being handed over, for an election timeout at most.
    #[error("leadership is being handed to {to}: try again soon, there or here")]
    Transferring {
        /// Who is to lead next.
        to: Incarnation,
    },
    /// Commitment does not keep up.
    #[error("too many bytes wait to be committed: try again later")]
    TooMuchUncommitted,
}

/// Why a read was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Reads need a leader.
    #[error("no leader is known: try again later")]
    NoLeader,
    /// Reads come faster than they are confirmed.
    #[error("too many reads wait to be confirmed: try again later")]
    TooManyReads,
}

/// One peer of a Raft cluster, without a clock, a disk or a network.
///
/// The driver calls the inputs, then carries out what [`Raft::ready`] asks for. Time passes by [`Raft::tick`]. The
/// same inputs and the same seed give the same outputs. A clone goes on from the same point, so that a checker can follow
/// every branch of what may happen next.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(super) id: Incarnation,
    pub(super) config: ConfigValues,
    pub(super) rng: ChaCha8Rng,
    pub(super) log: Log,
    pub(super) role: Role,
    pub(super) delivery: Delivery,
    /// What the next [`Ready`] will say, as far as it is not derived from the rest then.
    pub(super) out: Ready,
    /// Messages that wait for a write, oldest first. One to this peer itself is its own vote.
    pub(super) held: VecDeque<(WriteToken, Envelope)>,
    /// The wall clock as last told, in milliseconds.
    pub(super) clock_ms: u64,
    pub(super) next_read: u64,
    /// Ticks since the disk was given a write or has finished one, while it owes one.
    disk_silent_ticks: u32,
    /// Ticks since a leader was heard in this life, of whatever term, or since it began.
    pub(super) leader_silent_ticks: u32,
    reported: SoftState,
    refused: u64,
    refusals_logged: LogLimit<(Incarnation, Discriminant<Nonsense>)>,
    /// The machine is wrong: see `quarantine`.
    pub(super) is_quarantined: bool,
}

impl Raft {
    /// Starts a peer on what its store holds. The machine must already stand at the restored snapshot, if there is
    /// one, or else at its beginning. `seed` decides the randomized timeouts and must differ between peers.
    #[must_use]
    pub fn new(id: Incarnation, config: Config, restored: Restored, seed: u64) -> Self {
        let config = config.values().clone();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let next_read = rng.random();
        let log = Log::new(restored, config.cached_log_bytes);
        let applied = log.snapshot().map_or(Index::ZERO, |meta| meta.position.index);
        let reported = SoftState { role: crate::raft::RoleName::Follower, term: log.term(), leader: None };
        let mut raft = Self {
            id,
            delivery: Delivery::new(applied, config.max_apply_bytes),
            config,
            rng,
            log,
            role: Role::Follower(Follower::default()),
            out: Ready::default(),
            held: VecDeque::new(),
            clock_ms: 0,
            next_read,
            disk_silent_ticks: 0,
            leader_silent_ticks: 0,
            reported,
            refused: 0,
            refusals_logged: LogLimit::default(),
            is_quarantined: false,
        };
        raft.follow(raft.term(), None);
        raft
    }

    /// One tick of time has passed. `now_ms` is the wall clock in milliseconds since the Unix epoch; it only ends up
    /// in entries.
    pub fn tick(&mut self, now_ms: u64) {
        self.clock_ms = now_ms;
        if self.is_asleep() {
            return;
        }
        self.leader_silent_ticks = self.leader_silent_ticks.saturating_add(1);
        self.disk_silent_ticks = if self.log.is_writing() { self.disk_silent_ticks.saturating_add(1) } else { 0 };
        match &self.role {
            Role::Follower(_) => self.tick_follower(),
            Role::PreCandidate(_) | Role::Candidate(_) => self.tick_candidate(),
            Role::Leader(_) => self.tick_leader(),
        }
    }

    /// A message has arrived. One that no correct peer would send is logged and counted in
    /// [`Status::refused`](crate::raft::Status::refused).
    pub fn step(&mut self, envelope: Envelope, now_ms: u64) {
        self.clock_ms = now_ms;
        if envelope.to != self.id || envelope.from == self.id {
            tracing::debug!(me = %self.id, from = %envelope.from, to = %envelope.to, "a message for somebody else");
            return;
        }
        if let Err(nonsense) = nonsense::check(&envelope) {
            return self.refuse(envelope.from, nonsense);
        }
        if !self.may_hear(&envelope) {
            tracing::debug!(me = %self.id, from = %envelope.from, "an answer from a stranger");
            return;
        }
        self.wake_by(&envelope);
        self.step_checked(envelope);
    }

    /// Requests are obeyed whoever sends them: a peer's own configuration may be old (thesis section 4.1). Answers and
    /// reads count only from those that are known; those that leave are known to the leader until they have left.
    fn may_hear(&self, envelope: &Envelope) -> bool {
        let is_member = || self.log.configuration().contains(envelope.from);
        match &envelope.message {
            Message::PreVoteReply { .. } | Message::VoteReply { .. } | Message::ReadIndex { .. } => is_member(),
            Message::AppendReply(_) | Message::HeartbeatReply { .. } | Message::QuiesceReply { .. } => match &self.role
            {
                Role::Leader(leader) => leader.progress.contains_key(&envelope.from),
                _ => is_member(),
            },
            _ => true,
        }
    }

    /// Appends commands to the log, if this peer leads: all of them or none. They are committed unless the leader
    /// changes; the range of their indexes tells them apart when they come back to be applied.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose(&mut self, data: Vec<Bytes>, now_ms: u64) -> Result<RangeInclusive<Index>, ProposeError> {
        self.propose_all(data.into_iter().map(Payload::Data).collect(), now_ms)
    }

    pub(super) fn propose_all(
        &mut self,
        payloads: Vec<Payload>,
        now_ms: u64,
    ) -> Result<RangeInclusive<Index>, ProposeError> {
        self.clock_ms = now_ms;
        let (leader, next_leader) = (self.leader(), self.transferring_to());
        let Role::Leader(state) = &mut self.role else { return Err(ProposeError::NotLeader { leader }) };
        if let Some(to) = next_leader {
            return Err(ProposeError::Transferring { to });
        }
        let bytes: usize = payloads.iter().map(Payload::size_bytes).sum();
        let pending = state.uncommitted.bytes();
        // A batch that is too large by itself passes when nothing else waits: it would never fit otherwise.
        if pending > 0 && pending + bytes > self.config.max_uncommitted_bytes {
            return Err(ProposeError::TooMuchUncommitted);
        }
        let first = self.log.last().next();
        state.uncommitted.add(Index(self.log.last().0 + payloads.len() as u64), bytes);
        state.flush = true;
        payloads.into_iter().for_each(|payload| self.append_own(payload));
        Ok(first..=self.log.last())
    }

    /// Asks for the index at which a linearizable read may be served. The answer comes in [`Ready::reads`] or
    /// [`Ready::reads_lost`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_index(&mut self) -> Result<ReadId, ReadError> {
        let id = ReadId(self.next_read);
        match &self.role {
            Role::Leader(_) => self.read_at_leader(None, id)?,
            Role::Follower(_) => self.forward_read(id)?,
            Role::PreCandidate(_) | Role::Candidate(_) => return Err(ReadError::NoLeader),
        }
        self.next_read = self.next_read.wrapping_add(1);
        Ok(id)
    }

    /// The write, and all before it, is durable.
    pub fn persisted(&mut self, token: WriteToken) {
        self.log.persisted(token);
        self.disk_silent_ticks = 0;
        while let Some((_, envelope)) = self.held.pop_front_if(|(after, _)| *after <= token) {
            self.dispatch(envelope);
        }
        self.advance_commit();
    }

    /// The machine has applied everything up to `index`, or has restored the snapshot there.
    pub fn applied(&mut self, index: Index) {
        self.delivery.set_applied(index);
    }

    /// The entries that [`Ready::log_reads`] asked for; empty when they are gone. An answer that nobody waits for any
    /// more is dropped.
    pub fn log_read(&mut self, read: LogRead, entries: Vec<Entry>) {
        match read.purpose {
            LogReadPurpose::Apply => self.delivery.log_read(&self.log, read, entries),
            LogReadPurpose::Replicate(to) => self.send_read(to, read, entries),
        }
    }

    /// The own machine's snapshot is a durable file. The log that it covers is forgotten, but for the last `keep`
    /// entries, which spare followers that are a little behind the snapshot. One that is not newer than the
    /// current one, or not of this peer's log, is ignored.
    pub fn snapshot_taken(&mut self, meta: SnapshotMeta, keep: u64) {
        let position = meta.position;
        let is_newer = self.log.snapshot().map_or(Index::ZERO, |old| old.position.index) < position.index;
        if is_newer && position.index <= self.delivery.given() && self.log.holds(position) {
            self.log.compact(meta, keep);
        } else {
            tracing::debug!(me = %self.id, %position, "a snapshot that is of no use");
        }
    }

    /// The first entry, not before `floor`, behind which the log is needed yet: by a follower that is being sent a snapshot and
    /// will go on from there, or that is behind and hears this leader. Nobody who needs more than the log behind `floor` is
    /// regarded.
    #[must_use]
    pub fn log_needed_behind(&self, floor: Index) -> Option<Index> {
        let Role::Leader(leader) = &self.role else { return None };
        let floor = floor.max(self.log.base().index);
        leader.progress.values().filter_map(Progress::has_no_need_of).filter(|index| *index >= floor).min()
    }

    /// The transfer of a snapshot to a follower has ended, well or not.
    pub fn snapshot_sent(&mut self, to: Incarnation, ok: bool) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&to)
        {
            progress.snapshot_ended(ok);
            leader.flush = true;
        }
    }

    /// Whether [`Raft::ready`] has something to say.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.out != Ready::default()
            || self.log.has_write()
            || self.delivery.has_next(&self.log)
            || matches!(&self.role, Role::Leader(leader) if leader.flush)
            || self.soft_state() != self.reported
    }

    /// Everything to be done since the last call.
    #[must_use]
    pub fn ready(&mut self) -> Ready {
        self.flush();
        let next = self.delivery.next(&self.log);
        let mut ready = std::mem::take(&mut self.out);
        match next {
            Some(Next::Entries(entries)) => ready.apply = entries,
            Some(Next::Read(read)) => ready.log_reads.push(read),
            None => {}
        }
        ready.write = self.log.take_write();
        let soft_state = self.soft_state();
        ready.status = Some(soft_state).filter(|now| *now != self.reported);
        self.reported = soft_state;
        ready
    }

    /// This peer.
    #[must_use]
    pub fn id(&self) -> Incarnation {
        self.id
    }

    /// The last entry that this peer knows to be committed.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.log.commit()
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.log.term()
    }

    /// Whether this peer leads its term.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The leader of the current term, if known.
    #[must_use]
    pub fn leader(&self) -> Option<Incarnation> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.id),
        }
    }

    /// The configuration in effect: the newest in the log, committed or not (thesis section 4.1).
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.log.configuration()
    }

    /// Where a peer lives, also one that has just left: it is sent the log until its leaving is committed. None on a
    /// peer that has not heard of its cluster yet.
    #[must_use]
    pub fn address(&self, peer: Incarnation) -> Option<&PeerId> {
        self.log.address(peer)
    }

    /// The last entry in the log.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.log.last()
    }

    /// Lets the memory go in which durable entries are kept for those who may want them.
    pub fn forget_cached(&mut self) {
        self.log.forget_cached();
    }

    /// Where the configuration in effect stands in the log: once that is committed, the configuration stays.
    #[must_use]
    pub fn configuration_index(&self) -> Index {
        self.log.configuration_index()
    }

    /// The last entry that is known to be committed. On a leader it is of an earlier term until the leader has
    /// committed something itself.
    #[must_use]
    pub fn committed(&self) -> LogPosition {
        let index = self.log.commit();
        LogPosition::new(self.log.term_at(index).unwrap_or_default(), index)
    }

    /// The configuration in effect at an index that is not before the latest snapshot; without voters on a peer that
    /// has not heard of any yet.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> Configuration {
        self.log.configuration_at(index).clone()
    }

    /// What operators and tests want to see.
    #[must_use]
    pub fn status(&self) -> crate::raft::Status {
        crate::raft::Status::of(self)
    }

    /// Whether the disk has owed an answer for an election timeout. A leader on such a disk could still commit by its
    /// followers' disks, but would apply nothing: its clients would hang while its heartbeats keep others from leading.
    pub(super) fn is_disk_stalled(&self) -> bool {
        self.disk_silent_ticks >= self.config.election_ticks
    }

    /// How many messages that no correct peer sends have arrived.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    fn soft_state(&self) -> SoftState {
        SoftState { role: self.role.name(), term: self.term(), leader: self.leader() }
    }

    pub(super) fn refuse(&mut self, from: Incarnation, why: Nonsense) {
        self.refused += 1;
        if let Some(unlogged) = self.refusals_logged.admit((from, discriminant(&why)), self.clock_ms) {
            tracing::warn!(me = %self.id, %from, %why, unlogged, "refused a message that no correct peer sends");
        }
    }
}

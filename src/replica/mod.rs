//! One peer: Raft, the clients that wait for it, and the order of work for its machine. Sans-IO.
//!
//! Calls put things in; [`Replica::effects`] takes out all that they led to, as data. The driver carries effects out
//! and reports back by calls, in any interleaving. The machine itself runs elsewhere (a guest may compute for long):
//! the replica gives out [`Job`]s for it, in the one order they must run, and hears what became of them.
//!
//! - writes are proposed in batches: all that came in since the last `effects` is one append.
//! - reads are linearizable (ReadIndex, thesis section 6.4): all that came in since the last `effects` share one
//!   confirmation, and are answered once the machine has applied the index it gave.
//! - a snapshot is due after `max_log_count` entries and a share of the last one's size (`snapshots`).
//! - the leader decides how far machines may go, and what becomes of entries that a backend dies of (`judge`).
//! - replicas compare their hash chains, and one that has parted from the majority is replaced (`quarantine`).
//! - an entry that moves the machine to another backend waits until this node has that (`upgrades`).
//! - a cluster that nobody uses falls asleep (`idle`).
//! - sessions are served on streams, called links here, by the leader alone (`links`): commands, queries, pings, and triggers
//!   on what a query has read (`triggers`). On a link, replies and triggers come in the order of the log.

mod chains;
mod confirm;
mod feature_levels;
mod feed;
mod idle;
mod judge;
mod links;
mod quarantine;
mod reads;
mod sessions;
mod snapshots;
#[cfg(test)]
mod tests;
mod triggers;
mod upgrades;
mod work;
mod writes;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::access::{Access, AccessControl, AccessDenied};
use crate::feature_level::FeatureLevel;
use crate::machine::{Applied, HashChain, Outcome, SessionTerms};
use crate::protocol::{CommandError, RequestError};
use crate::raft::{
    self, Entry, LogRead, MembershipError, ProposeError, Raft, Restored, SnapshotMeta, TransferError, Upgrade,
    WriteToken,
};
use crate::settings::Settings;
use crate::types::{Incarnation, Index, LogPosition, PeerId, SessionId};

pub use judge::{Judgement, PeerMessage, Report, Rider};
pub use work::{Answer, Asker, Effects, Job, Query, QueryAnswer, Wanted};

use feature_levels::FeatureLevels;
use feed::Feed;
use judge::Judge;
use links::Links;
use quarantine::Sides;
use reads::Reads;
use snapshots::{Due, Snapshots};
use triggers::Triggers;
use upgrades::Upgrades;
use writes::{Settled, Waiter, Writes};

/// The clocks, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch: stamped on entries, never compared with another node's.
    pub wall_ms: u64,
    /// Milliseconds since any fixed moment, never going back: deadlines.
    pub monotonic_ms: u64,
}

/// Names a waiting client. The driver mints it and gets it back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names the stream of a session. The driver mints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One peer.
pub struct Replica {
    raft: Raft,
    settings: Settings,
    writes: Writes,
    reads: Reads,
    links: Links,
    triggers: Triggers,
    feed: Feed,
    judge: Judge,
    sides: Sides,
    snapshots: Snapshots,
    upgrades: Upgrades,
    levels: FeatureLevels,
    /// As of the last entry applied.
    access: AccessControl,
    applied: Index,
    chain: HashChain,
    answers: Vec<Answer>,
    clock: Clock,
}

/// What time it is, as last told.
struct Clock {
    now_ms: u64,
    ticked_ms: u64,
    /// A gap between ticks as long as this is a stall: whoever waited for a sign of somebody else saw none.
    election_timeout_ms: u64,
}

impl Replica {
    /// Most writes and most reads that wait at a time. Reads wait until the machine has answered them.
    pub const MAX_WAITING: usize = 1 << 16;

    /// Most queries in one job: their answers come together, and neighbours on the node wait meanwhile.
    pub const MAX_QUERIES_PER_JOB: usize = 64;

    /// A peer as its store knows it. `tick_ms` is the time between ticks, and `seed` feeds the randomness of elections.
    /// Its machine must first be started, or restored from `restored.snapshot` if there is one; the latter is reported by
    /// [`Replica::restored`].
    #[must_use]
    pub fn new(
        id: Incarnation,
        config: raft::Config,
        settings: Settings,
        restored: Restored,
        tick_ms: u64,
        seed: u64,
    ) -> Self {
        let snapshot = restored.snapshot.as_ref();
        let (feed, snapshots) = (Feed::new(snapshot), Snapshots::new(snapshot));
        let writes = Writes::new(config.values().max_uncommitted_bytes);
        let election_timeout_ms = tick_ms.saturating_mul(config.values().election_ticks.into());
        Self {
            judge: Judge::new(snapshots.at),
            raft: Raft::new(id, config, restored, seed),
            settings,
            writes,
            reads: Reads::default(),
            links: Links::default(),
            triggers: Triggers::default(),
            feed,
            sides: Sides::default(),
            snapshots,
            upgrades: Upgrades::default(),
            levels: FeatureLevels::new(),
            access: AccessControl::default(),
            applied: Index::ZERO,
            chain: HashChain::default(),
            answers: Vec::new(),
            clock: Clock { now_ms: 0, ticked_ms: 0, election_timeout_ms },
        }
    }

    /// Time passes: one tick of the Raft clock. Clients whose deadline has passed get their answer, and sessions that were
    /// not heard of for too long are expired.
    pub fn tick(&mut self, now: Now) {
        self.clock.now_ms = now.monotonic_ms;
        let stalled_ms =
            now.monotonic_ms.saturating_sub(std::mem::replace(&mut self.clock.ticked_ms, now.monotonic_ms));
        self.raft.tick(now.wall_ms);
        let mut settled = Vec::new();
        self.writes.expire(now.monotonic_ms, &mut settled);
        self.settle(settled);
        for (query, error) in self.reads.expired(now.monotonic_ms) {
            // Queries of sessions have no deadline: their clients are told when their stream ends.
            if let Asker::Client(ticket) = query.asker {
                self.answers.push(Answer { ticket, result: Err(error) });
            }
        }
        self.tick_sessions(stalled_ms);
        self.raise_level(now);
        self.stay_awake();
    }

    /// A message from another peer. A [`raft::Message::Snapshot`] comes once its file is durable here.
    pub fn step(&mut self, message: PeerMessage, now: Now) {
        let PeerMessage { envelope, rider } = message;
        let (from, term) = (envelope.from, envelope.term);
        self.raft.step(envelope, now.wall_ms);
        if let Some(rider) = rider {
            self.ride(rider, from, term);
        }
    }

    /// A client wants to write. `data` is an encoded [`Command`](crate::machine::Command). It is proposed with the
    /// next [`Replica::effects`].
    pub fn write(&mut self, ticket: Ticket, data: Bytes, deadline_ms: u64) {
        if !self.raft.is_leader() {
            // Who is sent elsewhere may have come from there.
            self.stir();
            let leader = self.leader();
            self.refuse(ticket, RequestError::NotLeader { leader });
        } else if self.writes.has_room_for(&data) {
            self.writes.add(Waiter::Client(ticket), data, deadline_ms);
        } else {
            self.refuse(ticket, RequestError::Overloaded);
        }
    }

    /// An administrator wants the machine to go on with another backend. It is proposed at once.
    pub fn upgrade(&mut self, ticket: Ticket, upgrade: Upgrade, deadline_ms: u64, now: Now) {
        if self.raft.is_leader()
            && let Err(refusal) = self.check_level(FeatureLevel::UPGRADES)
        {
            return self.refuse(ticket, RequestError::NotUpgraded(refusal));
        }
        match self.raft.propose_upgrade(upgrade, now.wall_ms) {
            Ok(index) => self.writes.wait_at(Waiter::Client(ticket), (index, self.raft.term()), deadline_ms),
            Err(ProposeError::TooMuchUncommitted | ProposeError::Transferring { .. }) => {
                self.refuse(ticket, RequestError::Overloaded);
            }
            Err(ProposeError::NotLeader { .. }) => {
                let leader = self.leader();
                self.refuse(ticket, RequestError::NotLeader { leader });
            }
        }
    }

    /// Somebody without a session wants to read; `client` as in [`Query`].
    pub fn query(&mut self, ticket: Ticket, client: Option<String>, wanted: Wanted, deadline_ms: u64) {
        if self.quarantine().is_some() {
            self.refuse(ticket, RequestError::Quarantined);
        } else if self.reads.len() >= Self::MAX_WAITING {
            self.refuse(ticket, RequestError::Overloaded);
        } else {
            self.reads.add(Query { asker: Asker::Client(ticket), client, wanted, deadline_ms });
        }
    }

    fn refuse(&mut self, ticket: Ticket, error: RequestError) {
        self.answers.push(Answer { ticket, result: Err(error) });
    }

    /// A write, and all before it, is durable.
    pub fn persisted(&mut self, token: WriteToken) {
        self.raft.persisted(token);
    }

    /// Entries from the store.
    pub fn log_read(&mut self, read: LogRead, entries: Vec<Entry>) {
        self.raft.log_read(read, entries);
    }

    /// The machine has applied these entries.
    pub fn applied(&mut self, applied: Vec<Applied>) {
        let may_be_told = self.keep_back(applied);
        if !self.sides.is_suspect() {
            self.tell(may_be_told);
        }
    }

    /// Everybody may know what came of these entries.
    fn tell(&mut self, applied: Vec<Applied>) {
        let Some((last, chain)) = applied.last().map(|last| (last.position.index, last.chain)) else { return };
        for Applied { position, outcome, changed, chain } in applied {
            self.sides.applied(position.index, chain);
            self.upgrade_outcome(position.index, &outcome);
            // Who is told of an entry has been told of what it changed.
            self.fire(position.index, changed);
            self.session_outcome(position.index, &outcome);
            if let Outcome::AccessSet(access) = &outcome {
                self.set_access(access.clone());
            }
            if let Outcome::Level(level) = &outcome {
                self.levels.cluster = *level;
            }
            let mut settled = Vec::new();
            self.writes.applied(position, &outcome, &mut settled);
            self.settle(settled);
        }
        self.chain = chain;
        self.applied = last;
        self.feed.applied(last);
        self.raft.applied(last);
        self.serve_checks();
    }

    /// The machine is the one of this snapshot, which takes `size_bytes`, with these sessions open, this access list and this
    /// level: one that a job asked for, or the one that the peer started with.
    pub fn restored(
        &mut self,
        meta: &SnapshotMeta,
        size_bytes: u64,
        chain: HashChain,
        sessions: Vec<(SessionId, SessionTerms)>,
        access: AccessControl,
        level: FeatureLevel,
    ) {
        self.access = access;
        self.levels.cluster = level;
        self.chain = chain;
        self.applied = meta.position.index;
        self.snapshots.restored(size_bytes);
        self.upgrades.restored();
        self.sides.restored(self.applied, chain);
        self.judge.restored();
        self.raft.applied(self.applied);
        self.links.restored(sessions, self.clock.now_ms);
        self.triggers.skip_to(self.applied);
    }

    /// Whether the machine has reached this entry and will not be made from a snapshot before it any more. While it waits to
    /// be replaced it may yet die of a job that was given out before, and be made again as it was.
    #[must_use]
    pub fn is_past(&self, snapshot: Index) -> bool {
        self.applied >= snapshot && !self.sides.is_replacing()
    }

    /// The snapshot that a job asked for is durable, and takes `size_bytes`.
    pub fn snapshot_taken(&mut self, meta: SnapshotMeta, size_bytes: u64) {
        let at = meta.position.index;
        if self.snapshots.taken(at, size_bytes) {
            // A follower that was sent the snapshot before this one goes on from there. Without the log behind that it would
            // need this one, and so for ever.
            let needed_behind = self.raft.log_needed_behind(self.snapshots.floor()).unwrap_or(at);
            let needed = at.0.saturating_sub(needed_behind.0);
            self.raft.snapshot_taken(meta, self.settings.kept_log_count.max(needed));
        }
    }

    /// The snapshot that a job asked for could not be written. Another is due after `max_log_count` more entries.
    pub fn snapshot_failed(&mut self) {
        self.snapshots.failed();
    }

    /// The machine was not where these queries were to find it. They are asked anew.
    pub fn declined(&mut self, queries: Vec<Query>) {
        self.reads.answered(queries.len());
        queries.into_iter().for_each(|query| self.reads.add(query));
    }

    /// The machine has answered queries. Until then they count as waiting, so that a machine that does not keep up is not
    /// given more and more.
    pub fn answered(&mut self, answers: Vec<QueryAnswer>) {
        self.reads.answered(answers.len());
        for QueryAnswer { asker, index, result } in answers {
            let result = if self.sides.is_suspect() { Err(RequestError::Quarantined) } else { result };
            match asker {
                Asker::Client(ticket) => {
                    let result = result.map(|answer| (index, answer.reply));
                    self.answers.push(Answer { ticket, result });
                }
                Asker::Session { link, id, watch } => self.session_answered((link, id), watch, index, result),
            }
        }
    }

    /// A snapshot has reached its receiver, or could not be sent.
    pub fn snapshot_sent(&mut self, to: Incarnation, ok: bool) {
        self.outcast_served(to);
        self.raft.snapshot_sent(to, ok);
    }

    /// Has a leader hand leadership to another voter: see [`Raft::transfer`].
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn transfer(&mut self, to: Incarnation) -> Result<(), TransferError> {
        self.raft.transfer(to)
    }

    /// Runs at once, if no leader is known: see [`Raft::hasten_election`].
    pub fn hasten_election(&mut self) {
        self.raft.hasten_election();
    }

    /// Has a leader begin to change the voters to exactly these, or withdraw a change: see
    /// [`Raft::propose_membership`]. Where the leader knows that the state of too many of them is to be replaced, or that they have yet
    /// to go over to the present component, it refuses: they would outvote who is right, or nobody would be left to give them what
    /// they need.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn change_members(
        &mut self,
        voters: BTreeMap<Incarnation, PeerId>,
        now: Now,
    ) -> Result<Index, MembershipError> {
        let upgraded = self.raft.upgrades().iter().map(|(index, _)| *index).rfind(|index| *index <= self.applied);
        let is_wrong = |voter: &&Incarnation| {
            self.differs(**voter)
                || self.awaits_state(**voter)
                || upgraded.is_some_and(|on| self.is_known_before(**voter, on))
        };
        let wrong = voters.keys().filter(is_wrong).count();
        if wrong > 0 && 2 * (voters.len() - wrong) <= voters.len() {
            return Err(MembershipError::Diverged);
        }
        self.raft.propose_membership(voters, now.wall_ms)
    }

    /// Whether [`Replica::effects`] has something to say.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.answers.is_empty() || self.links.has_events() || self.raft.has_ready()
    }

    /// Takes out what is to be done. Call it again while [`Replica::has_effects`].
    pub fn effects(&mut self, now: Now) -> Effects {
        self.clock.now_ms = now.monotonic_ms;
        let mut settled = Vec::new();
        self.writes.propose(&mut self.raft, now.wall_ms, &mut settled);
        self.reads.ask(&mut self.raft);
        self.links.ask(&mut self.raft);
        let ready = self.raft.ready();
        let mut jobs = Vec::new();
        if let Some(meta) = ready.install {
            self.writes.skipped(meta.position.index, &mut settled);
            self.feed.install(&meta);
            self.judge.install(meta.position.index);
            self.leave_quarantine();
            self.snapshots.install(&meta);
            jobs.push(Job::Restore(meta));
        }
        self.feed.push(ready.apply);
        self.feed_machine(now.wall_ms, &mut jobs);
        jobs.extend(self.snapshot_due());
        self.reads.lost(&ready.reads_lost);
        self.reads.confirmed(&ready.reads);
        self.links.lost(&ready.reads_lost);
        self.links.confirmed(&ready.reads);
        self.serve_checks();
        // Jobs run in order: a read given out now finds everything given out before it applied.
        let at = self.feed.position().0.index;
        let may_answer = self.judge.is_calm() && self.quarantine().is_none();
        let mut queries = if may_answer { self.reads.servable(at) } else { Vec::new() };
        while !queries.is_empty() {
            let later = queries.split_off(queries.len().min(Self::MAX_QUERIES_PER_JOB));
            jobs.push(Job::Query(at, std::mem::replace(&mut queries, later)));
        }
        let leader = self.leader();
        self.writes.lead(self.raft.is_leader(), leader.as_ref(), &mut settled);
        self.settle(settled);
        self.lead_sessions(leader);
        let mut snapshots = ready.snapshots;
        self.serve_outcasts(&mut snapshots);
        let messages = ready.messages.into_iter();
        let messages = messages.map(|envelope| PeerMessage { rider: self.rider(envelope.to), envelope }).collect();
        Effects {
            write: ready.write,
            messages,
            log_reads: ready.log_reads,
            snapshots,
            jobs,
            component: self.upgrades.take_wanted(),
            answers: std::mem::take(&mut self.answers),
            events: self.links.take_events(),
            status: ready.status,
            stop: self.judge.take_stop(),
        }
    }

    /// Tells who waited for writes what became of them.
    fn settle(&mut self, settled: Vec<Settled>) {
        for Settled { waiter, result } in settled {
            match waiter {
                Waiter::Client(ticket) => {
                    let result = result.and_then(|(index, outcome)| match outcome {
                        Outcome::Written(Ok(reply)) => Ok((index, Ok(reply))),
                        Outcome::Written(Err(CommandError::Refused(reason))) => Ok((index, Err(reason))),
                        Outcome::Written(Err(CommandError::Fault(fault))) => {
                            Err(RequestError::Skipped { index, fault })
                        }
                        Outcome::Written(Err(CommandError::Denied(denied))) | Outcome::Denied(denied) => {
                            Err(RequestError::AccessDenied(denied))
                        }
                        Outcome::AccessSet(_) => Ok((index, Ok(Bytes::new()))),
                        Outcome::AccessNotSet(refusal) => Err(RequestError::AccessNotSet(refusal)),
                        Outcome::Upgraded { version, .. } => Ok((index, Ok(version.into()))),
                        Outcome::NotUpgraded(refusal) => Err(RequestError::NotUpgraded(refusal)),
                        other => unreachable!("a write without a session came to {other:?}"),
                    });
                    self.answers.push(Answer { ticket, result });
                }
                Waiter::Opening(_) | Waiter::Session(..) | Waiter::Closing(_) | Waiter::Expiring(_) => {
                    self.session_settled(waiter, result);
                }
            }
        }
    }

    /// The snapshot to take now that the jobs so far have been given out.
    fn snapshot_due(&mut self) -> Option<Job> {
        let (position, time_ms) = self.feed.position();
        if !self.judge.is_calm() || self.quarantine().is_some() {
            return None;
        }
        let log_bytes = self.feed.log_bytes();
        let due = self.snapshots.due(position.index, log_bytes, &self.settings)?;
        self.snapshots.begin(position.index, log_bytes);
        let configuration = self.raft.configuration_at(position.index);
        let meta = SnapshotMeta { position, time_ms, configuration };
        Some(match due {
            Due::Log => Job::Snapshot(meta),
            Due::Wanted => Job::SnapshotAsIs(meta),
        })
    }

    /// Whether this leader knows that a client may not do what needs this: then its write need not go through the log. The
    /// machine decides where the entry stands; a leader whose machine has yet to apply an entry of its own term knows nothing,
    /// since a former leader may have set another list.
    ///
    /// # Errors
    /// [`AccessDenied`] if so.
    pub fn check_access(&self, client: &str, needed: Access) -> Result<(), AccessDenied> {
        let is_current = self.raft.is_leader() && self.feed.reported().term == self.raft.term();
        if is_current { self.access.list.check_client(client, needed) } else { Ok(()) }
    }

    /// Who may do what, as of the last entry applied.
    #[must_use]
    pub fn access(&self) -> &AccessControl {
        &self.access
    }

    /// The leader, as far as known.
    #[must_use]
    pub fn leader(&self) -> Option<PeerId> {
        let leader = self.raft.leader()?;
        self.raft.address(leader).cloned()
    }

    /// How consensus stands.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Where a client's write stands in the log, if it is proposed and waits.
    #[must_use]
    pub fn place_of_write(&self, ticket: Ticket) -> Option<LogPosition> {
        self.writes.place_of(Waiter::Client(ticket))
    }

    /// The same of a session's write, by its stream and number.
    #[must_use]
    pub fn place_of_session_write(&self, link: LinkId, seq: u64) -> Option<LogPosition> {
        self.writes.place_of(Waiter::Session(link, seq))
    }

    /// How many triggers are armed here. Only a leader has any.
    #[must_use]
    pub fn trigger_count(&self) -> usize {
        self.triggers.total()
    }

    /// What the latest snapshot takes, in bytes; none without one, and while the machine is being restored from one.
    #[must_use]
    pub fn snapshot_bytes(&self) -> Option<u64> {
        self.snapshots.size_bytes().filter(|_| self.raft.snapshot().is_some())
    }

    /// The last entry that the machine has reported applied, and its hash chain there; zeros before its first report.
    #[must_use]
    pub fn machine(&self) -> (Index, HashChain) {
        (self.applied, self.chain)
    }
}

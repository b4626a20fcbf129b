//! What a leader does: replicates its log (thesis section 3.5), decides what is committed (section 3.6.2), and makes
//! sure that it still leads (section 6.2).

use crate::raft::cache::within;
use crate::raft::lease::Lease;
use crate::raft::nonsense::Nonsense;
use crate::raft::progress::{Inflights, Progress, State};
use crate::raft::quorum::{self, Tally};
use crate::raft::read_index::ReadRounds;
use crate::raft::role::{Leader, Role};
use crate::raft::{AppendReply, Entry, Envelope, LogRead, LogReadPurpose, Message, Payload, Raft};
use crate::types::{Incarnation, Index, LogPosition};

impl Raft {
    /// Takes office. An empty entry of the new term commits what older terms left behind.
    pub(super) fn lead(&mut self) {
        let term_start = self.log.last().next();
        let members = self.log.configuration().members();
        let others = members.into_iter().filter(|member| *member != self.id);
        let progress = others.map(|member| (member, Progress::new(term_start))).collect();
        self.change_role(Role::Leader(Leader {
            progress,
            reads: ReadRounds::default(),
            lease: Lease::default(),
            uncommitted: Inflights::default(),
            term_start,
            heartbeat_ticks: 0,
            quorum_ticks: 0,
            transfer: None,
            flush: true,
        }));
        self.append_own(Payload::Noop);
    }

    /// Appends an entry of the leader's own. Time in the log never goes back, whatever leaders' clocks say.
    pub(super) fn append_own(&mut self, payload: Payload) {
        let time_ms = self.clock_ms.max(self.log.last_time_ms());
        self.log.append(Entry { term: self.term(), index: self.log.last().next(), time_ms, payload });
    }

    pub(super) fn tick_leader(&mut self) {
        if self.is_disk_stalled() {
            tracing::warn!(me = %self.id, "stepped down: the disk has not answered for an election timeout");
            return self.follow(self.term(), None);
        }
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_ticks += 1;
        leader.quorum_ticks += 1;
        leader.lease.tick(self.config.lease_ticks);
        let beat = leader.heartbeat_ticks >= self.config.heartbeat_ticks;
        if leader.quorum_ticks >= self.config.election_ticks && !self.check_quorum() {
            return self.follow(self.term(), None);
        }
        if beat {
            self.broadcast_heartbeat();
        }
        self.tick_transfer();
    }

    /// Whether a quorum was heard since the last time.
    fn check_quorum(&mut self) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        leader.quorum_ticks = 0;
        let heard = |voter| voter == self.id || leader.progress.get(&voter).is_some_and(|progress| progress.heard);
        let tally = quorum::tally(self.log.configuration(), |voter| Some(heard(voter)));
        leader.progress.values_mut().for_each(|progress| progress.heard = false);
        tally == Tally::Won
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_ticks = 0;
        let round = leader.reads.start_round();
        leader.lease.round_started(round);
        let (from, term, committed) = (self.id, self.log.term(), self.log.commit());
        self.out.messages.extend(leader.progress.iter().map(|(to, progress)| {
            let commit = committed.min(progress.matched);
            Envelope { from, to: *to, term, message: Message::Heartbeat { commit, round } }
        }));
    }

    /// Commits what a quorum holds durably, this peer's own disk being one voice. Entries of older terms are
    /// committed only by one of the own term behind them (thesis section 3.6.2).
    pub(super) fn advance_commit(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let held = |voter| match leader.progress.get(&voter) {
            _ if voter == self.id => self.log.stable(),
            Some(progress) => progress.matched,
            None => Index::ZERO,
        };
        let Some(index) = quorum::reached(self.log.configuration(), held) else { return };
        if index > self.log.commit() && self.log.term_at(index) == Some(self.log.term()) {
            self.log.commit_to(index);
            leader.uncommitted.release_through(index);
            leader.flush = true;
        }
    }

    pub(super) fn on_append_reply(&mut self, from: Incarnation, reply: AppendReply) {
        let (last, base) = (self.log.last(), self.log.base().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.heard = true;
        leader.flush = true;
        match reply {
            AppendReply::Accepted { matched: index } | AppendReply::Rejected { prev: index, .. } if index > last => {
                self.refuse(from, Nonsense::AnswerToNothing);
            }
            AppendReply::Accepted { matched } => {
                progress.accepted(matched, base);
                self.advance_commit();
            }
            AppendReply::Rejected { prev, hint } => {
                progress.rejected(prev, self.log.last_not_after(hint.index, hint.term));
            }
        }
    }

    pub(super) fn on_heartbeat_reply(&mut self, from: Incarnation, round: u64) {
        let (last, base) = (self.log.last(), self.log.base().index);
        let (max_messages, max_bytes) = (self.config.max_inflight_messages, self.config.max_inflight_bytes);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        if round > leader.reads.started() {
            return self.refuse(from, Nonsense::AnswerToNothing);
        }
        progress.heard = true;
        progress.round = progress.round.max(round);
        progress.resume();
        leader.flush = true;
        // What should be on its way may be lost. An empty append behind it finds that out: it is refused then.
        let lags = matches!(progress.state, State::Replicate(_)) && progress.matched < last;
        if !lags || (progress.next <= last && progress.may_send(max_messages, max_bytes)) {
            return;
        }
        if progress.next <= base {
            progress.restart();
        } else {
            self.send_append(from, Vec::new());
        }
    }

    /// Lets everything leave that may: called once for all that has happened since the last time, so that entries,
    /// reads and commit news share messages.
    pub(super) fn flush(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if !std::mem::take(&mut leader.flush) {
            return;
        }
        self.continue_membership();
        self.serve_reads();
        for to in self.followers() {
            while self.send_next(to) {}
        }
        self.continue_transfer();
        self.finish_membership();
    }

    fn followers(&self) -> Vec<Incarnation> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        leader.progress.keys().copied().collect()
    }

    /// Sends a follower the next thing it needs, and tells whether more may follow.
    fn send_next(&mut self, to: Incarnation) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(progress) = leader.progress.get_mut(&to) else { return false };
        if !progress.may_send(self.config.max_inflight_messages, self.config.max_inflight_bytes) {
            return false;
        }
        let (from, last, max_bytes) = (progress.next, self.log.last(), self.config.max_append_bytes);
        if from <= self.log.base().index {
            self.send_snapshot(to);
            return false;
        }
        let probing = matches!(progress.state, State::Probe { .. });
        let entries = match self.log.cached(from, last, max_bytes) {
            Some(entries) => entries,
            // A probe will likely be refused: not worth a read.
            None if from > last || probing => Vec::new(),
            None => {
                let to_index = self.log.first_cached().prev();
                let read = LogRead { purpose: LogReadPurpose::Replicate(to), from, to: to_index, max_bytes };
                progress.reading = Some(read);
                self.out.log_reads.push(read);
                return false;
            }
        };
        if entries.is_empty() && !probing && progress.told_commit >= self.log.commit() {
            return false;
        }
        self.send_append(to, entries);
        !probing
    }

    /// Sends entries from the follower's `next` on.
    fn send_append(&mut self, to: Incarnation, entries: Vec<Entry>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to) else { return };
        let prev = progress.next.prev();
        let Some(prev_term) = self.log.term_at(prev) else { return };
        let commit = self.log.commit();
        progress.told_commit = commit;
        let last = entries.last().map_or(prev, |entry| entry.index);
        progress.sent(last, entries.iter().map(Entry::size_bytes).sum());
        let prev = LogPosition::new(prev_term, prev);
        self.send(to, Message::Append { prev, entries, commit });
    }

    /// The entries that were read for a follower.
    pub(super) fn send_read(&mut self, to: Incarnation, read: LogRead, mut entries: Vec<Entry>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to).filter(|progress| progress.reading == Some(read)) else {
            return;
        };
        progress.reading = None;
        leader.flush = true;
        // An answer from before this peer led may hold entries that are overwritten.
        let fits = progress.next == read.from && self.log.holds_all(read.from, &entries);
        if fits && !entries.is_empty() {
            entries.truncate(within(entries.iter(), read.max_bytes).count());
            self.send_append(to, entries);
        }
    }

    /// The entries that the follower needs are gone from the log. One that is silent gets nothing.
    fn send_snapshot(&mut self, to: Incarnation) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&to).filter(|progress| progress.heard) else { return };
        let Some(meta) = self.log.snapshot().cloned() else { return };
        progress.snapshot_started(meta.position.index);
        let message = Message::Snapshot { meta };
        self.out.snapshots.push(Envelope { from: self.id, to, term: self.log.term(), message });
    }
}

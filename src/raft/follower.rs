//! What a follower does: keeps its log equal to the leader's (thesis section 3.5).

use crate::raft::nonsense::Nonsense;
use crate::raft::role::Role;
use crate::raft::{AppendReply, Entry, Message, Raft, SnapshotMeta};
use crate::types::{Incarnation, Index, LogPosition};

impl Raft {
    pub(super) fn tick_follower(&mut self) {
        let Role::Follower(follower) = &mut self.role else { return };
        follower.silent_ticks = follower.silent_ticks.saturating_add(1);
        let timed_out = follower.silent_ticks >= follower.timeout_ticks;
        let lost = follower.reads.tick(self.config.election_ticks);
        self.out.reads_lost.extend(lost);
        if timed_out {
            self.pre_campaign();
        }
    }

    pub(super) fn leader_heard(&mut self) {
        if let Role::Follower(follower) = &mut self.role {
            follower.silent_ticks = 0;
        }
    }

    pub(super) fn on_append(&mut self, leader: Incarnation, prev: LogPosition, entries: Vec<Entry>, commit: Index) {
        let committed = self.log.commit();
        let contradicts =
            |at: &LogPosition| at.index <= committed && self.log.term_at(at.index).is_some_and(|term| term != at.term);
        let mut positions = std::iter::once(prev).chain(entries.iter().map(Entry::position));
        if let Some(position) = positions.find(contradicts) {
            return self.refuse(leader, Nonsense::ContradictsCommitted(position.index));
        }
        if prev.index > committed && !self.log.holds(prev) {
            return self.reject_append(leader, prev);
        }
        // What is committed here is equal on the leader (Leader Completeness), also where it is gone from this log.
        let matched = Index(prev.index.0 + entries.len() as u64).max(committed);
        self.append_missing(entries);
        self.log.commit_to(commit.min(matched));
        self.accept(leader, matched);
    }

    /// Only a conflict truncates: an old message that comes late must not remove what came after it.
    fn append_missing(&mut self, entries: Vec<Entry>) {
        let committed = self.log.commit();
        let is_held = |entry: &Entry| entry.index <= committed || self.log.holds(entry.position());
        let held = entries.iter().take_while(|entry| is_held(entry)).count();
        let mut missing = entries.into_iter().skip(held).peekable();
        if let Some(first) = missing.peek()
            && first.index <= self.log.last()
        {
            self.log.truncate_from(first.index);
        }
        missing.for_each(|entry| self.log.append(entry));
    }

    fn reject_append(&mut self, leader: Incarnation, prev: LogPosition) {
        let index = self.log.last_not_after(prev.index, prev.term).max(self.log.base().index);
        let term = self.log.term_at(index).unwrap_or_default();
        let hint = LogPosition::new(term, index);
        self.send(leader, Message::AppendReply(AppendReply::Rejected { prev: prev.index, hint }));
    }

    fn accept(&mut self, leader: Incarnation, matched: Index) {
        self.send_durable(leader, Message::AppendReply(AppendReply::Accepted { matched }));
    }

    pub(super) fn on_heartbeat(&mut self, leader: Incarnation, commit: Index, round: u64) {
        if commit > self.log.last() {
            return self.refuse(leader, Nonsense::CommitBeyondLog);
        }
        self.log.commit_to(commit);
        self.send(leader, Message::HeartbeatReply { round });
    }

    /// The snapshot replaces the log only where the log does not already hold what it covers (thesis section 5.3).
    pub(super) fn on_snapshot(&mut self, leader: Incarnation, meta: SnapshotMeta) {
        let position = meta.position;
        if self.replace_state(&meta) {
            tracing::info!(me = %self.id, %position, "a snapshot replaces the machine's state");
        } else if position.index <= self.log.commit() {
            tracing::debug!(me = %self.id, %position, "a snapshot that is behind");
        } else if self.log.holds(position) {
            self.log.commit_to(position.index);
        } else {
            self.is_quarantined = false;
            self.log.install(meta.clone());
            self.delivery.install(position.index);
            self.out.install = Some(meta);
        }
        self.accept(leader, position.index.max(self.log.commit()));
    }
}

//! How a leader makes its followers' logs equal to its own (thesis section 3.5): what each is sent next, and what its
//! answers say.

use crate::raft::cache::within;
use crate::raft::nonsense::Nonsense;
use crate::raft::progress::State;
use crate::raft::role::Role;
use crate::raft::{AppendReply, Entry, Envelope, LogRead, LogReadPurpose, Message, Raft};
use crate::types::{Incarnation, LogPosition};

impl Raft {
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

    pub(super) fn followers(&self) -> Vec<Incarnation> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        leader.progress.keys().copied().collect()
    }

    /// Sends a follower the next thing it needs, and tells whether more may follow.
    pub(super) fn send_next(&mut self, to: Incarnation) -> bool {
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

//! What a leader does with its office: begins its term, makes sure that it still leads (thesis section 6.2), and
//! decides what is committed (section 3.6.2).

use crate::raft::inflights::Inflights;
use crate::raft::lease::Lease;
use crate::raft::progress::Progress;
use crate::raft::quiesce::Rest;
use crate::raft::quorum::{self, Tally};
use crate::raft::read_index::ReadRounds;
use crate::raft::role::{Leader, Role};
use crate::raft::{Entry, Envelope, Message, Payload, Raft};
use crate::types::Index;

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
            rest: Rest::default(),
            flush: true,
        }));
        self.append_own(Payload::Noop);
    }

    /// Appends an entry of the leader's own. Time in the log never goes back, whatever leaders' clocks say.
    pub(super) fn append_own(&mut self, payload: Payload) {
        self.stir();
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
        let is_idle = self.tick_rest();
        if beat && is_idle {
            self.broadcast_quiesce();
        } else if beat {
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
        leader.progress.values_mut().for_each(|progress| progress.was_heard = std::mem::take(&mut progress.heard));
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
}

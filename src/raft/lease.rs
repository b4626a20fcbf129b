//! Reads by lease (thesis section 6.4.1): cheaper than a round of heartbeats, and only as good as the clocks. Off unless
//! [`ConfigValues::lease_ticks`](crate::raft::ConfigValues::lease_ticks) says otherwise.
//!
//! A peer that has heard the leader helps nobody else to lead for `election_ticks` of its own, also after a restart.
//! So, once a quorum has answered a round of heartbeats, nobody else leads until `election_ticks` after that round
//! began; the leader trusts in less than that. Handing leadership over passes over the promise: with the first request
//! to run, the lease is given up for the rest of the term.

use std::collections::VecDeque;

/// What a leader knows of the time in which nobody else can lead.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// The leader's ticks so far.
    now: u64,
    /// The ticks, not older than the lease is long, in which rounds began, and the first round of each.
    starts: VecDeque<(u64, u64)>,
    given_up: bool,
}

impl Lease {
    /// A tick has passed, and a lease is good for `lease_ticks`.
    pub(super) fn tick(&mut self, lease_ticks: u32) {
        self.now += 1;
        let now = self.now;
        while self.starts.pop_front_if(|(tick, _)| now - *tick >= u64::from(lease_ticks)).is_some() {}
    }

    /// A round of heartbeats has begun.
    pub(super) fn round_started(&mut self, round: u64) {
        if self.starts.back().is_none_or(|(tick, _)| *tick < self.now) {
            self.starts.push_back((self.now, round));
        }
    }

    /// The promises no longer hold.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether nobody else can lead yet, when a quorum has answered up to `confirmed`.
    pub(super) fn holds(&self, confirmed: u64) -> bool {
        !self.given_up && self.starts.front().is_some_and(|(_, round)| *round <= confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_begins_with_the_round_and_not_with_its_answer() {
        let mut lease = Lease::default();
        lease.round_started(1);
        lease.tick(3);
        lease.round_started(2);
        lease.round_started(3);
        assert!(!lease.holds(0), "nobody has answered");
        assert_eq!(lease.starts.len(), 2, "the first round of a tick stands for all");
        lease.tick(3);
        assert!(lease.holds(1));
        lease.tick(3);
        assert!(!lease.holds(1), "three ticks since round 1");
        assert!(lease.holds(2));
        lease.tick(3);
        assert!(!lease.holds(9));
    }

    #[test]
    fn a_lease_given_up_stays_so() {
        let mut lease = Lease::default();
        lease.give_up();
        lease.round_started(1);
        assert!(!lease.holds(1));
    }
}

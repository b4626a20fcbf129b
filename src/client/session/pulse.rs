//! Whether a session is alive as far as its client can know, and what it does to know it.

use std::collections::VecDeque;

/// Counts a session's time on the client's side.
///
/// The leader expires a session that it has not heard of for the timeout, and counts from when it heard. The client
/// counts from when it sent, which is earlier: so as long as this says that the session is alive, it is. That holds only for
/// what a majority has confirmed: a pong, an attached stream, a write's reply. An answer to a query confirms nothing: the
/// expiry may be in the log already.
#[derive(Debug)]
pub(super) struct Pulse {
    timeout_ms: u64,
    /// When the last thing that was confirmed was sent.
    confirmed_at_ms: Option<u64>,
    is_suspended: bool,
    /// Pings on this stream that wait for their pong: number and time, oldest first.
    pings: VecDeque<(u64, u64)>,
    last_number: u64,
    /// When a ping was last sent on this stream.
    pinged_at_ms: u64,
    /// Since when something that was asked on this stream waits for its answer.
    awaited_since_ms: Option<u64>,
}

/// A change of what the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Suspended,
    Resumed,
}

impl Pulse {
    /// Pings in a timeout when nothing else is confirmed.
    const PINGS_PER_TIMEOUT: u64 = 4;
    /// Longest time between pings: a node that hangs is noticed after twice this, however long the session may live.
    const MAX_INTERVAL_MS: u64 = 5000;
    /// The same while somebody waits for an answer, who must not wait long for a node that is gone.
    const MAX_AWAITED_INTERVAL_MS: u64 = 500;
    /// So long after a ping such a node is given up.
    const MAX_AWAITED_SILENCE_MS: u64 = 2000;
    /// Most pings that wait; the stream has stalled by then.
    const MAX_PINGS: usize = 4;

    pub(super) fn new(timeout_ms: u64) -> Self {
        Self {
            timeout_ms,
            confirmed_at_ms: None,
            is_suspended: false,
            pings: VecDeque::new(),
            last_number: 0,
            pinged_at_ms: 0,
            awaited_since_ms: None,
        }
    }

    fn idle_interval_ms(&self) -> u64 {
        (self.timeout_ms / Self::PINGS_PER_TIMEOUT).clamp(1, Self::MAX_INTERVAL_MS)
    }

    /// The time between pings, and how long one may go without its pong.
    fn patience_ms(&self) -> (u64, u64) {
        let (interval, silence) = (self.idle_interval_ms(), 2 * self.idle_interval_ms());
        match self.awaited_since_ms {
            Some(_) => (interval.min(Self::MAX_AWAITED_INTERVAL_MS), silence.min(Self::MAX_AWAITED_SILENCE_MS)),
            None => (interval, silence),
        }
    }

    /// Something was asked, and is to be answered.
    pub(super) fn asked(&mut self, now_ms: u64) {
        self.awaited_since_ms.get_or_insert(now_ms);
    }

    /// All that was asked is answered.
    pub(super) fn all_answered(&mut self) {
        self.awaited_since_ms = None;
    }

    /// The cluster has confirmed something that was sent at this time.
    pub(super) fn confirmed(&mut self, sent_at_ms: u64) {
        self.confirmed_at_ms = self.confirmed_at_ms.max(Some(sent_at_ms));
    }

    /// The stream is gone, with all its pings.
    pub(super) fn detached(&mut self) {
        self.pings.clear();
        self.pinged_at_ms = 0;
        self.awaited_since_ms = None;
    }

    fn next_ping_ms(&self) -> Option<u64> {
        let heard_or_asked = self.confirmed_at_ms?.max(self.pinged_at_ms);
        let idle_ping = heard_or_asked + self.idle_interval_ms();
        let awaited_ping = self.awaited_since_ms.map(|since| heard_or_asked.max(since) + self.patience_ms().0);
        (self.pings.len() < Self::MAX_PINGS).then_some(awaited_ping.map_or(idle_ping, |at| at.min(idle_ping)))
    }

    pub(super) fn is_ping_due(&self, now_ms: u64) -> bool {
        self.next_ping_ms().is_some_and(|at| at <= now_ms)
    }

    /// Notes that a ping is sent, and returns its number.
    pub(super) fn ping(&mut self, now_ms: u64) -> u64 {
        self.last_number += 1;
        self.pinged_at_ms = now_ms;
        self.pings.push_back((self.last_number, now_ms));
        self.last_number
    }

    pub(super) fn pong(&mut self, number: u64) {
        let Some(at) = self.pings.iter().position(|(ping, _)| *ping == number) else { return };
        let sent_at_ms = self.pings[at].1;
        self.pings.drain(..=at);
        self.confirmed(sent_at_ms);
    }

    fn stalls_at_ms(&self) -> Option<u64> {
        self.pings.front().map(|(_, sent_at_ms)| sent_at_ms + self.patience_ms().1)
    }

    /// Whether the stream gives no sign of life.
    pub(super) fn is_stalled(&self, now_ms: u64) -> bool {
        self.stalls_at_ms().is_some_and(|at| at <= now_ms)
    }

    /// Until when the session is known to live.
    fn lives_until_ms(&self) -> Option<u64> {
        self.confirmed_at_ms.map(|at| at + self.timeout_ms)
    }

    /// What has changed by now.
    pub(super) fn turn(&mut self, now_ms: u64) -> Option<Turn> {
        let is_suspended = self.lives_until_ms()? <= now_ms;
        let has_changed = std::mem::replace(&mut self.is_suspended, is_suspended) != is_suspended;
        has_changed.then_some(if is_suspended { Turn::Suspended } else { Turn::Resumed })
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    /// When something is to be done next. `is_attached`: whether there is a stream for pings.
    pub(super) fn deadline_ms(&self, is_attached: bool) -> Option<u64> {
        let of_stream = [self.next_ping_ms(), self.stalls_at_ms()].into_iter().flatten().filter(|_| is_attached);
        let of_session = self.lives_until_ms().filter(|_| !self.is_suspended);
        of_stream.chain(of_session).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_from_the_sending_of_what_was_confirmed() {
        let mut pulse = Pulse::new(1000);
        assert_eq!((pulse.turn(u64::MAX), pulse.deadline_ms(true)), (None, None), "nothing is known before it is open");
        pulse.confirmed(100);
        assert!(!pulse.is_ping_due(349) && pulse.is_ping_due(350));
        let number = pulse.ping(350);
        assert!(!pulse.is_ping_due(599) && pulse.is_ping_due(600));
        pulse.pong(number);
        assert_eq!(pulse.turn(1349), None, "the ping was sent at 350");
        assert_eq!(pulse.turn(1350), Some(Turn::Suspended));
        assert_eq!(pulse.turn(1351), None);
        pulse.confirmed(300);
        assert_eq!(pulse.turn(1351), None, "what is late confirms nothing");
        pulse.confirmed(1340);
        assert_eq!(pulse.turn(1351), Some(Turn::Resumed));
    }

    #[test]
    fn a_stream_without_pongs_has_stalled() {
        let mut pulse = Pulse::new(1000);
        pulse.confirmed(0);
        let first = pulse.ping(250);
        pulse.ping(500);
        assert!(!pulse.is_stalled(749) && pulse.is_stalled(750));
        pulse.pong(first);
        assert!(!pulse.is_stalled(999) && pulse.is_stalled(1000));
        pulse.detached();
        assert!(!pulse.is_stalled(u64::MAX));
        pulse.pong(2);
        assert_eq!(pulse.confirmed_at_ms, Some(250), "a pong of a former stream is none of ours");
    }

    #[test]
    fn who_waits_for_an_answer_soon_learns_that_a_node_is_gone() {
        let mut pulse = Pulse::new(20_000);
        pulse.confirmed(0);
        pulse.asked(3000);
        pulse.asked(3400);
        assert!(!pulse.is_ping_due(3499) && pulse.is_ping_due(3500));
        pulse.ping(3500);
        assert!(!pulse.is_stalled(5499) && pulse.is_stalled(5500));
        pulse.all_answered();
        assert!(!pulse.is_stalled(5500) && !pulse.is_ping_due(8499) && pulse.is_ping_due(8500));
        assert!(pulse.is_stalled(13_500), "an idle one may be silent for longer");
    }

    #[test]
    fn a_long_timeout_does_not_make_pings_rare() {
        let mut pulse = Pulse::new(24 * 60 * 60 * 1000);
        pulse.confirmed(0);
        assert!(pulse.is_ping_due(Pulse::MAX_INTERVAL_MS));
        for at in 0..Pulse::MAX_PINGS as u64 {
            pulse.ping(at);
        }
        assert!(!pulse.is_ping_due(u64::MAX), "pings that wait are bounded");
    }
}

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
    /// Longest time between pings, however long the session may live.
    const MAX_INTERVAL_MS: u64 = 5000;
    /// The same while somebody waits for an answer: a node that hangs or is gone must be noticed soon.
    const MAX_BUSY_INTERVAL_MS: u64 = 500;
    /// How long a ping may wait for its pong before the stream is given up.
    const MAX_SILENCE_MS: u64 = 2000;
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
        }
    }

    fn interval_ms(&self) -> u64 {
        (self.timeout_ms / Self::PINGS_PER_TIMEOUT).clamp(1, Self::MAX_INTERVAL_MS)
    }

    /// The cluster has confirmed something that was sent at this time.
    pub(super) fn confirmed(&mut self, sent_at_ms: u64) {
        self.confirmed_at_ms = self.confirmed_at_ms.max(Some(sent_at_ms));
    }

    /// The stream is gone, with all its pings.
    pub(super) fn detached(&mut self) {
        self.pings.clear();
        self.pinged_at_ms = 0;
    }

    fn next_ping_ms(&self, is_busy: bool) -> Option<u64> {
        let last = self.confirmed_at_ms?.max(self.pinged_at_ms);
        let most = if is_busy { Self::MAX_BUSY_INTERVAL_MS } else { u64::MAX };
        (self.pings.len() < Self::MAX_PINGS).then_some(last + self.interval_ms().min(most))
    }

    /// Whether a ping should be sent. `is_busy`: somebody waits for an answer.
    pub(super) fn is_ping_due(&self, is_busy: bool, now_ms: u64) -> bool {
        self.next_ping_ms(is_busy).is_some_and(|at| at <= now_ms)
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
        let silence_ms = Self::MAX_SILENCE_MS.min(2 * self.interval_ms());
        self.pings.front().map(|(_, sent_at_ms)| sent_at_ms + silence_ms)
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
    pub(super) fn deadline_ms(&self, is_attached: bool, is_busy: bool) -> Option<u64> {
        let of_stream = [self.next_ping_ms(is_busy), self.stalls_at_ms()].into_iter().flatten().filter(|_| is_attached);
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
        assert_eq!(
            (pulse.turn(u64::MAX), pulse.deadline_ms(true, false)),
            (None, None),
            "nothing is known before it is open"
        );
        pulse.confirmed(100);
        assert!(!pulse.is_ping_due(false, 349) && pulse.is_ping_due(false, 350));
        let number = pulse.ping(350);
        assert!(!pulse.is_ping_due(false, 599) && pulse.is_ping_due(false, 600));
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
    fn a_long_timeout_does_not_make_pings_rare() {
        let mut pulse = Pulse::new(24 * 60 * 60 * 1000);
        pulse.confirmed(0);
        assert!(pulse.is_ping_due(false, Pulse::MAX_INTERVAL_MS));
        assert!(pulse.is_ping_due(true, Pulse::MAX_BUSY_INTERVAL_MS), "somebody waits");
        pulse.ping(0);
        assert!(pulse.is_stalled(Pulse::MAX_SILENCE_MS));
        for at in 1..Pulse::MAX_PINGS as u64 {
            pulse.ping(at);
        }
        assert!(!pulse.is_ping_due(false, u64::MAX), "pings that wait are bounded");
    }
}

//! The writes of a session that were not answered: numbered once, sent in order, sent again on the next stream.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::client::session::{Ending, MAX_UNANSWERED_WRITES, SessionFailure};
use crate::protocol::SessionRequest;

/// Unanswered writes.
///
/// - A write has its number from the beginning, and keeps it however often it is sent: the cluster runs each number once.
/// - What is acknowledged is what comes before the first unanswered write, so the cluster never forgets a reply that is
///   still wanted.
/// - Nothing is sent that is `window` or more ahead of what is acknowledged.
#[derive(Debug)]
pub(super) struct Writes {
    next: u64,
    unanswered: BTreeMap<u64, Write>,
    /// Those that are to be sent on this stream.
    unsent: BTreeSet<u64>,
    window: u64,
    held_until_ms: u64,
}

#[derive(Debug)]
struct Write {
    data: Bytes,
    is_ephemeral: bool,
    /// When it was last sent on this stream.
    sent_at_ms: Option<u64>,
    /// Whether it was sent on a stream whose answers are lost.
    may_have_run: bool,
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            next: 1,
            unanswered: BTreeMap::new(),
            unsent: BTreeSet::new(),
            window: MAX_UNANSWERED_WRITES as u64,
            held_until_ms: 0,
        }
    }
}

impl Writes {
    /// For how long no write is sent where a disk is full.
    const HOLD_MS: u64 = 1000;

    /// Takes a write in, and gives it its number.
    pub(super) fn add(&mut self, data: Bytes, is_ephemeral: bool) -> u64 {
        let seq = self.next;
        self.next += 1;
        self.unanswered.insert(seq, Write { data, is_ephemeral, sent_at_ms: None, may_have_run: false });
        self.unsent.insert(seq);
        seq
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// All replies up to this number have come.
    pub(super) fn acked_up_to(&self) -> u64 {
        self.unanswered.first_key_value().map_or(self.next, |(first, _)| *first) - 1
    }

    /// The write to send now.
    pub(super) fn next_to_send(&self, now_ms: u64) -> Option<u64> {
        let first = *self.unsent.first()?;
        let may_go = first <= self.acked_up_to() + self.window && now_ms >= self.held_until_ms;
        may_go.then_some(first)
    }

    /// When the next write may go, if it is held back.
    pub(super) fn deadline_ms(&self, now_ms: u64) -> Option<u64> {
        (!self.unsent.is_empty() && now_ms < self.held_until_ms).then_some(self.held_until_ms)
    }

    /// Notes that a write is sent, and returns its frame.
    pub(super) fn send(&mut self, seq: u64, now_ms: u64) -> Option<SessionRequest> {
        let acked_up_to = self.acked_up_to();
        self.unsent.remove(&seq);
        let write = self.unanswered.get_mut(&seq)?;
        write.sent_at_ms = Some(now_ms);
        Some(SessionRequest::Write { seq, acked_up_to, is_ephemeral: write.is_ephemeral, data: write.data.clone() })
    }

    /// A write is answered for good. Returns when it was sent on this stream, or nothing if it did not wait.
    pub(super) fn answered(&mut self, seq: u64) -> Option<u64> {
        self.unsent.remove(&seq);
        Some(self.unanswered.remove(&seq)?.sent_at_ms.unwrap_or_default())
    }

    /// A write was not run, and is to be sent again.
    pub(super) fn send_again(&mut self, seq: u64) {
        if self.unanswered.contains_key(&seq) {
            self.unsent.insert(seq);
        }
    }

    /// The cluster takes fewer at a time than were sent.
    pub(super) fn narrow(&mut self) {
        self.window = (self.window / 2).max(1);
    }

    /// The cluster takes no writes just now.
    pub(super) fn hold(&mut self, now_ms: u64) {
        self.held_until_ms = now_ms + Self::HOLD_MS;
    }

    /// The stream is gone: whatever was sent is sent again on the next one.
    pub(super) fn detached(&mut self) {
        for (seq, write) in &mut self.unanswered {
            write.may_have_run |= write.sent_at_ms.take().is_some();
            self.unsent.insert(*seq);
        }
    }

    /// The session is over. A stream says so after all its replies, so what was sent on that one alone and not answered was
    /// not run.
    pub(super) fn end(&mut self, ending: &Ending) -> impl Iterator<Item = (u64, SessionFailure)> {
        self.unsent.clear();
        std::mem::take(&mut self.unanswered).into_iter().map(move |(seq, write)| {
            let failure = if write.may_have_run { SessionFailure::Unknown } else { SessionFailure::Ended };
            (seq, failure(ending.clone()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(count: u64) -> Writes {
        let mut writes = Writes::default();
        (1..=count).for_each(|seq| assert_eq!(writes.add(Bytes::new(), false), seq));
        writes
    }

    fn send_all(writes: &mut Writes) -> Vec<(u64, u64)> {
        let mut sent = Vec::new();
        while let Some(next) = writes.next_to_send(0) {
            let Some(SessionRequest::Write { seq, acked_up_to, .. }) = writes.send(next, 0) else { panic!() };
            sent.push((seq, acked_up_to));
        }
        sent
    }

    #[test]
    fn acknowledged_is_what_comes_before_the_first_that_waits() {
        let mut writes = with(4);
        assert_eq!(writes.acked_up_to(), 0);
        writes.answered(2);
        assert_eq!(writes.acked_up_to(), 0, "the first one's reply is still wanted");
        writes.answered(1);
        assert_eq!(writes.acked_up_to(), 2);
        writes.answered(3);
        writes.answered(4);
        assert_eq!(writes.acked_up_to(), 4);
    }

    #[test]
    fn a_narrower_window_holds_back_what_is_too_far_ahead() {
        let mut writes = with(4);
        (0..8).for_each(|_| writes.narrow());
        assert_eq!(send_all(&mut writes), [(1, 0)], "never less than one");
        writes.answered(1);
        assert_eq!(send_all(&mut writes), [(2, 1)]);
    }

    #[test]
    fn what_was_refused_goes_before_what_comes_later() {
        let mut writes = with(3);
        assert_eq!(send_all(&mut writes).len(), 3);
        writes.add(Bytes::new(), false);
        writes.send_again(3);
        writes.send_again(2);
        writes.send_again(9);
        assert_eq!(send_all(&mut writes), [(2, 0), (3, 0), (4, 0)]);
    }

    #[test]
    fn writes_wait_where_a_disk_is_full() {
        let mut writes = with(1);
        writes.hold(5);
        assert_eq!((writes.next_to_send(5), writes.deadline_ms(5)), (None, Some(5 + Writes::HOLD_MS)));
        assert_eq!(
            (writes.next_to_send(5 + Writes::HOLD_MS), writes.deadline_ms(5 + Writes::HOLD_MS)),
            (Some(1), None)
        );
    }

    #[test]
    fn an_end_tells_what_may_have_run_from_what_has_not() {
        let mut writes = with(1);
        send_all(&mut writes);
        writes.detached();
        writes.add(Bytes::new(), false);
        send_all(&mut writes);
        let told: Vec<_> = writes.end(&Ending::Expired).collect();
        assert_eq!(told, [(1, SessionFailure::Unknown(Ending::Expired)), (2, SessionFailure::Ended(Ending::Expired))]);
    }
}

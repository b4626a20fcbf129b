//! What no correct peer says. Such a message is refused, counted and logged; it changes nothing.
//!
//! This keeps a damaged or hostile peer from stopping its neighbours with a panic or an overflow. It does not make
//! Raft safe against lies: who may send messages at all is for the transport to check.

use crate::raft::{Entry, Envelope, Message, Payload, SnapshotMeta};
use crate::types::{Incarnation, Index, LogPosition, Term};

/// Terms and indexes beyond this are refused: no cluster gets there, and arithmetic below it cannot overflow.
const MAX_COUNTER: u64 = u64::MAX / 2;

/// Why a message cannot be true. The sender is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nonsense {
    #[error("a term or index that no cluster reaches")]
    TooLarge,
    #[error("entries with gaps, or with terms or times that go back")]
    Unordered,
    #[error("entries or a snapshot of a later term than the message")]
    FromTheFuture,
    #[error("a configuration that no leader makes")]
    UnsoundConfiguration,
    #[error("a verdict on an entry that does not come before it")]
    VerdictAhead,
    #[error("an entry that contradicts the committed entry {0}")]
    ContradictsCommitted(Index),
    #[error("the commit of an entry that was never sent")]
    CommitBeyondLog,
    #[error("an answer to what was never sent")]
    AnswerToNothing,
    #[error("a second leader in the term of {0}")]
    SecondLeader(Incarnation),
}

/// Checks what can be checked without knowing the peer's state.
pub(super) fn check(envelope: &Envelope) -> Result<(), Nonsense> {
    let term = envelope.term;
    let fits = |value: u64| if value <= MAX_COUNTER { Ok(()) } else { Err(Nonsense::TooLarge) };
    fits(term.0)?;
    match &envelope.message {
        Message::PreVote { last } | Message::Vote { last, .. } | Message::Quiesce { last, .. } => {
            check_position(*last, term)
        }
        Message::Append { prev, entries, commit } => {
            fits(commit.0)?;
            check_position(*prev, term)?;
            check_entries(*prev, entries, term)
        }
        Message::Snapshot { meta } => check_snapshot(meta, term),
        Message::Heartbeat { commit: index, .. } | Message::ReadIndexReply { index, .. } => fits(index.0),
        // Answers are compared with what was sent.
        Message::AppendReply(_) | Message::HeartbeatReply { .. } | Message::QuiesceReply { .. } => Ok(()),
        Message::PreVoteReply { .. } | Message::VoteReply { .. } | Message::ReadIndex { .. } | Message::TimeoutNow => {
            Ok(())
        }
    }
}

fn check_position(position: LogPosition, term: Term) -> Result<(), Nonsense> {
    match position {
        LogPosition { index, .. } if index.0 > MAX_COUNTER => Err(Nonsense::TooLarge),
        position if position.term > term => Err(Nonsense::FromTheFuture),
        _ => Ok(()),
    }
}

fn check_entries(prev: LogPosition, entries: &[Entry], term: Term) -> Result<(), Nonsense> {
    let (mut before, mut time_ms) = (prev, 0);
    for entry in entries {
        check_position(entry.position(), term)?;
        if entry.index != before.index.next() || entry.term < before.term || entry.time_ms < time_ms {
            return Err(Nonsense::Unordered);
        }
        match &entry.payload {
            Payload::Membership(configuration) if !configuration.is_sound() => {
                return Err(Nonsense::UnsoundConfiguration);
            }
            Payload::Verdict(verdict) if verdict.on >= entry.index => return Err(Nonsense::VerdictAhead),
            Payload::Noop | Payload::Membership(_) | Payload::Data(_) | Payload::Verdict(_) | Payload::Upgrade(_) => {}
        }
        (before, time_ms) = (entry.position(), entry.time_ms);
    }
    Ok(())
}

fn check_snapshot(meta: &SnapshotMeta, term: Term) -> Result<(), Nonsense> {
    if !meta.configuration.is_sound() {
        return Err(Nonsense::UnsoundConfiguration);
    }
    check_position(meta.position, term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_up_to_the_largest_and_no_further() {
        let check = |term, message| {
            super::check(&Envelope { from: Incarnation(1), to: Incarnation(2), term: Term(term), message })
        };
        let vote = |index| Message::PreVote { last: LogPosition::new(Term(1), Index(index)) };
        assert_eq!(check(MAX_COUNTER, vote(MAX_COUNTER)), Ok(()));
        assert_eq!(check(MAX_COUNTER + 1, vote(1)), Err(Nonsense::TooLarge));
        assert_eq!(check(1, vote(MAX_COUNTER + 1)), Err(Nonsense::TooLarge));
        let heartbeat = |index| Message::Heartbeat { commit: Index(index), round: 1 };
        assert_eq!(check(1, heartbeat(MAX_COUNTER)), Ok(()));
        assert_eq!(check(1, heartbeat(MAX_COUNTER + 1)), Err(Nonsense::TooLarge));
    }
}

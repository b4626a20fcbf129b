//! What peers say to each other.

use serde::{Deserialize, Serialize};

use crate::raft::{Entry, SnapshotMeta};
use crate::types::{Incarnation, Index, LogPosition, Term};

/// A message from one peer to another of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who says it.
    pub from: Incarnation,
    /// Who is meant. A node without that peer's files does not answer.
    pub to: Incarnation,
    /// The sender's term; for a pre-vote and a pre-vote granted, the term the candidate would run in.
    pub term: Term,
    /// What is said.
    pub message: Message,
}

/// What one peer says to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Would you vote for me? Changes nothing at the receiver (thesis section 9.6).
    PreVote {
        /// The last entry of the candidate's log.
        last: LogPosition,
    },
    /// The answer to a pre-vote.
    PreVoteReply {
        /// Whether the vote would be given.
        granted: bool,
    },
    /// Vote for me (RequestVote, thesis section 3.4).
    Vote {
        /// The last entry of the candidate's log.
        last: LogPosition,
        /// The leader has asked the candidate to run: peers that hear the leader vote all the same.
        appointed: bool,
    },
    /// The answer to a vote request. Leaves only after the vote is durable.
    VoteReply {
        /// Whether the vote is given.
        granted: bool,
    },
    /// Entries to append (AppendEntries, thesis section 3.5).
    Append {
        /// The entry before the first of `entries`.
        prev: LogPosition,
        /// The entries, without gaps; none when the leader probes or announces a commit.
        entries: Vec<Entry>,
        /// What the leader knows to be committed.
        commit: Index,
    },
    /// The answer to an append or a snapshot. An acceptance leaves only after the entries are durable.
    AppendReply(AppendReply),
    /// I am the leader (thesis section 3.4), and: are you still with me? (thesis section 6.4)
    Heartbeat {
        /// What the leader knows to be committed, never beyond what the receiver is known to hold.
        commit: Index,
        /// Numbers the leader's rounds within its term. An answer carries it back.
        round: u64,
    },
    /// Run for leadership at once: I want to hand it over (thesis section 3.10).
    TimeoutNow,
    /// The answer to a heartbeat.
    HeartbeatReply {
        /// The round that is answered.
        round: u64,
    },
    /// At which index may I serve these reads? (thesis section 6.4, "leader's role in processing reads")
    ReadIndex {
        /// Names the attempt; never used twice by its peer in one life of the process.
        id: ReadId,
    },
    /// The answer to a read-index request.
    ReadIndexReply {
        /// The attempt that is answered.
        id: ReadId,
        /// State at or beyond this index is current as of the request.
        index: Index,
    },
    /// Take this snapshot in place of entries I no longer have (InstallSnapshot, thesis section 5.3). Its bytes
    /// travel beside the message, which reaches Raft once they are all there and checked.
    Snapshot {
        /// The snapshot.
        meta: SnapshotMeta,
    },
    /// A heartbeat of a leader that has nothing to do: fall asleep, if your log ends as mine does.
    Quiesce {
        /// The last entry of the leader's log. It is committed, and the receiver is known to hold it.
        last: LogPosition,
        /// As in [`Heartbeat`](Self::Heartbeat).
        round: u64,
    },
    /// The answer of one that has fallen asleep. Who does not answers as to a heartbeat.
    QuiesceReply {
        /// The round that is answered.
        round: u64,
    },
}

impl Message {
    /// Takes over what another message of the same term to the same peer says, if one can say both. Tells whether it
    /// could.
    pub(super) fn absorb(&mut self, other: &Self) -> bool {
        match (&mut *self, other) {
            (
                Self::AppendReply(AppendReply::Accepted { matched }),
                Self::AppendReply(AppendReply::Accepted { matched: other }),
            ) => {
                *matched = (*matched).max(*other);
                true
            }
            (this, other) => this == other,
        }
    }
}

/// The answer to [`Message::Append`] and [`Message::Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendReply {
    /// The follower's log equals the leader's up to `matched`.
    Accepted {
        /// The last index known to be equal.
        matched: Index,
    },
    /// The follower's log does not hold `prev`.
    Rejected {
        /// The index of the `prev` that was refused, so that a late answer is recognized.
        prev: Index,
        /// The last position where the logs may agree: the leader goes back by whole terms (thesis section 3.5).
        hint: LogPosition,
    },
}

/// Names one attempt to learn a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReadId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_acceptance_says_what_two_say_and_a_vote_does_not() {
        let accepted = |index| Message::AppendReply(AppendReply::Accepted { matched: Index(index) });
        let mut said = accepted(3);
        assert!(said.absorb(&accepted(5)) && said.absorb(&accepted(4)));
        assert_eq!(said, accepted(5));
        let vote = |granted| Message::VoteReply { granted };
        assert!(!said.absorb(&vote(true)) && !vote(true).absorb(&accepted(3)) && !vote(true).absorb(&vote(false)));
        assert!(vote(true).absorb(&vote(true)));
    }
}

//! What a replica takes in and gives out, besides the core's: reads, work for the machine, answers.

use bytes::Bytes;

use crate::access::Access;
use crate::machine::{BackendAnswer, BackendReply, HashChain, Machine, Run};
use crate::protocol::{RequestError, SessionEvent, TriggerId};
use crate::raft::{Envelope, LogRead, SnapshotMeta, SoftState, Write};
use crate::replica::{LinkId, PeerMessage, Ticket};
use crate::types::{Digest, Index};

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client without a session.
    Client(Ticket),
    /// The client on a session's stream.
    Session {
        /// The stream.
        link: LinkId,
        /// The query, and its trigger.
        id: TriggerId,
        /// Whether a trigger is to be armed.
        watch: bool,
    },
}

/// A read that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Who waits for it.
    pub asker: Asker,
    /// The client that must be allowed to have it; none if it is somebody who may do everything.
    pub client: Option<String>,
    /// What is to be read.
    pub wanted: Wanted,
    /// When the client is told that it took too long, by [`Now::monotonic_ms`](super::Now::monotonic_ms).
    pub deadline_ms: u64,
}

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The backend's answer to this. Needs [`Access::Read`].
    Answer(Bytes),
    /// Who may do what: [`Replica::access`](super::Replica::access) has it when this is answered, and it was so at some
    /// moment since it was asked. Needs [`Access::Admin`].
    Access,
}

impl Query {
    /// What the backend of a machine is to be asked. If it is not to be asked at all, the answer.
    ///
    /// # Errors
    /// The answer.
    pub fn for_backend(&self, machine: &Machine) -> Result<&Bytes, Result<BackendAnswer, RequestError>> {
        let (needed, request) = match &self.wanted {
            Wanted::Answer(request) => (Access::Read, Some(request)),
            Wanted::Access => (Access::Admin, None),
        };
        let list = &machine.access().list;
        let allowed = self.client.as_ref().map_or(Ok(()), |client| list.check_client(client, needed));
        allowed.map_err(|denied| Err(RequestError::AccessDenied(denied)))?;
        request.ok_or_else(|| Ok(BackendAnswer { reply: Ok(Bytes::new()), watched: Vec::new() }))
    }
}

/// Work for the peer's machine. Jobs run one at a time, in the order given.
#[derive(Debug, PartialEq, Eq)]
pub enum Job {
    /// Replace the machine by the one in this snapshot. Answered by [`Replica::restored`](super::Replica::restored).
    Restore(SnapshotMeta),
    /// Apply entries. Answered by [`Replica::applied`](super::Replica::applied); if the backend dies of one, by that for
    /// those before it, and by [`Replica::died`](super::Replica::died).
    Apply(Run),
    /// Make the machine again as it was at an entry, with this hash chain.
    Rewind(Index, HashChain),
    /// Answer queries from the state as it is. Answered by [`Replica::answered`](super::Replica::answered), after the
    /// reports of the jobs before; by [`Replica::declined`](super::Replica::declined) if the machine is not at this entry,
    /// because it died on the way.
    Query(Index, Vec<Query>),
    /// Write a snapshot of the state as it is. Answered by [`Replica::snapshot_taken`](super::Replica::snapshot_taken) once
    /// the file is durable, or by [`Replica::snapshot_failed`](super::Replica::snapshot_failed), also if the machine is not
    /// there.
    Snapshot(SnapshotMeta),
    /// The same, and by the very machine that applies: a majority agrees with it, and another replica's is to be replaced by
    /// it. One that is made anew from snapshot and log might differ, if that is how they came to differ.
    SnapshotAsIs(SnapshotMeta),
}

/// What the machine said to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryAnswer {
    /// Who waits for it.
    pub asker: Asker,
    /// The state that was read: that after this entry.
    pub index: Index,
    /// The backend's answer, or why there is none.
    pub result: Result<BackendAnswer, RequestError>,
}

/// An answer for a client that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whom it is for.
    pub ticket: Ticket,
    /// The index of a write or of the state that was read, and the backend's answer.
    pub result: Result<(Index, BackendReply), RequestError>,
}

/// What a replica wants done. The notes on order of [`raft::Ready`](crate::raft::Ready) hold for what it takes from there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// What must become durable; reported by [`Replica::persisted`](super::Replica::persisted).
    pub write: Option<Write>,
    /// What to send to other peers.
    pub messages: Vec<PeerMessage>,
    /// Entries wanted from the store; reported by [`Replica::log_read`](super::Replica::log_read).
    pub log_reads: Vec<LogRead>,
    /// Snapshots to send along with the message; reported by [`Replica::snapshot_sent`](super::Replica::snapshot_sent).
    pub snapshots: Vec<Envelope>,
    /// Work for the machine.
    pub jobs: Vec<Job>,
    /// Answers for clients.
    pub answers: Vec<Answer>,
    /// What to send on the streams of sessions, in this order. After [`SessionEvent::Ended`] and
    /// [`SessionEvent::Detached`] a stream is forgotten here.
    pub events: Vec<(LinkId, SessionEvent)>,
    /// A component that the machine cannot go on without; reported by
    /// [`Replica::component_ready`](super::Replica::component_ready).
    pub component: Option<Digest>,
    /// Set when role, term or leader have changed.
    pub status: Option<SoftState>,
    /// Set when the machine can do no more: why. The replica is to be stopped.
    pub stop: Option<String>,
}

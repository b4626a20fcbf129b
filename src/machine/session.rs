//! Client sessions: commands that run once, in order, with replies that are remembered until the client has them
//! (thesis section 6.3).
//!
//! A client numbers its commands 1, 2, 3 and so on, and says with each up to where it has its answers. A command that
//! comes again gets the same reply again; one that comes too early, or after its reply was acknowledged, is refused and
//! never run. Sessions begin and end by entries of the log only, so all replicas agree on them at every index.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::protocol::{CommandReply, SessionRefusal, SessionSecret};
use crate::types::{Digest, Index, SessionId};

/// Who may use a session, and how long it lives without being heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTerms {
    /// The identity in the certificate of the client that opened it.
    pub identity: String,
    /// The digest of its secret.
    pub secret: Digest,
    /// How long it lives without a sign of its client, in milliseconds.
    pub timeout_ms: u64,
}

impl SessionTerms {
    /// Whether the session is this client's.
    #[must_use]
    pub fn is_owner(&self, identity: &str, secret: SessionSecret) -> bool {
        self.identity == identity && self.secret == secret.digest()
    }
}

/// The sessions of a cluster. Part of the machine's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sessions {
    open: BTreeMap<SessionId, Session>,
    /// Sessions that have ended and whose ephemeral data is still there, because the backend died of the end.
    orphaned: BTreeSet<SessionId>,
    /// How many are open of each identity that has any.
    #[serde(skip)]
    of_identity: BTreeMap<String, u64>,
}

/// One open session.
///
/// - `next` is the command to run next, and all before it have run.
/// - Commands up to `acked_up_to`, which is before `next`, are acknowledged. The replies of all after it that have run
///   are remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    terms: SessionTerms,
    next: u64,
    acked_up_to: u64,
    /// Oldest first, without gaps.
    replies: VecDeque<Remembered>,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    seq: u64,
    /// The entry that ran it.
    index: Index,
    reply: CommandReply,
}

impl Session {
    /// Whether a machine that has applied entries up to `last` can have this session. The entry that opened it is one of
    /// them, and each command that has run is another.
    fn is_possible(&self, id: SessionId, last: Index) -> bool {
        let (Some(have_run), Some(entries_since)) = (self.next.checked_sub(1), last.0.checked_sub(id.0)) else {
            return false;
        };
        id != SessionId::ZERO
            && have_run <= entries_since
            && self.acked_up_to <= have_run
            && self.replies.iter().map(|reply| reply.seq).eq(self.acked_up_to + 1..=have_run)
    }

    /// Decides about a command and counts it in.
    fn admit(&mut self, seq: u64, acked_up_to: u64, max_unacknowledged: u64) -> Result<Admission, SessionRefusal> {
        self.acked_up_to = self.acked_up_to.max(acked_up_to.min(self.next - 1));
        if seq <= self.acked_up_to {
            Err(SessionRefusal::AlreadyAcknowledged)
        } else if seq < self.next {
            Ok(Admission::Again)
        } else if seq > self.next {
            Err(SessionRefusal::OutOfOrder { expected: self.next })
        } else if self.next - 1 - self.acked_up_to >= max_unacknowledged {
            Err(SessionRefusal::TooManyUnacknowledged)
        } else {
            self.next += 1;
            Ok(Admission::Run)
        }
    }

    fn standing(&self, id: SessionId) -> Standing {
        Standing { session: id, next: self.next, acked_up_to: self.acked_up_to }
    }
}

/// What is to be done with a session's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Run it.
    Run,
    /// It has run: the same reply again.
    Again,
}

/// What came of the wish to have a command run in an open session.
pub(super) struct Admitted<'a> {
    pub(super) admission: Result<Admission, SessionRefusal>,
    /// Where the session stands then.
    pub(super) standing: Standing,
    /// Whose it is.
    pub(super) identity: &'a str,
}

/// Where a session stands after an entry. Part of the hash chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Standing {
    session: SessionId,
    next: u64,
    acked_up_to: u64,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// How many sessions of an identity are open.
    pub(super) fn count_of(&self, identity: &str) -> u64 {
        self.of_identity.get(identity).copied().unwrap_or(0)
    }

    /// Counts anew what was read from bytes.
    pub(super) fn counted(mut self) -> Self {
        self.of_identity.clear();
        for session in self.open.values() {
            *self.of_identity.entry(session.terms.identity.clone()).or_default() += 1;
        }
        self
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.open.contains_key(&id)
    }

    /// The open sessions, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &SessionTerms)> {
        self.open.iter().map(|(id, session)| (*id, &session.terms))
    }

    /// A session that no machine can have which has applied entries up to `last`: the bytes that it was read from are
    /// not what a machine wrote.
    pub(super) fn impossible(&self, last: Index) -> Option<SessionId> {
        let open = self.open.iter().find(|(id, session)| !session.is_possible(**id, last)).map(|(id, _)| *id);
        let is_impossible = |id: &SessionId| id.0 > last.0 || self.open.contains_key(id);
        open.or_else(|| self.orphaned.iter().copied().find(is_impossible))
    }

    pub(super) fn open(&mut self, id: SessionId, terms: SessionTerms) {
        *self.of_identity.entry(terms.identity.clone()).or_default() += 1;
        let session = Session { terms, next: 1, acked_up_to: 0, replies: VecDeque::new() };
        let before = self.open.insert(id, session);
        assert!(before.is_none(), "an index opens one session");
    }

    pub(super) fn end(&mut self, id: SessionId) {
        let Some(Session { terms, .. }) = self.open.remove(&id) else { return };
        match self.of_identity.get_mut(&terms.identity) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.of_identity.remove(&terms.identity)),
        }
    }

    /// The session has ended, and its ephemeral data stays.
    pub(super) fn orphan(&mut self, id: SessionId) {
        self.orphaned.insert(id);
    }

    /// The sessions that have left ephemeral data behind, oldest first.
    pub(super) fn orphans(&self) -> Vec<SessionId> {
        self.orphaned.iter().copied().collect()
    }

    /// What they have left behind is gone.
    pub(super) fn forget_orphans(&mut self) {
        self.orphaned.clear();
    }

    /// How many sessions have left ephemeral data behind.
    pub(super) fn orphaned(&self) -> usize {
        self.orphaned.len()
    }

    /// Decides about a command and counts it in, if the session is open. Depends on numbers only, never on replies: those of
    /// earlier commands may be outstanding, as many as are applied in one batch.
    pub(super) fn admit(
        &mut self,
        id: SessionId,
        seq: u64,
        acked_up_to: u64,
        max_unacknowledged: u64,
    ) -> Option<Admitted<'_>> {
        let session = self.open.get_mut(&id)?;
        let admission = session.admit(seq, acked_up_to, max_unacknowledged);
        Some(Admitted { admission, standing: session.standing(id), identity: &session.terms.identity })
    }

    /// Where the session stands, if it is open.
    pub(super) fn standing(&self, id: SessionId) -> Option<Standing> {
        self.open.get(&id).map(|session| session.standing(id))
    }

    /// Remembers a reply. The session is open: what ends it waits for the replies before.
    pub(super) fn remember(&mut self, id: SessionId, seq: u64, index: Index, reply: CommandReply) {
        let session = self.open.get_mut(&id).expect("a session whose command has run is open");
        session.replies.push_back(Remembered { seq, index, reply });
    }

    /// The remembered reply to a command that was admitted as run before.
    pub(super) fn reply(&self, id: SessionId, seq: u64) -> (Index, CommandReply) {
        let session = self.open.get(&id).expect("a session whose command was admitted is open");
        let at = session.replies.binary_search_by_key(&seq, |reply| reply.seq);
        let Remembered { index, reply, .. } =
            &session.replies[at.expect("the reply of an unacknowledged command is remembered")];
        (*index, reply.clone())
    }

    /// Forgets the replies that are acknowledged where the session stands.
    pub(super) fn forget(&mut self, at: Standing) {
        if let Some(session) = self.open.get_mut(&at.session) {
            while session.replies.pop_front_if(|reply| reply.seq <= at.acked_up_to).is_some() {}
        }
    }
}

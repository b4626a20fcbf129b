//! What sessions are promised, by a model of their own that follows the history entry by entry.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use zraft::access::{Access, AccessControl, AccessList, AccessRefusal};
use zraft::feature_level::FeatureLevel;
use zraft::machine::{Command, Key, Outcome, SessionTerms};
use zraft::protocol::{CommandError, CommandReply, SessionEnd, SessionRefusal};
use zraft::settings::Settings;
use zraft::types::{Index, SessionId};

use super::backend::{number, words};

/// The sessions of the history, and what clients know of them.
pub struct SessionPromises {
    settings: Settings,
    open: BTreeMap<SessionId, Open>,
    ended: BTreeMap<SessionId, Ended>,
    /// What every command that has run was answered.
    runs: BTreeMap<(SessionId, u64), (Index, CommandReply)>,
    /// Until when each session must live: a client has sent a sign of life, was told that it was heard, and counts from
    /// the sending.
    alive_until_ms: BTreeMap<SessionId, u64>,
    /// What sessions own.
    owned: BTreeMap<SessionId, BTreeSet<u64>>,
    /// Sessions whose end the backend has not survived.
    orphaned: BTreeSet<SessionId>,
    /// Where each key has changed.
    changes: BTreeMap<Key, Vec<Index>>,
    /// Where the backend has become another.
    upgrades: Vec<Index>,
    /// What entries there may be.
    level: FeatureLevel,
    /// The clients that may only read, and the entry that has said so.
    readers: (BTreeSet<String>, Index),
}

struct Open {
    timeout_ms: u64,
    /// How many commands have run.
    run: u64,
    acked_up_to: u64,
}

struct Ended {
    index: Index,
    end: SessionEnd,
    at_ms: u64,
    timeout_ms: u64,
}

impl SessionPromises {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            runs: BTreeMap::new(),
            alive_until_ms: BTreeMap::new(),
            owned: BTreeMap::new(),
            orphaned: BTreeSet::new(),
            changes: BTreeMap::new(),
            upgrades: Vec::new(),
            level: FeatureLevel::FIRST,
            readers: (BTreeSet::new(), Index::ZERO),
        }
    }

    /// An entry is applied for the first time anywhere. Returns whether it has run a command.
    pub fn applied(
        &mut self,
        index: Index,
        command: &Command,
        outcome: &Outcome,
        changed: &[Key],
        now_ms: u64,
    ) -> bool {
        for key in changed {
            self.changes.entry(key.clone()).or_default().push(index);
        }
        match command {
            Command::Write { .. } => assert!(matches!(outcome, Outcome::Written(_)), "{outcome:?}"),
            Command::OpenSession(terms) => self.open(index, terms, outcome),
            Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data } => {
                let expected = self.expected(*session, *seq, *acked_up_to);
                return self.commanded((*session, *seq), index, expected, outcome, is_ephemeral.then_some(data));
            }
            Command::CloseSession { session } => self.end(*session, SessionEnd::Closed, index, outcome, now_ms),
            Command::ExpireSession { session } => self.end(*session, SessionEnd::Expired, index, outcome, now_ms),
            Command::WriteBy { client, .. } => {
                let is_denied = matches!(outcome, Outcome::Written(Err(CommandError::Denied(_))));
                assert_eq!(is_denied, self.readers.0.contains(client), "{client} at {index}: {outcome:?}");
                assert!(!is_denied || changed.is_empty(), "a write that is denied at {index} changes something");
            }
            Command::SetAccess { expected, list, .. } => self.set_access(index, *expected, list, outcome),
            Command::RaiseLevel { level } => {
                self.level = self.level.max(*level);
                assert_eq!(*outcome, Outcome::Level(self.level), "at {index}");
            }
        }
        matches!(command, Command::Write { .. } | Command::WriteBy { .. })
    }

    fn set_access(&mut self, index: Index, expected: Index, list: &AccessList, outcome: &Outcome) {
        let (_, set_at) = self.readers;
        if expected != set_at {
            return assert_eq!(*outcome, Outcome::AccessNotSet(AccessRefusal::Changed { now: set_at }));
        }
        assert_eq!(*outcome, Outcome::AccessSet(AccessControl { list: list.clone(), set_at: index }));
        let readers = list.named.iter().filter(|(_, access)| **access == Access::Read);
        self.readers = (readers.map(|(client, _)| client.clone()).collect(), index);
    }

    fn open(&mut self, index: Index, terms: &SessionTerms, outcome: &Outcome) {
        if self.open.len() as u64 >= self.settings.max_sessions {
            assert_eq!(*outcome, Outcome::Refused(SessionRefusal::TooManySessions));
            return;
        }
        assert_eq!(*outcome, Outcome::Opened(terms.clone()));
        self.open.insert(SessionId(index.0), Open { timeout_ms: terms.timeout_ms, run: 0, acked_up_to: 0 });
    }

    /// Whether a command is to be run; what it comes to if not.
    fn expected(&mut self, session: SessionId, seq: u64, acked_up_to: u64) -> Option<Outcome> {
        let refused = |refusal| Some(Outcome::Refused(refusal));
        let Some(open) = self.open.get_mut(&session) else { return refused(SessionRefusal::Expired) };
        open.acked_up_to = open.acked_up_to.max(acked_up_to.min(open.run));
        if seq <= open.acked_up_to {
            return refused(SessionRefusal::AlreadyAcknowledged);
        }
        if seq <= open.run {
            let (index, reply) = self.runs[&(session, seq)].clone();
            return Some(Outcome::Answered { session, seq, index, reply });
        }
        if seq > open.run + 1 {
            return refused(SessionRefusal::OutOfOrder { expected: open.run + 1 });
        }
        if open.run - open.acked_up_to >= self.settings.max_unacknowledged {
            return refused(SessionRefusal::TooManyUnacknowledged);
        }
        open.run += 1;
        None
    }

    fn commanded(
        &mut self,
        (session, seq): (SessionId, u64),
        index: Index,
        expected: Option<Outcome>,
        outcome: &Outcome,
        owned: Option<&Bytes>,
    ) -> bool {
        if let Some(expected) = expected {
            assert_eq!(*outcome, expected, "command {seq} of session {session} at {index}");
            return false;
        }
        let Outcome::Answered { session: of, seq: number_of, index: at, reply } = outcome else {
            panic!("command {seq} of session {session} at {index} has not run: {outcome:?}");
        };
        assert_eq!((*of, *number_of, *at), (session, seq, index));
        let before = self.runs.insert((session, seq), (index, reply.clone()));
        assert_eq!(before, None, "command {seq} of session {session} runs twice");
        if let (Some(data), Ok(_)) = (owned, reply) {
            self.owned.entry(session).or_default().insert(number(data));
        }
        true
    }

    fn end(&mut self, session: SessionId, end: SessionEnd, index: Index, outcome: &Outcome, now_ms: u64) {
        let Some(Open { timeout_ms, .. }) = self.open.remove(&session) else {
            assert_eq!(*outcome, Outcome::Refused(SessionRefusal::Expired));
            return;
        };
        match outcome {
            Outcome::Orphaned { session: of, end: as_, .. } => {
                assert_eq!((*of, *as_), (session, end));
                self.orphaned.insert(session);
            }
            outcome => {
                assert_eq!(*outcome, Outcome::Ended { session, end });
                self.owned.remove(&session);
            }
        }
        self.ended.insert(session, Ended { index, end, at_ms: now_ms, timeout_ms });
        self.check_lifetime(session);
    }

    /// What sessions own is there while they are open, and no longer, unless it is orphaned. `answer` is what the backend has.
    pub fn check_owned(&self, answer: &Bytes) {
        let there: BTreeSet<_> = words(answer).chunks(2).map(|pair| (SessionId(pair[0]), pair[1])).collect();
        let numbers = |(session, numbers): (&SessionId, &BTreeSet<u64>)| {
            numbers.iter().map(|number| (*session, *number)).collect::<Vec<_>>()
        };
        let expected: BTreeSet<_> = self.owned.iter().flat_map(numbers).collect();
        assert_eq!(there, expected, "ephemeral data is there while its session is open");
    }

    /// A client is told that its session was alive when it heard a sign that was sent then.
    pub fn alive(&mut self, session: SessionId, sent_ms: u64) {
        let timeout_ms = match (self.open.get(&session), self.ended.get(&session)) {
            (Some(open), _) => open.timeout_ms,
            (None, Some(ended)) => ended.timeout_ms,
            (None, None) => panic!("{session} was never opened"),
        };
        let until_ms = self.alive_until_ms.entry(session).or_default();
        *until_ms = (*until_ms).max(sent_ms + timeout_ms);
        self.check_lifetime(session);
    }

    fn check_lifetime(&self, session: SessionId) {
        if let (Some(ended), Some(until_ms)) = (self.ended.get(&session), self.alive_until_ms.get(&session)) {
            assert!(
                ended.end == SessionEnd::Closed || *until_ms <= ended.at_ms,
                "{session} has expired at {} ms, and its client was told that it lives until {until_ms} ms",
                ended.at_ms,
            );
        }
    }

    pub fn orphaned(&self) -> usize {
        self.orphaned.len()
    }

    /// The backend is another from an entry on: it has cleaned up behind sessions whose end the former has not survived.
    pub fn upgraded(&mut self, index: Index) {
        assert!(self.level >= FeatureLevel::UPGRADES, "entry {index} is one that not all peers support");
        self.upgrades.push(index);
        for session in std::mem::take(&mut self.orphaned) {
            self.owned.remove(&session);
        }
    }

    /// Whether the backend has become another at an entry.
    pub fn is_upgrade(&self, index: Index) -> bool {
        self.upgrades.contains(&index)
    }

    /// The first upgrade behind an index: no trigger outlives it.
    pub fn first_upgrade(&self, since: Index) -> Option<Index> {
        self.upgrades.iter().copied().find(|index| *index > since)
    }

    pub fn has_ended(&self, session: SessionId) -> bool {
        self.ended.contains_key(&session)
    }

    /// Where a session has ended, and why.
    pub fn end_of(&self, session: SessionId) -> (Index, SessionEnd) {
        let ended = &self.ended[&session];
        (ended.index, ended.end)
    }

    /// A client has a reply.
    pub fn answered(&self, session: SessionId, seq: u64, index: Index, reply: &CommandReply) {
        let run = self.runs.get(&(session, seq));
        assert_eq!(run, Some(&(index, reply.clone())), "command {seq} of session {session} was not answered so");
    }

    /// The first change of any of these keys behind an index.
    pub fn first_change(&self, keys: &[Key], since: Index) -> Option<Index> {
        let first = |key| {
            let changes = self.changes.get(key)?;
            changes.get(changes.partition_point(|index| *index <= since)).copied()
        };
        keys.iter().filter_map(first).min()
    }
}

//! What sessions promise, as simple as can be: lists that grow, nothing is cut into batches and nothing forgotten.

use std::collections::BTreeMap;

use zraft::access::{Access, AccessControl, AccessDenied, AccessList, AccessRefusal};
use zraft::feature_level::FeatureLevel;
use zraft::machine::{Command, Key, Outcome, SessionTerms};
use zraft::protocol::{CommandError, CommandReply, SessionEnd, SessionRefusal};
use zraft::raft::{Entry, Payload};
use zraft::settings::Settings;
use zraft::types::{Index, SessionId};

use super::replica::{Row, Table};

/// A session that was ever opened.
struct Session {
    id: SessionId,
    terms: SessionTerms,
    /// What commands 1, 2, 3 and so on were answered, and the entries that ran them.
    replies: Vec<(Index, CommandReply)>,
    acked_up_to: u64,
    has_ended: bool,
}

struct Pair {
    key: String,
    value: String,
    owner: Option<SessionId>,
}

pub struct Model {
    settings: Settings,
    sessions: Vec<Session>,
    pairs: Vec<Pair>,
    access: AccessControl,
    level: FeatureLevel,
}

impl Model {
    pub fn new(settings: Settings) -> Self {
        let (access, level) = (AccessControl::default(), FeatureLevel::FIRST);
        Self { settings, sessions: Vec::new(), pairs: Vec::new(), access, level }
    }

    /// All sessions that were ever opened, and the number of commands that each has run.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.sessions.iter().map(|session| (session.id, session.replies.len() as u64))
    }

    /// What a snapshot should say of the open sessions.
    pub fn table(&self) -> Table {
        let row = |session: &Session| Row {
            terms: session.terms.clone(),
            next: session.replies.len() as u64 + 1,
            acked_up_to: session.acked_up_to,
            replies: (1..).zip(session.replies.clone()).filter(|(seq, _)| *seq > session.acked_up_to).collect(),
        };
        self.sessions.iter().filter(|session| !session.has_ended).map(|session| (session.id, row(session))).collect()
    }

    /// What a query should answer.
    pub fn answer(&self) -> String {
        let pairs: BTreeMap<_, _> = self.pairs.iter().map(|pair| (&pair.key, (&pair.value, pair.owner))).collect();
        let show = |(key, (value, owner)): (&String, (&String, Option<SessionId>))| match owner {
            None => format!("{key}={value}"),
            Some(session) => format!("{key}={value} of session {session}"),
        };
        pairs.into_iter().map(show).collect::<Vec<_>>().join(", ")
    }

    /// What comes of an entry, and the keys that it changes.
    pub fn apply(&mut self, entry: &Entry) -> (Outcome, Vec<Key>) {
        let (outcome, changed) = match &entry.payload {
            Payload::Data(data) => self.obey(entry.index, Command::decode(data).expect("a command")),
            _ => (Outcome::Nothing, vec![]),
        };
        (outcome, changed.into_iter().map(Key::from).collect())
    }

    /// Who may do what.
    pub fn access(&self) -> &AccessControl {
        &self.access
    }

    fn check(&self, client: &str, needed: Access) -> Result<(), AccessDenied> {
        let client = client.trim_start_matches("zraft://client/");
        let named = self.access.list.named.iter().find(|(name, _)| *name == client);
        let has = named.map_or(self.access.list.default, |(_, access)| Some(*access));
        let enough: &[Access] = match needed {
            Access::Read => &[Access::Read, Access::Write, Access::Admin],
            Access::Write => &[Access::Write, Access::Admin],
            Access::Admin => &[Access::Admin],
        };
        let may = has.is_some_and(|has| enough.contains(&has));
        if may { Ok(()) } else { Err(AccessDenied { client: client.to_owned(), needed }) }
    }

    fn set_access(&mut self, index: Index, by: Option<&str>, expected: Index, list: AccessList) -> Outcome {
        if let Some(Err(denied)) = by.map(|client| self.check(client, Access::Admin)) {
            return Outcome::Denied(denied);
        }
        let now = self.access.set_at;
        if expected != now {
            return Outcome::AccessNotSet(AccessRefusal::Changed { now });
        }
        self.access = AccessControl { list, set_at: index };
        Outcome::AccessSet(self.access.clone())
    }

    fn count_of(&self, identity: &str) -> u64 {
        let open = self.sessions.iter().filter(|session| !session.has_ended && session.terms.identity == identity);
        open.count() as u64
    }

    fn obey(&mut self, index: Index, command: Command) -> (Outcome, Vec<String>) {
        let open = self.sessions.iter().filter(|session| !session.has_ended).count() as u64;
        match command {
            Command::Write { data } => {
                let (reply, changed) = self.run(None, &data);
                (Outcome::Written(reply), changed)
            }
            Command::WriteBy { client, data } => match self.check(&client, Access::Write) {
                Ok(()) => self.obey(index, Command::Write { data }),
                Err(denied) => (Outcome::Written(Err(CommandError::Denied(denied))), vec![]),
            },
            Command::SetAccess { by, expected, list } => {
                (self.set_access(index, by.as_deref(), expected, list), vec![])
            }
            Command::RaiseLevel { level } => {
                self.level = self.level.max(level);
                (Outcome::Level(self.level), vec![])
            }
            Command::OpenSession(SessionTerms { ref identity, .. }) if self.check(identity, Access::Read).is_err() => {
                (Outcome::Denied(self.check(identity, Access::Read).expect_err("it may not")), vec![])
            }
            Command::OpenSession(_) if open >= self.settings.max_sessions => {
                (Outcome::Refused(SessionRefusal::TooManySessions), vec![])
            }
            Command::OpenSession(SessionTerms { ref identity, .. })
                if self.count_of(identity) >= self.settings.max_sessions_per_identity =>
            {
                (Outcome::Refused(SessionRefusal::TooManyOfIdentity), vec![])
            }
            Command::OpenSession(terms) => {
                let (id, opened) = (SessionId(index.0), Outcome::Opened(terms.clone()));
                self.sessions.push(Session { id, terms, replies: Vec::new(), acked_up_to: 0, has_ended: false });
                (opened, vec![])
            }
            Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data } => {
                self.acknowledge(session, acked_up_to);
                let owner = is_ephemeral.then_some(session);
                match self.judge(session, seq) {
                    Err(refusal) => (Outcome::Refused(refusal), vec![]),
                    Ok(Some((index, reply))) => (Outcome::Answered { session, seq, index, reply }, vec![]),
                    Ok(None) => {
                        let identity = self.find(session).expect("it is open").terms.identity.clone();
                        let (reply, changed) = match self.check(&identity, Access::Write) {
                            Ok(()) => self.run(owner, &data),
                            Err(denied) => (Err(CommandError::Denied(denied)), vec![]),
                        };
                        self.find(session).expect("it is open").replies.push((index, reply.clone()));
                        (Outcome::Answered { session, seq, index, reply }, changed)
                    }
                }
            }
            Command::CloseSession { session } => self.end(session, SessionEnd::Closed),
            Command::ExpireSession { session } => self.end(session, SessionEnd::Expired),
        }
    }

    fn find(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id && !session.has_ended)
    }

    fn acknowledge(&mut self, id: SessionId, acked_up_to: u64) {
        let Some(session) = self.find(id) else { return };
        let have_run = session.replies.len() as u64;
        let acked_up_to = if acked_up_to > have_run { have_run } else { acked_up_to };
        if acked_up_to > session.acked_up_to {
            session.acked_up_to = acked_up_to;
        }
    }

    /// The answer to a command that has run, nothing for one that is to run, or why it is not to run.
    fn judge(&mut self, id: SessionId, seq: u64) -> Result<Option<(Index, CommandReply)>, SessionRefusal> {
        let max_unacknowledged = self.settings.max_unacknowledged;
        let session = self.find(id).ok_or(SessionRefusal::Expired)?;
        let have_run = session.replies.len() as u64;
        if seq <= session.acked_up_to {
            return Err(SessionRefusal::AlreadyAcknowledged);
        }
        if seq <= have_run {
            let place = usize::try_from(seq - 1).expect("it has run");
            return Ok(Some(session.replies[place].clone()));
        }
        if seq != have_run + 1 {
            return Err(SessionRefusal::OutOfOrder { expected: have_run + 1 });
        }
        if have_run - session.acked_up_to == max_unacknowledged {
            return Err(SessionRefusal::TooManyUnacknowledged);
        }
        Ok(None)
    }

    fn end(&mut self, id: SessionId, end: SessionEnd) -> (Outcome, Vec<String>) {
        let Some(session) = self.find(id) else { return (Outcome::Refused(SessionRefusal::Expired), vec![]) };
        session.has_ended = true;
        let mut gone: Vec<_> = self.pairs.extract_if(.., |pair| pair.owner == Some(id)).map(|pair| pair.key).collect();
        gone.sort();
        (Outcome::Ended { session: id, end }, gone)
    }

    /// The backend of `keys.rs`, again.
    fn run(&mut self, owner: Option<SessionId>, data: &[u8]) -> (CommandReply, Vec<String>) {
        let text = String::from_utf8(data.to_vec()).expect("commands are text");
        let mut words = text.split(' ').map(str::to_owned);
        let (verb, key) = (words.next().expect("a verb"), words.next().expect("a key"));
        let place = self.pairs.iter().position(|pair| pair.key == key);
        let before = place.map(|place| self.pairs.remove(place).value);
        let (value, reply) = match (verb.as_str(), before) {
            ("add", before) => {
                let before: u64 = before.map_or(0, |value| value.parse().expect("only numbers are added"));
                let sum = (before + words.next().unwrap().parse::<u64>().unwrap()).to_string();
                (Some(sum.clone()), sum)
            }
            ("take", Some(before)) => (None, before),
            ("take", None) => return (Err(CommandError::Refused(format!("there is no {key}"))), vec![]),
            (other, _) => panic!("no verb {other}"),
        };
        if let Some(value) = value {
            self.pairs.push(Pair { key: key.clone(), value, owner });
        }
        (Ok(reply.into()), vec![key])
    }
}

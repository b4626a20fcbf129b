//! Scripts that tell one story of the machine each: `tests/machine/*.golden`. What a command prints is what became of
//! its entry. `UPDATE_GOLDENFILES=1 cargo test --test core` writes the outputs anew.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster [max_sessions=N] [max_sessions_per_identity=N] [max_unacknowledged=N]` | begins anew; every script begins so by itself |
//! | `open NAME [of=IDENTITY]` | an entry: opens a session, called NAME from here on, as is its client unless it is told |
//! | `send NAME SEQ WORD... [acked=N]` | an entry: a session's command, for the backend of `keys.rs` |
//! | `ephemeral NAME SEQ WORD... [acked=N]` | the same, and what it writes goes with the session |
//! | `close NAME`, `expire NAME` | an entry: ends the session |
//! | `write WORD...` | an entry: a write without a session |
//! | `write-by NAME WORD...` | an entry: the same, by a client that needs access |
//! | `access [NAME=ACCESS...] [default=ACCESS] [expected=N] [by=NAME]` | an entry: this access list, in place of the one that entry N has set, or else the present one |
//! | `level N` | an entry: what entries there may be from here on |
//! | `elect` | an entry: a new leader's first |
//! | `rule skip`, `rule keep` | a verdict on the next entry |
//! | `batch`, `apply` | entries between these are applied in one call |
//! | `restart` | goes on from a snapshot |
//! | `forge NAME [acked=N] [next=N]` | goes on from a snapshot that was made to say this of a session |
//! | `query` | everything that the backend has |
//! | `list` | the access list |
//! | `sessions` | the table of sessions |
//! | `chain` | names the hash chain: equal chains have equal names |
//!
//! A second replica applies every entry by itself and is never restarted. Both must agree after each command; only after
//! `forge` their chains may differ, and then that is told.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use zraft::access::{AccessControl, AccessList};
use zraft::feature_level::FeatureLevel;
use zraft::machine::{self, Applied, GuestFault, HashChain, Key, Outcome, Ruling, Rulings, SessionTerms};
use zraft::protocol::{BackendFault, CommandError, CommandReply, SessionSecret};
use zraft::raft::{Entry, Payload};
use zraft::settings::Settings;
use zraft::types::{Index, SessionId, Term};

use super::keys::Call;
use super::replica::Replica;

type Res<T = ()> = Result<T, Box<dyn Error>>;

struct Script {
    replica: Replica,
    other: Replica,
    is_forged: bool,
    last: Index,
    term: Term,
    /// Entries that wait for `apply`.
    held: Option<Vec<Entry>>,
    rulings: Rulings,
    names: BTreeMap<String, SessionId>,
    /// All that were asked for, in this script's clusters.
    chains: Vec<HashChain>,
    output: String,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Res<String> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "cluster" => self.cluster(&mut args)?,
            "open" => {
                let name = args.next_pos().ok_or("who?")?.to_owned();
                let identity = args.next_key().map_or_else(|| name.clone(), |(_, identity)| identity.to_owned());
                self.names.insert(name, SessionId(self.last.next().0));
                let terms = SessionTerms { identity, secret: SessionSecret(1).digest(), timeout_ms: 1_000 };
                self.enter(data(&machine::Command::OpenSession(terms)))?;
            }
            "send" | "ephemeral" => self.send(&mut args, command.name == "ephemeral")?,
            "close" => {
                let session = self.session(&mut args)?;
                self.enter(data(&machine::Command::CloseSession { session }))?;
            }
            "expire" => {
                let session = self.session(&mut args)?;
                self.enter(data(&machine::Command::ExpireSession { session }))?;
            }
            "write" => {
                let words = words(&mut args);
                self.enter(data(&machine::Command::Write { data: words }))?;
            }
            "write-by" => {
                let client = args.next_pos().ok_or("who?")?.to_owned();
                let words = words(&mut args);
                self.enter(data(&machine::Command::WriteBy { client, data: words }))?;
            }
            "access" => self.access(&mut args)?,
            "level" => {
                let level = FeatureLevel(args.next_pos().ok_or("which?")?.parse()?);
                self.enter(data(&machine::Command::RaiseLevel { level }))?;
            }
            "list" => writeln!(self.output, "{}", listed(self.replica.machine.access()))?,
            "elect" => {
                self.term = self.term.next();
                self.enter(Payload::Noop)?;
            }
            "rule" => {
                let fault = BackendFault { kind: GuestFault::Trap, message: "it died".to_owned() };
                let ruling = match args.next_pos() {
                    Some("skip") => Ruling::Skip(fault),
                    Some("keep") => Ruling::Keep,
                    _ => return Err("skip or keep?".into()),
                };
                self.rulings.rulings.push((self.last.next(), ruling));
            }
            "batch" => self.held = Some(Vec::new()),
            "apply" => {
                let entries = self.held.take().ok_or("there is no batch")?;
                self.apply(&entries)?;
            }
            "restart" => {
                let snapshot = self.replica.snapshot();
                self.replica.restore(&snapshot)?;
            }
            "forge" => self.forge(&mut args)?,
            "query" => {
                let answer = self.replica.query();
                let answer = if answer.is_empty() { "nothing".into() } else { String::from_utf8_lossy(&answer) };
                writeln!(self.output, "{}", self.named(&answer))?;
            }
            "sessions" => self.sessions()?,
            "chain" => self.chain()?,
            other => return Err(format!("no command '{other}'").into()),
        }
        args.reject_next()?;
        Ok(std::mem::take(&mut self.output))
    }
}

fn data(command: &machine::Command) -> Payload {
    Payload::Data(command.encode())
}

/// What is left of the arguments.
fn words(args: &mut ArgumentConsumer<'_>) -> Bytes {
    let words: Vec<_> = std::iter::from_fn(|| args.next_pos()).collect();
    words.join(" ").into()
}

impl Script {
    fn new(settings: Settings) -> Self {
        Self {
            replica: Replica::start(settings),
            other: Replica::start(settings),
            is_forged: false,
            last: Index::ZERO,
            term: Term(1),
            held: None,
            rulings: Rulings::default(),
            names: BTreeMap::new(),
            chains: Vec::new(),
            output: String::new(),
        }
    }

    fn cluster(&mut self, args: &mut ArgumentConsumer<'_>) -> Res {
        let mut settings = Settings::default();
        while let Some((key, value)) = args.next_key() {
            match key {
                "max_sessions" => settings.max_sessions = value.parse()?,
                "max_sessions_per_identity" => settings.max_sessions_per_identity = value.parse()?,
                "max_unacknowledged" => settings.max_unacknowledged = value.parse()?,
                other => return Err(format!("no setting '{other}'").into()),
            }
        }
        *self = Self { chains: std::mem::take(&mut self.chains), ..Self::new(settings) };
        Ok(())
    }

    /// A session by its name, or by its number when nobody opened it here.
    fn session(&self, args: &mut ArgumentConsumer<'_>) -> Res<SessionId> {
        let name = args.next_pos().ok_or("which session?")?;
        match self.names.get(name) {
            Some(session) => Ok(*session),
            None => Ok(SessionId(name.parse()?)),
        }
    }

    fn name(&self, session: SessionId) -> String {
        let known = self.names.iter().find(|(_, id)| **id == session);
        known.map_or(format!("session {session}"), |(name, _)| name.clone())
    }

    /// A text with the names of sessions for their numbers.
    fn named(&self, text: &str) -> String {
        let mut text = format!("{text},");
        for (name, session) in &self.names {
            text = text.replace(&format!("session {session},"), &format!("{name},"));
        }
        text.trim_end_matches(',').to_owned()
    }

    fn send(&mut self, args: &mut ArgumentConsumer<'_>, is_ephemeral: bool) -> Res {
        let session = self.session(args)?;
        let seq = args.next_pos().ok_or("which number?")?.parse()?;
        let acked_up_to = args.take_key("acked").map_or(Ok(0), str::parse)?;
        let command = machine::Command::SessionWrite { session, seq, acked_up_to, is_ephemeral, data: words(args) };
        self.enter(data(&command))
    }

    fn access(&mut self, args: &mut ArgumentConsumer<'_>) -> Res {
        let by = args.take_key("by").map(str::to_owned);
        let expected = args.take_key("expected").map(str::parse).transpose()?.map(Index);
        let mut list = AccessList::default();
        while let Some((name, access)) = args.next_key() {
            let access = if access == "none" { None } else { Some(access.parse()?) };
            match (name, access) {
                ("default", access) => list.default = access,
                (name, Some(access)) => drop(list.named.insert(name.to_owned(), access)),
                (name, None) => return Err(format!("{name} is named or not").into()),
            }
        }
        let expected = expected.unwrap_or(self.replica.machine.access().set_at);
        self.enter(data(&machine::Command::SetAccess { by, expected, list }))
    }

    fn enter(&mut self, payload: Payload) -> Res {
        self.last = self.last.next();
        let entry = Entry { term: self.term, index: self.last, time_ms: 1_000 * self.last.0, payload };
        match &mut self.held {
            Some(held) => held.push(entry),
            None => self.apply(&[entry])?,
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry]) -> Res {
        let applied = self.replica.apply_ruled(entries, &self.rulings);
        for call in self.replica.take_calls() {
            let said = self.called(&call);
            writeln!(self.output, "  backend {said}")?;
        }
        for one in &applied {
            let said = self.said(one);
            writeln!(self.output, "{}: {said}", one.position.index)?;
        }
        let alone = |entry| self.other.apply_ruled(std::slice::from_ref(entry), &self.rulings);
        let others: Vec<_> = entries.iter().flat_map(alone).collect();
        let said = |applied: &[Applied]| {
            let what = applied.iter().map(|one| (one.position, one.outcome.clone(), one.changed.clone()));
            what.collect::<Vec<_>>()
        };
        assert_eq!(said(&applied), said(&others), "both replicas say the same");
        if self.is_forged {
            let is_same = self.replica.machine.chain() == self.other.machine.chain();
            let which = if is_same { "the same" } else { "another" };
            writeln!(self.output, "the other replica has {which} chain")?;
        } else {
            assert_eq!(self.replica.machine.chain(), self.other.machine.chain(), "both replicas have the same chain");
            assert_eq!(self.replica.snapshot(), self.other.snapshot(), "both replicas write the same snapshot");
        }
        Ok(())
    }

    fn called(&self, call: &Call) -> String {
        match call {
            Call::Apply(commands) => {
                let commands = commands.iter().map(|command| {
                    let text = String::from_utf8_lossy(&command.data);
                    match command.session {
                        None => text.into_owned(),
                        Some(session) => format!("{text} (of {})", self.name(SessionId(session))),
                    }
                });
                format!("runs {}", commands.collect::<Vec<_>>().join("; "))
            }
            Call::Expire { session, .. } => format!("ends {}", self.name(SessionId(*session))),
        }
    }

    fn said(&self, applied: &Applied) -> String {
        let what = match &applied.outcome {
            Outcome::Nothing => "nothing".to_owned(),
            Outcome::Written(reply) => replied(reply),
            Outcome::Opened(terms) => format!("{} is open", terms.identity),
            Outcome::Answered { session, seq, index, reply } => {
                let when = if *index == applied.position.index { String::new() } else { format!(" at {index}") };
                format!("{} {seq} {}{when}", self.name(*session), replied(reply))
            }
            Outcome::Refused(refusal) => format!("not run: {refusal}"),
            Outcome::Ended { session, end } => format!("{} is {end}", self.name(*session)),
            Outcome::Orphaned { session, end, fault } => {
                format!("{} is {end}, and leaves what it owns: {fault}", self.name(*session))
            }
            Outcome::AccessSet(access) => listed(access),
            Outcome::AccessNotSet(refusal) => format!("not set: {refusal}"),
            Outcome::Level(level) => format!("feature level {level}"),
            Outcome::Denied(denied) => format!("denied: {denied}"),
            Outcome::Upgraded { version, .. } => format!("goes on with {version}"),
            Outcome::NotUpgraded(refusal) => format!("stays: {refusal}"),
        };
        let keys: Vec<_> = applied.changed.iter().map(|key: &Key| String::from_utf8_lossy(key)).collect();
        if keys.is_empty() { what } else { format!("{what}; changed {}", keys.join(", ")) }
    }

    fn forge(&mut self, args: &mut ArgumentConsumer<'_>) -> Res {
        let session = self.session(args)?;
        let acked_up_to: Option<u64> = args.take_key("acked").map(str::parse).transpose()?;
        let next: Option<u64> = args.take_key("next").map(str::parse).transpose()?;
        let snapshot = self.replica.snapshot().forged(|table| {
            let row = table.get_mut(&session).expect("it is open");
            row.acked_up_to = acked_up_to.unwrap_or(row.acked_up_to);
            row.replies.retain(|seq, _| *seq > row.acked_up_to);
            let made_up = row.next..next.unwrap_or(row.next);
            row.replies.extend(made_up.map(|seq| (seq, (Index(0), Ok(Bytes::from_static(b"made up"))))));
            row.next = next.unwrap_or(row.next);
        });
        self.replica.restore(&snapshot)?;
        self.is_forged = true;
        Ok(())
    }

    fn sessions(&mut self) -> Res {
        let table = self.replica.table();
        if table.is_empty() {
            writeln!(self.output, "no session is open")?;
        }
        for (session, row) in table {
            let show =
                |(seq, (index, reply)): (&u64, &(Index, CommandReply))| format!("{seq} {} at {index}", replied(reply));
            let remembered: Vec<_> = row.replies.iter().map(show).collect();
            let remembered = if remembered.is_empty() { "nothing".to_owned() } else { remembered.join("; ") };
            let (name, next, acked) = (self.name(session), row.next, row.acked_up_to);
            writeln!(self.output, "{name}: next {next}, acknowledged {acked}, remembers {remembered}")?;
        }
        Ok(())
    }

    fn chain(&mut self) -> Res {
        let chain = self.replica.machine.chain();
        let known = self.chains.iter().position(|known| *known == chain);
        let place = known.unwrap_or_else(|| {
            self.chains.push(chain);
            self.chains.len() - 1
        });
        writeln!(self.output, "chain #{}", place + 1)?;
        Ok(())
    }
}

fn listed(AccessControl { list, set_at }: &AccessControl) -> String {
    let named = list.named.iter().map(|(name, access)| format!("{name} {access}"));
    let default = list.default.map_or("nothing".to_owned(), |access| access.to_string());
    let all: Vec<_> = named.chain([format!("others {default}")]).collect();
    format!("{} (set at {set_at})", all.join(", "))
}

fn replied(reply: &CommandReply) -> String {
    match reply {
        Ok(reply) => format!("-> {}", String::from_utf8_lossy(reply)),
        Err(CommandError::Refused(refusal)) => format!("-> refused: {refusal}"),
        Err(CommandError::Fault(fault)) => format!("-> skipped, {fault}"),
        Err(CommandError::Denied(denied)) => format!("-> denied: {denied}"),
    }
}

#[test]
fn stories() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machine");
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("the folder of scripts") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "golden") {
            println!("{}", path.display());
            goldenscript::run(&mut Script::new(Settings::default()), &path).expect("the script runs");
            count += 1;
        }
    }
    assert!(count > 10, "only {count} scripts found in {folder}");
}

//! Random histories of several sessions: the machine does what the [model](super::model) does, however its entries are
//! cut into batches and wherever it is restored from a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use zraft::access::{Access, AccessList, AccessRefusal};
use zraft::feature_level::FeatureLevel;
use zraft::machine::{Command, HashChain, Key, Moment, Outcome, SessionTerms};
use zraft::protocol::{CommandError, SessionEnd, SessionRefusal, SessionSecret};
use zraft::raft::{Entry, Payload};
use zraft::settings::Settings;
use zraft::types::{Index, SessionId, Term};

use super::keys::Call;
use super::model::Model;
use super::replica::{Replica, Snapshot};

/// A number near to another, or any.
#[derive(Clone, Copy, Debug)]
enum Near {
    Off(i64),
    Any(u64),
}

impl Near {
    fn of(self, number: u64) -> u64 {
        match self {
            Self::Off(offset) => number.saturating_add_signed(offset),
            Self::Any(number) => number,
        }
    }
}

/// What stands in an entry. Which session and which numbers are meant depends on the history before.
#[derive(Clone, Debug)]
enum Step {
    Elect,
    Open,
    Write { verb: Verb, key: u8 },
    WriteBy { client: u8, verb: Verb, key: u8 },
    SetAccess { by: Option<u8>, is_expected: bool, default: Option<Access>, named: BTreeMap<u8, Access> },
    RaiseLevel(FeatureLevel),
    Send { who: usize, seq: Near, acked: Near, is_ephemeral: bool, verb: Verb, key: u8 },
    End { who: usize, end: SessionEnd },
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Add,
    Take,
}

/// How a replica gets its entries: so many at a time, and whether it is restored behind them.
type Cuts = Vec<(usize, bool)>;

#[derive(Clone, Debug)]
struct History {
    settings: Settings,
    steps: Vec<Step>,
}

fn near() -> impl Strategy<Value = Near> {
    prop_oneof![
        4 => (-4i64..=3).prop_map(Near::Off),
        1 => prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()].prop_map(Near::Any),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let verb = || prop_oneof![2 => Just(Verb::Add), 1 => Just(Verb::Take)];
    let key = || 0u8..4;
    let seq = prop_oneof![3 => Just(Near::Off(0)), 2 => near()];
    let acked = prop_oneof![2 => Just(Near::Any(0)), 3 => near()];
    let send = (any::<usize>(), seq, acked, any::<bool>(), verb(), key())
        .prop_map(|(who, seq, acked, is_ephemeral, verb, key)| Step::Send { who, seq, acked, is_ephemeral, verb, key });
    let end = prop_oneof![Just(SessionEnd::Closed), Just(SessionEnd::Expired)];
    let write_by = (0u8..2, verb(), key()).prop_map(|(client, verb, key)| Step::WriteBy { client, verb, key });
    let access = || prop_oneof![1 => Just(Access::Read), 3 => Just(Access::Write), 1 => Just(Access::Admin)];
    let default = prop_oneof![1 => Just(None), 1 => Just(Some(Access::Read)), 2 => Just(Some(Access::Write))];
    let named = prop::collection::btree_map(0u8..2, access(), 0..=2);
    let set_access = (prop::option::of(0u8..2), prop::bool::weighted(0.8), default, named)
        .prop_map(|(by, is_expected, default, named)| Step::SetAccess { by, is_expected, default, named });
    prop_oneof![
        2 => write_by,
        1 => set_access,
        1 => prop_oneof![Just(FeatureLevel::FIRST), Just(FeatureLevel::NEWEST)].prop_map(Step::RaiseLevel),
        1 => Just(Step::Elect),
        3 => Just(Step::Open),
        2 => (verb(), key()).prop_map(|(verb, key)| Step::Write { verb, key }),
        20 => send,
        1 => (any::<usize>(), end).prop_map(|(who, end)| Step::End { who, end }),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let steps = prop::collection::vec(step(), 1..60);
    (1u64..4, 1u64..4, 1u64..5, steps).prop_map(|(max_sessions, per_identity, max_unacknowledged, mut steps)| {
        steps.insert(0, Step::Open);
        let settings = Settings {
            max_sessions,
            max_sessions_per_identity: per_identity,
            max_unacknowledged,
            ..Settings::default()
        };
        History { settings, steps }
    })
}

fn cuts() -> impl Strategy<Value = Cuts> {
    prop::collection::vec((1usize..12, any::<bool>()), 1..20)
}

/// Builds a history's entries as the model goes through them. Every write ends with a tag of its own; what is sent again
/// under a number of a session has the tag of the first.
struct Builder {
    model: Model,
    term: Term,
}

impl Builder {
    fn entry(&mut self, index: Index, step: &Step) -> Entry {
        let payload = match self.command(index, step) {
            Some(command) => Payload::Data(command.encode()),
            None => {
                self.term = self.term.next();
                Payload::Noop
            }
        };
        Entry { term: self.term, index, time_ms: 10 * index.0, payload }
    }

    /// A session and the number of commands that it has run: mostly an open one, or else any, or one that never was.
    fn session(&self, who: usize) -> (SessionId, u64) {
        let open: Vec<_> = self.model.table().into_iter().map(|(id, row)| (id, row.next - 1)).collect();
        let any = self.model.sessions().chain([(SessionId(9_999), 0)]).collect();
        let choice = if open.is_empty() || who.is_multiple_of(10) { any } else { open };
        choice[who / 10 % choice.len()]
    }

    fn command(&mut self, index: Index, step: &Step) -> Option<Command> {
        Some(match step {
            Step::Elect => return None,
            Step::Open => Command::OpenSession(SessionTerms {
                identity: format!("zraft://client/{}", client(u8::from(index.0 % 2 == 1))),
                secret: SessionSecret(u128::from(index.0)).digest(),
                timeout_ms: index.0,
            }),
            Step::Write { verb, key } => Command::Write { data: text(*verb, *key, &format!("entry {index}")) },
            Step::WriteBy { client: by, verb, key } => {
                Command::WriteBy { client: client(*by), data: text(*verb, *key, &format!("entry {index}")) }
            }
            Step::SetAccess { by, is_expected, default, named } => {
                let set_at = self.model.access().set_at;
                let named = named.iter().map(|(name, access)| (client(*name), *access)).collect();
                Command::SetAccess {
                    by: by.map(client),
                    expected: if *is_expected { set_at } else { set_at.next() },
                    list: AccessList { default: *default, named },
                }
            }
            Step::RaiseLevel(level) => Command::RaiseLevel { level: *level },
            Step::Send { who, seq, acked, is_ephemeral, verb, key } => {
                let (session, have_run) = self.session(*who);
                let seq = seq.of(have_run + 1);
                let data = text(*verb, *key, &format!("session {session} {seq}"));
                Command::SessionWrite {
                    session,
                    seq,
                    acked_up_to: acked.of(have_run),
                    is_ephemeral: *is_ephemeral,
                    data,
                }
            }
            Step::End { who, end: SessionEnd::Closed } => Command::CloseSession { session: self.session(*who).0 },
            Step::End { who, end: SessionEnd::Expired } => Command::ExpireSession { session: self.session(*who).0 },
        })
    }
}

fn client(number: u8) -> String {
    format!("c{number}")
}

fn text(verb: Verb, key: u8, tag: &str) -> Bytes {
    match verb {
        Verb::Add => format!("add k{key} 1 {tag}").into(),
        Verb::Take => format!("take k{key} {tag}").into(),
    }
}

/// A history's entries, and what the model says of each.
fn told(history: &History) -> Vec<(Entry, (Outcome, Vec<Key>))> {
    let mut builder = Builder { model: Model::new(history.settings), term: Term(1) };
    let tell = |(index, step)| {
        let entry = builder.entry(Index(index), step);
        let applied = builder.model.apply(&entry);
        (entry, applied)
    };
    (1..).zip(&history.steps).map(tell).collect()
}

/// The chain and the snapshot behind each entry, from a replica that is never restored and gets one entry at a time; and
/// all that its backend was called with.
fn one_at_a_time(history: &History) -> (Vec<(HashChain, Snapshot)>, Vec<Call>) {
    let mut replica = Replica::start(history.settings);
    let mut model = Model::new(history.settings);
    let (mut states, mut calls) = (Vec::new(), Vec::new());
    for (entry, expected) in told(history) {
        model.apply(&entry);
        let applied = replica.apply(std::slice::from_ref(&entry)).remove(0);
        assert_eq!((applied.outcome, applied.changed), expected, "entry {}", entry.index);
        let new_calls = replica.take_calls();
        let at = Moment { index: entry.index.0, time_ms: entry.time_ms };
        assert!(new_calls.iter().all(|call| call.is_at(at)), "calls at {}: {new_calls:?}", entry.index);
        calls.extend(new_calls);
        let table = replica.table();
        assert_eq!(table, model.table(), "sessions at {}", entry.index);
        let most = table.values().map(|row| row.replies.len() as u64).max();
        assert!(most.unwrap_or(0) <= history.settings.max_unacknowledged, "too much is remembered at {}", entry.index);
        assert_eq!(replica.machine.access(), model.access(), "access at {}", entry.index);
        assert_eq!(replica.query(), model.answer(), "data at {}", entry.index);
        states.push((replica.machine.chain(), replica.snapshot()));
    }
    (states, flat(calls))
}

/// Calls that are cut as finely as can be.
fn flat(calls: Vec<Call>) -> Vec<Call> {
    let cut = |call| match call {
        Call::Apply(commands) => commands.into_iter().map(|command| Call::Apply(vec![command])).collect(),
        expire @ Call::Expire { .. } => vec![expire],
    };
    calls.into_iter().flat_map(cut).collect()
}

/// No write has run twice, whoever sent it.
fn check_no_effect_twice(calls: &[Call]) {
    let mut tags = BTreeSet::new();
    for call in calls {
        let Call::Apply(commands) = call else { continue };
        for command in commands {
            let text = String::from_utf8_lossy(&command.data);
            let tag = text.find("session").or(text.find("entry")).map(|at| text[at..].to_owned());
            assert!(tags.insert(tag.expect("every write has a tag")), "run again: {text}");
        }
    }
}

fn check_cut(history: &History, cuts: &Cuts, states: &[(HashChain, Snapshot)], calls: &[Call]) {
    let (entries, expected): (Vec<_>, Vec<_>) = told(history).into_iter().unzip();
    let mut replica = Replica::start(history.settings);
    let mut applied = 0usize;
    for (count, is_restored) in cuts.iter().cycle() {
        let upto = applied.saturating_add(*count).min(entries.len());
        let outcomes = replica.apply(&entries[applied..upto]).into_iter();
        let outcomes: Vec<_> = outcomes.map(|applied| (applied.outcome, applied.changed)).collect();
        assert_eq!(outcomes, expected[applied..upto]);
        applied = upto;
        let (chain, snapshot) = &states[applied - 1];
        assert_eq!(replica.machine.chain(), *chain, "chain at {applied}");
        assert_eq!(replica.snapshot(), *snapshot, "snapshot at {applied}");
        if *is_restored {
            assert_eq!(replica.restore(snapshot), Ok(()));
        }
        if applied == entries.len() {
            break;
        }
    }
    assert_eq!(flat(replica.take_calls()), calls, "the backend is called with the same in the same order");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_machine_does_what_the_model_does(history in history(), cuts in prop::collection::vec(cuts(), 3)) {
        let (states, calls) = one_at_a_time(&history);
        check_no_effect_twice(&calls);
        let at_once = vec![(usize::MAX, false)];
        for cuts in cuts.iter().chain([&at_once]) {
            check_cut(&history, cuts, &states, &calls);
        }
    }
}

/// A kind of outcome, how often it was met, and how it is told from others.
type Kind = (&'static str, usize, fn(&Outcome) -> bool);

/// A property that meets nothing shows nothing.
#[test]
fn random_histories_meet_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut met: [Kind; 17] = [
        ("open", 0, |outcome| matches!(outcome, Outcome::Opened(_))),
        ("reply", 0, |outcome| matches!(outcome, Outcome::Answered { reply: Ok(_), .. })),
        ("refusal by the backend", 0, |outcome| {
            matches!(outcome, Outcome::Answered { reply: Err(CommandError::Refused(_)), .. })
        }),
        ("end", 0, |outcome| matches!(outcome, Outcome::Ended { .. })),
        ("expired", 0, |outcome| *outcome == Outcome::Refused(SessionRefusal::Expired)),
        ("acknowledged", 0, |outcome| *outcome == Outcome::Refused(SessionRefusal::AlreadyAcknowledged)),
        ("out of order", 0, |outcome| matches!(outcome, Outcome::Refused(SessionRefusal::OutOfOrder { .. }))),
        ("unacknowledged", 0, |outcome| *outcome == Outcome::Refused(SessionRefusal::TooManyUnacknowledged)),
        ("sessions", 0, |outcome| *outcome == Outcome::Refused(SessionRefusal::TooManySessions)),
        ("of one", 0, |outcome| *outcome == Outcome::Refused(SessionRefusal::TooManyOfIdentity)),
        ("list", 0, |outcome| matches!(outcome, Outcome::AccessSet(_))),
        ("other list", 0, |outcome| matches!(outcome, Outcome::AccessNotSet(AccessRefusal::Changed { .. }))),
        ("raised", 0, |outcome| *outcome == Outcome::Level(FeatureLevel::NEWEST)),
        ("not raised", 0, |outcome| *outcome == Outcome::Level(FeatureLevel::FIRST)),
        ("denied", 0, |outcome| matches!(outcome, Outcome::Denied(_))),
        ("write denied", 0, |outcome| matches!(outcome, Outcome::Written(Err(CommandError::Denied(_))))),
        ("denied in session", 0, |outcome| {
            matches!(outcome, Outcome::Answered { reply: Err(CommandError::Denied(_)), .. })
        }),
    ];
    let (mut again, mut gone) = (0, 0);
    for _ in 0..200 {
        let history = history().new_tree(&mut runner).expect("a history").current();
        let mut answered = BTreeSet::new();
        for (_, (outcome, changed)) in told(&history) {
            met.iter_mut().filter(|(.., is)| is(&outcome)).for_each(|(_, count, _)| *count += 1);
            match outcome {
                Outcome::Answered { session, seq, .. } => again += usize::from(!answered.insert((session, seq))),
                Outcome::Ended { .. } => gone += usize::from(!changed.is_empty()),
                _ => {}
            }
        }
    }
    let extra = [("reply again", again), ("end with ephemeral data", gone)];
    let all: Vec<_> = met.iter().map(|(what, count, _)| (*what, *count)).chain(extra).collect();
    println!("{all:?}");
    assert!(all.iter().all(|(_, count)| *count >= 20), "{all:?}");
}

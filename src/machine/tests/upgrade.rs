//! Going on with another backend.

use std::sync::Arc;

use super::*;
use crate::protocol::{BackendFault, UpgradeRefusal};
use crate::raft::Upgrade;

/// A total that tells its version with every reply, and ends sessions that others die of.
struct Named {
    total: Total,
    version: &'static str,
}

/// Makes totals of that name; by name, some that cannot be.
struct NamedFactory(&'static str);

/// Has every total.
struct AllTotals;

const NAMES: [&str; 5] = ["two", "refuses", "dies", "nameless", "cannot end"];

fn trap(message: &str) -> Fault {
    Fault::Guest { kind: GuestFault::Trap, message: message.to_owned() }
}

impl BackendSource for AllTotals {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        let name = NAMES.into_iter().find(|name| Digest::of(name.as_bytes()) == component);
        name.map_or_else(|| NoOthers.factory(component), |name| Ok(Arc::new(NamedFactory(name))))
    }
}

impl BackendFactory for NamedFactory {
    fn init(&self, _at: Moment, _config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        unreachable!("an upgrade restores")
    }

    fn restore(
        &self,
        _at: Moment,
        origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            bytes.extend_from_slice(&chunk);
        }
        match self.0 {
            "refuses" => return Err(StartError::Refused(format!("no {}{}", origin.version, "!".repeat(5000)))),
            "dies" => return Err(StartError::Fault(trap("died reading"))),
            _ => {}
        }
        let added: u64 = match origin.migration.as_deref() {
            None => {
                assert_eq!(origin.version, self.0, "a snapshot is read by who wrote it");
                0
            }
            Some(b"") => 0,
            Some(text) => std::str::from_utf8(text).unwrap().parse().unwrap(),
        };
        let sum = u64::from_le_bytes(bytes.try_into().unwrap()) + added;
        Ok(Box::new(Named { total: Total { sum }, version: self.0 }))
    }
}

impl Backend for Named {
    fn version(&mut self) -> Result<String, Fault> {
        if self.version == "nameless" { Err(trap("has no name")) } else { Ok(self.version.to_owned()) }
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        let mut outcomes = self.total.apply(commands)?;
        for outcome in &mut outcomes {
            outcome.reply = outcome.reply.clone().map(|sum| [self.version.as_bytes(), b" ", &sum].concat().into());
        }
        Ok(outcomes)
    }

    fn query(&mut self, at: Moment, request: &[u8]) -> Result<BackendAnswer, Fault> {
        self.total.query(at, request)
    }

    fn expire_session(&mut self, _at: Moment, session: u64) -> Result<Vec<Key>, Fault> {
        if self.version == "cannot end" {
            return Err(trap("cannot end a session"));
        }
        Ok(vec![Key::copy_from_slice(&session.to_le_bytes())])
    }

    fn read_state(&mut self, at: Moment, budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        self.total.read_state(at, budget)
    }
}

fn upgrade(index: u64, from: &str, to: &str, migration: Option<&'static str>) -> Entry {
    let migration = migration.map(|text| Bytes::from_static(text.as_bytes()));
    let upgrade = Upgrade { from: Digest::of(from.as_bytes()), to: Digest::of(to.as_bytes()), migration };
    Entry { payload: Payload::Upgrade(upgrade), ..write(index, "") }
}

fn apply(machine: &mut Machine, entries: &[Entry]) -> Vec<Outcome> {
    let applied = machine.apply(entries, &Rulings::default(), &mut AllTotals).unwrap();
    applied.into_iter().map(|applied| applied.outcome).collect()
}

fn replied(reply: &str) -> Outcome {
    Outcome::Written(Ok(Bytes::from(reply.to_owned())))
}

#[test]
fn what_stands_before_runs_on_the_old_backend_and_what_stands_behind_on_the_new_one_however_it_is_split() {
    let log = [write(1, "20"), upgrade(2, "total", "two", Some("100")), write(3, "1"), write(4, "x"), write(5, "1")];
    let mut whole = machine();
    let outcomes = apply(&mut whole, &log);
    let upgraded = Outcome::Upgraded { component: Digest::of(b"two"), version: "two".to_owned() };
    assert_eq!(outcomes[..3], [replied("20"), upgraded, replied("two 121")]);
    assert_eq!(outcomes[4], replied("two 122"));
    assert_eq!((whole.component(), answer(&mut whole)), (Digest::of(b"two"), Bytes::from("122 at 5")));
    for split in 0..=log.len() {
        let mut parts = machine();
        apply(&mut parts, &log[..split]);
        apply(&mut parts, &log[split..]);
        assert_eq!((parts.chain(), parts.component()), (whole.chain(), whole.component()), "split at {split}");
    }
}

#[test]
fn a_snapshot_names_the_backend_that_wrote_it_and_is_opened_by_that() {
    let mut machine = machine();
    apply(&mut machine, &[write(1, "20"), upgrade(2, "total", "two", None)]);
    let position = machine.applied();
    let head = machine.snapshot_head(SnapshotMeta { position, time_ms: 9, configuration: Configuration::default() });
    assert_eq!((head.backend, head.origin().version), (Digest::of(b"two"), "two".to_owned()));
    let mut chunks = Vec::new();
    let mut sink = |chunk| {
        chunks.push(chunk);
        Ok(())
    };
    machine.write_snapshot(&mut sink).unwrap();
    let mut chunks = chunks.into_iter();
    let mut restored = Machine::restore(head, &NamedFactory("two"), &mut || Ok(chunks.next())).unwrap();
    assert_eq!(restored.component(), Digest::of(b"two"));
    assert_eq!(apply(&mut restored, &[write(3, "1")]), apply(&mut machine, &[write(3, "1")]));
    assert_eq!(restored.chain(), machine.chain());
}

#[test]
fn a_refusal_is_an_outcome_and_the_old_backend_goes_on() {
    let mut machine = machine();
    let outcomes = apply(&mut machine, &[write(1, "20"), upgrade(2, "total", "refuses", None), write(3, "1")]);
    let Outcome::NotUpgraded(UpgradeRefusal::Refused(reason)) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert!(reason.starts_with("no total 1!") && reason.len() == 1024, "{}", reason.len());
    assert_eq!((&outcomes[2], machine.component()), (&replied("21"), Digest::of(b"total")));
}

#[test]
fn an_upgrade_from_another_backend_than_there_is_changes_nothing_and_needs_no_component() {
    let mut machine = machine();
    let now = Digest::of(b"total");
    let outcomes = apply(&mut machine, &[upgrade(1, "two", "nowhere", None), write(2, "1")]);
    assert_eq!(outcomes, [Outcome::NotUpgraded(UpgradeRefusal::Changed { now }), replied("1")]);
}

#[test]
fn a_fault_kills_the_machine_and_a_verdict_leaves_the_old_backend_in_place() {
    for (name, message) in [("dies", "died reading"), ("nameless", "has no name")] {
        let log = [write(1, "20"), upgrade(2, "total", name, None), write(3, "1")];
        let died = machine().apply(&log, &Rulings::default(), &mut AllTotals).unwrap_err();
        assert_eq!(died, trap(message));
        let fault = BackendFault { kind: GuestFault::Trap, message: message.to_owned() };
        let skip = Rulings { rulings: vec![(Index(2), Ruling::Skip(fault.clone()))], ..Rulings::default() };
        let mut machine = machine();
        // Who skips it does not even need the component.
        let applied = machine.apply(&log, &skip, &mut NoOthers).unwrap();
        assert_eq!(applied[1].outcome, Outcome::NotUpgraded(UpgradeRefusal::Fault(fault)));
        assert_eq!((&applied[2].outcome, machine.component()), (&replied("21"), Digest::of(b"total")));
    }
    let missing = machine().apply(&[upgrade(1, "total", "nowhere", None)], &Rulings::default(), &mut AllTotals);
    assert!(matches!(missing, Err(Fault::Host(_))), "{missing:?}");
}

#[test]
fn what_sessions_have_left_behind_is_cleaned_up_by_the_new_backend() {
    let terms = SessionTerms { timeout_ms: 1000, identity: "me".to_owned(), secret: Digest::of(b"secret") };
    let entry = |index, command: &Command| Entry { payload: Payload::Data(command.encode()), ..write(index, "") };
    let log = [entry(1, &Command::OpenSession(terms)), entry(2, &Command::CloseSession { session: SessionId(1) })];
    let fault = BackendFault { kind: GuestFault::Trap, message: "cannot".to_owned() };
    let skip = Rulings { rulings: vec![(Index(2), Ruling::Skip(fault))], ..Rulings::default() };
    let mut machine = machine();
    machine.apply(&log, &skip, &mut NoOthers).unwrap();
    assert_eq!(machine.orphaned(), 1);
    let died = machine.apply(&[upgrade(3, "total", "cannot end", None)], &Rulings::default(), &mut AllTotals);
    assert_eq!(died, Err(trap("cannot end a session")), "as bad as the old one");

    let mut machine = self::machine();
    machine.apply(&log, &skip, &mut NoOthers).unwrap();
    let applied = machine.apply(&[upgrade(3, "total", "two", None)], &Rulings::default(), &mut AllTotals).unwrap();
    assert_eq!(applied[0].changed, [Key::copy_from_slice(&1_u64.to_le_bytes())]);
    assert_eq!(machine.orphaned(), 0);
}

#[test]
fn an_upgrade_that_is_tried_ends_as_one_in_the_log_would() {
    let by_name = |name: &str, migration| match upgrade(1, "total", name, migration).payload {
        Payload::Upgrade(upgrade) => upgrade,
        _ => unreachable!(),
    };
    let mut tried = machine();
    apply(&mut tried, &[write(1, "20")]);
    let upgraded = Outcome::Upgraded { component: Digest::of(b"two"), version: "two".to_owned() };
    assert_eq!(tried.try_upgrade(&by_name("two", Some("100")), &mut AllTotals), Ok(upgraded));
    assert_eq!(apply(&mut tried, &[write(2, "1")]), [replied("two 121")], "it stands where it stood");

    let refused = machine().try_upgrade(&by_name("refuses", None), &mut AllTotals);
    assert!(matches!(refused, Ok(Outcome::NotUpgraded(UpgradeRefusal::Refused(_)))), "{refused:?}");
    assert_eq!(machine().try_upgrade(&by_name("dies", None), &mut AllTotals), Err(trap("died reading")));
}

//! The machine with a backend in process: a running total that refuses what is not a number.

mod upgrade;

use super::*;
use crate::access::{Access, AccessList};
use crate::feature_level::FeatureLevel;
use crate::protocol::CommandError;
use crate::raft::{Configuration, Entry, Payload, SnapshotMeta};
use crate::types::{Index, Term};

#[derive(Default)]
struct Total {
    sum: u64,
}

struct TotalFactory;

impl BackendFactory for TotalFactory {
    fn init(&self, _at: Moment, config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        match config {
            b"" => Ok(Box::<Total>::default()),
            _ => Err(StartError::Refused("a total takes no config".to_owned())),
        }
    }

    fn restore(
        &self,
        _at: Moment,
        _origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            bytes.extend_from_slice(&chunk);
        }
        let sum = bytes.try_into().map_err(|_| StartError::Refused("not a total".to_owned()))?;
        Ok(Box::new(Total { sum: u64::from_le_bytes(sum) }))
    }
}

impl Backend for Total {
    fn version(&mut self) -> Result<String, Fault> {
        Ok("total 1".to_owned())
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        let apply_one = |command: &BackendCommand| {
            let text = std::str::from_utf8(&command.data).unwrap_or_default();
            if text == "die" {
                return Err(Fault::Guest { kind: GuestFault::Trap, message: "died as told".to_owned() });
            }
            let reply = match text.parse::<u64>() {
                Ok(number) => {
                    self.sum += number;
                    Ok(Bytes::from(self.sum.to_string()))
                }
                Err(_) => Err(format!("'{text}' is not a number")),
            };
            Ok(BackendOutcome { reply, changed: vec![] })
        };
        let outcomes = commands.iter().filter(|command| command.data != "forget me").map(apply_one);
        outcomes.collect()
    }

    fn query(&mut self, at: Moment, _request: &[u8]) -> Result<BackendAnswer, Fault> {
        Ok(BackendAnswer { reply: Ok(Bytes::from(format!("{} at {}", self.sum, at.index))), watched: vec![] })
    }

    fn expire_session(&mut self, _at: Moment, _session: u64) -> Result<Vec<Key>, Fault> {
        Ok(vec![])
    }

    fn read_state(&mut self, _at: Moment, _budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        Ok(Box::new(self.sum.to_le_bytes().into_iter().map(|byte| Bytes::copy_from_slice(&[byte]))))
    }
}

fn genesis(config: &'static [u8]) -> Genesis {
    Genesis {
        cluster: ClusterId(1),
        component: Digest::of(b"total"),
        config: Bytes::from_static(config),
        settings: Settings::default(),
    }
}

fn machine() -> Machine {
    Machine::start(genesis(b""), &TotalFactory).unwrap()
}

fn write(index: u64, data: &'static str) -> Entry {
    let payload = Payload::Data(Command::Write { data: Bytes::from_static(data.as_bytes()) }.encode());
    Entry { term: Term(1), index: Index(index), time_ms: 1_000 + index, payload }
}

fn log() -> Vec<Entry> {
    let noop = Entry { payload: Payload::Noop, ..write(1, "") };
    let membership = Entry { payload: Payload::Membership(Configuration::default()), ..write(3, "") };
    vec![noop, write(2, "20"), membership, write(4, "x"), write(5, "5")]
}

fn answer(machine: &mut Machine) -> Bytes {
    machine.query(b"").unwrap().reply.unwrap()
}

#[test]
fn each_entry_gets_its_own_outcome() {
    let applied = machine().apply(&log(), &Rulings::default(), &mut NoOthers).unwrap();
    let outcomes: Vec<_> = applied.into_iter().map(|applied| applied.outcome).collect();
    let replied = |reply: &str| Outcome::Written(Ok(Bytes::from(reply.to_owned())));
    let refused = Outcome::Written(Err(CommandError::Refused("'x' is not a number".to_owned())));
    assert_eq!(outcomes, [Outcome::Nothing, replied("20"), Outcome::Nothing, refused, replied("25")]);
}

#[test]
fn how_entries_are_split_into_batches_does_not_matter() {
    let mut whole = machine();
    whole.apply(&log(), &Rulings::default(), &mut NoOthers).unwrap();
    for split in 0..=log().len() {
        let mut parts = machine();
        parts.apply(&log()[..split], &Rulings::default(), &mut NoOthers).unwrap();
        parts.apply(&log()[split..], &Rulings::default(), &mut NoOthers).unwrap();
        assert_eq!((parts.chain(), parts.applied()), (whole.chain(), whole.applied()), "split at {split}");
    }
}

#[test]
fn the_chain_tells_different_histories_apart() {
    let mut chains = std::collections::BTreeSet::new();
    let mut other_term = log();
    other_term[1].term = Term(9);
    let mut other_time = log();
    other_time[4].time_ms += 1;
    let mut other_data = log();
    other_data[4] = write(5, "6");
    for entries in [log(), other_term, other_time, other_data, log()[..4].to_vec()] {
        let mut machine = machine();
        machine.apply(&entries, &Rulings::default(), &mut NoOthers).unwrap();
        assert!(chains.insert(machine.chain().0), "{entries:?} has the chain of another history");
    }
}

#[test]
fn the_chain_depends_on_outcomes_not_only_on_entries() {
    let chain = |reply: &str, changed: &[Key]| {
        let mut chain = HashChain::default();
        let outcome = Outcome::Written(Err(CommandError::Refused(reply.to_owned())));
        chain.extend(&write(1, "1"), &outcome, changed, None);
        chain.0
    };
    let key = Key::from_static(b"key");
    assert_ne!(chain("a", &[]), chain("b", &[]));
    assert_ne!(chain("a", &[]), chain("a", &[key]));
}

#[test]
fn a_snapshot_restores_the_machine_with_its_chain() {
    let mut original = machine();
    original.apply(&log()[..4], &Rulings::default(), &mut NoOthers).unwrap();
    let mut chunks = Vec::new();
    original
        .write_snapshot(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })
        .unwrap();
    let meta = SnapshotMeta { position: original.applied(), time_ms: 1_004, configuration: Configuration::default() };
    let mut head = original.snapshot_head(meta);
    head.host = HostPart::decode(&head.host.encode()).unwrap();
    assert_eq!((head.genesis(), head.chain), (genesis(b""), original.chain()));
    let mut chunks = chunks.into_iter();
    let mut restored = Machine::restore(head, &TotalFactory, &mut || Ok(chunks.next())).unwrap();
    assert_eq!(answer(&mut restored), "20 at 4");
    original.apply(&log()[4..], &Rulings::default(), &mut NoOthers).unwrap();
    restored.apply(&log()[4..], &Rulings::default(), &mut NoOthers).unwrap();
    assert_eq!((restored.chain(), restored.applied()), (original.chain(), original.applied()));
}

#[test]
fn a_snapshot_whose_access_list_no_machine_can_have_is_refused() {
    let mut machine = machine();
    machine.apply(&log()[..4], &Rulings::default(), &mut NoOthers).unwrap();
    let meta = SnapshotMeta { position: machine.applied(), time_ms: 1_004, configuration: Configuration::default() };
    let restore = |access: AccessControl| {
        let mut head = machine.snapshot_head(meta.clone());
        head.host.access = access;
        let mut chunks = vec![Bytes::copy_from_slice(&0u64.to_le_bytes())].into_iter();
        Machine::restore(head, &TotalFactory, &mut || Ok(chunks.next())).map(|machine| machine.access().clone())
    };
    let list = AccessList { default: None, ..AccessList::default() };
    let last = AccessControl { list: list.clone(), set_at: Index(4) };
    assert_eq!(restore(last.clone()), Ok(last));
    let refused = restore(AccessControl { list, set_at: Index(5) });
    assert!(matches!(&refused, Err(StartError::Source(reason)) if reason.contains("entry 5")), "{refused:?}");
    let all_are_admins = AccessList { default: Some(Access::Admin), ..AccessList::default() };
    let refused = restore(AccessControl { list: all_are_admins, set_at: Index(4) });
    assert!(matches!(refused, Err(StartError::Source(_))), "{refused:?}");
}

#[test]
fn the_chain_tells_apart_replicas_whose_access_lists_differ() {
    let deny = AccessList { default: None, ..AccessList::default() };
    let command = Command::SetAccess { by: None, expected: Index(2), list: AccessList::default() };
    let set = Entry { payload: Payload::Data(command.encode()), ..write(2, "") };
    let chain = |access: AccessControl| {
        let mut machine = machine();
        machine.apply(&log()[..1], &Rulings::default(), &mut NoOthers).unwrap();
        machine.access = access;
        machine.apply(std::slice::from_ref(&set), &Rulings::default(), &mut NoOthers).unwrap();
        machine.chain()
    };
    let (here, there) = (chain(AccessControl::default()), chain(AccessControl { list: deny, set_at: Index(1) }));
    assert_ne!(here, there, "what was compared is in the chain");
}

#[test]
fn a_machine_stops_before_what_this_version_does_not_support() {
    let too_new = FeatureLevel(FeatureLevel::NEWEST.0 + 1);
    let raise = |level| {
        let command = Command::RaiseLevel { level };
        Entry { payload: Payload::Data(command.encode()), ..write(1, "") }
    };
    let fault = machine().apply(&[raise(too_new)], &Rulings::default(), &mut NoOthers).unwrap_err();
    assert!(matches!(&fault, Fault::Host(reason) if reason.contains("run the version")), "{fault}");

    let mut machine = machine();
    machine.apply(&[raise(FeatureLevel::NEWEST)], &Rulings::default(), &mut NoOthers).unwrap();
    let position = machine.applied();
    let meta = SnapshotMeta { position, time_ms: 0, configuration: Configuration::default() };
    let mut head = machine.snapshot_head(meta);
    assert_eq!(head.host.level, FeatureLevel::NEWEST);
    head.host.level = too_new;
    let refused = Machine::restore(head, &TotalFactory, &mut || Ok(None)).err().unwrap();
    assert!(matches!(&refused, StartError::Fault(Fault::Host(reason)) if reason.contains("snapshot")), "{refused:?}");
}

#[test]
fn faults_refusals_and_broken_sources_are_told_apart() {
    let fault = machine().apply(&[write(1, "die")], &Rulings::default(), &mut NoOthers).unwrap_err();
    assert!(matches!(fault, Fault::Guest { kind: GuestFault::Trap, .. }), "{fault}");
    let fault =
        machine().apply(&[write(1, "1"), write(2, "forget me")], &Rulings::default(), &mut NoOthers).unwrap_err();
    assert!(matches!(fault, Fault::Guest { kind: GuestFault::BrokenContract, .. }), "{fault}");
    let unknown = Entry { payload: Payload::Data(Bytes::from_static(&[250])), ..write(1, "") };
    assert!(matches!(machine().apply(&[unknown], &Rulings::default(), &mut NoOthers).unwrap_err(), Fault::Host(_)));
    let refused = Machine::start(genesis(b"what?"), &TotalFactory).err().unwrap();
    assert!(matches!(refused, StartError::Refused(_)));
}

#[test]
#[should_panic(expected = "without gaps")]
fn a_gap_between_entries_is_a_defect_of_the_caller() {
    let _ = machine().apply(&[write(1, "1"), write(3, "1")], &Rulings::default(), &mut NoOthers);
}

//! A host with a real store and a component that does on command what it must not.

mod canary;
mod capture;
mod lacking;
mod reader;
mod snapshot;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::machine::{Budget, Command, GuestFault, Outcome, Ruling, Rulings};
use crate::protocol::CommandError;
use crate::raft::{Configuration, Payload, Write, WriteToken};
use crate::replica::{Asker, Ticket, Wanted};
use crate::settings::Settings;
use crate::store::{Completion, DurableSink, StoreOptions};
use crate::types::{ClusterId, Digest, LogPosition, Term};
use crate::wasm::Wasm;

const HOSTILE: &[u8] = include_bytes!("../../../tests/components/hostile.wasm");
const PEER: Incarnation = Incarnation(7);

struct Sink(Sender<Completion>);

impl DurableSink for Sink {
    fn durable(&mut self, completions: Vec<Completion>) {
        completions.into_iter().for_each(|completion| self.0.send(completion).unwrap());
    }

    fn failed(&mut self, error: StoreError) {
        panic!("{error}");
    }
}

struct Bench {
    folder: TempDir,
    store: Store,
    durable: Receiver<Completion>,
    backends: Arc<Backends>,
    genesis: Genesis,
}

impl Bench {
    /// A peer whose log holds its first entry and the words.
    fn with_log(words: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sender, durable) = channel();
        let options = StoreOptions {
            log_dir: folder.path().join("log"),
            snapshot_dir: folder.path().join("snapshots"),
            node: "127.0.0.1:7400".parse().unwrap(),
            cache_bytes: 1 << 20,
            max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
            snapshot_backup_count: 0,
        };
        let (store, _) = Store::open(options, Box::new(Sink(sender))).unwrap();
        let component = Digest::of(HOSTILE);
        store.components().put(component, HOSTILE).unwrap();
        let wasm = Wasm::in_process(&folder.path().join("compiled")).unwrap();
        let backends = Arc::new(Backends::new(wasm, store.components()));
        let genesis = Genesis { cluster: ClusterId(1), component, config: Bytes::new(), settings: Settings::default() };
        store.create_peer(PEER, Bytes::new(), Write::bootstrap(Configuration::default(), 0));
        let bench = Self { folder, store, durable, backends, genesis };
        bench.durable.recv().unwrap();
        bench.append((2..).zip(words).map(|(index, word)| entry(index, word)).collect());
        bench
    }

    fn append(&self, entries: Vec<Entry>) {
        self.write(Write { entries, ..Write::new(WriteToken(1)) });
    }

    fn write(&self, write: Write) {
        self.store.write(PEER, write);
        self.durable.recv().unwrap();
    }

    fn new_host(&self, isolation: Isolation) -> Host {
        let (genesis, backends, store) = (self.genesis.clone(), Arc::clone(&self.backends), self.store.clone());
        Host::new(PEER, genesis, backends, store, isolation, CaptureRoom::new())
    }

    /// A host that has applied all of the log.
    fn host(&self, isolation: Isolation) -> Host {
        let mut host = self.new_host(isolation);
        assert!(matches!(host.run(HostJob::Start(None))[..], [HostEvent::Started]));
        let all = LogRead { purpose: LogReadPurpose::Apply, from: Index(1), to: Index(3), max_bytes: usize::MAX };
        let entries = self.store.read(PEER, &all).unwrap();
        assert!(matches!(host.run(apply(entries))[..], [HostEvent::Applied(_)]));
        host
    }
}

impl Host {
    fn at(&self) -> (Index, HashChain) {
        let machine = self.runner.as_ref().and_then(Runner::machine).unwrap();
        (machine.applied().index, machine.chain())
    }
}

fn apply(entries: Vec<Entry>) -> HostJob {
    HostJob::Replica(Job::Apply(Run { entries, rulings: Rulings::default() }))
}

/// Has a snapshot made, in the background or not.
fn take_snapshot_at(host: &mut Host, index: u64) -> Vec<HostEvent> {
    let events = host.run(HostJob::Replica(Job::Snapshot(meta(index))));
    match host.take_task() {
        Some(task) => host.run(HostJob::SnapshotMade(task.run())),
        None => events,
    }
}

fn entry(index: u64, word: &'static str) -> Entry {
    let payload = Payload::Data(Command::Write { data: Bytes::from_static(word.as_bytes()) }.encode());
    Entry { term: Term(1), index: Index(index), time_ms: 0, payload }
}

fn meta(index: u64) -> SnapshotMeta {
    let position = LogPosition::new(Term(1), Index(index));
    SnapshotMeta { position, time_ms: 0, configuration: Configuration::default() }
}

/// Asks for each word, and returns whether it was answered, or why not.
fn ask(host: &mut Host, words: &[&'static str]) -> Vec<Result<(), RequestError>> {
    let query = |(number, word): (u64, &&'static str)| Query {
        asker: Asker::Client(Ticket(number)),
        client: None,
        wanted: Wanted::Answer(Bytes::from_static(word.as_bytes())),
        deadline_ms: 0,
    };
    let queries = (0..).zip(words).map(query).collect();
    let mut events = host.run(HostJob::Replica(Job::Query(Index(3), queries)));
    let Some(HostEvent::Answered(answers)) = events.pop() else { panic!() };
    answers.into_iter().map(|answer| answer.result.map(|answer| assert!(answer.reply.is_ok()))).collect()
}

fn is_fault(result: &Result<(), RequestError>) -> bool {
    matches!(result, Err(RequestError::BackendFault { message }) if message.contains("told to panic"))
}

#[test]
fn a_machine_that_was_dropped_is_made_again_when_it_is_needed() {
    for isolation in [Isolation::Separate, Isolation::Shared] {
        let bench = Bench::with_log(&["one", "two"]);
        let mut host = bench.host(isolation);
        assert_eq!(ask(&mut host, &["one"]), [Ok(())]);
        let before = host.at();
        assert!(host.run(HostJob::Rest).is_empty());
        assert!(host.runner.as_ref().unwrap().machine().is_none(), "it is gone");
        assert_eq!(ask(&mut host, &["one"]), [Ok(())]);
        assert_eq!(host.at(), before);
        host.run(HostJob::Rest);
        bench.append(vec![entry(4, "three")]);
        assert!(matches!(host.run(apply(vec![entry(4, "three")]))[..], [HostEvent::Applied(_)]));
        assert_eq!(host.at().0, Index(4));
        host.run(HostJob::Rest);
        assert!(matches!(take_snapshot_at(&mut host, 4)[..], [HostEvent::SnapshotTaken(..)]));
        host.run(HostJob::Rest);
        assert_eq!(host.runner.as_ref().unwrap().applied(), Index(4), "it knows where it was");
    }
}

#[test]
fn a_query_that_kills_the_machine_costs_that_query_alone() {
    let bench = Bench::with_log(&["a", "b"]);
    for isolation in [Isolation::Separate, Isolation::Shared] {
        let mut host = bench.host(isolation);
        let before = host.at();
        let answers = ask(&mut host, &["x", "panic", "y", "panic", "z"]);
        assert_eq!(answers.iter().map(is_fault).collect::<Vec<_>>(), [false, true, false, true, false]);
        assert!(answers[2].is_ok() && answers[4].is_ok());
        assert_eq!(host.at(), before);
    }
}

#[test]
fn after_a_snapshot_the_machine_is_rebuilt_from_it() {
    for isolation in [Isolation::Separate, Isolation::Shared] {
        let bench = Bench::with_log(&["a", "b"]);
        let mut host = bench.host(isolation);
        let before = host.at();
        assert!(matches!(take_snapshot_at(&mut host, 3)[..], [HostEvent::SnapshotTaken(..)]));
        // Nothing of the log is left.
        let base = meta(3).position;
        bench.write(Write { snapshot: Some(meta(3)), discard_through: Some(base), ..Write::new(WriteToken(2)) });
        let events = host.run(apply(vec![entry(4, "panic")]));
        assert!(matches!(events[..], [HostEvent::Died(_)]), "{events:?}");
        assert!(is_fault(&ask(&mut host, &["panic"])[0]));
        assert_eq!(host.at(), before);
    }
}

#[test]
fn a_machine_that_dies_when_its_log_has_given_way_to_a_snapshot_waits_for_that() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut other = bench.host(Isolation::Shared);
    let (_, chain) = other.at();
    assert!(matches!(take_snapshot_at(&mut other, 3)[..], [HostEvent::SnapshotTaken(..)]));
    let mut host = bench.host(Isolation::Shared);
    let base = meta(3).position;
    bench.write(Write { snapshot: Some(meta(3)), discard_through: Some(base), ..Write::new(WriteToken(2)) });

    let answers = ask(&mut host, &["panic", "later"]);
    assert!(is_fault(&answers[0]));
    assert_eq!(answers[1], Err(RequestError::Overloaded));
    assert_eq!(ask(&mut host, &["later still"]), [Err(RequestError::Overloaded)]);
    assert!(host.run(apply(vec![entry(4, "c")])).is_empty());
    let failed = take_snapshot_at(&mut host, 4);
    assert!(matches!(failed[..], [HostEvent::SnapshotFailed(_)]), "{failed:?}");

    let restored = host.run(HostJob::Replica(Job::Restore(meta(3))));
    assert!(
        matches!(&restored[..], [HostEvent::Restored { chain: restored, .. }] if *restored == chain),
        "{restored:?}"
    );
    assert_eq!(ask(&mut host, &["now"]), [Ok(())]);
}

#[test]
fn a_command_that_kills_the_machine_is_found_among_others_and_named() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    bench.append(vec![entry(4, "c"), entry(5, "panic"), entry(6, "d")]);
    let events = host.run(apply(vec![entry(4, "c"), entry(5, "panic"), entry(6, "d")]));
    let [HostEvent::Applied(applied), HostEvent::Died(died)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(applied.iter().map(|one| one.position.index).collect::<Vec<_>>(), [Index(4)]);
    assert_eq!((died.on, died.budget, died.fault.kind), (Index(5), Budget::Configured, GuestFault::Trap));
    assert!(died.fault.message.contains("told to panic"), "{}", died.fault);
    assert_eq!(host.at(), (Index(4), applied[0].chain), "alive, and as it was before");

    assert!(host.run(apply(vec![entry(7, "e")])).is_empty(), "given before the death was known");
    let rulings = Rulings { budget: Budget::Relaxed, rulings: vec![(Index(5), Ruling::Skip(died.fault.clone()))] };
    let entries = vec![entry(5, "panic"), entry(6, "d")];
    let events = host.run(HostJob::Replica(Job::Apply(Run { entries, rulings })));
    let [HostEvent::Applied(applied)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(applied[0].outcome, Outcome::Written(Err(CommandError::Fault(died.fault.clone()))));
    assert!(matches!(applied[1].outcome, Outcome::Written(Ok(_))));
}

#[test]
fn queries_and_snapshots_that_come_to_another_state_than_meant_are_declined() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let asker = Asker::Client(Ticket(1));
    let query = Query { asker, client: None, wanted: Wanted::Answer(Bytes::new()), deadline_ms: 0 };
    let events = host.run(HostJob::Replica(Job::Query(Index(4), vec![query.clone()])));
    assert!(matches!(&events[..], [HostEvent::Declined(declined)] if *declined == [query]), "{events:?}");
    assert!(matches!(take_snapshot_at(&mut host, 4)[..], [HostEvent::SnapshotFailed(_)]));
}

#[test]
fn a_machine_goes_back_to_where_it_was() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    let (index, chain) = host.at();
    assert!(matches!(host.run(apply(vec![entry(4, "c")]))[..], [HostEvent::Applied(_)]));
    assert!(host.run(HostJob::Replica(Job::Rewind(index, chain))).is_empty());
    assert_eq!(host.at(), (index, chain));
    let stopped = host.run(HostJob::Replica(Job::Rewind(index, HashChain(Digest::of(b"another")))));
    assert!(matches!(&stopped[..], [HostEvent::Stopped(reason)] if reason.contains("differs")), "{stopped:?}");
    assert!(host.run(apply(vec![entry(4, "c")])).is_empty());
    assert!(host.run(HostJob::Replica(Job::Restore(meta(3)))).is_empty());
}

#[test]
fn a_snapshot_of_another_cluster_is_not_restored() {
    let mut bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    assert!(matches!(take_snapshot_at(&mut host, 3)[..], [HostEvent::SnapshotTaken(..)]));
    bench.genesis.cluster = ClusterId(2);
    let mut host = bench.new_host(Isolation::Separate);
    let stopped = host.run(HostJob::Start(Some(meta(3))));
    assert!(matches!(&stopped[..], [HostEvent::Stopped(reason)] if reason.contains("cluster")), "{stopped:?}");
}

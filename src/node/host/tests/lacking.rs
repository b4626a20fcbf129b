//! A machine whose component is missing.

use super::*;
use crate::store::Components;

impl Bench {
    /// A host on a node that was started again, and has compiled nothing yet.
    fn host_of_later(&self) -> Host {
        let wasm = Wasm::in_process(&self.folder.path().join("compiled")).unwrap();
        let backends = Arc::new(Backends::new(wasm, self.store.components()));
        Host::new(PEER, self.genesis.clone(), backends, self.store.clone(), Isolation::Separate, CaptureRoom::new())
    }

    fn lose_component(&self) {
        self.store.components().remove(self.genesis.component).unwrap();
    }

    fn find_component(&self) {
        self.store.components().put(self.genesis.component, HOSTILE).unwrap();
    }

    fn entries(&self) -> Vec<Entry> {
        let all = LogRead { purpose: LogReadPurpose::Apply, from: Index(1), to: Index(3), max_bytes: usize::MAX };
        self.store.read(PEER, &all).unwrap()
    }
}

fn query(number: u64) -> Query {
    let asker = Asker::Client(Ticket(number));
    Query { asker, client: None, wanted: Wanted::Answer(Bytes::from_static(b"a")), deadline_ms: 0 }
}

fn lack(events: &[HostEvent]) -> &Lack {
    let [HostEvent::Lacks(lack)] = events else { panic!("{events:?}") };
    lack
}

#[test]
fn a_machine_whose_component_is_missing_waits_for_it_and_does_then_what_it_was_given() {
    let bench = Bench::with_log(&["a", "b"]);
    let expected = bench.host(Isolation::Shared).at();
    bench.lose_component();
    let mut host = bench.host_of_later();
    let events = host.run(HostJob::Start(None));
    assert_eq!(lack(&events).component, bench.genesis.component);
    assert!(lack(&events).reason.contains("there is no component"), "{events:?}");
    assert!(host.run(apply(bench.entries())).is_empty());
    assert!(host.run(HostJob::Replica(Job::Query(Index(3), vec![query(1)]))).is_empty());
    lack(&host.run(HostJob::TryAgain));

    bench.find_component();
    let events = host.run(HostJob::TryAgain);
    let [HostEvent::Started, HostEvent::Applied(_), HostEvent::Answered(_)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(host.at(), expected);
    assert!(host.run(HostJob::TryAgain).is_empty(), "once");
    bench.append(vec![entry(4, "c")]);
    assert!(matches!(host.run(apply(vec![entry(4, "c")]))[..], [HostEvent::Applied(_)]));
}

#[test]
fn a_damaged_component_is_as_good_as_none() {
    let bench = Bench::with_log(&["a", "b"]);
    let path = Components::path_in(&bench.folder.path().join("log"), bench.genesis.component);
    std::fs::write(path, b"damaged").unwrap();
    let events = bench.host_of_later().run(HostJob::Start(None));
    assert!(lack(&events).reason.contains("is damaged"), "{events:?}");
}

#[test]
fn the_state_of_others_takes_the_place_of_what_waits() {
    let bench = Bench::with_log(&["a", "b"]);
    assert!(matches!(take_snapshot_at(&mut bench.host(Isolation::Shared), 3)[..], [HostEvent::SnapshotTaken(..)]));
    bench.lose_component();
    let mut host = bench.host_of_later();
    lack(&host.run(HostJob::Start(None)));
    assert!(host.run(apply(bench.entries())).is_empty());
    assert!(host.run(HostJob::Replica(Job::Query(Index(3), vec![query(1), query(2)]))).is_empty());
    bench.find_component();
    let events = host.run(HostJob::Replica(Job::Restore(meta(3))));
    let [HostEvent::Declined(declined), HostEvent::Restored { .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*declined, [query(1), query(2)]);
    assert_eq!(host.at().0, Index(3));
    assert!(host.run(HostJob::TryAgain).is_empty(), "nothing waits any more");
}

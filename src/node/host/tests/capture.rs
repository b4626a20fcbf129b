//! Snapshots whose state is read out of the machine that applies.

use std::ops::RangeInclusive;

use super::*;
use crate::machine::{
    Backend, BackendAnswer, BackendCommand, BackendOutcome, Budget, Fault, Key, Moment, Origin, StateReader,
};
use crate::node::host::capture::{MAX_BYTES, MAX_CAPTURED, MAX_IN_A_ROW, MAX_PAUSE};

/// A host that may read out its state, with entries up to the third applied.
fn host_that_may(bench: &Bench) -> Host {
    let mut host = bench.host(Isolation::Separate);
    host.captures.made_from_log(Duration::ZERO);
    host
}

fn begin(host: &mut Host, index: u64) -> SnapshotTask {
    assert!(host.run(HostJob::Replica(Job::Snapshot(meta(index)))).is_empty());
    host.take_task().unwrap()
}

fn is_taken(events: &[HostEvent], index: u64) -> bool {
    matches!(events, [HostEvent::SnapshotTaken(taken, _)] if *taken == meta(index))
}

/// Has each of these entries applied and a snapshot made there, and tells of which the state was read out.
fn snapshots(bench: &Bench, host: &mut Host, indices: RangeInclusive<u64>) -> Vec<bool> {
    let one = |index| {
        bench.append(vec![entry(index, "more")]);
        assert!(matches!(host.run(apply(vec![entry(index, "more")]))[..], [HostEvent::Applied(_)]));
        let task = begin(host, index);
        let is_captured = task.captured.is_some();
        let events = host.run(HostJob::SnapshotMade(task.run()));
        assert!(is_taken(&events, index), "{events:?}");
        is_captured
    };
    indices.map(one).collect()
}

#[test]
fn all_but_one_in_sixteen_snapshots_of_a_small_state_are_read_out() {
    let mut bench = Bench::with_log(&["a", "b"]);
    bench.genesis.config = Bytes::from_static(b"chunk 10");
    let mut host = bench.host(Isolation::Separate);
    let mut expected = vec![false, false];
    expected.extend([true; MAX_IN_A_ROW as usize]);
    expected.extend([false, true]);
    // The first begins with nothing, so it does not show that a machine that was restored goes on as it should.
    let last = 3 + expected.len() as u64;
    let found = snapshots(&bench, &mut host, 4..=last);
    assert_eq!(found, expected, "{:?}", host.captures.read_in());
}

#[test]
fn a_state_that_was_read_out_is_that_of_its_entry() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = host_that_may(&bench);
    let chain = host.at().1;
    let task = begin(&mut host, 3);
    assert!(task.captured.is_some());
    // Neither what comes later nor what stands in the log matters.
    assert!(matches!(host.run(apply(vec![entry(4, "c")]))[..], [HostEvent::Applied(_)]));
    bench.append(vec![entry(4, "another")]);
    assert!(is_taken(&host.run(HostJob::SnapshotMade(task.run())), 3));
    let restored = bench.new_host(Isolation::Separate).run(HostJob::Start(Some(meta(3))));
    assert!(
        matches!(&restored[..], [HostEvent::Restored { chain: restored, .. }] if *restored == chain),
        "{restored:?}"
    );

    // A snapshot that is made from that and the log comes to something else, and nothing is read out after it.
    host.captures.made_from_log(Duration::MAX);
    let events = take_snapshot_at(&mut host, 4);
    assert!(matches!(&events[..], [HostEvent::SnapshotFailed(reason)] if reason.contains("differs")), "{events:?}");
    assert_eq!(host.captures.read_in(), None);
}

#[test]
fn a_state_that_takes_long_to_read_is_not_read_out_again() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    for (read_in, is_captured) in [(MAX_PAUSE, true), (MAX_PAUSE + Duration::from_nanos(1), false)] {
        host.captures.made_from_log(read_in);
        assert_eq!(begin(&mut host, 3).captured.is_some(), is_captured, "{read_in:?}");
    }
}

#[test]
fn a_state_that_was_replaced_is_not_read_out_before_another_was_made_from_the_log() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = host_that_may(&bench);
    let task = begin(&mut host, 3);
    assert!(is_taken(&host.run(HostJob::SnapshotMade(task.run())), 3));
    assert!(matches!(host.run(HostJob::Replica(Job::Restore(meta(3))))[..], [HostEvent::Restored { .. }]));
    assert_eq!(snapshots(&bench, &mut host, 4..=4), [false]);
}

#[test]
fn a_machine_that_dies_of_being_read_out_is_made_again_and_so_is_the_snapshot() {
    let mut bench = Bench::with_log(&["a", "b"]);
    // Chunks without a byte break the contract.
    bench.genesis.config = Bytes::from_static(b"chunk 0");
    let mut host = host_that_may(&bench);
    let before = host.at();
    let task = begin(&mut host, 3);
    assert!(task.captured.is_none());
    assert_eq!(host.at(), before);
    assert!(matches!(host.run(HostJob::SnapshotMade(task.run()))[..], [HostEvent::SnapshotFailed(_)]));
    assert!(matches!(host.run(apply(vec![entry(4, "c")]))[..], [HostEvent::Applied(_)]), "the machine goes on");
    assert_eq!(host.captures.read_in(), None, "it is not tried again");
}

#[test]
fn what_is_read_out_at_a_time_is_bounded() {
    let bench = Bench::with_log(&["a", "b"]);
    let room = CaptureRoom::new();
    let host_of = |_| {
        let mut host = bench.host(Isolation::Separate);
        host.captures = Captures::new(room.clone());
        host.captures.made_from_log(Duration::ZERO);
        host
    };
    let mut hosts: Vec<Host> = (0..=MAX_CAPTURED).map(host_of).collect();
    let mut tasks: Vec<SnapshotTask> = hosts.iter_mut().map(|host| begin(host, 3)).collect();
    let found: Vec<bool> = tasks.iter().map(|task| task.captured.is_some()).collect();
    assert_eq!(found, [[true; MAX_CAPTURED].as_slice(), &[false]].concat());
    drop(tasks.remove(0).run());
    assert!(begin(hosts.last_mut().unwrap(), 3).captured.is_some(), "one was written");
}

#[test]
fn a_large_state_is_not_read_out() {
    let genesis = Genesis {
        cluster: ClusterId(1),
        component: Digest::of(b"large"),
        config: Bytes::new(),
        settings: Settings::default(),
    };
    let mut captures = Captures::new(CaptureRoom::new());
    for (chunks, is_captured) in [(MAX_BYTES / CHUNK.len() - 1, true), (MAX_BYTES / CHUNK.len() + 1, false)] {
        let mut machine = Machine::start(genesis.clone(), &Large(chunks)).unwrap();
        captures.made_from_log(Duration::ZERO);
        let captured = captures.read(&mut machine, &meta(3)).unwrap();
        assert_eq!(captured.is_some(), is_captured);
        assert_eq!(captures.read_in().is_some(), is_captured);
    }
}

/// A backend with a state of so many chunks.
#[derive(Clone, Copy)]
struct Large(usize);

static CHUNK: [u8; 64 << 10] = [7; 64 << 10];

impl BackendFactory for Large {
    fn init(&self, _at: Moment, _config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::new(*self))
    }

    fn restore(
        &self,
        at: Moment,
        _origin: &Origin,
        _chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        self.init(at, &[])
    }
}

impl Backend for Large {
    fn version(&mut self) -> Result<String, Fault> {
        Ok("large 1".to_owned())
    }

    fn apply(&mut self, _commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        Ok(Vec::new())
    }

    fn query(&mut self, _at: Moment, _request: &[u8]) -> Result<BackendAnswer, Fault> {
        Err(Fault::Host("nobody asks it".to_owned()))
    }

    fn expire_session(&mut self, _at: Moment, _session: u64) -> Result<Vec<Key>, Fault> {
        Ok(Vec::new())
    }

    fn read_state(&mut self, _at: Moment, _budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        Ok(Box::new(std::iter::repeat_n(Bytes::from_static(&CHUNK), self.0)))
    }
}

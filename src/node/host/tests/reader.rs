//! The instance for queries beside the one that applies.

use super::*;

/// Where the machine for queries is; it has been made.
fn reader_at(host: &Host) -> (Index, HashChain) {
    host.reader.as_ref().and_then(Reader::at).unwrap()
}

fn ask_at(host: &mut Host, index: u64, word: &'static str) -> Result<(), RequestError> {
    let asker = Asker::Client(Ticket(1));
    let wanted = Wanted::Answer(Bytes::from_static(word.as_bytes()));
    let query = Query { asker, client: None, wanted, deadline_ms: 0 };
    let mut events = host.run(HostJob::Replica(Job::Query(Index(index), vec![query])));
    let Some(HostEvent::Answered(mut answers)) = events.pop() else { panic!("{events:?}") };
    let answer = answers.remove(0);
    assert_eq!(answer.index, Index(index));
    answer.result.map(|answer| assert!(answer.reply.is_ok()))
}

#[test]
fn the_machine_that_applies_outlives_every_query() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    assert_eq!(ask(&mut host, &["x"]), [Ok(())]);
    // Nothing is left that a machine could be made from again.
    let base = meta(3).position;
    bench.write(Write { discard_through: Some(base), ..Write::new(WriteToken(2)) });
    assert!(is_fault(&ask(&mut host, &["panic"])[0]));
    assert!(matches!(host.run(apply(vec![entry(4, "c")]))[..], [HostEvent::Applied(_)]));
}

#[test]
fn the_machine_for_queries_follows_the_other() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    assert!(host.reader.as_ref().unwrap().at().is_none(), "nobody has asked");
    ask_at(&mut host, 3, "x").unwrap();
    assert_eq!(reader_at(&host), host.at());

    bench.append(vec![entry(4, "c"), entry(5, "panic"), entry(6, "d")]);
    let events = host.run(apply(vec![entry(4, "c"), entry(5, "panic"), entry(6, "d")]));
    let [_, HostEvent::Died(died)] = &events[..] else { panic!("{events:?}") };
    let rulings = Rulings { budget: Budget::Relaxed, rulings: vec![(Index(5), Ruling::Skip(died.fault.clone()))] };
    let entries = vec![entry(5, "panic"), entry(6, "d")];
    host.run(HostJob::Replica(Job::Apply(Run { entries, rulings })));
    assert_eq!(reader_at(&host).0, Index(3), "it waits until somebody asks");
    ask_at(&mut host, 6, "x").unwrap();
    assert_eq!(reader_at(&host), host.at());
    assert!(is_fault(&ask_at(&mut host, 6, "panic")));
    ask_at(&mut host, 6, "x").unwrap();
    assert_eq!(reader_at(&host), host.at(), "made again with what was ruled");
}

#[test]
fn a_machine_for_queries_that_was_changed_by_one_is_made_again() {
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    ask_at(&mut host, 3, "x").unwrap();
    bench.append(vec![entry(4, "c")]);
    let run = |word| Run { entries: vec![entry(4, word)], rulings: Rulings::default() };
    let Host { runner: Some(runner), reader: Some(reader), past, .. } = &mut host else { panic!() };
    runner.apply(&run("c"), past).unwrap();
    reader.applied(&run("another"), 1, runner.at(), past).unwrap();
    ask_at(&mut host, 4, "x").unwrap();
    assert_eq!(reader_at(&host), host.at());
}

#[test]
fn a_machine_for_queries_is_never_far_behind_nor_ahead() {
    static LARGE: [u8; 1 << 20] = [b'c'; 1 << 20];
    let bench = Bench::with_log(&["a", "b"]);
    let mut host = bench.host(Isolation::Separate);
    ask_at(&mut host, 3, "x").unwrap();
    let before = host.at();
    let last = 3 + Reader::MAX_BEHIND as u64;
    host.run(apply((4..last).map(|index| entry(index, "c")).collect()));
    assert_eq!(reader_at(&host), before);
    host.run(apply(vec![entry(last, "c")]));
    assert_eq!(reader_at(&host), host.at());
    host.run(apply(vec![entry(last + 1, std::str::from_utf8(&LARGE).unwrap())]));
    assert_eq!(reader_at(&host), host.at(), "much is not kept, however few");
    host.run(HostJob::Replica(Job::Rewind(before.0, before.1)));
    assert_eq!(host.reader.as_ref().unwrap().at(), None, "it was ahead");
    host.run(apply(vec![entry(4, "d")]));
    host.run(HostJob::Replica(Job::Rewind(before.0, before.1)));
    ask_at(&mut host, 3, "x").unwrap();
    assert_eq!(reader_at(&host), before);
}

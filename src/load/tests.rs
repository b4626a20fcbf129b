//! Services that answer as a test wants.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::*;

/// Answers at once, but stalls once for a while; every fifth read fails.
struct Stalls(Duration);

struct Client {
    stall: Rc<Cell<Option<Duration>>>,
    reads: u64,
}

impl Service for Stalls {
    type Client = Client;

    async fn connect(&self, _thread: usize, count: usize) -> Result<Vec<Client>, String> {
        let stall = Rc::new(Cell::new(Some(self.0)));
        Ok((0..count).map(|_| Client { stall: Rc::clone(&stall), reads: 0 }).collect())
    }
}

impl Driven for Client {
    async fn write(&mut self, _key: u64, value: &[u8]) -> Result<(), String> {
        assert_eq!(value.len(), 100);
        tokio::time::sleep(self.stall.take().unwrap_or_default()).await;
        Ok(())
    }

    async fn read(&mut self, key: u64) -> Result<(), String> {
        assert!(key < 10);
        tokio::task::yield_now().await;
        self.reads += 1;
        if self.reads.is_multiple_of(5) { Err("it is a fifth read".to_owned()) } else { Ok(()) }
    }
}

fn plan() -> Plan {
    Plan {
        clients: 1,
        threads: 1,
        duration: Duration::from_secs(1),
        warm_up: Duration::ZERO,
        rate: Some(1000.0),
        reads_percent: 0,
        keys: 10,
        value_bytes: 100,
        seed: 1,
    }
}

/// What would have been asked during a stall counts as if it had been.
#[test]
fn an_open_loop_omits_nothing_while_a_service_stalls() {
    let stall = Duration::from_millis(500);
    let measured = run(&Stalls(stall), &plan(), |_, _| {}).unwrap();
    assert!(measured.writes.max() >= stall);
    // Half of all were due during the stall, and waited for half of it on average.
    assert!(measured.writes.percentile(90.0) >= stall / 2, "{:?}", measured.writes.percentile(90.0));
    let closed = run(&Stalls(stall), &Plan { rate: None, ..plan() }, |_, _| {}).unwrap();
    assert!(closed.writes.percentile(90.0) < stall / 2, "a closed loop was not asked meanwhile");
}

#[test]
fn reads_writes_and_failures_are_counted_apart() {
    let plan = Plan { clients: 4, threads: 2, reads_percent: 50, rate: None, ..plan() };
    let mut seconds = Vec::new();
    let warm_up = Duration::from_millis(100);
    let measured = run(&Stalls(Duration::ZERO), &Plan { warm_up, ..plan }, |phase, lately| {
        seconds.push((phase, lately.all().count() > 0));
    });
    let measured = measured.unwrap();
    assert_eq!(seconds.first(), Some(&(Phase::WarmUp, true)));
    assert!(seconds[1..].iter().all(|second| *second == (Phase::Measured, true)), "{seconds:?}");
    assert!(measured.writes.count() > 0 && measured.reads.count() > 0);
    assert_eq!(measured.failures.keys().collect::<Vec<_>>(), ["it is a fifth read"]);
    assert!(measured.failed() > 0);
    assert_eq!(measured.all().count(), measured.writes.count() + measured.reads.count());
    assert!(measured.throughput() > 0.0);
}

#[test]
fn reasons_of_failures_are_bounded() {
    let mut measured = Measured::default();
    (0..100).for_each(|number| measured.fail(&format!("reason {number}"), 1));
    assert_eq!((measured.failures.len(), measured.failed()), (17, 100));
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_and_clients_that_cannot_start_are_an_error() {
    struct Down;
    impl Service for Down {
        type Client = Client;

        async fn connect(&self, thread: usize, _count: usize) -> Result<Vec<Client>, String> {
            Err(format!("nobody is there for thread {thread}"))
        }
    }
    let begin = Instant::now();
    for wrong in [
        Plan { clients: 0, ..plan() },
        Plan { threads: 2, ..plan() },
        Plan { rate: Some(0.0), ..plan() },
        Plan { reads_percent: 101, ..plan() },
        Plan { keys: 0, ..plan() },
    ] {
        assert!(matches!(run(&Down, &wrong, |_, _| {}), Err(LoadError::Plan(_))), "{wrong:?}");
    }
    assert!(matches!(run(&Down, &plan(), |_, _| {}), Err(LoadError::Connect(reason)) if reason.contains("thread 0")));
    assert!(begin.elapsed() < plan().duration, "nothing is measured then");
}

//! Purging gives space back, and what is live in the purged rounds stays.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Appends entry `index` and keeps the `kept` entries up to it.
fn sliding(index: u64, size: usize, kept: u64) -> Write {
    let base = index.checked_sub(kept).filter(|base| *base > 0);
    let discard_through = base.map(|base| LogPosition::new(Term(1), Index(base)));
    Write { discard_through, ..append(index, index, size) }
}

fn log_bytes(bench: &Bench) -> u64 {
    std::fs::metadata(options(&bench.dir).log_dir.join("log.redb")).unwrap().len()
}

#[test]
fn a_peer_that_rarely_writes_holds_no_space_of_a_busy_one_and_is_not_lost() {
    const WRITES: u64 = 1_500;
    const SIZE: usize = 40 << 10;
    let bench = Bench::new();
    let (rare, busy) = (bench.create(1), bench.create(2));
    bench.write(rare, append(2, 40, 1_000));
    let vote = HardState { term: Term(3), vote: Some(rare), commit: Index(1) };
    bench.write(rare, Write { hard_state: Some(vote), ..append(41, 60, 1_000) });
    let keeps_reading = AtomicBool::new(true);
    thread::scope(|scope| {
        // Moving is invisible to readers.
        scope.spawn(|| {
            while keeps_reading.load(Ordering::Relaxed) {
                assert_eq!(bench.store.read(rare, &log_read(2, 60, usize::MAX)).unwrap().len(), 59);
            }
        });
        // Paced, because the file's size goes by that of the rounds: the database makes room in powers of two.
        for index in 2..=WRITES {
            bench.store.write(busy, sliding(index, SIZE, 20));
            if index % 20 == 0 {
                let done = Completion::Written(busy, WriteToken(index));
                loop {
                    match bench.told.recv_timeout(PATIENCE) {
                        Ok(Told::Durable(told)) if told.contains(&done) => break,
                        Ok(Told::Durable(_)) => {}
                        // Ends the reader; what is missing is found below.
                        _ => return keeps_reading.store(false, Ordering::Relaxed),
                    }
                }
                bench.store.write(rare, Write::new(WriteToken(index)));
            }
        }
        keeps_reading.store(false, Ordering::Relaxed);
    });
    let bench = bench.reopened();
    assert!(log_bytes(&bench) < 24 << 20, "{} bytes for {}", log_bytes(&bench), WRITES * SIZE as u64);
    assert_eq!(bench.read(rare, 2, 60).unwrap(), append(2, 60, 1_000).entries);
    assert_eq!(bench.read(busy, WRITES - 19, WRITES).unwrap().len(), 20);
    assert_eq!((bench.peers[0].restored.hard_state, bench.peers[0].restored.last), (vote, Index(60)));
    assert_eq!(bench.peers[1].restored.base.index, Index(WRITES - 20));
}

#[test]
fn votes_alone_do_not_grow_the_log() {
    let bench = Bench::with(PurgeLimits { every_rounds: 16, ..PurgeLimits::default() });
    let peer = bench.create(1);
    for term in 2..600 {
        let hard_state = HardState { term: Term(term), vote: None, commit: Index(1) };
        bench.write(peer, Write { hard_state: Some(hard_state), ..Write::new(WriteToken(term)) });
    }
    let (dir, limits) = bench.closed();
    let database = redb::Database::open(options(&dir).log_dir.join("log.redb")).unwrap();
    let rows = {
        use redb::{ReadableDatabase, ReadableTableMetadata};
        database.begin_read().unwrap().open_table(super::super::database::ROUNDS).unwrap().len().unwrap()
    };
    drop(database);
    assert!(rows <= 32, "{rows} rounds are left of 600");
    assert_eq!(Bench::at(dir, limits).peers[0].restored.hard_state.term, Term(599));
}

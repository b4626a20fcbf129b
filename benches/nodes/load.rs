//! Writes, at a steady rate or as fast as it goes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use zraft::client::{Kv, LightSession, SessionOptions};

use crate::harness::{Nodes, PATIENCE};

/// Writes of a load that is as fast as it goes, at a time.
const WRITERS: usize = 32;

/// Waits for answers as long as anything may take.
pub fn patient() -> SessionOptions {
    let long = 4 * PATIENCE;
    SessionOptions { request_timeout: long, attempt_timeout: long, ..SessionOptions::default() }
}

/// A key-value session that waits so.
pub fn kv(nodes: &Nodes, name: &str) -> Kv {
    Kv::new(LightSession::with_options(nodes.client(), nodes.peers(name), patient()))
}

/// How long writes took.
#[derive(Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// So many of a hundred took no longer, in milliseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut all = self.0.clone();
        all.sort_unstable();
        let at = (all.len() * percent).div_ceil(100).max(1) - 1;
        all[at].as_secs_f64() * 1e3
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, all] = [50, 99, 100].map(|percent| self.percentile(percent));
        write!(f, "{half:>8.2} ms p50 {most:>8.2} ms p99 {all:>8.2} ms at most, of {}", self.count())
    }
}

/// What is written: puts of so many bytes, to so many keys in turn.
#[derive(Clone)]
pub struct Puts {
    kv: Rc<Kv>,
    keys: usize,
    value: Rc<[u8]>,
    next: Rc<Cell<usize>>,
}

impl Puts {
    pub fn new(kv: Kv, keys: usize, value_bytes: usize) -> Self {
        // What compresses is no fair load for any disk.
        let value = (0..value_bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        Self { kv: Rc::new(kv), keys, value, next: Rc::default() }
    }

    /// How many were begun so far.
    pub fn begun(&self) -> usize {
        self.next.get()
    }

    async fn put(&self) {
        let number = self.next.replace(self.next.get() + 1) % self.keys;
        self.kv.put(format!("key {number:08}"), self.value.to_vec()).await.expect("a write comes through in time");
    }

    /// Writes so many a second until something has happened, however long those before take; each is timed from when it was
    /// due.
    pub async fn at_rate(&self, per_second: u32, until: impl Future<Output = ()>) -> Latencies {
        let step = Duration::from_secs(1) / per_second;
        let (local, latencies) = (LocalSet::new(), Rc::new(RefCell::new(Latencies::default())));
        let (puts, noted) = (self.clone(), Rc::clone(&latencies));
        let writing = async move {
            let mut due = Instant::now();
            loop {
                due += step;
                tokio::time::sleep_until(due.into()).await;
                let (puts, noted) = (puts.clone(), Rc::clone(&noted));
                tokio::task::spawn_local(async move {
                    puts.put().await;
                    noted.borrow_mut().0.push(due.elapsed());
                });
            }
        };
        local
            .run_until(async {
                tokio::select! { () = until => {}, () = writing => {} }
            })
            .await;
        local.await;
        latencies.take()
    }

    /// Writes as fast as it goes until something has happened.
    pub async fn at_full_speed(&self, until: impl Future<Output = ()>) -> Latencies {
        let (local, latencies, is_over) =
            (LocalSet::new(), Rc::new(RefCell::new(Latencies::default())), Rc::new(Cell::new(false)));
        for _ in 0..WRITERS {
            let (puts, latencies, is_over) = (self.clone(), Rc::clone(&latencies), Rc::clone(&is_over));
            local.spawn_local(async move {
                while !is_over.get() {
                    let begun = Instant::now();
                    puts.put().await;
                    latencies.borrow_mut().0.push(begun.elapsed());
                }
            });
        }
        local.run_until(until).await;
        is_over.set(true);
        local.await;
        latencies.take()
    }
}

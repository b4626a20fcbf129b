//! The start of a node with many peers: their machines are made on the guest threads, as many at a time as there are, and the log
//! and `zraft status` tell how far that is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::types::Incarnation;

/// Between two words about it in the log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The peers that were found when the node was started, and whose machines are not there yet.
pub(super) struct StartUp {
    waiting: BTreeSet<Incarnation>,
    total: usize,
    began: Instant,
    told: Instant,
}

impl StartUp {
    pub(super) fn new(found: impl IntoIterator<Item = Incarnation>, now: Instant) -> Self {
        let waiting: BTreeSet<_> = found.into_iter().collect();
        Self { total: waiting.len(), waiting, began: now, told: now }
    }

    /// How many machines are still to be made.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The machine of a peer is there, or never will be.
    pub(super) fn done(&mut self, incarnation: Incarnation, now: Instant) {
        if !self.waiting.remove(&incarnation) {
            return;
        }
        let (done, total) = (self.total - self.waiting.len(), self.total);
        if self.waiting.is_empty() {
            let took_ms = now.duration_since(self.began).as_millis();
            tracing::info!(peers = total, took_ms, "all machines are started");
        } else if now.duration_since(self.told) >= TELL_EVERY {
            self.told = now;
            tracing::info!("{done} of {total} machines are started");
        }
    }
}

/// Does something for each of many things, on as many threads as there are processors. The results come in the same order.
pub(super) fn in_parallel<T: Send, R: Send>(things: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = things.len().div_ceil(threads).max(1);
    let (mut things, work) = (things.into_iter(), &work);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        loop {
            let part: Vec<T> = things.by_ref().take(each).collect();
            if part.is_empty() {
                break;
            }
            running.push(scope.spawn(move || part.into_iter().map(work).collect::<Vec<R>>()));
        }
        let done = running.into_iter().map(|thread| thread.join());
        done.flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_in_parallel_comes_in_order() {
        for count in [0, 1, 2, 7, 100] {
            let things: Vec<usize> = (0..count).collect();
            assert_eq!(in_parallel(things.clone(), |thing| thing), things);
        }
    }

    #[test]
    fn a_start_is_over_when_every_machine_is_there_once() {
        let now = Instant::now();
        let mut start = StartUp::new([1, 2].map(Incarnation), now);
        start.done(Incarnation(1), now);
        start.done(Incarnation(1), now);
        start.done(Incarnation(7), now);
        assert_eq!(start.waiting(), 1);
        start.done(Incarnation(2), now);
        assert_eq!(start.waiting(), 0);
    }
}

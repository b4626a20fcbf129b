//! Says in the log when a call takes long. It decides nothing: what a call may take is counted in fuel.
//!
//! The engine's epochs would serve as well, but have guests look at a counter in each turn of a loop: without them, a batch
//! of 128 small commands takes 2.4 times what the same code takes natively, and not 2.7 to 3.0 times.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::machine::Moment;
use crate::types::ClusterId;

/// The watchdog's step.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// After how many ticks a call is called long, and again after as many more.
const LONG_CALL_TICKS: u64 = 10;

/// An instance's call, if one is under way.
type Call = Mutex<Option<UnderWay>>;

/// The calls that are watched. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watchdog {
    calls: Arc<Mutex<Vec<Weak<Call>>>>,
}

/// One instance's calls, as they are watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    call: Arc<Call>,
}

/// A call under way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnderWay {
    cluster: ClusterId,
    name: &'static str,
    at: Moment,
    ticks: u64,
}

impl Watchdog {
    /// Watches another instance, until that is dropped.
    pub(super) fn watch(&self) -> Watched {
        let watched = Watched::default();
        let mut calls = lock(&self.calls);
        calls.retain(|call| call.strong_count() > 0);
        calls.push(Arc::downgrade(&watched.call));
        watched
    }

    /// Another step has passed.
    pub(super) fn tick(&self) {
        for UnderWay { cluster, name, at, ticks } in self.long_calls() {
            let seconds = ticks * TICK.as_secs();
            tracing::warn!(%cluster, call = name, index = at.index, seconds, "a backend takes long");
        }
    }

    /// The calls that have become long, or as long again.
    fn long_calls(&self) -> Vec<UnderWay> {
        let calls: Vec<_> = lock(&self.calls).iter().filter_map(Weak::upgrade).collect();
        let mut long = Vec::new();
        for call in calls {
            if let Some(under_way) = &mut *lock(&call) {
                under_way.ticks += 1;
                long.extend(under_way.ticks.is_multiple_of(LONG_CALL_TICKS).then(|| under_way.clone()));
            }
        }
        long
    }
}

impl Watched {
    pub(super) fn begin(&self, cluster: ClusterId, name: &'static str, at: Moment) {
        *lock(&self.call) = Some(UnderWay { cluster, name, at, ticks: 0 });
    }

    pub(super) fn end(&self) {
        *lock(&self.call) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two steps that belong together.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_called_long_again_and_again_until_it_ends() {
        let watchdog = Watchdog::default();
        let (long, short) = (watchdog.watch(), watchdog.watch());
        long.begin(ClusterId(1), "apply", Moment { index: 7, time_ms: 0 });
        let mut told = Vec::new();
        for tick in 1..=25 {
            short.begin(ClusterId(2), "query", Moment::default());
            told.extend(watchdog.long_calls().iter().map(|call| (tick, call.name, call.at.index, call.ticks)));
            short.end();
        }
        assert_eq!(told, [(10, "apply", 7, 10), (20, "apply", 7, 20)]);
        long.end();
        assert!((0..20).all(|_| watchdog.long_calls().is_empty()));
    }

    #[test]
    fn an_instance_that_is_gone_is_not_watched() {
        let watchdog = Watchdog::default();
        drop(watchdog.watch());
        let _kept = watchdog.watch();
        assert_eq!(lock(&watchdog.calls).len(), 1);
    }
}

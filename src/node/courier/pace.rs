//! How fast snapshots leave a node.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// After a pause so much may be made up for at once. Less and timers, which tick in milliseconds, would slow it down.
const BURST: Duration = Duration::from_millis(4);

/// A bound on bytes a second that all transfers of a node share.
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When what was let through so far will have had its time.
    busy_until: Mutex<Instant>,
}

impl Pace {
    /// With 0, there is no bound.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, busy_until: Mutex::new(Instant::now()) }
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.bytes_per_second > 0
    }

    /// Waits until so many bytes may leave.
    pub(super) async fn take(&self, bytes: usize) {
        if self.is_bounded() {
            sleep_until(self.book(bytes, Instant::now())).await;
        }
    }

    /// When so many bytes may leave. They count as gone.
    fn book(&self, bytes: usize, now: Instant) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*busy_until).max(now.checked_sub(BURST).unwrap_or(now));
        *busy_until = begins + takes;
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_leaves_shares_the_rate() {
        let start = Instant::now();
        let pace = Pace { bytes_per_second: 1_000_000, busy_until: Mutex::new(start) };
        let after = |bytes| pace.book(bytes, start).saturating_duration_since(start).as_millis();
        assert_eq!([after(100_000), after(100_000), after(100_000)], [0, 100, 200]);
        let later = start + Duration::from_secs(60);
        assert!(pace.book(100_000, later) <= later, "a pause is over");
        assert_eq!((pace.book(100_000, later) - later).as_millis(), 96, "and is made up for no further");
    }
}

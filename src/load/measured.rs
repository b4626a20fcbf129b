//! What came of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// How long was measured.
    pub elapsed: Duration,
    /// The writes that were answered.
    pub writes: Latencies,
    /// The reads that were answered.
    pub reads: Latencies,
    /// How many requests failed, by reason. Few reasons are kept apart.
    pub failures: BTreeMap<String, u64>,
}

impl Measured {
    /// Reasons that are counted apart; later ones count as [`Measured::OTHERS`].
    const MAX_REASONS: usize = 16;
    const OTHERS: &str = "other reasons";

    /// Requests answered a second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.all().count() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Reads and writes together.
    #[must_use]
    pub fn all(&self) -> Latencies {
        let mut all = self.writes.clone();
        all.add(&self.reads);
        all
    }

    /// How many requests failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(super) fn fail(&mut self, reason: &str, count: u64) {
        let is_known = self.failures.len() < Self::MAX_REASONS || self.failures.contains_key(reason);
        let reason = if is_known { reason } else { Self::OTHERS };
        *self.failures.entry(reason.to_owned()).or_default() += count;
    }

    /// What was measured afterwards or elsewhere at the same time; `elapsed` is added up.
    pub(super) fn add(&mut self, more: &Self) {
        self.elapsed += more.elapsed;
        self.writes.add(&more.writes);
        self.reads.add(&more.reads);
        more.failures.iter().for_each(|(reason, count)| self.fail(reason, *count));
    }
}

/// How long requests took.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Three digits over the whole range: 20 KiB or so each.
        Self(Histogram::new_with_bounds(1, Self::MAX_US, 3).expect("the bounds are valid"))
    }
}

impl Latencies {
    /// Longer ones count as this: a minute, in microseconds.
    const MAX_US: u64 = 60_000_000;

    pub(super) fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us);
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.0.add(&more.0).expect("all have the same bounds");
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// So many of a hundred took no longer.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    /// The average.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

//! What is said of measurements.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::output::Output;
use crate::load::{Latencies, Measured, Phase, Plan};

/// The heads of a step's columns.
pub(super) const HEADER: &str =
    "clients      asked   answered    failed       p50       p90       p99     p99.9       max
               a second   a second                    ms        ms        ms        ms        ms";

/// The percentiles that are told.
pub(super) const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9")];

/// What was measured with one plan.
pub(super) struct Step {
    pub(super) plan: Plan,
    pub(super) measured: Measured,
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, measured } = self;
        let asked = plan.rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        let (all, failed) = (measured.all(), measured.failed());
        write!(f, "{:>7} {asked:>10} {:>10.0} {failed:>9}", plan.clients, measured.throughput())?;
        PERCENTILES.iter().try_for_each(|(percent, _)| write!(f, " {:>9.3}", ms(all.percentile(*percent))))?;
        write!(f, " {:>9.3}", ms(all.max()))?;
        measured.failures.iter().try_for_each(|(reason, count)| write!(f, "\n  {count} failed: {reason}"))
    }
}

impl Step {
    pub(super) fn as_json(&self) -> Value {
        let Self { plan, measured } = self;
        json!({
            "clients": plan.clients,
            "rate": plan.rate,
            "reads_percent": plan.reads_percent,
            "value_bytes": plan.value_bytes,
            "seconds": measured.elapsed.as_secs_f64(),
            "throughput": measured.throughput(),
            "failed": measured.failed(),
            "failures": measured.failures,
            "all_ms": latencies_as_json(&measured.all()),
            "writes_ms": latencies_as_json(&measured.writes),
            "reads_ms": latencies_as_json(&measured.reads),
        })
    }
}

fn latencies_as_json(latencies: &Latencies) -> Value {
    let mut json = json!({
        "count": latencies.count(),
        "mean": ms(latencies.mean()),
        "max": ms(latencies.max()),
    });
    for (percent, name) in PERCENTILES {
        json[name] = ms(latencies.percentile(percent)).into();
    }
    json
}

/// A line about the last second, on a terminal.
pub(super) struct Live {
    is_on: bool,
}

impl Live {
    pub(super) fn new(output: Output) -> Self {
        Self { is_on: !output.is_json() && std::io::stderr().is_terminal() }
    }

    pub(super) fn tell(&mut self, phase: Phase, lately: &Measured) {
        if !self.is_on {
            return;
        }
        let all = lately.all();
        let [half, most] = [50.0, 99.0].map(|percent| ms(all.percentile(percent)));
        let (rate, failed) = (lately.throughput(), lately.failed());
        let name = phase.name();
        // A terminal that has gone needs no line.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{name}: {rate:.0} a second, p50 {half:.3} ms, p99 {most:.3} ms, {failed} failed"
        );
    }

    pub(super) fn end(self) {
        if self.is_on {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

//! The table of what was measured.

use std::time::Duration;

use zraft::load::Measured;

/// Rows of medians: throughput, p50 and p99 of each system, and the first system's ratio to each other.
pub struct Table {
    systems: Vec<&'static str>,
    rows: Vec<String>,
}

impl Table {
    pub fn new(systems: Vec<&'static str>) -> Self {
        Self { systems, rows: Vec::new() }
    }

    pub fn head(&self) -> String {
        let columns: String = self.systems.iter().map(|name| format!(" {name}: a second, p50, p99 ms |")).collect();
        let first = self.systems.first().copied().unwrap_or_default();
        let others = self.systems.iter().skip(1);
        let ratios: String = others.map(|name| format!(" {first} / {name}: a second, p99 |")).collect();
        let count = 1 + self.systems.len() + self.systems.len().saturating_sub(1);
        format!("| |{columns}{ratios}\n|{}", "---|".repeat(count))
    }

    /// Adds the row of a scenario, measured several times for each system; returns it.
    pub fn add(&mut self, name: String, measured: &[Vec<Measured>]) -> String {
        let medians: Vec<Option<Median>> = measured.iter().map(|runs| Median::of(runs)).collect();
        let figures = |median: &Option<Median>| match median {
            Some(Median { throughput, p50, p99, failed }) => {
                let failed = if *failed > 0 { format!(" ({failed} failed)") } else { String::new() };
                format!(" {throughput:.0}, {:.2}, {:.2}{failed} |", ms(*p50), ms(*p99))
            }
            None => " |".to_owned(),
        };
        let ratio = |other: &Option<Median>| match (medians.first(), other) {
            (Some(Some(first)), Some(other)) => {
                let (throughput, p99) = (first.throughput / other.throughput, ms(first.p99) / ms(other.p99));
                format!(" **{throughput:.2}**, {p99:.2} |")
            }
            _ => " |".to_owned(),
        };
        let columns: String = medians.iter().map(figures).collect();
        let ratios: String = medians.iter().skip(1).map(ratio).collect();
        let row = format!("| {name} |{columns}{ratios}");
        self.rows.push(row.clone());
        row
    }

    pub fn markdown(&self) -> String {
        format!("{}\n{}\n", self.head(), self.rows.join("\n"))
    }
}

struct Median {
    throughput: f64,
    p50: Duration,
    p99: Duration,
    failed: u64,
}

impl Median {
    fn of(runs: &[Measured]) -> Option<Self> {
        let median = |mut figures: Vec<f64>| {
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied()
        };
        let percentile = |percent| {
            let all = runs.iter().map(|run| run.all().percentile(percent).as_secs_f64()).collect();
            median(all).map(Duration::from_secs_f64)
        };
        Some(Self {
            throughput: median(runs.iter().map(Measured::throughput).collect())?,
            p50: percentile(50.0)?,
            p99: percentile(99.0)?,
            failed: runs.iter().map(Measured::failed).sum(),
        })
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

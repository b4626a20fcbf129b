//! Commits and entries a second, in turns with what they are compared to.

use std::path::Path;
use std::time::Duration;

use super::judge::{judge, median};
use super::subjects::{Rate, RawDisk, Rounds, RowPerEntry, Shape};

/// How often each subject has its turn, and how long a turn is.
const TURNS: usize = 9;
const TURN: Duration = Duration::from_millis(250);

/// Entries that are in the log before it is measured: an empty tree has fewer levels.
const PRELOADED_ENTRIES: u64 = 100_000;

const ENTRY_BYTES: usize = 128;

/// The store must reach this share of the raw disk's commits a second when a commit has one entry.
const LEAST_OF_RAW: f64 = 0.75;
/// It must have this many times the entries a second of a row for each entry, with 64 entries of 64 groups a commit.
const LEAST_OF_ROWS: f64 = 3.5;

/// One line of the table.
struct Line {
    shape: Shape,
    raw: RawDisk,
    rounds: Rounds,
    rows: RowPerEntry,
    turns: Vec<Turn>,
}

/// What was measured one after the other.
struct Turn {
    raw: Rate,
    rounds: Rate,
    rows: Rate,
}

/// Measures, prints the table, and returns whether the targets hold.
pub fn measure(dir: &Path) -> bool {
    let shapes = [1, 64].into_iter().flat_map(|groups| {
        [1, 64, 512].into_iter().map(move |batch| Shape { groups, batch, entry_bytes: ENTRY_BYTES })
    });
    let mut lines: Vec<Line> = shapes.map(|shape| Line::new(dir, shape)).collect();
    for _ in 0..TURNS {
        lines.iter_mut().for_each(Line::turn);
    }
    println!("Entries of {ENTRY_BYTES} bytes; medians of {TURNS} turns of {} ms.\n", TURN.as_millis());
    println!(
        "groups  entries/commit | store: commits/s  entries/s | row an entry: entries/s | raw: commits/s | store/rows  store/raw"
    );
    lines.iter().for_each(Line::print);
    println!();
    let judged: Vec<bool> = lines.iter().flat_map(Line::judge).collect();
    judged.into_iter().all(|held| held)
}

impl Line {
    fn new(dir: &Path, shape: Shape) -> Self {
        let dir = dir.join(format!("{}-{}", shape.groups, shape.batch));
        std::fs::create_dir(&dir).unwrap();
        let mut rounds = Rounds::new(&dir.join("rounds"), shape);
        let mut rows = RowPerEntry::new(&dir.join("rows.redb"), shape);
        let preloaded = PRELOADED_ENTRIES / shape.groups;
        (0..shape.groups).for_each(|_| rounds.write(preloaded));
        rounds.drain();
        (0..shape.groups / shape.writes()).for_each(|_| rows.commit(preloaded));
        Self { shape, raw: RawDisk::new(&dir), rounds, rows, turns: Vec::new() }
    }

    fn turn(&mut self) {
        let raw = self.raw.run(TURN);
        let rounds = self.rounds.run(TURN);
        let rows = self.rows.run(TURN);
        self.turns.push(Turn { raw, rounds, rows });
    }

    fn print(&self) {
        let median = |value: fn(&Turn) -> f64| median(self.turns.iter().map(value).collect());
        println!(
            "{:>6}  {:>14} | {:>16.0}  {:>9.0} | {:>23.0} | {:>14.0} | {:>10.2}  {:>9.2}",
            self.shape.groups,
            self.shape.batch,
            median(|turn| turn.rounds.commits),
            median(|turn| turn.rounds.entries),
            median(|turn| turn.rows.entries),
            median(|turn| turn.raw.commits),
            self.of_rows(),
            self.of_raw(),
        );
    }

    /// Ratios are taken within a turn, whose parts had about the same of the machine.
    fn of_rows(&self) -> f64 {
        median(self.turns.iter().map(|turn| turn.rounds.entries / turn.rows.entries).collect())
    }

    fn of_raw(&self) -> f64 {
        median(self.turns.iter().map(|turn| turn.rounds.commits / turn.raw.commits).collect())
    }

    fn judge(&self) -> Option<bool> {
        let Shape { groups, batch, .. } = self.shape;
        let (target, found, least) = match (groups, batch) {
            (_, 1) => ("of the raw disk's commits a second", self.of_raw(), LEAST_OF_RAW),
            (64, 64) => ("times the entries a second of a row for each", self.of_rows(), LEAST_OF_ROWS),
            _ => return None,
        };
        let target = format!("{groups} group(s), {batch} entries a commit: at least {least} {target}");
        Some(judge(&target, found, "", found >= least))
    }
}

//! A picture of a run: time goes to the right; a row for each client, coloured by what came of its operations; below these
//! how long they took, and a row for each node with the faults that it had.
//!
//! A run may have hundreds of thousands of operations, so each row is cut into columns, and neighbours of one colour are
//! drawn as one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::RunInfo;
use crate::history::{History, Operation, Outcome};
use crate::timeline::FaultRecord;

const LEFT: usize = 130;
/// One column is one pixel.
const COLUMNS: usize = 1440;
const WIDTH: usize = LEFT + COLUMNS + 20;
const TOP: usize = 60;
const ROW: usize = 12;
const LATENCY_HEIGHT: usize = 110;
const LANE: usize = 15;
/// From 0.1 ms to 100 s.
const LATENCY_DECADES: (f64, f64) = (-1.0, 5.0);

const OK: &str = "#4c9f70";
const FAILED: &str = "#b9bec6";
const UNKNOWN: &str = "#e08e2b";
const FAULTS: [&str; 6] = ["#c0504d", "#4f81bd", "#8064a2", "#4bacc6", "#9b8b3a", "#77527a"];

/// Draws it.
pub fn draw(run: &RunInfo, history: &History, faults: &[FaultRecord]) -> String {
    let scale = Scale::of(run, history, faults);
    let rows = rows(history);
    let lanes = lanes(faults);
    let latency_top = TOP + rows.len() * ROW + 30;
    let faults_top = latency_top + LATENCY_HEIGHT + 30;
    let height = faults_top + lanes.count * LANE + 40;
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut picture = Picture { svg, scale };
    let verdict = format!("chaos, seed {}: {} nodes, {:.0} s", run.seed, run.nodes, run.took.as_secs_f64());
    picture.text(LEFT, 20, 15, &verdict);
    picture.legend();
    picture.axis(height - 30);
    picture.shades(faults, latency_top + LATENCY_HEIGHT);
    for (place, ((workload, client), operations)) in rows.iter().enumerate() {
        picture.row(TOP + place * ROW, &format!("{workload} {client}"), operations);
    }
    picture.latencies(latency_top, history);
    picture.faults(faults_top, faults, &lanes);
    picture.svg.push_str("</svg>\n");
    picture.svg
}

type Rows<'a> = BTreeMap<(&'static str, u32), Vec<&'a Operation>>;

fn rows(history: &History) -> Rows<'_> {
    let mut rows = Rows::new();
    for operation in &history.operations {
        rows.entry((operation.workload.name(), operation.client)).or_default().push(operation);
    }
    rows
}

/// Where a time is.
#[derive(Clone, Copy)]
struct Scale {
    end_ns: u64,
}

impl Scale {
    fn of(run: &RunInfo, history: &History, faults: &[FaultRecord]) -> Self {
        let ends = history.operations.iter().map(|operation| operation.ended_ns);
        let faults = faults.iter().map(|fault| nanos(fault.to));
        Self { end_ns: ends.chain(faults).max().unwrap_or(0).max(nanos(run.took)).max(1) }
    }

    /// Below [`COLUMNS`].
    fn column(self, at_ns: u64) -> usize {
        (u128::from(at_ns) * COLUMNS as u128 / (u128::from(self.end_ns) + 1)) as usize
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Where each fault is drawn: on each of its nodes, below those that it overlaps with.
struct Lanes {
    /// The first lane of each node, and its name.
    nodes: Vec<(usize, String)>,
    /// Fault, lane.
    bars: Vec<(usize, usize)>,
    count: usize,
}

fn lanes(faults: &[FaultRecord]) -> Lanes {
    let named: BTreeSet<usize> = faults.iter().flat_map(|fault| fault.nodes.iter().copied()).collect();
    let of_none = faults.iter().any(|fault| fault.nodes.is_empty());
    let nodes = of_none.then_some(None).into_iter().chain(named.into_iter().map(Some));
    let mut lanes = Lanes { nodes: Vec::new(), bars: Vec::new(), count: 0 };
    for node in nodes {
        let first = lanes.count;
        let name = node.map_or("all nodes".to_owned(), |node| format!("node {node}"));
        lanes.nodes.push((first, name));
        // When each lane is free again.
        let mut free: Vec<Duration> = Vec::new();
        let mut here: Vec<_> = faults.iter().enumerate().filter(|(_, fault)| is_on(fault, node)).collect();
        here.sort_by_key(|(_, fault)| fault.from);
        for (number, fault) in here {
            let lane = free.iter().position(|free| *free <= fault.from).unwrap_or_else(|| {
                free.push(Duration::ZERO);
                free.len() - 1
            });
            free[lane] = fault.to;
            lanes.bars.push((number, first + lane));
        }
        lanes.count += free.len().max(1);
    }
    lanes
}

fn is_on(fault: &FaultRecord, node: Option<usize>) -> bool {
    match node {
        Some(node) => fault.nodes.contains(&node),
        None => fault.nodes.is_empty(),
    }
}

struct Picture {
    svg: String,
    scale: Scale,
}

impl Picture {
    fn text(&mut self, x: usize, y: usize, size: usize, text: &str) {
        let _ = writeln!(self.svg, "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\">{}</text>", escape(text));
    }

    fn rect(&mut self, x: usize, y: usize, width: usize, height: usize, rest: &str) {
        let _ = write!(self.svg, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" {rest}");
    }

    fn legend(&mut self) {
        for (place, (colour, name)) in [(OK, "ok"), (FAILED, "failed"), (UNKNOWN, "unknown")].into_iter().enumerate() {
            let x = LEFT + 420 + place * 90;
            self.rect(x, 10, 12, 12, &format!("fill=\"{colour}\"/>\n"));
            self.text(x + 16, 20, 11, name);
        }
    }

    /// Lines at round times.
    fn axis(&mut self, bottom: usize) {
        let seconds = self.scale.end_ns as f64 / 1e9;
        let steps = [1, 2, 5, 10, 30, 60, 120, 300, 600];
        let step = steps.into_iter().find(|step| seconds / f64::from(*step) <= 20.0).unwrap_or(1200);
        for at in (0..).map(|number: u64| number * u64::from(step as u32)).take_while(|at| *at as f64 <= seconds) {
            let x = LEFT + self.scale.column(at * 1_000_000_000);
            let _ = writeln!(
                self.svg,
                "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>",
                TOP - 6
            );
            self.text(x, bottom + 14, 10, &format!("{at} s"));
        }
    }

    /// Behind the operations, when there were faults.
    fn shades(&mut self, faults: &[FaultRecord], bottom: usize) {
        for fault in faults {
            let (from, to) = self.columns(fault);
            let rest = format!("fill=\"{}\" fill-opacity=\"0.10\"/>\n", colour(fault.kind, faults));
            self.rect(LEFT + from, TOP - 6, to - from, bottom - TOP + 6, &rest);
        }
    }

    fn columns(&self, fault: &FaultRecord) -> (usize, usize) {
        let from = self.scale.column(nanos(fault.from));
        (from, self.scale.column(nanos(fault.to)).max(from + 1))
    }

    fn row(&mut self, y: usize, name: &str, operations: &[&Operation]) {
        self.text(4, y + ROW - 3, 10, name);
        // Of what happened in a column, what tells most: nothing, ok, failed, unknown.
        let mut columns = vec![0_usize; COLUMNS];
        for operation in operations {
            let rank = match operation.outcome {
                Outcome::Ok(_) => 1,
                Outcome::Failed(_) => 2,
                Outcome::Unknown(_) => 3,
            };
            let (from, to) = (self.scale.column(operation.called_ns), self.scale.column(operation.ended_ns));
            columns[from..=to].iter_mut().for_each(|column| *column = rank.max(*column));
        }
        let mut x = LEFT;
        for run in columns.chunk_by(|one, other| one == other) {
            if run[0] > 0 {
                let colour = ["", OK, FAILED, UNKNOWN][run[0]];
                self.rect(x, y + 1, run.len(), ROW - 2, &format!("fill=\"{colour}\"/>\n"));
            }
            x += run.len();
        }
    }

    /// The median and the longest of each column, on a logarithmic scale.
    fn latencies(&mut self, top: usize, history: &History) {
        let mut columns = vec![Vec::new(); COLUMNS];
        for operation in history.operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Ok(_))) {
            columns[self.scale.column(operation.ended_ns)].push(operation.ended_ns - operation.called_ns);
        }
        let (least, most) = LATENCY_DECADES;
        let y = |took_ns: u64| {
            let decade = (took_ns as f64 / 1e6).max(1e-9).log10().clamp(least, most);
            top as f64 + LATENCY_HEIGHT as f64 * (most - decade) / (most - least)
        };
        for (ms, name) in [(1_000_000, "1 ms"), (100_000_000, "100 ms"), (10_000_000_000, "10 s")] {
            let at = y(ms);
            let end = LEFT + COLUMNS;
            let _ = writeln!(
                self.svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>"
            );
            self.text(LEFT - 48, at as usize + 4, 10, name);
        }
        self.text(4, top + 10, 10, "latency");
        self.text(4, top + 24, 10, "median, most");
        for (column, took) in columns.iter_mut().enumerate().filter(|(_, took)| !took.is_empty()) {
            took.sort_unstable();
            let (median, longest) = (y(took[took.len() / 2]), y(took[took.len() - 1]));
            let x = LEFT + column;
            let _ = writeln!(
                self.svg,
                "<line x1=\"{x}\" y1=\"{longest:.1}\" x2=\"{x}\" y2=\"{median:.1}\" stroke=\"#9db8d2\"/>\
                 <rect x=\"{x}\" y=\"{median:.1}\" width=\"1\" height=\"2\" fill=\"#1f4e79\"/>"
            );
        }
    }

    fn faults(&mut self, top: usize, faults: &[FaultRecord], lanes: &Lanes) {
        for (lane, name) in &lanes.nodes {
            self.text(4, top + lane * LANE + 11, 11, name);
        }
        for (number, lane) in &lanes.bars {
            let fault = &faults[*number];
            let (from, to) = self.columns(fault);
            let y = top + lane * LANE;
            let bite = if fault.bite.is_empty() { "it did not bite" } else { &fault.bite };
            let title =
                format!("{}, {:.1} s to {:.1} s: {bite}", fault.kind, fault.from.as_secs_f64(), fault.to.as_secs_f64());
            let opacity = if fault.bite.is_empty() { "0.35" } else { "0.85" };
            let fill = colour(fault.kind, faults);
            let rest = format!("fill=\"{fill}\" fill-opacity=\"{opacity}\"><title>{}</title></rect>\n", escape(&title));
            self.rect(LEFT + from, y, to - from, LANE - 2, &rest);
            self.name_of_bar(LEFT + from + 2, y + 10, to - from, fault.kind);
        }
    }

    /// As much of a name as fits on its bar.
    fn name_of_bar(&mut self, x: usize, y: usize, width: usize, name: &str) {
        const CHARACTER: usize = 6;
        let shown: String = name.chars().take(width / CHARACTER).collect();
        if shown.len() >= 3 || shown == name {
            let _ = writeln!(
                self.svg,
                "<text x=\"{x}\" y=\"{y}\" font-size=\"10\" fill=\"white\">{}</text>",
                escape(&shown)
            );
        }
    }
}

/// One colour for each kind, as far as they go.
fn colour(kind: &str, faults: &[FaultRecord]) -> &'static str {
    let kinds: BTreeSet<&str> = faults.iter().map(|fault| fault.kind).collect();
    let place = kinds.iter().position(|other| *other == kind).unwrap_or(0);
    FAULTS[place % FAULTS.len()]
}

/// Text as XML has it; what XML cannot hold at all is left out.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}

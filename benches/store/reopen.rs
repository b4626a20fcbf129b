//! How long a log of 1 GiB takes to open after its writer was killed, and how much memory it holds while open.
//!
//! Every step is a process of its own: one writes and is killed in the middle of it; each that opens the log starts
//! with no memory in use, and ends without closing it, as if killed again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use zraft::raft::{LogRead, LogReadPurpose};
use zraft::store::{Completion, DurableSink, Store, StoreError, StoreOptions};
use zraft::types::Index;

use super::judge::judge;
use super::subjects::{CACHE_BYTES, Rounds, Shape, options};

/// Data of entries in the log.
const LOG_BYTES: u64 = 1 << 30;

const MAX_OPEN: Duration = Duration::from_secs(5);

/// How many peers are read from, as followers that are behind do, twice, and how much at once. With many peers each
/// entry is in a round of its own, so this goes through many times the cache.
const READERS: usize = 8;
const READ_BYTES: usize = 64 << 10;

/// Few peers write long runs of entries; with many peers hardly any entry stands next to another of its peer.
const SHAPES: [Shape; 3] = [
    Shape { groups: 8, batch: 2048, entry_bytes: 1024 },
    Shape { groups: 8, batch: 8192, entry_bytes: 128 },
    Shape { groups: 512, batch: 512, entry_bytes: 128 },
];

/// Measures, prints, and returns whether the targets hold.
pub fn measure(dir: &Path) -> bool {
    let mut held = true;
    for shape in SHAPES {
        let dir = dir.join("log");
        let acknowledged = write_and_kill(&dir, shape);
        let file_bytes = fs::metadata(dir.join("log.redb")).unwrap().len();
        println!(
            "{} peers, entries of {} bytes: {acknowledged} acknowledged when killed",
            shape.groups, shape.entry_bytes
        );
        println!("the file has {} MiB", file_bytes >> 20);
        for cache in ["warm", "cold"] {
            if cache == "cold" {
                evict(&dir.join("log.redb"));
            }
            let found = reopen(&dir, shape);
            println!("{cache}: {found:?}");
            assert!(found.entries >= acknowledged, "entries that were acknowledged are lost");
            let growth = |kib: u64| kib.saturating_sub(found.idle_kib) as f64 / 1024.0;
            let peak = growth(found.open_peak_kib.max(found.read_peak_kib));
            held &=
                judge("opens in 5 s", found.open_ms as f64 / 1e3, " s", found.open_ms < MAX_OPEN.as_millis() as u64);
            held &= judge("holds at most the cache of 64 MiB", peak, " MiB", peak <= (CACHE_BYTES >> 20) as f64);
        }
        println!();
        fs::remove_dir_all(&dir).unwrap();
    }
    held
}

/// Returns how many entries were acknowledged.
fn write_and_kill(dir: &Path, shape: Shape) -> u64 {
    let mut child = me("write", dir, shape).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = lines.next().unwrap().unwrap().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged
}

fn reopen(dir: &Path, shape: Shape) -> Found {
    let output = me("reopen", dir, shape).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the log could not be opened");
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

fn me(mode: &str, dir: &Path, shape: Shape) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(mode).arg(dir).arg(shape.to_string());
    command
}

/// Makes the system forget a file's pages.
fn evict(path: &Path) {
    let input = format!("if={}", path.display());
    let status = Command::new("dd").args([&input, "iflag=nocache", "count=0"]).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
}

/// What a process that opens the log finds.
#[derive(Debug)]
struct Found {
    entries: u64,
    open_ms: u64,
    /// Resident memory before, at most while opening, and at most while it is read.
    idle_kib: u64,
    open_peak_kib: u64,
    read_peak_kib: u64,
}

impl FromStr for Found {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [entries, open_ms, idle_kib, open_peak_kib, read_peak_kib] = numbers[..] else {
            return Err(format!("not what was found: {text}"));
        };
        Ok(Self { entries, open_ms, idle_kib, open_peak_kib, read_peak_kib })
    }
}

/// The life of a process of a step.
pub fn child(step: &str, dir: &Path, shape: Shape) -> ! {
    if step == "write" {
        write_until_killed(dir, shape)
    }
    open_and_read(dir);
    // Not closed, so that the next to open it has to check all of it again.
    std::process::exit(0)
}

fn write_until_killed(dir: &Path, shape: Shape) -> ! {
    let mut rounds = Rounds::new(dir, shape);
    let entries = LOG_BYTES / shape.entry_bytes as u64;
    let mut acknowledged = 0;
    loop {
        rounds.fill();
        let before = acknowledged;
        acknowledged += rounds.wait() * shape.entries_per_write();
        if before < entries && acknowledged >= entries {
            println!("{acknowledged}");
        }
    }
}

fn open_and_read(dir: &Path) {
    let idle_kib = memory_kib("VmRSS");
    reset_peak();
    let started = Instant::now();
    let (store, peers) = Store::open(options(dir, StoreOptions::DEFAULT_MAX_SEGMENT_BYTES), Box::new(Ignore)).unwrap();
    let open_ms = started.elapsed().as_millis();
    let open_peak_kib = memory_kib("VmHWM");
    reset_peak();
    for peer in peers.iter().take(READERS) {
        let (base, last) = (peer.restored.base.index, peer.restored.last);
        for from in [base.next(), Index(base.0.midpoint(last.0))] {
            let read = LogRead { purpose: LogReadPurpose::Apply, from, to: last, max_bytes: READ_BYTES };
            store.read(peer.incarnation, &read).unwrap();
        }
    }
    let entries: u64 = peers.iter().map(|peer| peer.restored.last.0 - peer.restored.base.index.0).sum();
    let read_peak_kib = memory_kib("VmHWM");
    println!("{entries} {open_ms} {idle_kib} {open_peak_kib} {read_peak_kib}");
}

struct Ignore;

impl DurableSink for Ignore {
    fn durable(&mut self, _: Vec<Completion>) {}

    fn failed(&mut self, error: StoreError) {
        panic!("{error}");
    }
}

/// A line of `/proc/self/status`.
fn memory_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Lets `VmHWM` begin anew.
fn reset_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

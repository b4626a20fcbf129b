//! What is measured: the raw disk, the store, and redb with a row for each entry.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Database, Durability, TableDefinition};
use zraft::raft::{Configuration, Entry, Payload, Write, WriteToken};
use zraft::store::{Completion, DurableSink, FreshlyFilled, Store, StoreError, StoreOptions};
use zraft::types::{Incarnation, Index, Term};

/// Memory for a database's cache, as a node has it by default.
pub const CACHE_BYTES: usize = 64 << 20;

/// What a commit is made of: so many entries, dealt out evenly.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub groups: u64,
    /// Entries a commit, of all groups together.
    pub batch: u64,
    pub entry_bytes: usize,
}

impl Shape {
    /// Groups that have entries in one commit.
    pub fn writes(self) -> u64 {
        self.groups.min(self.batch)
    }

    /// Entries of one group in one commit.
    pub fn entries_per_write(self) -> u64 {
        self.batch / self.writes()
    }
}

/// As an argument of a process.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.groups, self.batch, self.entry_bytes)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Vec<u64> = text.split('/').filter_map(|number| number.parse().ok()).collect();
        match numbers[..] {
            [groups, batch, entry_bytes] => Ok(Self { groups, batch, entry_bytes: entry_bytes as usize }),
            _ => Err(format!("'{text}' is no shape")),
        }
    }
}

/// Commits and entries a second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub commits: f64,
    pub entries: f64,
}

impl Rate {
    fn new(commits: u64, entries: u64, elapsed: Duration) -> Self {
        let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
        Self { commits: per_second(commits), entries: per_second(entries) }
    }
}

/// The limit of the disk: one page is appended to a file and synced.
pub struct RawDisk(File);

impl RawDisk {
    pub fn new(dir: &Path) -> Self {
        Self(File::create(dir.join("raw")).unwrap())
    }

    pub fn run(&mut self, time: Duration) -> Rate {
        self.0.set_len(0).unwrap();
        self.0.rewind().unwrap();
        self.0.sync_all().unwrap();
        let (started, mut commits) = (Instant::now(), 0);
        while started.elapsed() < time {
            self.0.write_all(&[7; 4096]).unwrap();
            self.0.sync_data().unwrap();
            commits += 1;
        }
        Rate::new(commits, commits, started.elapsed())
    }
}

/// The store, driven as a node with always something to write drives it.
pub struct Rounds {
    store: Store,
    shape: Shape,
    durable: Receiver<Result<u64, StoreError>>,
    /// The index of the next entry of each group.
    next: Vec<u64>,
    token: u64,
    data: Bytes,
    /// The group whose turn it is.
    turn: u64,
    /// Writes that are asked for and not yet durable.
    waiting: u64,
}

struct Report(Sender<Result<u64, StoreError>>);

impl DurableSink for Report {
    fn durable(&mut self, completions: Vec<Completion>) {
        // Whoever no longer listens is done.
        let _ = self.0.send(Ok(completions.len() as u64));
    }

    fn failed(&mut self, error: StoreError) {
        let _ = self.0.send(Err(error));
    }
}

/// Commits that wait in the queue, so that the writer never does.
const QUEUED_COMMITS: u64 = 4;

impl Rounds {
    pub fn new(dir: &Path, shape: Shape) -> Self {
        let write_bytes = WAITING_WRITE_BYTES + shape.entries_per_write() as usize * entry_bytes(shape);
        // A round takes one batch and no more.
        let max_segment_bytes = shape.writes() as usize * write_bytes;
        let (sender, durable) = channel();
        let (store, _) = Store::open(options(dir, max_segment_bytes), Box::new(Report(sender))).unwrap();
        let mut rounds = Self {
            store,
            shape,
            durable,
            next: vec![2; shape.groups as usize],
            token: 0,
            data: vec![7; shape.entry_bytes].into(),
            turn: 0,
            waiting: 0,
        };
        for group in 0..shape.groups {
            let bootstrap = Write::bootstrap(Configuration::default(), 1_000);
            rounds.store.create_peer(Incarnation(group), Bytes::new(), bootstrap);
            rounds.waiting += 1;
        }
        rounds.drain();
        rounds
    }

    pub fn run(&mut self, time: Duration) -> Rate {
        let (started, mut commits, mut writes) = (Instant::now(), 0, 0);
        while started.elapsed() < time {
            self.fill();
            writes += self.wait();
            commits += 1;
        }
        let rate = Rate::new(commits, writes * self.shape.entries_per_write(), started.elapsed());
        self.drain();
        rate
    }

    /// Asks for as much as may wait.
    pub fn fill(&mut self) {
        while self.waiting < QUEUED_COMMITS * self.shape.writes() {
            self.write(self.shape.entries_per_write());
        }
    }

    /// Asks for a write of so many entries of the next group.
    pub fn write(&mut self, count: u64) {
        let next = &mut self.next[self.turn as usize];
        let entry = |index| {
            let payload = Payload::Data(self.data.clone());
            Entry { term: Term(1), index: Index(index), time_ms: 1_000 + index, payload }
        };
        let entries = (*next..*next + count).map(entry).collect();
        *next += count;
        self.token += 1;
        self.store.write(Incarnation(self.turn), Write { entries, ..Write::new(WriteToken(self.token)) });
        self.turn = (self.turn + 1) % self.shape.groups;
        self.waiting += 1;
    }

    /// Waits for one commit; returns how many writes were in it.
    pub fn wait(&mut self) -> u64 {
        let done = self.durable.recv().expect("the store is open").unwrap_or_else(|error| panic!("{error}"));
        self.waiting -= done;
        done
    }

    /// Waits until all that was asked for is durable.
    pub fn drain(&mut self) {
        while self.waiting > 0 {
            self.wait();
        }
    }
}

/// What a write takes beyond its entries when the store's queue is measured.
const WAITING_WRITE_BYTES: usize = 256;

fn entry_bytes(shape: Shape) -> usize {
    Entry::OVERHEAD_BYTES + shape.entry_bytes
}

pub fn options(dir: &Path, max_segment_bytes: usize) -> StoreOptions {
    StoreOptions {
        log_dir: dir.to_owned(),
        snapshot_dir: dir.join("snapshots"),
        node: "127.0.0.1:7400".parse().unwrap(),
        cache_bytes: CACHE_BYTES,
        max_segment_bytes,
        snapshot_backup_count: 0,
    }
}

/// The schema that comes to mind first: `(group, index) -> entry`. On the same storage as the store's database, and committed
/// on the caller's thread, which flatters it.
pub struct RowPerEntry {
    database: Database,
    shape: Shape,
    next: Vec<u64>,
    turn: u64,
    data: Vec<u8>,
}

const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");

impl RowPerEntry {
    pub fn new(path: &Path, shape: Shape) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let storage = FreshlyFilled::new(FileBackend::new(file).unwrap());
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(storage).unwrap();
        let data = vec![7; shape.entry_bytes];
        Self { database, shape, next: vec![1; shape.groups as usize], turn: 0, data }
    }

    pub fn run(&mut self, time: Duration) -> Rate {
        let (started, mut commits) = (Instant::now(), 0);
        while started.elapsed() < time {
            self.commit(self.shape.entries_per_write());
            commits += 1;
        }
        Rate::new(commits, commits * self.shape.batch, started.elapsed())
    }

    /// Commits so many entries of each group whose turn it is.
    pub fn commit(&mut self, count: u64) {
        let mut transaction = self.database.begin_write().unwrap();
        transaction.set_durability(Durability::Immediate).unwrap();
        {
            let mut table = transaction.open_table(ENTRIES).unwrap();
            for _ in 0..self.shape.writes() {
                let next = &mut self.next[self.turn as usize];
                for index in *next..*next + count {
                    table.insert((self.turn, index), self.data.as_slice()).unwrap();
                }
                *next += count;
                self.turn = (self.turn + 1) % self.shape.groups;
            }
        }
        transaction.commit().unwrap();
    }
}

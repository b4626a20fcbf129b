//! What clients have asked, when, and what came of it.
//!
//! Times are nanoseconds since the start of the run. An operation whose outcome is unknown stays open for ever: it may take
//! effect at any time after its call, once, or never. Its process number is not used again, so a process does one thing
//! after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Most events that are kept. A run of an hour has half as many; one that has more is not checked.
pub const MAX_EVENTS: usize = 1 << 20;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// `kv`, light sessions: put, get and compare-and-set on a handful of keys.
    Register,
    /// `bank`, light sessions: appends to lists, and reads of them.
    List,
    /// `counter`, sessions: increments that run exactly once.
    Counter,
    /// `bank`, sessions: transfers that are made exactly once.
    Bank,
    /// `kv`, sessions that end in every way, and light sessions that look what is left.
    Ephemeral,
    /// `kv`, sessions with triggers, and light sessions that change what they watch.
    Trigger,
}

impl Workload {
    pub const ALL: [Self; 6] = [Self::Register, Self::List, Self::Counter, Self::Bank, Self::Ephemeral, Self::Trigger];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::List => "list",
            Self::Counter => "counter",
            Self::Bank => "bank",
            Self::Ephemeral => "ephemeral",
            Self::Trigger => "trigger",
        }
    }
}

/// What was asked. Values that are written are never written twice in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    Get {
        key: u32,
    },
    Put {
        key: u32,
        value: u64,
    },
    /// Put `value` if the key has `expected`.
    CompareAndSet {
        key: u32,
        expected: u64,
        value: u64,
    },
    Append {
        list: u32,
        value: u64,
    },
    ReadList {
        list: u32,
    },
    /// Adds one.
    Increment,
    ReadCounter,
    Transfer {
        id: u64,
        from: u32,
        to: u32,
        amount: u64,
    },
    ReadBalances,
    /// All transfers ever made; at the end of a run.
    ReadLedger,
    /// Puts an ephemeral entry in a session.
    PutEphemeral {
        session: u64,
        key: u32,
    },
    /// Writes something in a session: that is done while the session lives, and never after.
    Live {
        session: u64,
    },
    Close {
        session: u64,
    },
    /// Looks for all ephemeral entries.
    Look,
    /// Changes what is watched.
    Change {
        key: u32,
        value: u64,
    },
    /// Reads a key in a session and arms a trigger on it.
    Watch {
        session: u64,
        key: u32,
    },
    /// Reads all watched keys in a session.
    ReadWatched {
        session: u64,
    },
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    /// The value of a key, if it has any; for a compare-and-set, what it found in place of what it expected.
    Value(Option<u64>),
    /// A list's length since it was appended to.
    Length(u64),
    List(Vec<u64>),
    /// A count: for an increment, since then.
    Count(u64),
    Moved {
        number: u64,
        left: u64,
        upgrades: u32,
        build: u32,
    },
    TooLittle {
        number: u64,
        left: u64,
        upgrades: u32,
        build: u32,
    },
    Balances {
        number: u64,
        balances: Vec<u64>,
        upgrades: u32,
        build: u32,
    },
    /// The log index since when a key has its value.
    Index(u64),
    /// Ephemeral entries, and whose they are.
    Owners(Vec<(u32, u64)>),
    /// A trigger, and the state on which it was armed.
    Armed {
        trigger: u64,
        index: u64,
    },
    /// The indexes of the last change of keys.
    Indexes(Vec<(u32, u64)>),
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok(Answer),
    /// It changed nothing, and will not.
    Failed(String),
    /// It may have taken effect, or may yet.
    Unknown(String),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub workload: Workload,
    /// Which client, for the picture.
    pub client: u32,
    pub process: u32,
    pub call: Call,
    pub called_ns: u64,
    /// When its client had the answer, or gave up.
    pub ended_ns: u64,
    pub outcome: Outcome,
}

/// What a session told by itself, or what its client did to it without waiting for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A trigger has fired. Whether it says that data has changed; otherwise it only may have.
    Fired {
        trigger: u64,
        data_changed: bool,
    },
    Suspended,
    Resumed,
    /// The cluster says that the session is over.
    Ended {
        how: String,
    },
    /// Its client went away without a word.
    Abandoned,
}

/// A notice of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionNotice {
    pub workload: Workload,
    pub client: u32,
    pub session: u64,
    pub at_ns: u64,
    pub notice: Notice,
}

/// All of a run, each part in the order in which it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub operations: Vec<Operation>,
    pub notices: Vec<SessionNotice>,
    /// More than [`MAX_EVENTS`] came, and the rest was not kept.
    pub is_cut: bool,
}

/// A line of a history's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Operation(Operation),
    Notice(SessionNotice),
    Cut,
}

impl History {
    /// The operations of one workload.
    pub fn of(&self, workload: Workload) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(move |operation| operation.workload == workload)
    }

    /// How many operations of each workload were called since a moment of the run and went well.
    #[must_use]
    pub fn successes_since(&self, at: Duration) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<_, _> = Workload::ALL.map(|workload| (workload.name().to_owned(), 0)).into();
        let since = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let succeeded =
            |operation: &&Operation| operation.called_ns >= since && matches!(operation.outcome, Outcome::Ok(_));
        for operation in self.operations.iter().filter(succeeded) {
            *counts.entry(operation.workload.name().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Writes it as lines of JSON.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut put = |line: Line| -> io::Result<()> {
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")
        };
        self.operations.iter().try_for_each(|operation| put(Line::Operation(operation.clone())))?;
        self.notices.iter().try_for_each(|notice| put(Line::Notice(notice.clone())))?;
        if self.is_cut {
            put(Line::Cut)?;
        }
        file.flush()
    }

    /// Reads what [`write`](Self::write) wrote, to check it again.
    ///
    /// # Errors
    /// Those of the file system, and lines that are not of a history.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut history = Self::default();
        for line in BufReader::new(File::open(path)?).lines() {
            match serde_json::from_str(&line?)? {
                Line::Operation(operation) => history.operations.push(operation),
                Line::Notice(notice) => history.notices.push(notice),
                Line::Cut => history.is_cut = true,
            }
        }
        Ok(history)
    }
}

/// Where clients record what they do.
#[derive(Clone)]
pub struct Recorder {
    start: Instant,
    history: Arc<Mutex<History>>,
}

impl Recorder {
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start, history: Arc::default() }
    }

    /// Now, as it is recorded.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn operation(&self, operation: Operation) {
        let mut history = self.history();
        if history.has_room() {
            history.operations.push(operation);
        }
    }

    pub fn notice(&self, notice: SessionNotice) {
        let mut history = self.history();
        if history.has_room() {
            history.notices.push(notice);
        }
    }

    /// All that was recorded.
    #[must_use]
    pub fn take(&self) -> History {
        std::mem::take(&mut self.history())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn has_room(&mut self) -> bool {
        self.is_cut |= self.operations.len() + self.notices.len() >= MAX_EVENTS;
        !self.is_cut
    }
}

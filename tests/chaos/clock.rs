//! A wall clock of its own for each node, by libfaketime, which the process is started with and which reads a file.
//!
//! Monotonic time, which timeouts are measured with, is the machine's.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian's package `faketime` puts it.
const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"];

/// The clock of one node.
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right. Its file is in that folder.
    pub fn new(folder: &Path, node: usize) -> Result<Self, String> {
        let library = LIBRARIES.iter().map(Path::new).find(|path| path.exists());
        let library = library.ok_or("libfaketime is needed for clocks that jump: install the package faketime")?;
        let clock = Self { library: library.to_owned(), file: folder.join(format!("clock-{node}")) };
        clock.set(0)?;
        Ok(clock)
    }

    /// Lets it go wrong by so many seconds from now on. The node notices within a second.
    pub fn set(&self, offset_seconds: i64) -> Result<(), String> {
        // A rename, since the node may read it at any time.
        let new = self.file.with_extension("new");
        let written = fs::write(&new, format!("{offset_seconds:+}\n")).and_then(|()| fs::rename(&new, &self.file));
        written.map_err(|error| format!("{}: {error}", self.file.display()))
    }

    /// What a process needs in its environment to have this clock.
    pub fn environment(&self) -> Vec<String> {
        vec![
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            // Times of files stay true, and processes share nothing in memory.
            "NO_FAKE_STAT=1".to_owned(),
            "FAKETIME_DISABLE_SHM=1".to_owned(),
        ]
    }
    /// What a process needs in its environment to be at another time from its start to its end, such as `-30d`.
    pub fn environment_at(&self, offset: &str) -> Vec<String> {
        vec![format!("LD_PRELOAD={}", self.library.display()), format!("FAKETIME={offset}")]
    }
}

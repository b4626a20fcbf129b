//! What the processes of nodes take, as Linux tells it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// Memory in use, in bytes.
    pub fn memory(self) -> u64 {
        self.status("VmRSS")
    }

    /// The most memory that was in use since [`forget_peak`](Self::forget_peak), in bytes.
    pub fn peak_memory(self) -> u64 {
        self.status("VmHWM")
    }

    pub fn forget_peak(self) {
        fs::write(self.path().join("clear_refs"), "5").unwrap();
    }

    /// The processor time of the whole process, threads that have ended included.
    pub fn time(self) -> Duration {
        /// What Linux counts in, everywhere.
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(self.path().join("stat")).unwrap();
        // The name may have spaces and ends with the last bracket; user and system time are the 14th and 15th of all.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        fields.skip(11).take(2).map(|ticks| TICK * ticks.parse::<u32>().unwrap()).sum()
    }

    /// The processor time of the threads whose names begin so.
    pub fn time_of(self, name: &str) -> Duration {
        let threads = fs::read_dir(self.path().join("task")).unwrap().map(|thread| thread.unwrap().path());
        // A thread may end meanwhile.
        let named =
            threads.filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|own| own.starts_with(name)));
        let nanoseconds = named.filter_map(|thread| {
            fs::read_to_string(thread.join("schedstat")).ok()?.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    fn status(self, name: &str) -> u64 {
        let status = fs::read_to_string(self.path().join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    fn path(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.0))
    }
}

//! What the host keeps of an instance: its limits, and the call under way as the guest may see it.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::limits::Limits;
use super::watchdog::Watched;
use crate::machine::Moment;
use crate::types::{ClusterId, Digest};

/// Longest line of a guest's output that is kept, in bytes. The rest of a line is dropped.
const MAX_LINE_BYTES: usize = 1024;

/// Most lines of output that a call may log. Further ones are dropped.
const MAX_LINES_PER_CALL: usize = 100;

/// How many of the last lines on standard error explain a fault: a panic's place and message.
const LAST_WORDS: usize = 4;

/// What a monotonic clock shows first. Go's runtime gives up at zero.
const MONOTONIC_START_NS: u64 = 1_000_000_000;

/// How far a monotonic clock moves each time it is looked at.
const MONOTONIC_STEP_NS: u64 = 1_000;

/// The data of an instance's store.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) limits: Limits,
    cluster: ClusterId,
    watched: Watched,
    call: Call,
    stdout: Lines,
    stderr: Lines,
}

/// One call. Everything here starts anew with each, so that what a guest sees does not depend on earlier calls.
#[derive(Debug)]
struct Call {
    at: Moment,
    monotonic_ns: u64,
    random: Option<ChaCha12Rng>,
    logged_lines: usize,
    last_words: Vec<String>,
}

impl Call {
    fn new(at: Moment) -> Self {
        let (logged_lines, last_words) = (0, Vec::new());
        Self { at, monotonic_ns: MONOTONIC_START_NS, random: None, logged_lines, last_words }
    }
}

impl Guest {
    pub(super) fn new(cluster: ClusterId, limits: Limits, watched: Watched) -> Self {
        let call = Call::new(Moment::default());
        Self { limits, cluster, watched, call, stdout: Lines::default(), stderr: Lines::default() }
    }

    pub(super) fn begin(&mut self, name: &'static str, at: Moment) {
        self.watched.begin(self.cluster, name, at);
        self.call = Call::new(at);
    }

    /// Logs lines that the call left unfinished.
    pub(super) fn end(&mut self) {
        self.watched.end();
        for line in [self.stdout.finish(), self.stderr.finish()].into_iter().flatten() {
            self.log(&line);
        }
    }

    /// What the call last said on standard error, and forgets it.
    pub(super) fn take_last_words(&mut self) -> Vec<String> {
        let unfinished = self.stderr.finish();
        let mut words = std::mem::take(&mut self.call.last_words);
        words.extend(unfinished);
        words
    }

    pub(super) fn print(&mut self, is_stderr: bool, bytes: &[u8]) {
        let lines = if is_stderr { self.stderr.feed(bytes) } else { self.stdout.feed(bytes) };
        for line in lines {
            self.log(&line);
            if is_stderr && !line.is_empty() {
                self.call.last_words.push(line);
                if self.call.last_words.len() > LAST_WORDS {
                    self.call.last_words.remove(0);
                }
            }
        }
    }

    fn log(&mut self, line: &str) {
        self.call.logged_lines += 1;
        let (cluster, index) = (self.cluster, self.call.at.index);
        match self.call.logged_lines {
            0..MAX_LINES_PER_CALL => tracing::info!(target: "zraft::backend", %cluster, index, "{line}"),
            MAX_LINES_PER_CALL => {
                tracing::info!(target: "zraft::backend", %cluster, index, "more lines of this call are dropped");
            }
            _ => {}
        }
    }

    pub(super) fn time_ms(&self) -> u64 {
        self.call.at.time_ms
    }

    pub(super) fn monotonic_ns(&mut self) -> u64 {
        let now = self.call.monotonic_ns;
        self.call.monotonic_ns += MONOTONIC_STEP_NS;
        now
    }

    pub(super) fn random_u64(&mut self) -> u64 {
        self.random().next_u64()
    }

    pub(super) fn random_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random().fill_bytes(&mut bytes);
        bytes
    }

    /// Seeds a guest's hash tables: the same for the whole life of a cluster.
    pub(super) fn hash_seed(&self) -> (u64, u64) {
        let mut rng = ChaCha12Rng::from_seed(self.seed(b"zraft hash seed", 0));
        (rng.next_u64(), rng.next_u64())
    }

    fn random(&mut self) -> &mut ChaCha12Rng {
        let seed = self.seed(b"zraft random", self.call.at.index);
        self.call.random.get_or_insert_with(|| ChaCha12Rng::from_seed(seed))
    }

    fn seed(&self, purpose: &[u8], index: u64) -> [u8; 32] {
        Digest::of(&[purpose, &self.cluster.0.to_le_bytes(), &index.to_le_bytes()].concat()).0
    }
}

/// Cuts a stream of output into lines.
#[derive(Debug, Default)]
struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        let mut finished = Vec::new();
        for part in parts {
            self.extend(part);
            finished.push(self.take());
        }
        self.extend(last);
        finished
    }

    fn finish(&mut self) -> Option<String> {
        (!self.unfinished.is_empty()).then(|| self.take())
    }

    fn extend(&mut self, part: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.unfinished.len());
        self.unfinished.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.unfinished);
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let mut guest = Guest::new(ClusterId(1), Limits::new(0), Watched::default());
        guest.begin("apply", Moment { index: 7, time_ms: 0 });
        guest
    }

    #[test]
    fn lines_are_put_together_and_bounded() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"one").is_empty());
        assert_eq!(lines.feed(b" two\r\nthree\n\xff"), ["one two", "three"]);
        assert_eq!(lines.finish().as_deref(), Some("\u{fffd}"));
        assert_eq!(lines.finish(), None);
        let long = [vec![b'x'; 3 * MAX_LINE_BYTES], vec![b'\n']].concat();
        assert_eq!(lines.feed(&long)[0].len(), MAX_LINE_BYTES);
    }

    #[test]
    fn the_last_words_are_the_last_lines_of_standard_error() {
        let mut guest = guest();
        guest.print(false, b"not this\n");
        (0..9).for_each(|number| guest.print(true, format!("line {number}\n").as_bytes()));
        guest.print(true, b"cut off");
        assert_eq!(guest.take_last_words(), ["line 5", "line 6", "line 7", "line 8", "cut off"]);
        assert!(guest.take_last_words().is_empty());
    }

    #[test]
    fn clocks_and_randomness_begin_anew_with_each_call() {
        let mut guest = guest();
        let mut look = |index| {
            guest.begin("apply", Moment { index, time_ms: 0 });
            (guest.monotonic_ns(), guest.monotonic_ns(), guest.random_u64(), guest.random_bytes(3))
        };
        assert_eq!(look(7), look(7));
        assert_ne!(look(7).2, look(8).2);
        assert!(0 < look(7).0 && look(7).0 < look(7).1);
    }

    #[test]
    fn hash_tables_are_seeded_by_the_cluster_alone() {
        let mut guest = guest();
        let seed = guest.hash_seed();
        guest.begin("apply", Moment { index: 8, time_ms: 9 });
        assert_eq!(guest.hash_seed(), seed);
        assert_ne!(Guest::new(ClusterId(2), Limits::new(0), Watched::default()).hash_seed(), seed);
    }
}

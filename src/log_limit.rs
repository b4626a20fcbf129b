//! Which of many lines that are alike go to the log: what others do wrong must not fill the disk with words about it.

/// Lines about one thing that are written in each [`PERIOD_MS`]; the others are counted.
const MAX_LINES: u32 = 10;
/// How long it takes until there is room for more, in milliseconds.
const PERIOD_MS: u64 = 10_000;
/// Things that are told apart. Those beyond share the room of one.
const MAX_KEYS: usize = 64;

/// Lets a bounded number of lines about each thing through. A key tells what a line is about: who did what.
///
/// - About one thing no more than ten lines come through within ten seconds, counted from the first.
/// - What it takes in memory is bounded, however many things there are.
/// - What did not come through is told with the next line that does.
#[derive(Clone, Debug)]
pub(crate) struct LogLimit<K> {
    windows: Vec<(K, Window)>,
    /// Of all for which there was no room.
    others: Window,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    begun_ms: u64,
    lines: u32,
    left_out: u64,
}

impl<K> Default for LogLimit<K> {
    fn default() -> Self {
        Self { windows: Vec::new(), others: Window::default() }
    }
}

impl<K: PartialEq> LogLimit<K> {
    /// Whether a line may be written now, and how many like it were not before. The clock may go back.
    pub(crate) fn admit(&mut self, key: K, now_ms: u64) -> Option<u64> {
        if let Some((_, window)) = self.windows.iter_mut().find(|(other, _)| *other == key) {
            return window.admit(now_ms);
        }
        if self.windows.len() >= MAX_KEYS {
            let over = self.windows.extract_if(.., |(_, window)| window.is_over(now_ms));
            self.others.left_out += over.map(|(_, window)| window.left_out).sum::<u64>();
        }
        if self.windows.len() >= MAX_KEYS {
            return self.others.admit(now_ms);
        }
        self.windows.push((key, Window { begun_ms: now_ms, lines: 1, left_out: 0 }));
        Some(0)
    }
}

impl Window {
    fn admit(&mut self, now_ms: u64) -> Option<u64> {
        if self.is_over(now_ms) {
            (self.begun_ms, self.lines) = (now_ms, 0);
        }
        if self.lines >= MAX_LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms.abs_diff(self.begun_ms) >= PERIOD_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_period_come_through_and_the_rest_is_counted() {
        let mut limit = LogLimit::default();
        let through = |limit: &mut LogLimit<_>, key, at| (0..1000).filter(|_| limit.admit(key, at).is_some()).count();
        assert_eq!(through(&mut limit, "a", 1), MAX_LINES as usize);
        assert_eq!(through(&mut limit, "b", 2), MAX_LINES as usize, "what another does counts apart");
        assert_eq!(limit.admit("a", PERIOD_MS), None, "the period is not over");
        assert_eq!(limit.admit("a", PERIOD_MS + 1), Some(1000 - u64::from(MAX_LINES) + 1));
        assert_eq!(limit.admit("a", PERIOD_MS + 1), Some(0), "they are told once");
        assert_eq!(limit.admit("b", 0), None);
    }

    #[test]
    fn a_clock_that_goes_back_keeps_nothing_silent_for_ever() {
        let mut limit = LogLimit::default();
        while limit.admit("a", 100 * PERIOD_MS).is_some() {}
        assert_eq!(limit.admit("a", 0), Some(1));
    }

    #[test]
    fn any_number_of_things_is_bounded_in_lines_and_memory() {
        let mut limit = LogLimit::default();
        let lines = (0..100_000_u64).filter(|key| limit.admit(*key, 1).is_some()).count();
        assert_eq!(lines, MAX_KEYS + MAX_LINES as usize);
        assert_eq!(limit.windows.len(), MAX_KEYS);
        assert_eq!(limit.admit(200_000, PERIOD_MS + 1), Some(0), "who was heard of long ago makes room");
        assert_eq!(limit.windows.len(), 1);
    }
}

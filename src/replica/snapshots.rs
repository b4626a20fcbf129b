//! When a snapshot of the own machine is due.
//!
//! One costs as much as the state is large: it is restored twice and written once. So it waits until the log has grown by a
//! share of the last one's size; then what snapshots cost a write is bounded, however large the state.

use std::collections::VecDeque;

use crate::raft::SnapshotMeta;
use crate::settings::Settings;
use crate::types::Index;

/// The snapshots of the own machine, and the log since.
pub(super) struct Snapshots {
    /// The last entry of the latest, durable or being written.
    pub(super) at: Index,
    /// Set if somebody needs a later one than this, soon.
    pub(super) wanted_after: Option<Index>,
    /// Set if one is wanted so that the machine can be made again soon.
    is_wanted_for_rest: bool,
    /// What the latest durable one takes. None while the machine is being restored from one.
    size_bytes: Option<u64>,
    /// How much log there was before that, as [`Feed::log_bytes`](super::feed::Feed::log_bytes) counts.
    log_bytes: u64,
    /// How much log there was before the latest that was begun.
    begun_bytes: u64,
    /// How many could not be written since the last that was.
    failures: u32,
    writing: Option<Writing>,
    marks: Marks,
}

/// How much log there was before some snapshots, oldest first. They tell how far back the log may be kept for followers.
struct Marks(VecDeque<(Index, u64)>);

/// Why a snapshot is due.
pub(super) enum Due {
    /// The log has grown enough.
    Log,
    /// Somebody's state is to be replaced.
    Wanted,
}

/// One that is being written.
struct Writing {
    /// How much log there was before it.
    log_bytes: u64,
    /// It is of a state that was replaced since.
    is_void: bool,
}

impl Snapshots {
    /// Log after which a snapshot is due whatever its size: it must be read when the machine is made again, and has its
    /// place on the disk.
    pub(super) const MAX_LOG_BYTES: u64 = 1 << 30;

    /// Log after which `max_log_count` is not waited for: entries may be large.
    pub(super) const FEW_ENTRIES_BYTES: u64 = 64 << 20;

    /// The most log that is kept behind a snapshot for followers that need it: those that are being sent an older snapshot, or
    /// are catching up. One that needs more gets another snapshot.
    pub(super) const MAX_HELD_LOG_BYTES: u64 = 1 << 30;

    /// So much log takes no longer to apply than a snapshot takes to be restored.
    pub(super) const NEAR_ENTRIES: u64 = 100;
    pub(super) const NEAR_BYTES: u64 = 64 << 10;

    /// How often the wait for the next attempt doubles at most.
    pub(super) const MAX_DOUBLINGS: u32 = 6;

    /// The machine is to be restored from this one, or begins.
    pub(super) fn new(latest: Option<&SnapshotMeta>) -> Self {
        Self {
            at: latest.map_or(Index::ZERO, |meta| meta.position.index),
            wanted_after: None,
            is_wanted_for_rest: false,
            size_bytes: latest.is_none().then_some(0),
            log_bytes: 0,
            begun_bytes: 0,
            failures: 0,
            writing: None,
            marks: Marks::new(latest.map_or(Index::ZERO, |meta| meta.position.index)),
        }
    }

    /// The machine is to be restored from one of elsewhere.
    pub(super) fn install(&mut self, meta: &SnapshotMeta) {
        (self.at, self.size_bytes, self.failures) = (meta.position.index, None, 0);
        (self.log_bytes, self.begun_bytes) = (0, 0);
        self.marks = Marks::new(self.at);
        self.writing.iter_mut().for_each(|writing| writing.log_bytes = 0);
    }

    /// The machine is that of a snapshot of this size.
    pub(super) fn restored(&mut self, size_bytes: u64) {
        self.size_bytes = Some(size_bytes);
    }

    /// What the latest durable one takes; none while the machine is being restored from one.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// What is being written does not count any more.
    pub(super) fn void(&mut self) {
        self.writing.iter_mut().for_each(|writing| writing.is_void = true);
    }

    /// Why one of the state after entry `at`, with so much log before it, is to be written now, if it is.
    pub(super) fn due(&self, at: Index, log_bytes: u64, settings: &Settings) -> Option<Due> {
        if self.writing.is_some() {
            return None;
        }
        let since_last = at.0 - self.at.0;
        if self.wanted_after.is_some_and(|after| at > after && since_last > 0) {
            return Some(Due::Wanted);
        }
        if self.is_wanted_for_rest && since_last > 0 {
            return Some(Due::Log);
        }
        let doublings = self.failures.saturating_sub(1).min(Self::MAX_DOUBLINGS);
        let is_many = since_last >= settings.max_log_count.saturating_mul(1 << doublings);
        // A machine that was rewound may be before the one that was begun last.
        let is_much = log_bytes.saturating_sub(self.begun_bytes) >= Self::FEW_ENTRIES_BYTES << doublings;
        ((is_many || is_much) && self.has_log_for_another(log_bytes, settings)).then_some(Due::Log)
    }

    /// Whether somebody waits for one.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted_after.is_some()
    }

    /// Whether one is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether the state after entry `at`, with so much log before it, is soon made again from the latest.
    pub(super) fn is_near(&self, at: Index, log_bytes: u64) -> bool {
        let is_there = self.failures == 0 && self.size_bytes.is_some();
        let entries = at.0.saturating_sub(self.at.0);
        is_there && entries <= Self::NEAR_ENTRIES && log_bytes.saturating_sub(self.log_bytes) <= Self::NEAR_BYTES
    }

    /// One is wanted, though no log demands it. Where the last could not be made, no other is tried for that.
    pub(super) fn want(&mut self) {
        self.is_wanted_for_rest = self.failures == 0;
    }

    fn has_log_for_another(&self, log_bytes: u64, settings: &Settings) -> bool {
        let Some(size_bytes) = self.size_bytes else { return false };
        let share_bytes = u128::from(size_bytes) * u128::from(settings.min_log_percent) / 100;
        u128::from(log_bytes - self.log_bytes) >= share_bytes.min(Self::MAX_LOG_BYTES.into())
    }

    /// One of the state after entry `at` is being written.
    pub(super) fn begin(&mut self, at: Index, log_bytes: u64) {
        (self.at, self.begun_bytes, self.is_wanted_for_rest) = (at, log_bytes, false);
        self.writing = Some(Writing { log_bytes, is_void: false });
    }

    /// What was being written is durable. Returns whether it counts.
    pub(super) fn taken(&mut self, at: Index, size_bytes: u64) -> bool {
        let Some(Writing { log_bytes, is_void }) = self.writing.take() else { return false };
        // One from elsewhere may have come meanwhile.
        if self.at == at && !is_void {
            (self.size_bytes, self.log_bytes, self.failures) = (Some(size_bytes), log_bytes, 0);
            self.marks.add(at, log_bytes);
        }
        !is_void
    }

    /// The entry behind which the log may be kept for followers.
    pub(super) fn floor(&self) -> Index {
        self.marks.floor()
    }

    /// What was being written could not be. The log since the last one has its share already, so it is tried again after
    /// as much more log as makes one due, then twice as much each time: a backend that can make none would keep a processor busy.
    pub(super) fn failed(&mut self) {
        self.writing = None;
        self.failures = self.failures.saturating_add(1);
    }
}

impl Marks {
    /// Marks are no closer than this, so that they are few.
    const STEP_BYTES: u64 = Snapshots::MAX_HELD_LOG_BYTES / 64;

    /// The log counts from this entry.
    fn new(at: Index) -> Self {
        Self(VecDeque::from([(at, 0)]))
    }

    /// There is a snapshot with so much log before it. Marks that are too far back go.
    fn add(&mut self, at: Index, log_bytes: u64) {
        let is_near = |mark: &(Index, u64)| log_bytes.saturating_sub(mark.1) <= Snapshots::MAX_HELD_LOG_BYTES;
        while self.0.pop_front_if(|mark| !is_near(mark)).is_some() {}
        if self.0.back().is_none_or(|(_, last_bytes)| log_bytes.saturating_sub(*last_bytes) >= Self::STEP_BYTES) {
            self.0.push_back((at, log_bytes));
        }
    }

    fn floor(&self) -> Index {
        self.0.front().map_or(Index::ZERO, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_for_followers_up_to_a_bound() {
        let mut marks = Marks::new(Index(7));
        let step = Marks::STEP_BYTES;
        for count in 1..=64 {
            marks.add(Index(7 + 2 * count - 1), count * step - step / 2);
            marks.add(Index(7 + 2 * count), count * step);
        }
        assert_eq!(marks.floor(), Index(7), "just within the bound");
        marks.add(Index(200), 65 * step);
        assert_eq!(marks.floor(), Index(9));
        assert!(marks.0.len() <= 65, "{}", marks.0.len());
        marks.add(Index(300), 1000 * step);
        assert_eq!(marks.floor(), Index(300), "all before is too far back");
    }

    #[test]
    fn however_large_a_snapshot_is_the_log_is_bounded() {
        let settings = Settings { max_log_count: 1, ..Settings::default() };
        let mut snapshots = Snapshots::new(None);
        snapshots.begin(Index(1), 100);
        assert!(snapshots.taken(Index(1), u64::MAX));
        let is_due = |log_bytes| snapshots.due(Index(2), 100 + log_bytes, &settings).is_some();
        assert!(!is_due(Snapshots::MAX_LOG_BYTES - 1));
        assert!(is_due(Snapshots::MAX_LOG_BYTES));
    }

    #[test]
    fn a_few_large_entries_are_enough() {
        let mut snapshots = Snapshots::new(None);
        let settings = Settings::default();
        let is_due = |snapshots: &Snapshots, at, log_bytes| snapshots.due(Index(at), log_bytes, &settings).is_some();
        let much = Snapshots::FEW_ENTRIES_BYTES;
        assert!(!is_due(&snapshots, 9, much - 1));
        assert!(is_due(&snapshots, 9, much));
        // So they are after one that failed.
        snapshots.begin(Index(9), much);
        snapshots.failed();
        assert!(!is_due(&snapshots, 18, 2 * much - 1));
        assert!(is_due(&snapshots, 18, 2 * much));
        snapshots.begin(Index(18), 2 * much);
        snapshots.failed();
        assert!(!is_due(&snapshots, 36, 4 * much - 1), "and then after twice as many");
        assert!(is_due(&snapshots, 36, 4 * much));
        assert!(!is_due(&snapshots, 36, much), "the machine was rewound");
    }

    #[test]
    fn who_fails_again_and_again_is_asked_ever_more_rarely() {
        let settings = Settings { max_log_count: 10, min_log_percent: 0, ..Settings::default() };
        let mut snapshots = Snapshots::new(None);
        let mut waits = Vec::new();
        let mut at = 0;
        let mut wait = |snapshots: &mut Snapshots| {
            let before = at;
            at = (at..).find(|at| snapshots.due(Index(*at), 0, &settings).is_some()).expect("due one day");
            snapshots.begin(Index(at), 0);
            at - before
        };
        for _ in 0..=Snapshots::MAX_DOUBLINGS + 2 {
            waits.push(wait(&mut snapshots));
            snapshots.failed();
        }
        assert_eq!(waits, [10, 10, 20, 40, 80, 160, 320, 640, 640]);
        assert_eq!(wait(&mut snapshots), 640);
        assert!(snapshots.taken(snapshots.at, 0));
        assert_eq!(wait(&mut snapshots), 10, "it works again");
    }
}

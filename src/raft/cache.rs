//! The newest entries of the log in memory, so that replicating and applying rarely read the disk.

use std::collections::VecDeque;

use crate::raft::Entry;
use crate::types::Index;

/// A run of entries without gaps that ends with the log's last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Cache {
    /// The index of the first entry held, if any.
    pub(super) fn first(&self) -> Option<Index> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Adds the entry after the last.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.size_bytes();
        self.entries.push_back(entry);
    }

    /// Forgets entries from `from` on.
    pub(super) fn truncate_from(&mut self, from: Index) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.index >= from) {
            self.bytes -= entry.size_bytes();
        }
    }

    /// Forgets entries up to `through`.
    pub(super) fn discard_through(&mut self, through: Index) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= through) {
            self.bytes -= entry.size_bytes();
        }
    }

    /// Forgets the oldest durable entries until the rest fits `max_bytes`.
    pub(super) fn shrink(&mut self, max_bytes: usize, stable: Index) {
        while self.bytes > max_bytes {
            let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= stable) else { return };
            self.bytes -= entry.size_bytes();
        }
    }

    /// Entries from `from` to at most `to` that together fit `max_bytes`, at least one if there is any. None when
    /// `from` is older than what is held.
    pub(super) fn range(&self, from: Index, to: Index, max_bytes: usize) -> Option<Vec<Entry>> {
        let skip = from.0.checked_sub(self.first()?.0)?;
        let wanted = self.entries.iter().skip(usize::try_from(skip).ok()?).take_while(|entry| entry.index <= to);
        Some(within(wanted, max_bytes).cloned().collect())
    }
}

/// The leading entries that together fit `max_bytes`, at least one if there is any.
pub(super) fn within<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    max_bytes: usize,
) -> impl Iterator<Item = &'a Entry> {
    let mut bytes = 0;
    entries.take_while(move |entry| {
        let is_first = bytes == 0;
        bytes += entry.size_bytes();
        is_first || bytes <= max_bytes
    })
}

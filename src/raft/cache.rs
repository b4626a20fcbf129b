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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::raft::Payload;
    use crate::types::Term;

    fn entry(index: u64) -> Entry {
        let data = Bytes::from(vec![0; index as usize]);
        Entry { term: Term(1), index: Index(index), time_ms: 0, payload: Payload::Data(data) }
    }

    fn held(cache: &Cache) -> Vec<u64> {
        assert_eq!(cache.bytes, cache.entries.iter().map(Entry::size_bytes).sum::<usize>(), "the account is right");
        cache.entries.iter().map(|entry| entry.index.0).collect()
    }

    #[test]
    fn its_bytes_are_those_of_its_entries_whatever_is_forgotten() {
        let mut cache = Cache::default();
        (1..=9).for_each(|index| cache.push(entry(index)));
        assert_eq!(held(&cache), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        cache.discard_through(Index(2));
        assert_eq!(held(&cache), [3, 4, 5, 6, 7, 8, 9]);
        cache.truncate_from(Index(9));
        assert_eq!(held(&cache), [3, 4, 5, 6, 7, 8]);
        let fits = entry(7).size_bytes() + entry(8).size_bytes();
        cache.shrink(fits, Index(5));
        assert_eq!(held(&cache), [6, 7, 8], "what is not durable yet stays");
        cache.shrink(fits, Index(8));
        assert_eq!(held(&cache), [7, 8], "and what fits");
        assert_eq!(cache.first(), Some(Index(7)));
    }

    #[test]
    fn a_range_begins_where_it_is_asked_to_or_is_not_there() {
        let mut cache = Cache::default();
        assert_eq!(cache.range(Index(1), Index(1), usize::MAX), None);
        (4..=8).for_each(|index| cache.push(entry(index)));
        let indexes = |from, to, max_bytes| {
            let range = cache.range(Index(from), Index(to), max_bytes)?;
            Some(range.iter().map(|entry| entry.index.0).collect::<Vec<_>>())
        };
        assert_eq!(indexes(3, 8, usize::MAX), None);
        assert_eq!(indexes(4, 6, usize::MAX), Some(vec![4, 5, 6]));
        let two = entry(5).size_bytes() + entry(6).size_bytes();
        assert_eq!(indexes(5, 8, two), Some(vec![5, 6]));
        assert_eq!(indexes(5, 8, two - 1), Some(vec![5]));
        assert_eq!(indexes(5, 8, 1), Some(vec![5]), "one at least");
        assert_eq!(indexes(9, 9, 1), Some(Vec::new()));
    }
}

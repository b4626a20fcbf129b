//! The account of what is on its way and bounded: appends to a follower, proposals to their commitment, entries to the
//! machine.

use std::collections::VecDeque;

use crate::types::Index;

/// Things on their way, by the index that ends them, and their bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Inflights {
    parts: VecDeque<(Index, usize)>,
    bytes: usize,
}

impl Inflights {
    pub(super) fn add(&mut self, last: Index, bytes: usize) {
        self.parts.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Everything that ends at or before `index` has arrived.
    pub(super) fn release_through(&mut self, index: Index) {
        while let Some((_, bytes)) = self.parts.pop_front_if(|(last, _)| *last <= index) {
            self.bytes -= bytes;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inflights_count_messages_and_bytes_until_released() {
        let mut inflights = Inflights::default();
        (1..=3).for_each(|index| inflights.add(Index(index * 10), 5));
        inflights.release_through(Index(19));
        assert_eq!((inflights.count(), inflights.bytes()), (2, 10));
        inflights.release_through(Index(30));
        assert_eq!((inflights.count(), inflights.bytes()), (0, 0));
    }
}

//! The durable side of a peer as Raft sees it: what a store gives back at start, and the store of tests and
//! simulations.

use crate::raft::{Configuration, Entry, HardState, Payload, SnapshotMeta, Write};
use crate::types::{Index, LogPosition, Term};

/// What a peer finds when it starts: everything Raft needs but the entries themselves, which stay in the store.
///
/// A store makes it by replaying its writes through [`Restored::replay`]; so all stores agree on what a
/// [`Write`] means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Term, vote and a lower bound of the commit index.
    pub hard_state: HardState,
    /// The latest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The position just before the first entry of the log.
    pub base: LogPosition,
    /// The last entry's index; equals `base.index` when the log is empty.
    pub last: Index,
    /// The last entry's time, or that of the position before an empty log.
    pub last_time_ms: u64,
    /// Where in the log each term begins, oldest first.
    pub terms: Vec<LogPosition>,
    /// The configurations in the log and where they stand, oldest first.
    pub configurations: Vec<(Index, Configuration)>,
}

/// A write that does not fit the state it is applied to. A store that finds one while it opens is damaged; one that
/// is asked for it is driven wrongly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWrite {
    /// Entries that do not follow the last one.
    #[error("entry {found} cannot follow entry {last}")]
    Gap {
        /// The last index in the log.
        last: Index,
        /// The index of the entry that should have followed.
        found: Index,
    },
}

impl Restored {
    /// Applies one write.
    ///
    /// # Errors
    /// [`InvalidWrite`]; the state is then undefined and must not be used.
    pub fn replay(&mut self, write: &Write) -> Result<(), InvalidWrite> {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(base) = write.discard_through {
            self.discard_through(base);
        }
        if let Some(from) = write.truncate_from {
            self.truncate_from(from);
        }
        write.entries.iter().try_for_each(|entry| self.append(entry))
    }

    fn discard_through(&mut self, base: LogPosition) {
        let term_after = self.term_at(base.index.next());
        self.terms.retain(|start| start.index > base.index);
        if let Some(term) = term_after {
            let start = LogPosition::new(term, base.index.next());
            if self.terms.first().is_none_or(|first| first.index > start.index) {
                self.terms.insert(0, start);
            }
        }
        self.configurations.retain(|(index, _)| *index > base.index);
        self.base = base;
        self.last = self.last.max(base.index);
        self.take_time_of_base();
    }

    fn truncate_from(&mut self, from: Index) {
        self.terms.retain(|start| start.index < from);
        self.configurations.retain(|(index, _)| *index < from);
        self.last = self.last.min(from.prev()).max(self.base.index);
        self.take_time_of_base();
    }

    /// An empty log takes the time of the snapshot it follows. (A truncation that leaves entries is followed by an
    /// append in the same write, which brings its own time.)
    fn take_time_of_base(&mut self) {
        let at_base = self.snapshot.as_ref().filter(|snapshot| snapshot.position == self.base);
        if let (true, Some(snapshot)) = (self.last == self.base.index, at_base) {
            self.last_time_ms = snapshot.time_ms;
        }
    }

    fn append(&mut self, entry: &Entry) -> Result<(), InvalidWrite> {
        if entry.index != self.last.next() {
            return Err(InvalidWrite::Gap { last: self.last, found: entry.index });
        }
        if self.terms.last().is_none_or(|start| start.term != entry.term) {
            self.terms.push(entry.position());
        }
        if let Payload::Membership(configuration) = &entry.payload {
            self.configurations.push((entry.index, configuration.clone()));
        }
        self.last = entry.index;
        self.last_time_ms = entry.time_ms;
        Ok(())
    }

    /// The term of the entry at `index`, if the log holds it or it is the base.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|start| start.index <= index);
        Some(self.terms[run - 1].term)
    }
}

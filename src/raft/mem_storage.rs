//! The store of tests and simulations.

use std::collections::BTreeMap;

use crate::raft::{Entry, InvalidWrite, LogRead, Restored, Write};
use crate::types::Index;

/// One peer's durable state in memory, for tests and simulations.
#[derive(Clone, Debug, Default)]
pub struct MemStorage {
    restored: Restored,
    entries: BTreeMap<Index, Entry>,
}

impl MemStorage {
    /// Makes a write durable.
    ///
    /// # Errors
    /// [`InvalidWrite`]; the storage must not be used any more.
    pub fn write(&mut self, write: &Write) -> Result<(), InvalidWrite> {
        self.restored.replay(write)?;
        if let Some(base) = write.discard_through {
            self.entries = self.entries.split_off(&base.index.next());
        }
        if let Some(from) = write.truncate_from {
            self.entries.split_off(&from);
        }
        self.entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
        Ok(())
    }

    /// Answers a [`LogRead`]. Empty when the first entry wanted is gone.
    #[must_use]
    pub fn read(&self, read: &LogRead) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for (expected, (index, entry)) in (read.from.0..=read.to.0).zip(self.entries.range(read.from..)) {
            if index.0 != expected || bytes > read.max_bytes {
                break;
            }
            bytes += entry.size_bytes();
            found.push(entry.clone());
        }
        found
    }

    /// What a peer that starts on this storage finds.
    #[must_use]
    pub fn restored(&self) -> Restored {
        self.restored.clone()
    }

    /// The same, to look at.
    #[must_use]
    pub fn state(&self) -> &Restored {
        &self.restored
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }
}

//! What readers see: the rounds as of a commit together with the index of that same commit.
//!
//! Readers take the lock only to copy locations and a reference to the table; they read without it. The writer
//! takes it after each commit, to replace the table and change the index in one step. So a location always leads into
//! a table that has it, also while a purge moves entries; and no lock is held while a disk is waited for. A lock rather
//! than anything cleverer, because it is held for microseconds and there is one writer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::StoreError;
use super::database::{self, RoundsTable};
use super::format::{self, Damage, Location};
use super::group_log::GroupLog;
use super::index::Ledger;
use super::rounds::Change;
use crate::raft::{Entry, LogRead};
use crate::types::{Incarnation, Index};

/// Shared by the writer thread and all readers.
pub(super) struct View {
    path: PathBuf,
    current: RwLock<Current>,
}

struct Current {
    /// `None` once the store is closed.
    table: Option<Arc<RoundsTable>>,
    groups: BTreeMap<Incarnation, GroupLog>,
}

impl View {
    pub(super) fn new(path: PathBuf, table: RoundsTable, groups: BTreeMap<Incarnation, GroupLog>) -> Self {
        Self { path, current: RwLock::new(Current { table: Some(Arc::new(table)), groups }) }
    }

    /// Reads entries.
    pub(super) fn read(&self, incarnation: Incarnation, read: &LogRead) -> Result<Vec<Entry>, StoreError> {
        let (table, locations) = self.locate(incarnation, read)?;
        let mut entries = Vec::with_capacity(locations.len());
        let mut size_bytes = 0;
        let mut row = None;
        for (location, expected) in locations.into_iter().zip(read.from.0..) {
            let damaged = |reason: String| database::damaged(&self.path, location.seq, Damage::Content(reason));
            let value = match row.take() {
                Some((seq, value)) if seq == location.seq => value,
                _ => database::round(&table, &self.path, location.seq)?,
            };
            let bytes = location.slice(value.value()).ok_or_else(|| damaged("it is cut short".to_owned()))?;
            let entry = format::decode_entry(bytes).map_err(damaged)?;
            if entry.index != Index(expected) {
                return Err(damaged(format!("entry {} is in the place of {expected}", entry.index)));
            }
            row = Some((location.seq, value));
            size_bytes += entry.size_bytes();
            entries.push(entry);
            if size_bytes > read.max_bytes {
                break;
            }
        }
        Ok(entries)
    }

    fn locate(
        &self,
        incarnation: Incarnation,
        read: &LogRead,
    ) -> Result<(Arc<RoundsTable>, Vec<Location>), StoreError> {
        let current = self.read_lock();
        let table = current.table.as_ref().ok_or(StoreError::Closed)?;
        let group = current.groups.get(&incarnation).ok_or(StoreError::UnknownPeer(incarnation))?;
        // Every entry counts for at least its overhead, so more than these are never returned.
        let limit = read.max_bytes / Entry::OVERHEAD_BYTES + 1;
        let locations = group.range(read.from, read.to, limit);
        if locations.is_empty() {
            let (from, first, last) = (read.from, group.first(), group.last());
            return Err(StoreError::NotInLog { incarnation, from, first, last });
        }
        Ok((Arc::clone(table), locations))
    }

    /// Where an entry is.
    pub(super) fn location(&self, incarnation: Incarnation, index: Index) -> Option<Location> {
        self.read_lock().groups.get(&incarnation)?.get(index)
    }

    /// Moves on to the commit of round `seq`, with what it changed, and keeps the accounts.
    pub(super) fn advance(&self, table: RoundsTable, seq: u64, changes: &[Change], ledger: &mut Ledger) {
        let mut current = self.write_lock();
        current.table = Some(Arc::new(table));
        for change in changes {
            current.apply(seq, change, ledger);
        }
    }

    /// Lets go of the database.
    pub(super) fn close(&self) {
        self.write_lock().table = None;
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Current> {
        // A writer that panicked has stopped the store; what it left is not used for anything but reading.
        self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Current {
    fn apply(&mut self, seq: u64, change: &Change, ledger: &mut Ledger) {
        match change {
            Change::State { incarnation, size_bytes } => {
                self.groups.entry(*incarnation).or_default();
                ledger.set_header(*incarnation, seq, *size_bytes);
            }
            Change::Moved { incarnation, entries } => {
                let group = self.groups.get_mut(incarnation).expect("only known peers are moved");
                group.relocate(entries, |location| ledger.remove_entry(location));
                entries.iter().for_each(|(_, location)| ledger.add_entry(*location));
            }
            Change::Written { incarnation, discard, truncate, appended } => {
                let group = self.groups.get_mut(incarnation).expect("only known peers are written");
                if let Some(base) = *discard {
                    group.discard_through(base, |location| ledger.remove_entry(location));
                }
                if let Some(from) = *truncate {
                    group.truncate_from(from, |location| ledger.remove_entry(location));
                }
                appended.iter().for_each(|location| ledger.add_entry(*location));
                group.append(appended);
            }
            Change::Removed { incarnation } => {
                let group = self.groups.remove(incarnation).unwrap_or_default();
                group.locations().for_each(|location| ledger.remove_entry(location));
                ledger.remove_header(*incarnation);
            }
        }
    }
}

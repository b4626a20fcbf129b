//! Rebuilds the state of every peer, the index and the accounts from the rounds, oldest first.
//!
//! Purging makes the order of entries in the rounds differ from that of the log: a peer's early entries may stand in a
//! later round than those that follow them. So locations are collected with gaps, which moved entries fill. A peer's
//! state begins with the first record that holds all of it; records before that one only tell where entries are.

use std::collections::BTreeMap;

use super::format::{Header, Location, Record};
use super::index::{GroupLog, Ledger};
use crate::raft::{Entry, Restored, Write, WriteToken};
use crate::types::{Incarnation, Index};

/// What the writer knows of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) record: bytes::Bytes,
    pub(super) restored: Restored,
}

/// What the rounds add up to.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) peers: BTreeMap<Incarnation, Peer>,
    pub(super) groups: BTreeMap<Incarnation, GroupLog>,
    pub(super) ledger: Ledger,
}

/// Takes in rounds, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    ledger: Ledger,
    found: BTreeMap<Incarnation, Found>,
}

#[derive(Debug, Default)]
struct Found {
    peer: Option<Peer>,
    locations: BTreeMap<Index, Location>,
}

impl Recovery {
    /// Starts with the key of the oldest round, or of the first when there is none yet.
    pub(super) fn new(first_seq: u64) -> Self {
        Self { ledger: Ledger::new(first_seq), ..Self::default() }
    }

    /// Takes in the next round.
    ///
    /// # Errors
    /// The reason why it cannot follow the rounds before it.
    pub(super) fn round(&mut self, seq: u64, size_bytes: u64, records: Vec<Record>) -> Result<(), String> {
        if seq != self.ledger.next_seq() {
            return Err(format!("round {} before it is missing", self.ledger.next_seq()));
        }
        self.ledger.add_round(size_bytes);
        records.into_iter().try_for_each(|record| self.record(seq, record))
    }

    fn record(&mut self, seq: u64, record: Record) -> Result<(), String> {
        let Record { incarnation, header, header_bytes, entries } = record;
        let found = self.found.entry(incarnation).or_default();
        let applied = match header {
            Header::Remove => {
                self.found.remove(&incarnation);
                self.ledger.remove_header(incarnation);
                return Ok(());
            }
            Header::Create { record } => {
                self.ledger.set_header(incarnation, seq, header_bytes);
                found.create(Peer { record, restored: Restored::default() })
            }
            Header::Moved { record, restored } => {
                self.ledger.set_header(incarnation, seq, header_bytes);
                found.moved(Peer { record, restored }, entries)
            }
            Header::Write { hard_state, snapshot, discard_through, truncate_from } => {
                let (entries, locations): (Vec<Entry>, _) = entries.into_iter().unzip();
                let token = WriteToken::default();
                found.write(&Write { token, hard_state, snapshot, discard_through, truncate_from, entries }, locations)
            }
        };
        applied.map_err(|reason| format!("peer {incarnation}: {reason}"))
    }

    /// The end of the rounds.
    ///
    /// # Errors
    /// The reason why the rounds do not add up to whole peers.
    pub(super) fn finish(self) -> Result<Recovered, String> {
        let mut recovered = Recovered { ledger: self.ledger, ..Recovered::default() };
        for (incarnation, found) in self.found {
            let (peer, group) = found.finish().map_err(|reason| format!("peer {incarnation}: {reason}"))?;
            group.locations().for_each(|location| recovered.ledger.add_entry(*location));
            recovered.groups.insert(incarnation, group);
            recovered.peers.insert(incarnation, peer);
        }
        Ok(recovered)
    }
}

impl Found {
    fn create(&mut self, peer: Peer) -> Result<(), String> {
        match self.peer.replace(peer) {
            None => Ok(()),
            Some(_) => Err("it is created twice".to_owned()),
        }
    }

    fn moved(&mut self, peer: Peer, entries: Vec<(Entry, Location)>) -> Result<(), String> {
        if self.peer.as_ref().is_some_and(|known| known.restored != peer.restored) {
            return Err("its moved state differs from what was written".to_owned());
        }
        self.peer = Some(peer);
        for (entry, location) in entries {
            if self.locations.insert(entry.index, location).is_some() {
                return Err(format!("entry {} is moved to where there is one", entry.index));
            }
        }
        Ok(())
    }

    fn write(&mut self, write: &Write, locations: Vec<Location>) -> Result<(), String> {
        if let Some(peer) = &mut self.peer {
            peer.restored.replay(write).map_err(|error| error.to_string())?;
        }
        if let Some(base) = write.discard_through {
            self.locations = self.locations.split_off(&base.index.next());
        }
        if let Some(from) = write.truncate_from {
            self.locations.split_off(&from);
        }
        self.locations.extend(write.entries.iter().map(|entry| entry.index).zip(locations));
        Ok(())
    }

    /// Puts the locations in a row, which they must fill from the base to the last entry.
    fn finish(self) -> Result<(Peer, GroupLog), String> {
        let peer = self.peer.ok_or("no record holds its state")?;
        let (base, last) = (peer.restored.base.index, peer.restored.last);
        let expected = base.0 + 1..=last.0;
        if !self.locations.keys().map(|index| index.0).eq(expected) {
            return Err(format!("entries between {base} and {last} are missing"));
        }
        Ok((peer, GroupLog::new(base, self.locations.into_values().collect())))
    }
}

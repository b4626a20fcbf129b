//! Rebuilds the state of every peer, the index and the accounts from the rounds, oldest first.
//!
//! Purging makes the order of entries in the rounds differ from that of the log: a peer's early entries may stand in a
//! later round than those that follow them. So locations are collected in pieces, and moved entries fill the gaps. A peer's
//! state begins with the first record that holds all of it; records before that one only tell where entries are.

use std::collections::BTreeMap;

use super::format::{self, Damage, Header, Location, Record};
use super::group_log::GroupLog;
use super::index::Ledger;
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
    pieces: Pieces,
}

/// The stretches of a log that are known, by their first entries. None is empty.
#[derive(Debug, Default)]
struct Pieces(BTreeMap<Index, GroupLog>);

impl Recovery {
    /// Starts with the key of the oldest round, or of the first when there is none yet.
    pub(super) fn new(first_seq: u64) -> Self {
        Self { ledger: Ledger::new(first_seq), ..Self::default() }
    }

    /// Takes in the next round.
    ///
    /// # Errors
    /// Why it is not whole, or cannot follow the rounds before it.
    pub(super) fn round(&mut self, seq: u64, round: &[u8]) -> Result<(), Damage> {
        if seq != self.ledger.next_seq() {
            return Err(format!("round {} before it is missing", self.ledger.next_seq()).into());
        }
        self.ledger.add_round(round.len() as u32);
        // One record at a time: a round may have thousands, and none is needed for long.
        for record in format::records(seq, round)? {
            self.record(seq, record?)?;
        }
        Ok(())
    }

    fn record(&mut self, seq: u64, record: Record) -> Result<(), String> {
        let Record { incarnation, header, header_bytes, entries, locations } = record;
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
                found.moved(Peer { record, restored }, &entries, &locations)
            }
            Header::MovedWithUpgrades { record, restored, upgrades } => {
                self.ledger.set_header(incarnation, seq, header_bytes);
                let restored = Restored { upgrades, ..restored };
                found.moved(Peer { record, restored }, &entries, &locations)
            }
            Header::Write { hard_state, snapshot, discard_through, truncate_from } => {
                let token = WriteToken::default();
                let write = Write { token, hard_state, snapshot, discard_through, truncate_from, entries };
                found.write(&write, &locations)
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
            group.locations().for_each(|location| recovered.ledger.add_entry(location));
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

    fn moved(&mut self, peer: Peer, entries: &[Entry], locations: &[Location]) -> Result<(), String> {
        if self.peer.as_ref().is_some_and(|known| known.restored != peer.restored) {
            return Err("its moved state differs from what was written".to_owned());
        }
        self.peer = Some(peer);
        let mut moved = entries.iter().zip(locations);
        moved.try_for_each(|(entry, location)| self.pieces.add(entry.index, &[*location]))
    }

    fn write(&mut self, write: &Write, locations: &[Location]) -> Result<(), String> {
        if let Some(peer) = &mut self.peer {
            peer.restored.replay(write).map_err(|error| error.to_string())?;
        }
        if let Some(base) = write.discard_through {
            self.pieces.discard_through(base.index);
        }
        if let Some(from) = write.truncate_from {
            self.pieces.truncate_from(from);
        }
        let Some(first) = write.entries.first().map(|entry| entry.index) else { return Ok(()) };
        if !write.entries.iter().map(|entry| entry.index.0).eq((first.0..).take(locations.len())) {
            return Err(format!("the entries after {first} do not follow one another"));
        }
        self.pieces.add(first, locations)
    }

    fn finish(self) -> Result<(Peer, GroupLog), String> {
        let peer = self.peer.ok_or("no record holds its state")?;
        let group = self.pieces.join(peer.restored.base.index, peer.restored.last)?;
        Ok((peer, group))
    }
}

impl Pieces {
    /// Adds entries from `first` on, which must not be there yet.
    fn add(&mut self, first: Index, locations: &[Location]) -> Result<(), String> {
        let last = match first.0.checked_add(locations.len() as u64) {
            Some(end) if first.0 > 0 => Index(end - 1),
            _ => return Err(format!("there can be no entry {first}")),
        };
        match self.0.range_mut(..=last).next_back() {
            Some((_, before)) if before.last() >= first => Err(format!("entry {first} is where there is one")),
            Some((_, before)) if before.last().next() == first => {
                before.append(locations);
                Ok(())
            }
            _ => {
                let mut piece = GroupLog::new(first.prev());
                piece.append(locations);
                self.0.insert(first, piece);
                Ok(())
            }
        }
    }

    fn discard_through(&mut self, base: Index) {
        let kept = self.0.split_off(&base.next());
        let before = std::mem::replace(&mut self.0, kept);
        // Only the last of them can reach beyond the base.
        if let Some(mut piece) = before.into_values().next_back().filter(|piece| piece.last() > base) {
            piece.discard_through(base, |_| {});
            self.0.insert(base.next(), piece);
        }
    }

    fn truncate_from(&mut self, from: Index) {
        self.0.split_off(&from);
        if let Some(mut piece) = self.0.last_entry() {
            piece.get_mut().truncate_from(from, |_| {});
        }
    }

    /// Makes one log of them, which they must fill from the base to the last entry.
    fn join(self, base: Index, last: Index) -> Result<GroupLog, String> {
        let missing = || format!("entries between {base} and {last} are missing");
        let mut log = GroupLog::new(base);
        for piece in self.0.into_values() {
            if piece.first() != log.last().next() {
                return Err(missing());
            }
            log.join(piece);
        }
        (log.last() == last).then_some(log).ok_or_else(missing)
    }
}

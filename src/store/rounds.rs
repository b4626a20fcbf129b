//! The journal: one commit round at a time.
//!
//! A round is one transaction with one row, so everything in it becomes durable together, by one sync. It is
//! committed in one phase: redb tells a torn commit by its checksums and falls back to the one before, which nobody
//! was told about; two phases would guard against a forged checksum, at twice the syncs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase};

use super::database::{self, ROUNDS, RoundsTable};
use super::disk::Disk;
use super::format::{self, Damage, Header, Location, RoundBuilder};
use super::head::Head;
use super::index::{Ledger, PurgeLimits};
use super::patience::{Patience, Room};
use super::queue::Operation;
use super::recovery::{Peer, Recovered};
use super::view::View;
use super::{Completion, Components, Snapshots, StoreError, StoreOptions, StoredPeer};
use crate::planted::{self, Bug};
use crate::raft::{Entry, LogRead, Restored, Write};
use crate::types::{Incarnation, Index};

/// The store without its threads: who calls, waits. [`Store`](super::Store) runs one on a thread; simulations drive
/// one themselves.
pub struct Journal {
    database: Database,
    path: PathBuf,
    head: Head,
    room: Room,
    snapshots: Snapshots,
    components: Components,
    view: Arc<View>,
    peers: BTreeMap<Incarnation, Peer>,
    ledger: Ledger,
    purge_limits: PurgeLimits,
    /// Rounds and bytes since a purge was last considered.
    since_purge: (u64, u64),
}

/// What a round changes in the index once it is durable.
#[derive(Debug)]
pub(super) enum Change {
    /// The peer's whole state is in this round, in so many bytes.
    State { incarnation: Incarnation, size_bytes: u32 },
    /// These entries are in this round now.
    Moved { incarnation: Incarnation, entries: Vec<(Index, Location)> },
    /// A write.
    Written { incarnation: Incarnation, discard: Option<Index>, truncate: Option<Index>, appended: Vec<Location> },
    /// The peer is gone.
    Removed { incarnation: Incarnation },
}

/// A round being made.
struct Round {
    builder: RoundBuilder,
    changes: Vec<Change>,
    completions: Vec<Completion>,
}

/// The oldest rounds, which go, and what is live in them.
struct Purge {
    through: u64,
    moved: BTreeMap<Incarnation, Vec<(Index, Vec<u8>)>>,
}

impl Journal {
    /// Opens the files of a node as [`Store::open`](super::Store::open) does, on any disk.
    ///
    /// # Errors
    /// [`StoreError`]: what the operator must see to, or what the disk has lost. Nothing was changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: &StoreOptions,
        purge_limits: PurgeLimits,
    ) -> Result<(Self, Vec<StoredPeer>), StoreError> {
        let patience = Arc::new(Patience::default());
        let path = database::path_in(&options.log_dir);
        let (database, Recovered { peers, groups, ledger }) = database::guarded(&path, || {
            let database = database::open(&disk, options, &patience, &path)?;
            let recovered = database::recover(&database, &path)?;
            Ok((database, recovered))
        })?;
        Head::check(disk.as_ref(), &path, &ledger)?;
        let head = Head::open(disk.as_ref(), &options.log_dir)?;
        let stored = stored_peers(&peers);
        let snapshot_of = |peer: &StoredPeer| peer.restored.snapshot.as_ref().map(|meta| meta.position);
        let referring: Vec<_> = stored.iter().map(|peer| (peer.incarnation, snapshot_of(peer))).collect();
        let snapshots =
            Snapshots::open_dir(Arc::clone(&disk), &options.snapshot_dir, &referring, options.snapshot_backup_count)?;
        let components = Components::open(Arc::clone(&disk), &options.log_dir)?;
        let view = Arc::new(View::new(path.clone(), latest(&database, &path)?, groups));
        let since_purge = (0, 0);
        let room = Room { disk, log_dir: options.log_dir.clone(), patience };
        let journal =
            Self { database, path, head, room, snapshots, components, view, peers, ledger, purge_limits, since_purge };
        Ok((journal, stored))
    }

    /// Makes operations durable, all of them at once or none. Nothing to do needs no disk.
    ///
    /// # Errors
    /// [`StoreError`]; the journal is then to be dropped. What became of the operations only the next open can tell.
    pub fn commit(&mut self, operations: Vec<Operation>) -> Result<Vec<Completion>, StoreError> {
        let seq = self.ledger.next_seq();
        let mut round = Round::new(seq);
        let is_synced = is_synced(seq, &operations);
        let purge = if self.purge_is_due() { self.plan_purge()? } else { None };
        if let Some(purge) = &purge {
            self.carry(purge, &mut round);
        }
        for operation in operations {
            self.add(operation, &mut round)?;
        }
        let Round { builder, changes, completions } = round;
        if builder.is_empty() {
            return Ok(completions);
        }
        let bytes = builder.finish();
        let through = purge.map(|purge| purge.through);
        self.write_row(seq, &bytes, through, is_synced)?;
        if is_synced {
            self.head.advance(seq);
        }
        self.since_purge = (self.since_purge.0 + 1, self.since_purge.1 + bytes.len() as u64);
        self.ledger.add_round(bytes.len() as u32);
        self.view.advance(latest(&self.database, &self.path)?, seq, &changes, &mut self.ledger);
        if let Some(through) = through {
            self.ledger.purge(through);
        }
        self.remove_files(&changes);
        Ok(completions)
    }

    /// Reads durable entries, as [`Store::read`](super::Store::read) does.
    ///
    /// # Errors
    /// Those of [`Store::read`](super::Store::read).
    pub fn read(&self, incarnation: Incarnation, read: &LogRead) -> Result<Vec<Entry>, StoreError> {
        self.view.read(incarnation, read)
    }

    /// The snapshots of the node's peers.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// The components on the node.
    #[must_use]
    pub fn components(&self) -> Components {
        self.components.clone()
    }

    /// Closes the files. All is durable before; a failure only means that the next open checks more.
    pub fn close(self) {
        self.view.close();
        self.head.close();
        let closed = || self.database.close().map_err(StoreError::database(&self.path));
        if let Err(error) = database::guarded(&self.path, closed) {
            tracing::warn!(path = %self.path.display(), %error, "the log was not closed cleanly");
        }
    }

    /// The room on the disk, and whether writes wait for it.
    pub(super) fn room(&self) -> Room {
        self.room.clone()
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    fn write_row(&self, seq: u64, bytes: &[u8], purge_through: Option<u64>, is_synced: bool) -> Result<(), StoreError> {
        let transact = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(if is_synced { Durability::Immediate } else { Durability::None })?;
            {
                let mut table = transaction.open_table(ROUNDS)?;
                if let Some(through) = purge_through {
                    table.retain_in(..=through, |_, _| false)?;
                }
                table.insert(seq, bytes)?;
            }
            Ok(transaction.commit()?)
        };
        database::guarded(&self.path, || transact().map_err(StoreError::database(&self.path)))
    }

    /// Adds an operation to the round and to what is known of its peer.
    ///
    /// A write to a peer that is not there is dropped: it may have been on its way when the peer was removed.
    fn add(&mut self, operation: Operation, round: &mut Round) -> Result<(), StoreError> {
        match operation {
            Operation::Create { incarnation, record, bootstrap } => {
                if self.peers.contains_key(&incarnation) {
                    let reason = "it exists already".to_owned();
                    return Err(StoreError::WrongWrite { incarnation, reason });
                }
                let mut peer = Peer { record: record.clone(), restored: Restored::default() };
                round.create(incarnation, record);
                round.write(incarnation, &mut peer, bootstrap)?;
                self.peers.insert(incarnation, peer);
                round.completions.push(Completion::Created(incarnation));
            }
            Operation::Remove(incarnation) => {
                if self.peers.remove(&incarnation).is_some() {
                    round.builder.record(incarnation, &Header::Remove, 0);
                    round.changes.push(Change::Removed { incarnation });
                }
                round.completions.push(Completion::Removed(incarnation));
            }
            Operation::Write(incarnation, write) => {
                if let Some(peer) = self.peers.get_mut(&incarnation) {
                    let token = write.token;
                    round.write(incarnation, peer, write)?;
                    round.completions.push(Completion::Written(incarnation, token));
                }
            }
        }
        Ok(())
    }

    fn purge_is_due(&mut self) -> bool {
        let (rounds, bytes) = self.since_purge;
        let due = rounds >= self.purge_limits.every_rounds || bytes >= self.purge_limits.every_bytes;
        if due {
            self.since_purge = (0, 0);
        }
        due
    }

    /// Chooses the rounds to delete and reads what is live in them.
    fn plan_purge(&self) -> Result<Option<Purge>, StoreError> {
        let Some((through, live_bytes)) = self.ledger.purgeable(self.purge_limits) else { return Ok(None) };
        let mut purge = Purge { through, moved: BTreeMap::new() };
        let table = latest(&self.database, &self.path)?;
        let mut found_bytes = 0;
        for seq in self.ledger.live_rounds(through) {
            let row = database::round(&table, &self.path, seq)?;
            found_bytes += self.collect_live(seq, row.value(), &mut purge)?;
        }
        assert_eq!(found_bytes, live_bytes, "a purge through round {through} would lose live data");
        Ok(Some(purge))
    }

    /// Adds what is live in a round to the purge; returns how many bytes of the round that is.
    fn collect_live(&self, seq: u64, row: &[u8], purge: &mut Purge) -> Result<u64, StoreError> {
        let mut found_bytes = 0;
        for record in format::parse(seq, row).map_err(|damage| self.damaged(seq, damage))? {
            let incarnation = record.incarnation;
            let holds_state = record.header.holds_state();
            if holds_state && self.ledger.has_header(incarnation, seq) {
                found_bytes += u64::from(record.header_bytes);
                purge.moved.entry(incarnation).or_default();
            }
            for (entry, location) in record.entries.iter().zip(record.locations) {
                if self.view.location(incarnation, entry.index) == Some(location) {
                    let bytes = location.slice(row).expect("the entry was just parsed from there");
                    found_bytes += bytes.len() as u64;
                    purge.moved.entry(incarnation).or_default().push((entry.index, bytes.to_vec()));
                }
            }
        }
        Ok(found_bytes)
    }

    /// Writes what a purge must keep at the front of the round.
    fn carry(&self, purge: &Purge, round: &mut Round) {
        for (&incarnation, entries) in &purge.moved {
            let peer = &self.peers[&incarnation];
            let header = Header::moved(peer.record.clone(), peer.restored.clone());
            let size_bytes = round.builder.record(incarnation, &header, entries.len());
            let moved = |(index, bytes): &(Index, Vec<u8>)| (*index, round.builder.moved_entry(bytes));
            let entries = entries.iter().map(moved).collect();
            round.changes.push(Change::State { incarnation, size_bytes });
            round.changes.push(Change::Moved { incarnation, entries });
        }
    }

    /// Removes the files of removed peers. What fails here is left to the next open, which removes the folders of
    /// peers that are not in the log.
    fn remove_files(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Removed { incarnation } = change
                && let Err(error) = self.snapshots.remove(*incarnation)
            {
                tracing::warn!(%incarnation, %error, "the snapshots of a removed peer are left");
            }
        }
    }

    fn damaged(&self, seq: u64, damage: Damage) -> StoreError {
        database::damaged(&self.path, seq, damage)
    }
}

/// Every round is synced before anybody is told of it. But for the planted bug: of those that hold entries, terms and votes
/// alone it syncs one in so many. The others are needed to open the log again.
fn is_synced(seq: u64, operations: &[Operation]) -> bool {
    const PLANTED_SYNC_EVERY: u64 = 64;
    let is_of_raft_alone = |operation: &Operation| match operation {
        Operation::Write(_, write) => write.snapshot.is_none() && write.discard_through.is_none(),
        Operation::Create { .. } | Operation::Remove(_) => false,
    };
    let is_late = planted::has(Bug::AckBeforeFsync) && operations.iter().all(is_of_raft_alone);
    !is_late || seq.is_multiple_of(PLANTED_SYNC_EVERY)
}

/// The peers as those who open the store get them.
pub(super) fn stored_peers(peers: &BTreeMap<Incarnation, Peer>) -> Vec<StoredPeer> {
    let stored = |(&incarnation, peer): (&Incarnation, &Peer)| StoredPeer {
        incarnation,
        record: peer.record.clone(),
        restored: peer.restored.clone(),
    };
    peers.iter().map(stored).collect()
}

impl Round {
    fn new(seq: u64) -> Self {
        Self { builder: RoundBuilder::new(seq), changes: Vec::new(), completions: Vec::new() }
    }

    fn create(&mut self, incarnation: Incarnation, record: bytes::Bytes) {
        let size_bytes = self.builder.record(incarnation, &Header::Create { record }, 0);
        self.changes.push(Change::State { incarnation, size_bytes });
    }

    fn write(&mut self, incarnation: Incarnation, peer: &mut Peer, write: Write) -> Result<(), StoreError> {
        check_base(&peer.restored, &write)
            .and_then(|()| peer.restored.replay(&write).map_err(|error| error.to_string()))
            .map_err(|reason| StoreError::WrongWrite { incarnation, reason })?;
        let Write { token: _, hard_state, snapshot, discard_through, truncate_from, entries } = write;
        let header = Header::Write { hard_state, snapshot, discard_through, truncate_from };
        self.builder.record(incarnation, &header, entries.len());
        let appended = entries.iter().map(|entry| self.builder.entry(entry)).collect();
        let discard = discard_through.map(|base| base.index);
        self.changes.push(Change::Written { incarnation, discard, truncate: truncate_from, appended });
        Ok(())
    }
}

/// What is discarded stays discarded: a base that went back would leave a hole in the log.
fn check_base(restored: &Restored, write: &Write) -> Result<(), String> {
    match write.discard_through {
        Some(base) if base.index < restored.base.index => {
            Err(format!("the log already begins after {}, it cannot go back to {base}", restored.base))
        }
        _ => Ok(()),
    }
}

/// The rounds as of the latest commit.
fn latest(database: &Database, path: &Path) -> Result<RoundsTable, StoreError> {
    database::guarded(path, || {
        let transaction = database.begin_read().map_err(StoreError::database(path))?;
        transaction.open_table(ROUNDS).map_err(StoreError::database(path))
    })
}

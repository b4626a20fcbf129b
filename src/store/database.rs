//! The database file: whose it is, which version, and the rounds in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::disk::Disk;
use super::files::{self, Draft};
use super::format::{self, Damage};
use super::head::Head;
use super::patience::{Patience, PatientStorage};
use super::recovery::{Recovered, Recovery};
use super::{Snapshots, StoreError, StoreOptions};
use crate::types::{NodeAddr, ParseError};

/// `seq -> round`. New rounds go to the right edge of the tree, whatever peers they are for.
pub(super) const ROUNDS: TableDefinition<u64, &[u8]> = TableDefinition::new("rounds");

/// The rounds as of one commit.
pub(super) type RoundsTable = ReadOnlyTable<u64, &'static [u8]>;

/// Whose database it is and in which format: the rows named below.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const META_VERSION: &str = "version";
const META_NODE: &str = "node";

/// The version of the tables; rounds have their own.
const VERSION: u32 = 1;

const FILE_NAME: &str = "log.redb";
/// What it is called until it is whole.
const NEW_FILE_NAME: &str = "log.redb.tmp";

/// Says in the snapshot folder whose it is. Written once the log exists, so that a log that goes missing is noticed.
const OWNER_FILE_NAME: &str = "node";

/// Does something to the database at `path`, which may be damaged: redb panics on some damage.
pub(super) fn guarded<T>(path: &Path, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(StoreError::corrupt(path, format!("the database panicked: {}", text.unwrap_or("no reason is given"))))
    })
}

/// Where a node's database is.
pub(super) fn path_in(log_dir: &Path) -> PathBuf {
    log_dir.join(FILE_NAME)
}

/// Opens the node's database, creating it if the node is new.
///
/// Every page is checked on open: redb trusts a file that was closed cleanly otherwise, and panics where it is damaged.
/// All rounds are read on open anyway.
///
/// Its writes wait for room from the moment that `patience` begins.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    options: &StoreOptions,
    patience: &Arc<Patience>,
    path: &Path,
) -> Result<Database, StoreError> {
    files::create_dir(disk.as_ref(), &options.log_dir)?;
    files::create_dir(disk.as_ref(), &options.snapshot_dir)?;
    match files::size_bytes(disk.as_ref(), path)? {
        None => {
            refuse_lost_log(disk.as_ref(), options)?;
            create(disk, options, patience, path)?;
        }
        // redb would take it for a new one.
        Some(0) => return Err(StoreError::corrupt(path, "it is empty")),
        Some(_) => {}
    }
    // Who created or renamed it may have been killed right after that.
    files::sync_dir(disk.as_ref(), &options.log_dir)?;
    let database = open_file(disk, options, patience, path)?;
    check_node(&options.log_dir, read_node(&database, path)?.to_string(), &options.node)?;
    check_owner(disk.as_ref(), &options.snapshot_dir, &options.node)?;
    if read_owner(disk.as_ref(), &options.snapshot_dir)?.is_none() {
        write_owner(disk, options)?;
    }
    Ok(database)
}

/// Makes the database of a new node, which appears whole or not at all: redb refuses for ever what is left of a creation
/// that was cut short.
fn create(
    disk: &Arc<dyn Disk>,
    options: &StoreOptions,
    patience: &Arc<Patience>,
    path: &Path,
) -> Result<(), StoreError> {
    let temporary = path.with_file_name(NEW_FILE_NAME);
    files::remove_file(disk.as_ref(), &temporary)?;
    Head::forget(disk.as_ref(), &options.log_dir)?;
    let database = open_file(disk, options, patience, &temporary)?;
    initialize(&database, &options.node).map_err(StoreError::database(&temporary))?;
    database.close().map_err(StoreError::database(&temporary))?;
    files::rename(disk.as_ref(), &temporary, path)
}

fn open_file(
    disk: &Arc<dyn Disk>,
    options: &StoreOptions,
    patience: &Arc<Patience>,
    path: &Path,
) -> Result<Database, StoreError> {
    let storage = disk.open_storage(path).map_err(StoreError::io(path, "open"))?;
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes / 2).set_check_integrity_on_open(true);
    let storage = PatientStorage::new(storage, Arc::clone(patience));
    builder.create_with_backend(storage).map_err(StoreError::database(path))
}

/// Whose the database is. It must be of the one format that is known.
pub(super) fn read_node(database: &Database, path: &Path) -> Result<NodeAddr, StoreError> {
    let version = read_meta(database, path, META_VERSION)?;
    let version: [u8; 4] =
        version.try_into().map_err(|_| StoreError::corrupt(path, "its version is not a number of 4 bytes"))?;
    let found = u32::from_le_bytes(version);
    if found != VERSION {
        return Err(StoreError::UnknownVersion { path: path.to_owned(), found, supported: VERSION });
    }
    let node = read_meta(database, path, META_NODE)?;
    let node = String::from_utf8_lossy(&node).parse();
    node.map_err(|error: ParseError| StoreError::corrupt(path, format!("whose it is: {error}")))
}

/// Whether a node has used the folder for its snapshots.
pub(super) fn has_snapshots(disk: &dyn Disk, snapshot_dir: &Path) -> Result<bool, StoreError> {
    Ok(read_owner(disk, snapshot_dir)?.is_some() || Snapshots::any(disk, snapshot_dir)?)
}

/// The snapshot folder must be this node's, if it says whose it is.
pub(super) fn check_owner(disk: &dyn Disk, snapshot_dir: &Path, node: &NodeAddr) -> Result<(), StoreError> {
    read_owner(disk, snapshot_dir)?.map_or(Ok(()), |found| check_node(snapshot_dir, found, node))
}

fn initialize(database: &Database, node: &NodeAddr) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_VERSION, VERSION.to_le_bytes().as_slice())?;
        meta.insert(META_NODE, node.as_str().as_bytes())?;
        transaction.open_table(ROUNDS)?;
    }
    Ok(transaction.commit()?)
}

/// A node without a log must not take over a snapshot folder in use: it would clear it.
fn refuse_lost_log(disk: &dyn Disk, options: &StoreOptions) -> Result<(), StoreError> {
    check_owner(disk, &options.snapshot_dir, &options.node)?;
    if !has_snapshots(disk, &options.snapshot_dir)? {
        return Ok(());
    }
    Err(StoreError::LogMissing { log_dir: options.log_dir.clone(), snapshot_dir: options.snapshot_dir.clone() })
}

fn read_meta(database: &Database, path: &Path, name: &str) -> Result<Vec<u8>, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database(path))?;
    let meta = transaction.open_table(META).map_err(|error| match error {
        redb::TableError::TableDoesNotExist(_) => {
            StoreError::corrupt(path, "it is a database, but not the log of a node")
        }
        error => StoreError::database(path)(error),
    })?;
    let value = meta.get(name).map_err(StoreError::database(path))?.map(|value| value.value().to_vec());
    value.ok_or_else(|| StoreError::corrupt(path, format!("it does not say its {name}")))
}

fn check_node(dir: &Path, found: String, expected: &NodeAddr) -> Result<(), StoreError> {
    if found == expected.as_str() {
        return Ok(());
    }
    Err(StoreError::OtherNode { dir: dir.to_owned(), found, expected: expected.clone() })
}

fn read_owner(disk: &dyn Disk, snapshot_dir: &Path) -> Result<Option<String>, StoreError> {
    let content = files::read(disk, &snapshot_dir.join(OWNER_FILE_NAME))?;
    Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

fn write_owner(disk: &Arc<dyn Disk>, options: &StoreOptions) -> Result<(), StoreError> {
    let mut draft = Draft::create(disk, options.snapshot_dir.join(OWNER_FILE_NAME))?;
    draft.write(format!("{}\n", options.node).as_bytes())?;
    draft.publish()?;
    Ok(())
}

/// Reads and checks every round.
pub(super) fn recover(database: &Database, path: &Path) -> Result<Recovered, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database(path))?;
    let table = transaction.open_table(ROUNDS).map_err(StoreError::database(path))?;
    let first = table.first().map_err(StoreError::database(path))?;
    let mut recovery = Recovery::new(first.map_or(1, |(seq, _)| seq.value()));
    for row in table.range::<u64>(..).map_err(StoreError::database(path))? {
        let (seq, round) = row.map_err(StoreError::database(path))?;
        let seq = seq.value();
        recovery.round(seq, round.value()).map_err(|damage| damaged(path, seq, damage))?;
    }
    recovery.finish().map_err(|reason| StoreError::corrupt(path, reason))
}

/// Reads a round.
pub(super) fn round<'a>(
    table: &'a RoundsTable,
    path: &Path,
    seq: u64,
) -> Result<AccessGuard<'a, &'static [u8]>, StoreError> {
    let row = guarded(path, || table.get(seq).map_err(StoreError::database(path)))?;
    row.ok_or_else(|| damaged(path, seq, Damage::Content("it is gone".to_owned())))
}

/// The error for a round that is not what was written.
pub(super) fn damaged(path: &Path, seq: u64, damage: Damage) -> StoreError {
    match damage {
        Damage::Version(found) => {
            StoreError::UnknownVersion { path: path.to_owned(), found: found.into(), supported: format::VERSION.into() }
        }
        Damage::Content(reason) => StoreError::CorruptRound { path: path.to_owned(), seq, reason },
    }
}

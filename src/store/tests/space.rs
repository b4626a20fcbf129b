//! A disk that is full, and has room again.

use std::ffi::OsString;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

use super::*;

/// The machine's disk, with a switch that leaves no room on it.
#[derive(Clone, Debug, Default)]
struct Switched {
    is_full: Arc<AtomicBool>,
}

impl Switched {
    fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for Switched {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.check()?;
        SystemDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        SystemDisk.open(path)
    }

    fn resume(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.check()?;
        SystemDisk.resume(path, size_bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove_file(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        SystemDisk.is_dir(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        SystemDisk.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        SystemDisk.remove_dir(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        SystemDisk.names(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(dir)
    }

    fn open_storage(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(SwitchedStorage { disk: self.clone(), storage: SystemDisk.open_storage(path)? }))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        if self.check().is_ok() { SystemDisk.free_bytes(dir) } else { Ok(0) }
    }
}

#[derive(Debug)]
struct SwitchedStorage {
    disk: Switched,
    storage: Box<dyn StorageBackend>,
}

impl StorageBackend for SwitchedStorage {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check()?;
        self.storage.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.check()?;
        self.storage.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_range(start, end)
    }
}

/// A store on a disk with a switch, one peer in it, and a cache so small that reads go to the disk.
fn bench() -> (Bench, Switched, Incarnation) {
    let (disk, dir) = (Switched::default(), TempDir::new().unwrap());
    let (sender, told) = channel();
    let options = StoreOptions { cache_bytes: 0, ..options(&dir) };
    let limits = PurgeLimits::default();
    let (store, peers) = Store::open_on(Arc::new(disk.clone()), options, Box::new(Tell(sender)), limits).unwrap();
    let bench = Bench { dir, limits, store, peers, told };
    let peer = bench.create(1);
    bench.write(peer, append(2, 100, 1000));
    (bench, disk, peer)
}

fn wait_exhausted(bench: &Bench) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !bench.store.space().unwrap().is_exhausted {
        assert!(std::time::Instant::now() < deadline, "no write waits for room");
        thread::yield_now();
    }
}

#[test]
fn a_write_waits_for_room_while_reads_go_on() {
    let (bench, disk, peer) = bench();
    assert!(bench.store.space().unwrap().free_bytes > 0);
    disk.set_full(true);
    bench.store.write(peer, append(101, 101, 1000));
    bench.store.write(peer, append(102, 102, 1000));
    wait_exhausted(&bench);
    assert_eq!(bench.store.space().unwrap().free_bytes, 0);
    for index in 2..=100 {
        assert_eq!(bench.read(peer, index, index).unwrap(), append(index, index, 1000).entries);
    }
    assert!(bench.told.try_recv().is_err(), "nothing is acknowledged without room");
    disk.set_full(false);
    bench.wait(Completion::Written(peer, WriteToken(102)));
    assert!(!bench.store.space().unwrap().is_exhausted);
    let bench = bench.reopened();
    assert_eq!(bench.read(peer, 101, 102).unwrap(), append(101, 102, 1000).entries);
}

#[test]
fn a_store_without_room_is_closed_and_loses_nothing_acknowledged() {
    let (bench, disk, peer) = bench();
    disk.set_full(true);
    bench.store.write(peer, append(101, 101, 1000));
    wait_exhausted(&bench);
    bench.store.clone().close();
    assert!(matches!(bench.wait_failed(), StoreError::DiskFull { .. }));
    let bench = bench.reopened();
    assert_eq!(bench.peers[0].restored.last, Index(100));
}

#[test]
fn what_finds_no_room_says_so_and_leaves_nothing() {
    let (bench, disk, peer) = bench();
    disk.set_full(true);
    let refused = bench.store.snapshots().create(peer, &header(snapshot_meta(1, 1))).unwrap_err();
    assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
    let refused = bench.store.components().put(Digest::of(b"one"), b"one").unwrap_err();
    assert!(refused.to_string().contains("make room"), "{refused}");
    disk.set_full(false);
    assert_eq!(bench.store.components().list().unwrap(), []);
}

#[test]
fn a_store_is_not_opened_without_room_and_says_so() {
    let (bench, disk, _) = bench();
    let (dir, limits) = bench.closed();
    disk.set_full(true);
    let sink = Box::new(Tell(channel().0));
    let refused = Store::open_on(Arc::new(disk.clone()), options(&dir), sink, limits).err().unwrap();
    assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
    disk.set_full(false);
    assert_eq!(Bench::at(dir, limits).peers[0].restored.last, Index(100));
}

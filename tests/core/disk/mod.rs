//! A disk in memory that loses power. All that happens on it follows from its seed.
//!
//! What is not synced may be lost: of a file any of the sectors written and any change of its size, of a folder any
//! of its names. What a power cut keeps of that is drawn anew each time. Power goes off when a countdown of changes has
//! run out, in the middle of the last one, and all that is asked for after that fails. [`SimDisk::cut`] then shows
//! what is left, as the next process finds it. A process that is only killed leaves everything, synced or not.

mod content;
mod names;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;
use zraft::store::{Disk, DiskFile};

use content::Content;
use names::{FileId, Names};

/// A handle to the disk; clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    rng: ChaCha8Rng,
    names: Names,
    contents: BTreeMap<FileId, Content>,
    /// Changes so far.
    changes: u64,
    /// Changes until the power goes off.
    changes_left: Option<u64>,
    /// The change in the middle of which the power went off.
    went_off_at: Option<&'static str>,
    /// How many processes have used the disk. Files opened by a former one are no use to anybody.
    life: u64,
}

/// How much a power cut keeps of what was not synced.
#[derive(Clone, Copy)]
pub struct Fate {
    /// The chance of each part.
    share: f64,
    /// Whether names change in the order in which that was asked for, as with a file system that keeps a journal.
    in_order: bool,
}

impl Fate {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let share = [0.0, 0.1, 0.5, 0.5, 0.9, 1.0][rng.random_range(0..6)];
        Self { share, in_order: rng.random() }
    }
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: ChaCha8Rng::seed_from_u64(seed),
            names: Names::default(),
            contents: BTreeMap::new(),
            changes: 0,
            changes_left: None,
            went_off_at: None,
            life: 0,
        })))
    }

    /// A copy of the disk that has its own luck from here on.
    pub fn fork(&self, luck: u64) -> Self {
        let state = self.state();
        let rng = ChaCha8Rng::seed_from_u64(luck);
        let (names, contents) = (state.names.clone(), state.contents.clone());
        Self(Arc::new(Mutex::new(State { rng, names, contents, ..*state })))
    }

    /// How many changes there have been.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Lets the power go off in the middle of a change: after `changes` more.
    pub fn cut_after(&self, changes: u64) {
        self.state().changes_left = Some(changes);
    }

    /// The change at which the power went off, if it is off.
    pub fn went_off_at(&self) -> Option<&'static str> {
        self.state().went_off_at
    }

    /// The power goes off, if it has not, and comes back.
    pub fn cut(&self) {
        let mut state = self.state();
        let State { rng, names, contents, .. } = &mut *state;
        let fate = Fate::draw(rng);
        let reachable = names.cut(fate, rng);
        contents.retain(|id, _| reachable.contains(id));
        contents.values_mut().for_each(|content| content.cut(fate.share, rng));
        state.end_life();
    }

    /// The process ends without a word; the machine goes on.
    pub fn kill(&self) {
        self.state().end_life();
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        let id = state.names.file(path).expect("a file");
        state.contents[&id].bytes().to_vec()
    }

    /// Replaces the content of a file, durably, behind the back of the process.
    pub fn set_content(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.names.file(path).expect("a file");
        state.contents.insert(id, Content::durable(bytes));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // redb may panic on damage, but not while it is here.
        self.0.lock().expect("no panic within the disk")
    }

    fn handle(&self, id: FileId, is_log: bool) -> Handle {
        Handle { disk: self.clone(), id, life: self.state().life, position: 0, is_log }
    }
}

impl State {
    fn end_life(&mut self) {
        self.life += 1;
        self.changes_left = None;
        self.went_off_at = None;
    }

    /// Fails when the power is off.
    fn need_power(&self) -> io::Result<()> {
        match self.went_off_at {
            Some(_) => Err(io::Error::other("the power is off")),
            None => Ok(()),
        }
    }

    /// Counts a change, which is `what` to people. `false` when the power goes off in the middle of it.
    fn count(&mut self, what: &'static str) -> io::Result<bool> {
        self.need_power()?;
        self.changes += 1;
        match &mut self.changes_left {
            Some(0) => {
                self.went_off_at = Some(what);
                Ok(false)
            }
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => Ok(true),
        }
    }

    /// Does a change that a power cut may take back, and fails if the power goes off in the middle of it.
    fn change(&mut self, what: &'static str, act: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        let stays_on = self.count(what)?;
        act(self)?;
        if stays_on { Ok(()) } else { self.need_power() }
    }

    /// Does what makes earlier changes durable, unless the power goes off in the middle of it.
    fn sync(&mut self, what: &'static str, act: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if self.count(what)? { act(self) } else { self.need_power() }
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut created = None;
        self.state().change("cut at the creation of a file", |state| {
            let id = state.names.create_file(path)?;
            state.contents.entry(id).or_default().resize(0);
            created = Some(id);
            Ok(())
        })?;
        Ok(Box::new(self.handle(created.expect("it was created"), false)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.state().need_power()?;
        let id = self.state().names.file(path)?;
        Ok(Box::new(self.handle(id, false)))
    }

    fn resume(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.state().need_power()?;
        let id = self.state().names.file(path)?;
        let handle = Handle { position: size_bytes, ..self.handle(id, false) };
        handle.change(["cut at the resumption of a file"; 2], |content| content.resize(size_bytes as usize))?;
        Ok(Box::new(handle))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state().change("cut at the renaming of a file", |state| state.names.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state().change("cut at the removal of a file", |state| state.names.remove_file(path))
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.state().names.is_dir(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().change("cut at the creation of a folder", |state| state.names.create_dir(dir))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().change("cut at the removal of a folder", |state| state.names.remove_dir(dir))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        state.need_power()?;
        state.names.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().sync("cut at the sync of a folder", |state| state.names.sync(dir))
    }

    fn open_storage(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let found = self.state().names.file(path);
        let id = match found {
            Ok(id) => id,
            Err(_) => {
                drop(self.create(path)?);
                self.state().names.file(path)?
            }
        };
        let is_log = path.extension().is_some();
        Ok(Box::new(self.handle(id, is_log)))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

/// An open file: redb's, or one that is written and read from its beginning.
#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    id: FileId,
    life: u64,
    position: u64,
    is_log: bool,
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("the process that opened it is gone"));
        }
        Ok(state)
    }

    fn look<T>(&self, look: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let state = self.state()?;
        state.need_power()?;
        look(&state.contents[&self.id])
    }

    fn change(&self, what: [&'static str; 2], change: impl FnOnce(&mut Content)) -> io::Result<()> {
        self.state()?.change(what[usize::from(self.is_log)], |state| {
            change(state.contents.get_mut(&self.id).expect("an open file has content"));
            Ok(())
        })
    }

    fn sync_content(&self) -> io::Result<()> {
        self.state()?.sync(
            ["cut at the sync of a file", "cut at the sync of the log"][usize::from(self.is_log)],
            |state| {
                state.contents.get_mut(&self.id).expect("an open file has content").sync();
                Ok(())
            },
        )
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.look(|content| Ok(content.bytes().len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.look(|content| {
            let part = content.bytes().get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(["cut at the resizing of a file", "cut at the resizing of the log"], |content| {
            content.resize(len as usize)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_content()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(["cut at a write of a file", "cut at a write of the log"], |content| {
            content.write(offset as usize, data)
        })
    }
}

impl Read for Handle {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let position = self.position as usize;
        let count = self.look(|content| {
            let rest = content.bytes().get(position..).unwrap_or_default();
            let count = rest.len().min(out.len());
            out[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Handle {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let position = self.position as usize;
        self.change(["cut at a write of a file", "cut at a write of the log"], |content| {
            content.write(position, data)
        })?;
        self.position += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Handle {
    fn size_bytes(&self) -> io::Result<u64> {
        StorageBackend::len(self)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_content()
    }
}

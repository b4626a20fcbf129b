//! The tree of folders and the names in them: as they are, as they are durable, and what was done in between.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Fate;

/// A file or a folder, under whatever name.
pub type FileId = u64;

const ROOT: FileId = 0;

#[derive(Clone, Debug)]
pub struct Names {
    folders: BTreeMap<FileId, Folder>,
    /// What was done to folders since they were synced, oldest first.
    unsynced: Vec<(FileId, Change)>,
    next: FileId,
}

#[derive(Clone, Debug, Default)]
struct Folder {
    current: BTreeMap<OsString, FileId>,
    durable: BTreeMap<OsString, FileId>,
}

#[derive(Clone, Debug)]
enum Change {
    Add(OsString, FileId),
    Remove(OsString),
    Rename { from: OsString, to: OsString, id: FileId },
}

impl Default for Names {
    fn default() -> Self {
        Self { folders: [(ROOT, Folder::default())].into(), unsynced: Vec::new(), next: ROOT + 1 }
    }
}

impl Names {
    /// Which file has a name.
    pub fn file(&self, path: &Path) -> io::Result<FileId> {
        self.find(path).filter(|id| !self.folders.contains_key(id)).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub fn is_dir(&self, path: &Path) -> bool {
        self.folder(path).is_ok()
    }

    /// The names in a folder, oldest first: their order must not depend on what they are.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut names: Vec<_> = self.folders[&self.folder(dir)?].current.iter().collect();
        names.sort_by_key(|(_, id)| **id);
        Ok(names.into_iter().map(|(name, _)| name.clone()).collect())
    }

    /// Adds a file, or finds the one there is.
    pub fn create_file(&mut self, path: &Path) -> io::Result<FileId> {
        if let Ok(id) = self.file(path) {
            return Ok(id);
        }
        let (folder, name) = self.place(path)?;
        let id = self.next_id();
        self.change(folder, Change::Add(name, id));
        Ok(id)
    }

    pub fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        if self.find(dir).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let (folder, name) = self.place(dir)?;
        let id = self.next_id();
        self.folders.insert(id, Folder::default());
        self.change(folder, Change::Add(name, id));
        Ok(())
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (folder, name) = self.place(path)?;
        self.change(folder, Change::Remove(name));
        Ok(())
    }

    pub fn remove_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.list(dir)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (folder, name) = self.place(dir)?;
        self.change(folder, Change::Remove(name));
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.file(from)?;
        let ((folder, from), (other, to)) = (self.place(from)?, self.place(to)?);
        assert_eq!(folder, other, "files are renamed within their folder");
        self.change(folder, Change::Rename { from, to, id });
        Ok(())
    }

    pub fn sync(&mut self, dir: &Path) -> io::Result<()> {
        let id = self.folder(dir)?;
        let folder = self.folders.get_mut(&id).expect("it was found");
        for (_, change) in self.unsynced.extract_if(.., |(of, _)| *of == id) {
            change.apply(&mut folder.durable);
        }
        Ok(())
    }

    /// Keeps a share of what is unsynced. Returns the files that still have a name.
    pub fn cut(&mut self, fate: Fate, rng: &mut ChaCha8Rng) -> BTreeSet<FileId> {
        let kept_first = match fate.share {
            0.0 => 0,
            1.0 => self.unsynced.len(),
            _ => rng.random_range(0..=self.unsynced.len()),
        };
        for (number, (id, change)) in self.unsynced.drain(..).enumerate() {
            if if fate.in_order { number < kept_first } else { rng.random_bool(fate.share) } {
                change.apply(&mut self.folders.get_mut(&id).expect("folders stay until the cut").durable);
            }
        }
        let mut reachable = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(folder) = next.pop().map(|id| self.folders.get_mut(&id)) {
            if let Some(Folder { current, durable }) = folder {
                current.clone_from(durable);
                next.extend(durable.values());
                reachable.extend(durable.values());
            }
        }
        self.folders.retain(|id, _| reachable.contains(id));
        reachable
    }

    fn change(&mut self, folder: FileId, change: Change) {
        change.clone().apply(&mut self.folders.get_mut(&folder).expect("it was found").current);
        self.unsynced.push((folder, change));
    }

    fn next_id(&mut self) -> FileId {
        self.next += 1;
        self.next - 1
    }

    /// The folder a name is in, which must exist, and the name.
    fn place(&self, path: &Path) -> io::Result<(FileId, OsString)> {
        let folder = path.parent().ok_or(ErrorKind::NotFound).map(|above| self.folder(above))??;
        Ok((folder, path.file_name().expect("a path with a name").to_owned()))
    }

    fn folder(&self, dir: &Path) -> io::Result<FileId> {
        self.find(dir).filter(|id| self.folders.contains_key(id)).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn find(&self, path: &Path) -> Option<FileId> {
        path.components().try_fold(ROOT, |folder, part| match part {
            Component::RootDir => Some(folder),
            Component::Normal(name) => self.step(folder, name),
            _ => None,
        })
    }

    fn step(&self, folder: FileId, name: &OsStr) -> Option<FileId> {
        self.folders.get(&folder)?.current.get(name).copied()
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<OsString, FileId>) {
        match self {
            Self::Add(name, id) => {
                names.insert(name, id);
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
            Self::Rename { from, to, id } => {
                // The name it had may be lost already, or never have been durable.
                names.remove(&from);
                names.insert(to, id);
            }
        }
    }
}

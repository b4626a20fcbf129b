//! The content of a file: as it is, as it is durable, and what was done in between.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug, Default)]
pub struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What makes the one of the other.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Resize(usize),
    Write { offset: usize, data: Vec<u8> },
}

impl Content {
    pub fn durable(bytes: &[u8]) -> Self {
        Self { current: bytes.to_vec(), durable: bytes.to_vec(), unsynced: Vec::new() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.current
    }

    pub fn resize(&mut self, size: usize) {
        self.current.resize(size, 0);
        self.unsynced.push(Change::Resize(size));
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        put(&mut self.current, offset, data);
        self.unsynced.push(Change::Write { offset, data: data.to_vec() });
    }

    pub fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Resize(size) => self.durable.resize(size, 0),
                Change::Write { offset, data } => put(&mut self.durable, offset, &data),
            }
        }
    }

    /// Keeps a share of what is unsynced: of each write any of its sectors. A sector written several times may thus have
    /// any of its contents.
    pub fn cut(&mut self, share: f64, rng: &mut ChaCha8Rng) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Resize(size) if rng.random_bool(share) => self.durable.resize(size, 0),
                Change::Resize(_) => {}
                Change::Write { offset, data } => {
                    for (start, sector) in sectors(offset, &data) {
                        if rng.random_bool(share) {
                            put(&mut self.durable, start, sector);
                        }
                    }
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

/// The parts of a write that are in one sector each, and where.
fn sectors(mut offset: usize, mut data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let room = SECTOR_BYTES - offset % SECTOR_BYTES;
        let (sector, rest) = data.split_at(room.min(data.len()));
        let start = offset;
        offset += sector.len();
        data = rest;
        (!sector.is_empty()).then_some((start, sector))
    })
}

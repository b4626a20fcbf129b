//! A database file that is looked at and never written.
//!
//! redb repairs what a crash has left before it lets anybody read, and it checks every page only when it may write.
//! So it gets this: reads come from the file, and what it writes stays in memory and is forgotten.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

/// Writes are kept in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// The most that is kept of what is written. A repair writes what it knows of free space, about a ten-thousandth of
/// the file.
const MAX_KEPT_BYTES: u64 = 512 << 20;

/// The file below, and what would have been written to it.
#[derive(Debug)]
pub(super) struct Overlay<B> {
    file: B,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    len: u64,
    /// How much of the file still counts: what was cut off once is zeros when the file grows again.
    file_len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl<B: StorageBackend> Overlay<B> {
    pub(super) fn new(file: B) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, kept: Mutex::new(Kept { len, file_len: len, blocks: BTreeMap::new() }) })
    }

    /// Reads what the file has there, and zeros behind its end.
    fn read_file(&self, file_len: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = file_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let (there, behind) = out.split_at_mut(there);
        behind.fill(0);
        if there.is_empty() { Ok(()) } else { self.file.read(offset, there) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked has given up its look at the file.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of the bytes at `offset` that is in a block: where in the bytes it begins, where in the block, how long.
fn shared(block: u64, offset: u64, length: usize) -> (usize, usize, usize) {
    let start = block * BLOCK_BYTES;
    let (from, to) = (offset.max(start), (offset + length as u64).min(start + BLOCK_BYTES));
    ((from - offset) as usize, (from - start) as usize, (to - from) as usize)
}

fn blocks_of(offset: u64, length: usize) -> std::ops::Range<u64> {
    offset / BLOCK_BYTES..(offset + length as u64).div_ceil(BLOCK_BYTES)
}

fn check_end(kept: &Kept, offset: u64, length: usize) -> io::Result<()> {
    let end = offset.checked_add(length as u64).filter(|end| *end <= kept.len);
    end.map(drop).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short"))
}

impl<B: StorageBackend> StorageBackend for Overlay<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let kept = self.lock();
        check_end(&kept, offset, out.len())?;
        self.read_file(kept.file_len, offset, out)?;
        for (block, bytes) in kept.blocks.range(blocks_of(offset, out.len())) {
            let (to, from, length) = shared(*block, offset, out.len());
            out[to..to + length].copy_from_slice(&bytes[from..from + length]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut kept = self.lock();
        if len < kept.len {
            kept.file_len = kept.file_len.min(len);
            kept.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
            if let Some(last) = kept.blocks.get_mut(&(len / BLOCK_BYTES)) {
                last[(len % BLOCK_BYTES) as usize..].fill(0);
            }
        }
        kept.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut kept = self.lock();
        check_end(&kept, offset, data.len())?;
        for block in blocks_of(offset, data.len()) {
            if !kept.blocks.contains_key(&block) {
                if kept.blocks.len() as u64 * BLOCK_BYTES >= MAX_KEPT_BYTES {
                    return Err(io::Error::other(format!("its repair would write more than {MAX_KEPT_BYTES} bytes")));
                }
                let mut bytes = vec![0; BLOCK_BYTES as usize];
                self.read_file(kept.file_len, block * BLOCK_BYTES, &mut bytes)?;
                kept.blocks.insert(block, bytes);
            }
            let bytes = kept.blocks.get_mut(&block).expect("it was just put there");
            let (from, to, length) = shared(block, offset, data.len());
            bytes[to..to + length].copy_from_slice(&data[from..from + length]);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    // The file is open for reading, and such a file can only be locked shared. That keeps a node away as well.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    const FILE_BYTES: usize = 3 * BLOCK_BYTES as usize + 100;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let offset = 0..5 * BLOCK_BYTES;
        let data = prop::collection::vec(1..=255_u8, 1..3 * BLOCK_BYTES as usize);
        prop_oneof![
            (offset.clone(), data).prop_map(|(offset, data)| Step::Write(offset, data)),
            offset.clone().prop_map(Step::SetLen),
            (offset, 0..4 * BLOCK_BYTES as usize).prop_map(|(offset, length)| Step::Read(offset, length)),
        ]
    }

    proptest! {
        #[test]
        fn it_reads_like_a_file_that_was_written_and_leaves_the_file(steps in prop::collection::vec(step(), 1..30)) {
            let original: Vec<u8> = (0..FILE_BYTES).map(|at| (at % 251) as u8).collect();
            let file = InMemoryBackend::new();
            file.set_len(FILE_BYTES as u64).unwrap();
            StorageBackend::write(&file, 0, &original).unwrap();
            let overlay = Overlay::new(file).unwrap();
            let mut expected = original.clone();
            for step in steps {
                match step {
                    Step::Write(offset, data) => {
                        let place = expected.get_mut(offset as usize..offset as usize + data.len());
                        prop_assert_eq!(overlay.write(offset, &data).is_ok(), place.is_some());
                        if let Some(place) = place {
                            place.copy_from_slice(&data);
                        }
                    }
                    Step::SetLen(len) => {
                        overlay.set_len(len).unwrap();
                        expected.resize(len as usize, 0);
                    }
                    Step::Read(offset, length) => {
                        let mut out = vec![9; length];
                        let place = expected.get(offset as usize..offset as usize + length);
                        prop_assert_eq!(overlay.read(offset, &mut out).is_ok(), place.is_some());
                        if let Some(place) = place {
                            prop_assert_eq!(&out, place);
                        }
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), expected.len() as u64);
            }
            let mut after = vec![0; FILE_BYTES];
            StorageBackend::read(&overlay.file, 0, &mut after).unwrap();
            prop_assert_eq!(after, original);
        }
    }
}

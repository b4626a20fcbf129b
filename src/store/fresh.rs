//! A database file whose space is written with zeros just before it is used for the first time.
//!
//! redb makes its file longer without writing it, and a file system gives such space blocks only when it is written. Then a
//! sync has to write down where they are, besides what is in them: on a log that grows, more than a third of the time of a
//! commit. So a piece of the file that was never written is filled at once when the first write meets it, and many
//! commits share the price. A log that no longer grows uses its space again and never comes here.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::forward::forward_locks;

/// What is filled at once. Smaller pieces save less; larger ones make single commits wait.
const PIECE_BYTES: u64 = 256 << 10;

/// A file whose fresh pieces are filled before they are written.
#[derive(Debug)]
pub struct FreshlyFilled<S> {
    storage: S,
    /// The pieces that were never written, by number: whole ones that the file has gained since it was opened; four for
    /// each MiB of them.
    fresh: Mutex<BTreeSet<u64>>,
}

impl<S: StorageBackend> FreshlyFilled<S> {
    /// What the file has by now is not fresh.
    #[must_use]
    pub fn new(storage: S) -> Self {
        Self { storage, fresh: Mutex::default() }
    }

    /// Fills the fresh pieces that a write meets, but for those that it fills itself.
    fn fill(&self, offset: u64, length: u64) {
        let end = offset + length;
        // Held while a piece is filled: who writes to the same piece meanwhile must not be overwritten.
        let mut fresh = self.lock();
        for piece in offset / PIECE_BYTES..end.div_ceil(PIECE_BYTES) {
            let start = piece * PIECE_BYTES;
            let is_covered = offset <= start && start + PIECE_BYTES <= end;
            if fresh.remove(&piece) && !is_covered {
                // Without it all is right, only slower; and what is wrong with the file its next write tells.
                let _ = self.storage.write(start, &vec![0; PIECE_BYTES as usize]);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // A set of numbers is whole whenever a thread dies.
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: StorageBackend> StorageBackend for FreshlyFilled<S> {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut fresh = self.lock();
        let before = self.storage.len()?;
        self.storage.set_len(len)?;
        let whole = len / PIECE_BYTES;
        fresh.split_off(&whole);
        fresh.extend(before.div_ceil(PIECE_BYTES)..whole);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fill(offset, data.len() as u64);
        self.storage.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    forward_locks!(storage);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    /// A file that notes where it is written.
    #[derive(Debug, Default)]
    struct Noted {
        file: InMemoryBackend,
        writes: Mutex<Vec<(u64, usize)>>,
    }

    impl StorageBackend for Noted {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.writes.lock().unwrap().push((offset, data.len()));
            self.file.write(offset, data)
        }
    }

    const PIECE: usize = PIECE_BYTES as usize;

    #[test]
    fn a_piece_that_the_file_has_gained_is_filled_once_and_before_it_is_written() {
        let noted = Noted::default();
        noted.set_len(PIECE_BYTES / 2).unwrap();
        let file = FreshlyFilled::new(noted);
        file.set_len(6 * PIECE_BYTES).unwrap();
        let page = [7; 4096];
        // The first piece was there in part, and is not known to be empty.
        file.write(0, &page).unwrap();
        file.write(3 * PIECE_BYTES - 4096, &[7; 8192]).unwrap();
        file.write(2 * PIECE_BYTES, &page).unwrap();
        // What is written whole needs no filling.
        file.write(4 * PIECE_BYTES, &vec![7; PIECE]).unwrap();
        // What is gone and comes back is fresh again.
        file.set_len(5 * PIECE_BYTES).unwrap();
        file.set_len(6 * PIECE_BYTES).unwrap();
        file.write(5 * PIECE_BYTES, &page).unwrap();
        let expected = [
            (0, 4096),
            (2 * PIECE_BYTES, PIECE),
            (3 * PIECE_BYTES, PIECE),
            (3 * PIECE_BYTES - 4096, 8192),
            (2 * PIECE_BYTES, 4096),
            (4 * PIECE_BYTES, PIECE),
            (5 * PIECE_BYTES, PIECE),
            (5 * PIECE_BYTES, 4096),
        ];
        assert_eq!(*file.storage.writes.lock().unwrap(), expected);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, usize),
        SetLen(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..5 * PIECE_BYTES, 1..2 * PIECE).prop_map(|(offset, length)| Step::Write(offset, length)),
            1 => (0..6 * PIECE_BYTES).prop_map(Step::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_never_filled(before in 0..2 * PIECE_BYTES, steps in prop::collection::vec(step(), 1..20)) {
            let storage = InMemoryBackend::new();
            storage.set_len(before).unwrap();
            let mut expected = vec![1; before as usize];
            storage.write(0, &expected).unwrap();
            let file = FreshlyFilled::new(storage);
            for (step, number) in steps.into_iter().zip(2..) {
                match step {
                    Step::Write(offset, length) => {
                        let place = expected.get_mut(offset as usize..offset as usize + length);
                        if let Some(place) = place {
                            place.fill(number);
                            file.write(offset, place).unwrap();
                        }
                    }
                    Step::SetLen(len) => {
                        expected.resize(len as usize, 0);
                        file.set_len(len).unwrap();
                    }
                }
                let mut content = vec![9; expected.len()];
                file.read(0, &mut content).unwrap();
                prop_assert!(content == expected);
            }
        }
    }
}

//! Bits that flip and files that are cut short: noticed and named, or of no consequence.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zraft::store::{Journal, StoreError};

use super::node::{LOG_DIR, Node, options};
use crate::sim::faults::Counts;

/// A node with a past, whose store was closed or whose process was killed. After a power cut, a newest round that is
/// damaged could not be told from one that was torn.
fn node(seed: u64, is_closed: bool) -> Node {
    let mut node = Node::new(seed);
    let mut journal = node.open().expect("there is power");
    while node.model.snapshots().is_empty() || node.disk.changes() < 800 {
        node.act(&mut journal).expect("there is power");
    }
    if is_closed {
        journal.close();
    } else {
        node.kill();
    }
    node
}

fn log_path() -> PathBuf {
    Path::new(LOG_DIR).join("log.redb")
}

/// A damage of a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip { byte: usize, bit: u8 },
    Cut { size: usize },
    Zeros { sector: usize },
}

impl Damage {
    /// Damages of a file, its first bytes and all that follows.
    fn of(size: usize, step: usize) -> Vec<Self> {
        let bytes = (0..400.min(size)).chain((400..size).step_by(step));
        let flips = bytes.clone().map(|byte| Self::Flip { byte, bit: (byte % 8) as u8 });
        let cuts = bytes.step_by(5).map(|size| Self::Cut { size });
        let zeros = (0..size / 512).step_by(step.div_ceil(256)).map(|sector| Self::Zeros { sector });
        flips.chain(cuts).chain(zeros).collect()
    }

    fn apply(self, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        match self {
            Self::Flip { byte, bit } => bytes[byte] ^= 1 << bit,
            Self::Cut { size } => bytes.truncate(size),
            Self::Zeros { sector } => bytes[sector * 512..][..512].fill(0),
        }
        bytes
    }
}

/// Whether an error says that this file is not what was written to it.
fn blames(error: &StoreError, file: &Path) -> bool {
    match error {
        StoreError::Corrupt { path, .. }
        | StoreError::CorruptRound { path, .. }
        | StoreError::UnknownVersion { path, .. } => path == file,
        _ => false,
    }
}

#[test]
fn a_damaged_log_is_refused_by_name_or_as_good_as_before() {
    let mut counts = Counts::default();
    for (seed, is_closed) in [(0, true), (1, false)] {
        let node = node(seed, is_closed);
        let sound = node.disk.content(&log_path());
        for damage in Damage::of(sound.len(), 509) {
            let mut node = node.fork(0);
            node.disk.set_content(&log_path(), &damage.apply(&sound));
            match catch_unwind(AssertUnwindSafe(|| node.try_open())) {
                Ok(Ok(_)) => counts.count("no consequence"),
                Ok(Err(error)) if blames(&error, &log_path()) => counts.count("refused"),
                Ok(Err(error)) => panic!("{damage:?}: {error:?}"),
                Err(_) => panic!("{damage:?}: a panic, or other data"),
            }
        }
    }
    println!("{counts}");
    assert!(counts.of("refused") > 100 && counts.of("no consequence") > 100, "{counts}");
}

/// What the cache does not hold is read again from a file that has changed meanwhile.
#[test]
fn a_log_that_is_damaged_while_it_is_open_gives_no_wrong_data() {
    let mut counts = Counts::default();
    let node = node(2, true);
    let sound = node.disk.content(&log_path());
    for damage in Damage::of(sound.len(), 1_021) {
        let mut node = node.fork(0);
        let mut opened = Journal::open(Arc::new(node.disk.clone()), &options(), node.limits).expect("it is sound").0;
        node.disk.set_content(&log_path(), &damage.apply(&node.disk.content(&log_path())));
        let used = (0..12).try_for_each(|_| {
            node.check_logs(&opened)?;
            let round = node.random_round();
            opened.commit(round).map(drop)
        });
        match used {
            Ok(()) => counts.count("no consequence"),
            Err(error) if blames(&error, &log_path()) => counts.count("refused"),
            Err(error) => panic!("{damage:?}: {error:?}"),
        }
    }
    println!("{counts}");
}

#[test]
fn a_damaged_snapshot_is_refused_by_name() {
    let node = node(3, true);
    let path = node.snapshot_files().into_iter().next().expect("a snapshot");
    let sound = node.disk.content(&path);
    for damage in Damage::of(sound.len(), 1) {
        let damaged = damage.apply(&sound);
        if damaged == sound {
            continue;
        }
        let mut node = node.fork(0);
        node.disk.set_content(&path, &damaged);
        let error = node.try_open().map(drop).expect_err("a damaged snapshot is noticed once it is read");
        assert!(blames(&error, &path), "{damage:?}: {error:?}");
    }
}

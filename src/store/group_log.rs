//! Where the entries of one peer are. A log of 1 GB may have ten million of them, so all but the newest are packed.
//!
//! Entries that follow one another mostly stand next to one another in a round, or in the same place of the next
//! one, and are of like size. So a block of them is written as differences from what is expected: two bytes an entry
//! where that holds, five or six where nothing does, instead of the 16 of a [`Location`].

use std::collections::VecDeque;

use super::format::Location;
use crate::types::Index;

/// Entries in a packed block. Finding one means unpacking half of its block.
const BLOCK_ENTRIES: usize = 128;

/// The locations of entries without gaps: a queue that grows at one end and is discarded from the other.
#[derive(Debug, Default)]
pub(super) struct GroupLog {
    /// The index just before the first entry.
    base: Index,
    blocks: VecDeque<Block>,
    /// The newest entries, fewer than a block.
    tail: Vec<Location>,
}

impl GroupLog {
    /// A log that goes on after `base`.
    pub(super) fn new(base: Index) -> Self {
        Self { base, ..Self::default() }
    }

    /// The index of the first entry, if there is one.
    pub(super) fn first(&self) -> Index {
        self.base.next()
    }

    /// The index of the last entry; before `first` when there is none.
    pub(super) fn last(&self) -> Index {
        Index(self.packed_last().0 + self.tail.len() as u64)
    }

    pub(super) fn get(&self, index: Index) -> Option<Location> {
        (index > self.base).then(|| self.from(index).next())?
    }

    /// The locations from `from` to `to`, or to the last entry; at most `limit`.
    pub(super) fn range(&self, from: Index, to: Index, limit: usize) -> Vec<Location> {
        if from <= self.base {
            return Vec::new();
        }
        let wanted = usize::try_from(to.0.saturating_sub(from.0)).unwrap_or(usize::MAX).saturating_add(1);
        self.from(from).take(wanted.min(limit)).collect()
    }

    pub(super) fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        self.from(self.first())
    }

    /// Forgets entries up to `base` and tells where they were. The log goes on after `base`.
    pub(super) fn discard_through(&mut self, base: Index, gone: impl FnMut(Location)) {
        let count = usize::try_from(base.0.saturating_sub(self.base.0)).unwrap_or(usize::MAX);
        self.locations().take(count).for_each(gone);
        if base > self.packed_last() {
            let from_tail = (base.0 - self.packed_last().0).min(self.tail.len() as u64);
            self.tail.drain(..from_tail as usize);
        }
        while let Some(block) = self.blocks.pop_front_if(|block| block.first <= base) {
            if block.last() > base {
                let kept: Vec<Location> = block.from(base.next()).collect();
                self.blocks.push_front(Block::pack(base.next(), &kept));
                break;
            }
        }
        self.base = base;
    }

    /// Forgets the entries from `from` on and tells where they were.
    pub(super) fn truncate_from(&mut self, from: Index, gone: impl FnMut(Location)) {
        let from = from.max(self.first());
        self.from(from).for_each(gone);
        let kept = from.0.saturating_sub(self.packed_last().0 + 1);
        self.tail.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        while let Some(block) = self.blocks.pop_back_if(|block| block.last() >= from) {
            if block.first < from {
                self.tail = block.from(block.first).take((from.0 - block.first.0) as usize).collect();
            }
        }
    }

    pub(super) fn append(&mut self, locations: &[Location]) {
        self.tail.extend(locations);
        let whole = self.tail.len() - self.tail.len() % BLOCK_ENTRIES;
        let mut first = self.packed_last().next();
        for block in self.tail[..whole].chunks(BLOCK_ENTRIES) {
            self.blocks.push_back(Block::pack(first, block));
            first = Index(first.0 + block.len() as u64);
        }
        self.tail.drain(..whole);
    }

    /// Appends a log that begins where this one ends.
    pub(super) fn join(&mut self, mut next: Self) {
        assert_eq!(self.last(), next.base, "logs are joined without a gap");
        if !self.tail.is_empty() {
            let first = self.packed_last().next();
            self.blocks.push_back(Block::pack(first, &self.tail));
        }
        self.blocks.append(&mut next.blocks);
        self.tail = next.tail;
    }

    /// Notes that entries have moved, and tells where they were. They must be in the log.
    pub(super) fn relocate(&mut self, moved: &[(Index, Location)], mut gone: impl FnMut(Location)) {
        let packed_last = self.packed_last();
        let mut moved = moved.iter().peekable();
        while let Some((index, location)) = moved.next() {
            if *index > packed_last {
                let slot = (index.0 - packed_last.0 - 1) as usize;
                gone(std::mem::replace(&mut self.tail[slot], *location));
                continue;
            }
            // Entries move in runs: a block is unpacked once for all of them that are in it.
            let slot = self.block_of(*index);
            let block = &self.blocks[slot];
            let (first, last) = (block.first, block.last());
            let mut locations: Vec<Location> = block.from(first).collect();
            let mut replace = |(index, location): &(Index, Location)| {
                gone(std::mem::replace(&mut locations[(index.0 - first.0) as usize], *location));
            };
            replace(&(*index, *location));
            while let Some(next) = moved.next_if(|(index, _)| (first..=last).contains(index)) {
                replace(next);
            }
            self.blocks[slot] = Block::pack(first, &locations);
        }
    }

    /// The last entry that is packed, or the base.
    fn packed_last(&self) -> Index {
        self.blocks.back().map_or(self.base, Block::last)
    }

    /// The locations from `index` on, which is not before the first.
    fn from(&self, index: Index) -> impl Iterator<Item = Location> + '_ {
        let slot = self.block_of(index);
        let begun = self.blocks.get(slot).map(|block| block.from(index)).into_iter().flatten();
        let whole = self.blocks.iter().skip(slot + 1).flat_map(|block| block.from(block.first));
        let in_tail = usize::try_from(index.0.saturating_sub(self.packed_last().0 + 1)).unwrap_or(usize::MAX);
        begun.chain(whole).chain(self.tail.iter().skip(in_tail).copied())
    }

    /// The place of the first block that ends at `index` or later.
    fn block_of(&self, index: Index) -> usize {
        self.blocks.partition_point(|block| block.last() < index)
    }
}

/// The locations of some consecutive entries, in little space.
///
/// For each: the difference of its round to that of the entry before, with a bit that tells whether its size is
/// another; the difference of its offset to the end of the entry before, or to the offset of that if it is in another
/// round; and its size if that is another. Numbers take seven bits a byte, lowest first.
#[derive(Debug)]
struct Block {
    first: Index,
    entries: u32,
    bytes: Box<[u8]>,
}

impl Block {
    fn pack(first: Index, locations: &[Location]) -> Self {
        let mut bytes = Vec::with_capacity(3 * locations.len());
        let mut last = START;
        for location in locations {
            let other_size = location.size_bytes != last.size_bytes;
            let rounds = fold(location.seq.wrapping_sub(last.seq).cast_signed());
            put(&mut bytes, rounds << 1 | u128::from(other_size));
            put(&mut bytes, fold(i64::from(location.offset) - expected_offset(last, location.seq)));
            if other_size {
                put(&mut bytes, location.size_bytes.into());
            }
            last = *location;
        }
        // Copied, because what shrinks in its place leaves a gap behind.
        Self { first, entries: locations.len() as u32, bytes: bytes.as_slice().into() }
    }

    fn last(&self) -> Index {
        Index(self.first.0 + u64::from(self.entries) - 1)
    }

    /// The locations from `index` on, which is not before the first.
    fn from(&self, index: Index) -> impl Iterator<Item = Location> + '_ {
        let mut bytes = &*self.bytes;
        let mut last = START;
        let unpack = move |_| {
            let rounds = take(&mut bytes);
            let seq = last.seq.wrapping_add_signed(unfold(rounds >> 1));
            let offset = (expected_offset(last, seq) + unfold(take(&mut bytes))) as u32;
            let size_bytes = if rounds & 1 == 1 { take(&mut bytes) as u32 } else { last.size_bytes };
            last = Location { seq, offset, size_bytes };
            last
        };
        let before = usize::try_from(index.0 - self.first.0).unwrap_or(usize::MAX);
        (0..self.entries).map(unpack).skip(before)
    }
}

/// What the first entry of a block is told apart from.
const START: Location = Location { seq: 0, offset: 0, size_bytes: 0 };

fn expected_offset(last: Location, seq: u64) -> i64 {
    let skipped = if seq == last.seq { last.size_bytes } else { 0 };
    i64::from(last.offset) + i64::from(skipped)
}

/// Numbers near zero become small ones.
fn fold(number: i64) -> u128 {
    u128::from((number << 1 ^ number >> 63).cast_unsigned())
}

fn unfold(folded: u128) -> i64 {
    let folded = folded as u64;
    (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed()
}

fn put(bytes: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> u128 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a block has all its entries");
        *bytes = rest;
        number |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn at(seq: u64, size_bytes: u32) -> Location {
        Location { seq, offset: 0, size_bytes }
    }

    fn seqs(locations: &[Location]) -> Vec<u64> {
        locations.iter().map(|location| location.seq).collect()
    }

    fn discarded(log: &mut GroupLog, base: u64) -> Vec<Location> {
        let mut gone = Vec::new();
        log.discard_through(Index(base), |location| gone.push(location));
        gone
    }

    fn truncated(log: &mut GroupLog, from: u64) -> Vec<Location> {
        let mut gone = Vec::new();
        log.truncate_from(Index(from), |location| gone.push(location));
        gone
    }

    fn relocated(log: &mut GroupLog, moved: &[(Index, Location)]) -> Vec<Location> {
        let mut gone = Vec::new();
        log.relocate(moved, |location| gone.push(location));
        gone
    }

    #[test]
    fn a_log_is_discarded_from_one_end_and_truncated_from_the_other() {
        let mut log = GroupLog::default();
        log.append(&(1..=10).map(|seq| at(seq, 1)).collect::<Vec<_>>());
        assert_eq!(discarded(&mut log, 3).len(), 3);
        assert_eq!(seqs(&truncated(&mut log, 9)), [9, 10]);
        assert_eq!((log.first(), log.last()), (Index(4), Index(8)));
        assert_eq!((log.get(Index(3)), log.get(Index(4)), log.get(Index(9))), (None, Some(at(4, 1)), None));
        assert_eq!(log.range(Index(5), Index(u64::MAX), 2), [at(5, 1), at(6, 1)]);
        assert_eq!(log.range(Index(8), Index(8), 9), [at(8, 1)]);
        assert_eq!(log.range(Index(3), Index(8), 9), []);
        assert_eq!(relocated(&mut log, &[(Index(4), at(11, 1))]), [at(4, 1)]);
        assert_eq!(truncated(&mut log, 1).len(), 5);
        assert_eq!(discarded(&mut log, 20), []);
        assert_eq!((log.first(), log.last()), (Index(21), Index(20)));
    }

    /// Locations like those of a store: runs within a round, now and then an older or a much later one.
    fn random_locations(rng: &mut ChaCha8Rng, count: usize) -> Vec<Location> {
        let mut seq = rng.random_range(0..1_000);
        let locate = |_| {
            seq = match rng.random_range(0..20) {
                0..10 => seq,
                10..18 => seq + 1,
                18 => rng.random_range(0..seq + 1),
                _ => rng.random(),
            };
            let size_bytes = if rng.random() { 170 } else { rng.random_range(0..=u32::MAX) };
            Location { seq, offset: rng.random_range(0..=u32::MAX), size_bytes }
        };
        (0..count).map(locate).collect()
    }

    /// Random changes of a log and of a plain list, whose first entry comes after `base`.
    #[test]
    fn a_packed_log_is_the_list_of_its_locations() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut log, mut list, mut base) = (GroupLog::default(), Vec::new(), 0);
        for _ in 0..3_000 {
            let last = base + list.len() as u64;
            match rng.random_range(0..6) {
                0..3 => {
                    let count = rng.random_range(0..300);
                    let added = random_locations(&mut rng, count);
                    log.append(&added);
                    list.extend(added);
                }
                3 => {
                    let until = rng.random_range(base..=last.min(base + 400));
                    assert!(discarded(&mut log, until).into_iter().eq(list.drain(..(until - base) as usize)));
                    base = until;
                }
                4 => {
                    let from = rng.random_range(last.saturating_sub(300).max(base)..=last) + 1;
                    assert!(truncated(&mut log, from).into_iter().eq(list.drain((from - base - 1) as usize..)));
                }
                _ => {
                    let start = rng.random_range(0..=list.len());
                    let run = start..list.len().min(start + 200);
                    let targets = random_locations(&mut rng, run.len());
                    let index = |slot| Index(base + slot as u64 + 1);
                    let moved: Vec<_> = run.clone().map(index).zip(targets.iter().copied()).collect();
                    assert_eq!(relocated(&mut log, &moved), list[run.clone()]);
                    list[run].copy_from_slice(&targets);
                }
            }
            assert_eq!((log.first(), log.last()), (Index(base + 1), Index(base + list.len() as u64)));
            assert!(log.locations().eq(list.iter().copied()));
            let slot = rng.random_range(0..=list.len());
            assert_eq!(log.get(Index(base + 1 + slot as u64)), list.get(slot).copied());
            assert_eq!(
                log.range(Index(base + 1 + slot as u64), Index(u64::MAX), 150),
                list[slot..].iter().copied().take(150).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn logs_are_joined_where_they_meet() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let list = random_locations(&mut rng, 1_000);
        for cut in [0, 1, 127, 128, 129, 500, 1_000] {
            let (mut log, mut next) = (GroupLog::new(Index(7)), GroupLog::new(Index(7 + cut as u64)));
            log.append(&list[..cut]);
            next.append(&list[cut..]);
            log.join(next);
            assert!(log.locations().eq(list.iter().copied()), "cut at {cut}");
            assert_eq!(log.get(Index(8 + 999)), Some(list[999]));
        }
    }

    #[test]
    fn entries_take_two_bytes_where_they_stand_as_expected() {
        let next_to_each_other = |slot: u32| Location { seq: 9, offset: 40 + slot * 170, size_bytes: 170 };
        let in_round_after_round = |slot: u32| Location { seq: u64::from(slot), offset: 9_000, size_bytes: 170 };
        for locate in [next_to_each_other as fn(u32) -> Location, in_round_after_round] {
            let block = Block::pack(Index(1), &(0..128).map(locate).collect::<Vec<_>>());
            assert!(block.bytes.len() <= 2 * 128 + 8, "{} bytes", block.bytes.len());
        }
    }
}

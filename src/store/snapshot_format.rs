//! What is in a snapshot file, and how it is checked.
//!
//! ```text
//! file   = magic (8 bytes), format version (4), header length (4), checksum (4), header (bincode), blocks, end
//! block  = length (4 bytes, not 0), checksum (4), data
//! end    = 0 (4 bytes), checksum (4), number of blocks (8), bytes of data (8)
//! ```
//!
//! Numbers are little-endian. A checksum is the CRC-32 of all that is in the file before it and of what it stands in front
//! of, other checksums left out; so a block that is missing, repeated or from another file is noticed as well.

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::codec;
use crate::raft::SnapshotMeta;
use crate::types::{ClusterId, Digest, LogPosition};

const MAGIC: [u8; 8] = *b"zraftsnp";
const VERSION: u32 = 2;

/// The most data in a block, in bytes.
pub const MAX_BLOCK_BYTES: usize = 256 << 10;

const START_BYTES: usize = 20;
const PREFIX_BYTES: usize = 8;
pub(super) const END_BYTES: usize = PREFIX_BYTES + Totals::SIZE_BYTES;

/// What a snapshot begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// What Raft needs to go on from it: index, term and membership.
    pub meta: SnapshotMeta,
    /// The digest of the backend whose state it is.
    pub backend: Digest,
    /// The hash chain at its index.
    pub chain: Digest,
    /// The rest of the machine's part, opaque here.
    pub host: Bytes,
}

/// Which very file a snapshot is. Two nodes' snapshots of one entry hold the same state, but maybe in other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotIdentity {
    /// The last entry that it covers.
    pub position: LogPosition,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The checksum in its end block, which is of all that is in the file.
    pub checksum: u32,
}

impl SnapshotIdentity {
    /// Of a file of this size, by its last bytes. None if it is too short to be a snapshot.
    #[must_use]
    pub fn of(position: LogPosition, size_bytes: u64, last_bytes: &[u8]) -> Option<Self> {
        let end = last_bytes.last_chunk::<END_BYTES>()?;
        Some(Self { position, size_bytes, checksum: number(&end[4..PREFIX_BYTES]) })
    }
}

/// Makes the parts of a file.
#[derive(Debug, Default)]
pub(super) struct Former {
    checksum: u32,
    totals: Totals,
}

impl Former {
    /// What a file with this header begins with; `None` for a header of 4 GiB.
    pub(super) fn start(&mut self, header: &[u8]) -> Option<[u8; START_BYTES]> {
        let mut start = [0; START_BYTES];
        start[..8].copy_from_slice(&MAGIC);
        start[8..12].copy_from_slice(&VERSION.to_le_bytes());
        start[12..16].copy_from_slice(&u32::try_from(header.len()).ok()?.to_le_bytes());
        self.checksum = extend_checksum(0, &[&start[..16], header]);
        start[16..].copy_from_slice(&self.checksum.to_le_bytes());
        Some(start)
    }

    /// What stands before a block of data, which is not empty and at most [`MAX_BLOCK_BYTES`].
    pub(super) fn block(&mut self, data: &[u8]) -> [u8; PREFIX_BYTES] {
        self.totals.add(data.len());
        self.prefix(data.len() as u32, data)
    }

    pub(super) fn end(&mut self) -> [u8; END_BYTES] {
        let totals = self.totals.to_bytes();
        let mut end = [0; END_BYTES];
        end[..PREFIX_BYTES].copy_from_slice(&self.prefix(0, &totals));
        end[PREFIX_BYTES..].copy_from_slice(&totals);
        end
    }

    fn prefix(&mut self, length: u32, data: &[u8]) -> [u8; PREFIX_BYTES] {
        let length = length.to_le_bytes();
        self.checksum = extend_checksum(self.checksum, &[&length, data]);
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..4].copy_from_slice(&length);
        prefix[4..].copy_from_slice(&self.checksum.to_le_bytes());
        prefix
    }
}

/// Checks a file piece by piece, from its beginning.
#[derive(Debug)]
pub(super) struct Checker {
    position: LogPosition,
    next: Piece,
    /// Of all that was taken.
    checksum: u32,
    totals: Totals,
    header: Option<SnapshotHeader>,
}

/// A place between two blocks of a file that was checked up to there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    next: Piece,
    checksum: u32,
    totals: Totals,
}

/// A piece of a file, and what is known of it by those before.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Start,
    Header { length: usize, checksum: u32 },
    Prefix,
    Data { length: usize, checksum: u32 },
    Totals { checksum: u32 },
    Nothing,
}

/// Why a file is not the snapshot that it should be.
#[derive(Debug)]
pub(super) enum Flaw {
    Damaged(String),
    UnknownVersion(u32),
}

impl Flaw {
    pub(super) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Damaged(reason) => StoreError::corrupt(path, reason),
            Self::UnknownVersion(found) => {
                StoreError::UnknownVersion { path: path.to_owned(), found, supported: VERSION }
            }
        }
    }
}

impl Checker {
    /// The file must be the snapshot at `position`.
    pub(super) fn new(position: LogPosition) -> Self {
        Self { position, next: Piece::Start, checksum: 0, totals: Totals::default(), header: None }
    }

    /// The size of the next piece in bytes; 0 behind the end of the file.
    pub(super) fn wants(&self) -> usize {
        match self.next {
            Piece::Start => START_BYTES,
            Piece::Header { length, .. } | Piece::Data { length, .. } => length,
            Piece::Prefix => PREFIX_BYTES,
            Piece::Totals { .. } => Totals::SIZE_BYTES,
            Piece::Nothing => 0,
        }
    }

    /// Whether the next piece is a block's data.
    pub(super) fn wants_data(&self) -> bool {
        matches!(self.next, Piece::Data { .. })
    }

    /// Whether what was taken is whole by itself: a header, a block, or all of the file.
    pub(super) fn is_between_blocks(&self) -> bool {
        matches!(self.next, Piece::Prefix | Piece::Nothing)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { next: self.next, checksum: self.checksum, totals: self.totals }
    }

    /// Forgets what was taken since a mark.
    pub(super) fn back_to(&mut self, mark: Mark) {
        (self.next, self.checksum, self.totals) = (mark.next, mark.checksum, mark.totals);
    }

    /// Whether all of the file was taken.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.next, Piece::Nothing)
    }

    /// The checksum of all that was taken.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The header, once it was taken.
    pub(super) fn header(&self) -> Option<&SnapshotHeader> {
        self.header.as_ref()
    }

    /// Takes the next piece, which is as large as is wanted.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Flaw> {
        debug_assert_eq!(piece.len(), self.wants(), "pieces are as large as is wanted");
        self.next = match self.next {
            Piece::Start => self.take_start(piece)?,
            Piece::Header { checksum, .. } => self.take_header(piece, checksum)?,
            Piece::Prefix => {
                self.checksum = extend_checksum(self.checksum, &[&piece[..4]]);
                let (length, checksum) = (number(&piece[..4]) as usize, number(&piece[4..]));
                match length {
                    0 => Piece::Totals { checksum },
                    1..=MAX_BLOCK_BYTES => Piece::Data { length, checksum },
                    _ => return Err(damaged("a block is too long")),
                }
            }
            Piece::Data { checksum, .. } => {
                self.extend(piece, checksum, "the checksum of a block does not match")?;
                self.totals.add(piece.len());
                Piece::Prefix
            }
            Piece::Totals { checksum } => {
                self.extend(piece, checksum, "the checksum of a block does not match")?;
                if piece != self.totals.to_bytes() {
                    return Err(damaged("its totals do not match"));
                }
                Piece::Nothing
            }
            Piece::Nothing => return Err(damaged("something follows its end")),
        };
        Ok(())
    }

    fn take_start(&mut self, piece: &[u8]) -> Result<Piece, Flaw> {
        let (start, checksum) = piece.split_at(START_BYTES - 4);
        if start[..8] != MAGIC {
            return Err(damaged("it does not begin like a snapshot"));
        }
        let (version, length) = (number(&start[8..12]), number(&start[12..]));
        if version != VERSION {
            return Err(Flaw::UnknownVersion(version));
        }
        self.checksum = extend_checksum(0, &[start]);
        Ok(Piece::Header { length: length as usize, checksum: number(checksum) })
    }

    fn take_header(&mut self, piece: &[u8], checksum: u32) -> Result<Piece, Flaw> {
        self.extend(piece, checksum, "the checksum of its header does not match")?;
        let header: SnapshotHeader = codec::decode(piece).map_err(|error| damaged(&error.to_string()))?;
        let (found, expected) = (header.meta.position, self.position);
        if found != expected {
            return Err(damaged(&format!("it is the snapshot {found}, not {expected}")));
        }
        self.header = Some(header);
        Ok(Piece::Prefix)
    }

    fn extend(&mut self, piece: &[u8], expected: u32, or: &str) -> Result<(), Flaw> {
        self.checksum = extend_checksum(self.checksum, &[piece]);
        if self.checksum == expected { Ok(()) } else { Err(damaged(or)) }
    }
}

/// What the end block says.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    blocks: u64,
    bytes: u64,
}

impl Totals {
    const SIZE_BYTES: usize = 16;

    fn add(&mut self, block_bytes: usize) {
        self.blocks += 1;
        self.bytes += block_bytes as u64;
    }

    fn to_bytes(self) -> [u8; Self::SIZE_BYTES] {
        let mut bytes = [0; Self::SIZE_BYTES];
        bytes[..8].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }
}

/// The CRC-32 of what `checksum` is of, followed by `parts`.
fn extend_checksum(checksum: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(checksum);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("numbers are read from 4 bytes"))
}

fn damaged(reason: &str) -> Flaw {
    Flaw::Damaged(reason.to_owned())
}

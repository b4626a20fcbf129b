//! What clients of the key-value backend send and receive: bincode 2, standard configuration, of these types.
//!
//! The same file is compiled into the backend and into its clients. It is a wire format: a variant may be added at an
//! enum's end, nothing else may change.

use serde::{Deserialize, Serialize};

/// A command: changes data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvCommand {
    /// Stores a value. In an ephemeral command the entry belongs to the session and goes when it ends; any other put
    /// of the key takes it over. Answered with [`KvReply::Written`].
    Put {
        /// 1 to [`MAX_KEY_BYTES`] bytes.
        #[serde(with = "in_one_piece")]
        key: Vec<u8>,
        /// Any bytes.
        #[serde(with = "in_one_piece")]
        value: Vec<u8>,
    },
    /// Removes an entry. Answered with [`KvReply::Deleted`].
    Delete {
        /// The entry's key.
        #[serde(with = "in_one_piece")]
        key: Vec<u8>,
    },
    /// Stores or removes if the entry is as expected. Answered with [`KvReply::Written`], [`KvReply::Deleted`], or, when
    /// it is not as expected, [`KvReply::Conflict`].
    CompareAndSet {
        /// The entry's key.
        #[serde(with = "in_one_piece")]
        key: Vec<u8>,
        /// What must be there.
        expected: KvExpected,
        /// The new value; `None` removes the entry.
        new: Option<Vec<u8>>,
    },
}

/// What a compare-and-set demands of the entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvExpected {
    /// There is none.
    Absent,
    /// It has this value.
    Value(#[serde(with = "in_one_piece")] Vec<u8>),
    /// It was last changed at this log index, [`KvEntry::index`].
    Index(u64),
}

/// A query: reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvQuery {
    /// Reads one entry. Answered with [`KvReply::Entry`].
    Get {
        /// The entry's key.
        #[serde(with = "in_one_piece")]
        key: Vec<u8>,
    },
    /// Reads entries in the order of their keys. Answered with [`KvReply::Entries`].
    Range {
        /// The first key; empty for the first of all.
        #[serde(with = "in_one_piece")]
        start: Vec<u8>,
        /// The key before which to stop; `None` to go to the end.
        end: Option<Vec<u8>>,
        /// The most entries wanted; bounded by [`MAX_RANGE_ENTRIES`] and [`MAX_RANGE_BYTES`] in any case.
        limit: u32,
    },
}

/// The answer to a command or a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvReply {
    /// The value was stored.
    Written {
        /// The command's log index: grows with every change, so it serves as a fencing token.
        index: u64,
    },
    /// The entry is gone.
    Deleted {
        /// Whether there was one.
        existed: bool,
    },
    /// The entry is not as expected, and nothing was changed.
    Conflict {
        /// What is there.
        current: Option<KvEntry>,
    },
    /// What [`KvQuery::Get`] found.
    Entry(Option<KvEntry>),
    /// What [`KvQuery::Range`] found.
    Entries {
        /// The entries, ascending by key.
        entries: Vec<KvEntry>,
        /// Whether the range goes on behind the last one.
        more: bool,
    },
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// Its key.
    #[serde(with = "in_one_piece")]
    pub key: Vec<u8>,
    /// What was put.
    #[serde(with = "in_one_piece")]
    pub value: Vec<u8>,
    /// The log index of its last change.
    pub index: u64,
    /// The session it belongs to, when it is ephemeral.
    pub session: Option<u64>,
}

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// Most entries in the answer to a range.
pub const MAX_RANGE_ENTRIES: usize = 1000;

/// A range's answer ends with the entry that brings its keys and values to this many bytes.
pub const MAX_RANGE_BYTES: usize = 1 << 20;

/// The smallest key greater than every key that begins with `prefix`: where a range over a prefix ends. `None` when
/// there is no such key.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Encodes bytes as serde would a `Vec<u8>`, only much faster: not byte by byte.
mod in_one_piece {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }
}

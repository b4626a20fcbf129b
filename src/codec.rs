//! The only place that knows how values become bytes: bincode 2, little-endian, variable-length integers.
//!
//! Decoding is for bytes that somebody else wrote. It never panics, never reserves more than 4 KiB and 256 times
//! its input, whatever lengths that claims, and refuses trailing bytes.
//!
//! The format has no names and no versions in it. What is kept or sent is versioned around it: rounds and snapshot
//! files carry a format version, connections agree on one by ALPN.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// Why bytes are not a value of the expected type. The sender, or the disk, is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not an encoding of the type.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// The Rust name of the expected type.
        what: &'static str,
        /// What the decoder stumbled over.
        reason: String,
    },
    /// A value was read and bytes are left.
    #[error("{left} bytes follow a {what}")]
    TrailingBytes {
        /// The Rust name of the expected type.
        what: &'static str,
        /// How many bytes are left.
        left: usize,
    },
}

const CONFIG: bincode::config::Configuration = bincode::config::standard();

/// What is kept for the next value. A buffer that grows from nothing is moved half a dozen times for a small value.
const MAX_SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Encodes a value.
///
/// # Panics
/// If the type's `Serialize` fails, which none of this package's types do: their encoding is total.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut scratch = SCRATCH.take();
    encode_into(value, &mut scratch);
    if scratch.len() > MAX_SCRATCH_BYTES {
        return scratch;
    }
    let bytes = scratch.to_vec();
    put_back(scratch);
    bytes
}

/// Encodes a value for whoever only looks at its bytes.
///
/// # Panics
/// As [`encode`].
pub fn with_encoded<T: Serialize, R>(value: &T, look: impl FnOnce(&[u8]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    encode_into(value, &mut scratch);
    let seen = look(&scratch);
    put_back(scratch);
    seen
}

fn put_back(mut scratch: Vec<u8>) {
    if scratch.capacity() <= 2 * MAX_SCRATCH_BYTES {
        scratch.clear();
        SCRATCH.set(scratch);
    }
}

/// Encodes a value that ends in a byte string, up to the bytes themselves, of which there are to be `length`. `value` has none
/// there. Whoever sends a large one need not copy it.
///
/// # Panics
/// As [`encode`], and if `value` does not end in an empty byte string.
#[must_use]
pub fn encode_up_to_bytes<T: Serialize>(value: &T, length: usize) -> Vec<u8> {
    let mut bytes = encode(value);
    assert_eq!(bytes.pop(), Some(0), "the length of an empty byte string");
    encode_into(&length, &mut bytes);
    bytes
}

/// Encodes a value of a type that is not this package's.
///
/// # Errors
/// What its `Serialize` says.
pub fn try_encode<T: Serialize>(value: &T) -> Result<Vec<u8>, impl std::fmt::Display> {
    bincode::serde::encode_to_vec(value, CONFIG)
}

/// Appends the encoding of a value to `buffer`.
///
/// # Panics
/// As [`encode`].
pub fn encode_into<T: Serialize>(value: &T, buffer: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, buffer, CONFIG).expect("encoding to memory cannot fail");
}

/// Decodes a value that fills `bytes` exactly; it may borrow from them.
///
/// # Errors
/// [`DecodeError`] when the bytes are not one value of the type.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let what = std::any::type_name::<T>();
    let (value, used) = decode_prefix(bytes)?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(DecodeError::TrailingBytes { what, left }),
    }
}

/// Decodes a value from the front of `bytes`, from which it may borrow, and says how many bytes it took.
///
/// # Errors
/// [`DecodeError::Malformed`] when `bytes` does not begin with a value of the type.
pub fn decode_prefix<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, usize), DecodeError> {
    // A byte string is reserved in full before it is read, bounded by the decoder's limit alone, which is a constant.
    // It counts integers by their size in memory, up to 16 times their encoding; hence the smallest constant that
    // is at least 16 times the input.
    let decoded = match bytes.len() {
        0..=0x100 => bincode::serde::borrow_decode_from_slice(bytes, CONFIG.with_limit::<0x1000>()),
        0x101..=0x1000 => bincode::serde::borrow_decode_from_slice(bytes, CONFIG.with_limit::<0x1_0000>()),
        0x1001..=0x1_0000 => bincode::serde::borrow_decode_from_slice(bytes, CONFIG.with_limit::<0x10_0000>()),
        0x1_0001..=0x10_0000 => bincode::serde::borrow_decode_from_slice(bytes, CONFIG.with_limit::<0x100_0000>()),
        0x10_0001..=0x100_0000 => bincode::serde::borrow_decode_from_slice(bytes, CONFIG.with_limit::<0x1000_0000>()),
        _ => bincode::serde::borrow_decode_from_slice(bytes, CONFIG.with_limit::<0x10_0000_0000>()),
    };
    decoded.map_err(|error| DecodeError::Malformed { what: std::any::type_name::<T>(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_value_survives_the_round_trip() {
        let value = (1u64, Some(Bytes::from_static(b"abc")), vec!["x".to_owned()]);
        assert_eq!(decode::<(u64, Option<Bytes>, Vec<String>)>(&encode(&value)).unwrap(), value);
    }

    #[test]
    fn what_was_encoded_before_does_not_show() {
        for size in [3, MAX_SCRATCH_BYTES, 1, 3 * MAX_SCRATCH_BYTES, 5] {
            let value = (size as u64, vec![7u8; size]);
            let bytes = encode(&value);
            assert_eq!(decode::<(u64, Vec<u8>)>(&bytes).unwrap(), value);
            assert_eq!(with_encoded(&value, <[u8]>::to_vec), bytes);
        }
        // One that encodes another meanwhile.
        struct Nested;
        impl Serialize for Nested {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&encode(&[1u8, 2]))
            }
        }
        assert_eq!(encode(&(9u8, Nested)), [9, 2, 1, 2]);
    }

    #[test]
    fn a_value_is_encoded_in_two_parts_as_in_one() {
        for length in [0, 1, 250, 251, 70_000] {
            let tail = Bytes::from(vec![9; length]);
            let mut bytes = encode_up_to_bytes(&(7u8, Bytes::new()), length);
            bytes.extend_from_slice(&tail);
            assert_eq!(bytes, encode(&(7u8, tail)));
        }
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7u32);
        bytes.push(0);
        assert!(matches!(decode::<u32>(&bytes), Err(DecodeError::TrailingBytes { left: 1, .. })));
    }

    #[test]
    fn small_integers_fill_an_input_without_reaching_the_limit() {
        for count in [1usize, 250, 5_000, 70_000, 2_000_000] {
            let value = vec![1u128; count];
            assert_eq!(decode::<Vec<u128>>(&encode(&value)).unwrap(), value);
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_an_error_and_reserves_nothing() {
        // A vector that claims 2^60 elements: the decoder must find out before it makes room for them.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(DecodeError::Malformed { .. })));
        assert!(matches!(decode::<Bytes>(&bytes), Err(DecodeError::Malformed { .. })));
        assert!(matches!(decode::<String>(&bytes), Err(DecodeError::Malformed { .. })));
    }
}

//! How messages become bytes.

use bincode::enc::write::{SizeWriter, Writer};
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads messages that a client wrote. Whatever the bytes, the answer is a value or a refusal.
pub trait Decode<T> {
    /// # Errors
    /// What is wrong with the bytes, for the client to read.
    fn decode(bytes: Vec<u8>) -> Result<T, String>;
}

/// Writes messages for a client.
pub trait Encode<T> {
    /// # Errors
    /// Why the value has no encoding, for the client to read.
    fn encode(value: &T) -> Result<Vec<u8>, String>;
}

/// bincode 2 in its standard configuration: little-endian, variable-length integers, no names. Small and fast.
#[derive(Clone, Copy, Debug)]
pub enum Bincode {}

/// JSON, for clients in any language.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug)]
pub enum Json {}

/// Bytes as they are.
#[derive(Clone, Copy, Debug)]
pub enum Raw {}

pub(crate) const STANDARD: bincode::config::Configuration = bincode::config::standard();

impl<T: DeserializeOwned> Decode<T> for Bincode {
    fn decode(bytes: Vec<u8>) -> Result<T, String> {
        // A byte string is reserved in full before it is read, bounded by the decoder's limit alone. The limits leave
        // room for integers, which count by their size in memory: up to 16 times that of their encoding.
        let decoded = match bytes.len() {
            0..=0x1000 => bincode::serde::decode_from_slice(&bytes, STANDARD.with_limit::<0x1_0000>()),
            0x1001..=0x10_0000 => bincode::serde::decode_from_slice(&bytes, STANDARD.with_limit::<0x100_0000>()),
            _ => bincode::serde::decode_from_slice(&bytes, STANDARD.with_limit::<0x4000_0000>()),
        };
        let (value, used) = decoded.map_err(|error| error.to_string())?;
        match bytes.len() - used {
            0 => Ok(value),
            left => Err(format!("{left} bytes follow the message")),
        }
    }
}

impl<T: Serialize> Encode<T> for Bincode {
    fn encode(value: &T) -> Result<Vec<u8>, String> {
        let mut bytes = Exact(Vec::with_capacity(encoded_bytes(value)?));
        bincode::serde::encode_into_writer(value, &mut bytes, STANDARD).map_err(|error| error.to_string())?;
        Ok(bytes.0)
    }
}

/// The length of a value's encoding. A buffer of just this size need not grow, nor be cut when the reply is handed over; for a
/// short reply that takes longer than to encode it.
fn encoded_bytes<T: Serialize>(value: &T) -> Result<usize, String> {
    let mut size = SizeWriter::default();
    bincode::serde::encode_into_writer(value, &mut size, STANDARD).map_err(|error| error.to_string())?;
    Ok(size.bytes_written)
}

/// A buffer that is as large as it needs to be.
struct Exact(Vec<u8>);

impl Writer for Exact {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(feature = "json")]
impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(bytes: Vec<u8>) -> Result<T, String> {
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }
}

#[cfg(feature = "json")]
impl<T: Serialize> Encode<T> for Json {
    fn encode(value: &T) -> Result<Vec<u8>, String> {
        serde_json::to_vec(value).map_err(|error| error.to_string())
    }
}

impl Decode<Vec<u8>> for Raw {
    fn decode(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(bytes)
    }
}

impl Encode<Vec<u8>> for Raw {
    fn encode(value: &Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_round_trip_and_nothing_may_follow_it() {
        let message = (7u64, Some(b"abcdefghi".to_vec()), "x".to_owned());
        let mut bytes = Bincode::encode(&message).unwrap();
        assert_eq!(bytes.capacity(), bytes.len());
        assert_eq!(Bincode::decode(bytes.clone()), Ok(message));
        bytes.push(0);
        let refused: Result<(u64, Option<Vec<u8>>, String), String> = Bincode::decode(bytes);
        assert_eq!(refused, Err("1 bytes follow the message".to_owned()));
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1u64 << 31).to_le_bytes());
        let refused: Result<String, String> = Bincode::decode(bytes);
        assert!(refused.is_err());
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_reads_what_it_writes() {
        let bytes = Json::encode(&vec![1, 2]).unwrap();
        assert_eq!(bytes, b"[1,2]");
        let back: Result<Vec<i32>, String> = Json::decode(bytes);
        assert_eq!(back, Ok(vec![1, 2]));
    }
}

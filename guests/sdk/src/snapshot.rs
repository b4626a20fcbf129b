//! How a state is written to a snapshot and read back.

use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Origin;
use crate::codec::STANDARD;

/// Writes a state in chunks and reads it back.
///
/// Made for every serde type: it encodes the whole state when the first chunk is asked for, so for a moment it is in
/// memory twice. A large state implements this trait in place of serde and goes through its data record by record
/// ([`RecordWriter`], [`RecordReader`]).
///
/// Equal states must be written as equal bytes: zraft compares snapshots of replicas.
pub trait Snapshot: Sized + 'static {
    /// How far a snapshot has been written. No command is applied while it exists.
    type Reader: Default + 'static;
    /// What has been read of a snapshot.
    type Writer: 'static;

    /// The next chunk: 1 to `max_bytes` bytes, or `None` after the last.
    fn next_chunk(&self, reader: &mut Self::Reader, max_bytes: usize) -> Option<Vec<u8>>;

    /// Begins to read a snapshot.
    ///
    /// # Errors
    /// Why it cannot be used.
    fn begin(origin: &Origin) -> Result<Self::Writer, String>;

    /// Takes the next chunk. Chunks come in order but may be cut elsewhere than they were written.
    ///
    /// # Errors
    /// What is wrong with it.
    fn take_chunk(writer: &mut Self::Writer, chunk: Vec<u8>) -> Result<(), String>;

    /// The state, once all chunks are there.
    ///
    /// # Errors
    /// What is wrong with the snapshot.
    fn finish(writer: Self::Writer) -> Result<Self, String>;
}

/// How far the snapshot of a serde state has been written.
#[derive(Debug, Default)]
pub struct SerdeReader {
    encoded: Option<Vec<u8>>,
    position: usize,
}

impl<T: Serialize + DeserializeOwned + 'static> Snapshot for T {
    type Reader = SerdeReader;
    type Writer = Vec<u8>;

    fn next_chunk(&self, reader: &mut SerdeReader, max_bytes: usize) -> Option<Vec<u8>> {
        let encoded = reader
            .encoded
            .get_or_insert_with(|| bincode::serde::encode_to_vec(self, STANDARD).expect("the state can be serialized"));
        let end = encoded.len().min(reader.position.saturating_add(max_bytes));
        let chunk = encoded[reader.position..end].to_vec();
        reader.position = end;
        (!chunk.is_empty()).then_some(chunk)
    }

    fn begin(_origin: &Origin) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn take_chunk(writer: &mut Vec<u8>, chunk: Vec<u8>) -> Result<(), String> {
        writer.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish(writer: Vec<u8>) -> Result<Self, String> {
        let (state, used) = bincode::serde::decode_from_slice(&writer, STANDARD).map_err(|error| error.to_string())?;
        match writer.len() - used {
            0 => Ok(state),
            left => Err(format!("{left} bytes follow the state")),
        }
    }
}

/// Length of a record, in front of it: four bytes, little-endian.
const LENGTH_BYTES: usize = 4;

/// Cuts a stream of records into chunks. A record may span chunks.
#[derive(Debug, Default)]
pub struct RecordWriter {
    pending: Vec<u8>,
}

impl RecordWriter {
    /// Appends a record.
    ///
    /// # Panics
    /// If its `Serialize` fails, or its encoding is 4 GiB or longer, which no guest's memory holds.
    pub fn push<T: Serialize>(&mut self, record: &T) {
        let begin = self.pending.len();
        self.pending.extend_from_slice(&[0; LENGTH_BYTES]);
        let encoded = bincode::serde::encode_into_writer(record, AtEnd(&mut self.pending), STANDARD);
        encoded.expect("the record can be serialized");
        let (_, record) = self.pending.split_at_mut(begin);
        let (length, record) = record.split_at_mut(LENGTH_BYTES);
        length.copy_from_slice(&u32::try_from(record.len()).expect("a record fits into memory").to_le_bytes());
    }

    /// How many bytes wait to be taken.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Takes up to `max_bytes` bytes, or `None` when there are none.
    pub fn take(&mut self, max_bytes: usize) -> Option<Vec<u8>> {
        let rest = self.pending.split_off(max_bytes.min(self.pending.len()));
        let chunk = std::mem::replace(&mut self.pending, rest);
        (!chunk.is_empty()).then_some(chunk)
    }
}

/// Writes what is encoded behind what there is.
struct AtEnd<'a>(&'a mut Vec<u8>);

impl Writer for AtEnd<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Puts records together from chunks.
#[derive(Debug, Default)]
pub struct RecordReader {
    pending: Vec<u8>,
}

impl RecordReader {
    /// Takes a chunk and hands every record that it completes to `each`.
    ///
    /// # Errors
    /// When a record is not one of type `T`, or `each` says so.
    pub fn feed<T: DeserializeOwned>(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(T) -> Result<(), String>,
    ) -> Result<(), String> {
        self.pending.extend_from_slice(chunk);
        let mut position = 0;
        while let Some((length, rest)) = self.pending[position..].split_first_chunk::<LENGTH_BYTES>() {
            let Some(encoded) = rest.get(..u32::from_le_bytes(*length) as usize) else { break };
            let (record, used) =
                bincode::serde::decode_from_slice(encoded, STANDARD).map_err(|error| error.to_string())?;
            if used != encoded.len() {
                return Err("a record is longer than its value".to_owned());
            }
            position += LENGTH_BYTES + encoded.len();
            each(record)?;
        }
        self.pending.drain(..position);
        Ok(())
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// When the last record is incomplete.
    pub fn finish(self) -> Result<(), String> {
        if self.pending.is_empty() { Ok(()) } else { Err("the last record is cut short".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serde_state_is_cut_into_chunks_and_put_together() {
        let state: Vec<u32> = (0..100).collect();
        let mut reader = SerdeReader::default();
        let mut writer = Vec::<u32>::begin(&Origin::default()).unwrap();
        while let Some(chunk) = state.next_chunk(&mut reader, 7) {
            assert!((1..=7).contains(&chunk.len()));
            Vec::<u32>::take_chunk(&mut writer, chunk).unwrap();
        }
        assert_eq!(Vec::<u32>::finish(writer), Ok(state));
    }

    #[test]
    fn records_survive_any_cut() {
        for size in 1..40 {
            let mut writer = RecordWriter::default();
            (0u32..10).for_each(|number| writer.push(&("record", number)));
            let (mut reader, mut seen) = (RecordReader::default(), Vec::new());
            while let Some(chunk) = writer.take(size) {
                let each = |(_, number): (String, u32)| {
                    seen.push(number);
                    Ok(())
                };
                reader.feed(&chunk, each).unwrap();
            }
            reader.finish().unwrap();
            assert_eq!(seen, (0..10).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn a_record_cut_short_is_noticed() {
        let mut writer = RecordWriter::default();
        writer.push(&1234u32);
        let chunk = writer.take(writer.pending_bytes() - 1).unwrap();
        let mut reader = RecordReader::default();
        reader.feed(&chunk, |_: u32| Ok(())).unwrap();
        assert!(reader.finish().is_err());
    }
}

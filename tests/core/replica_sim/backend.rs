//! A backend in process: a list of numbers that only grows, and that refuses some of them.

use bytes::Bytes;
use zraft::machine::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, BackendReply, Fault, Key, Moment, Origin,
    SnapshotError, StartError,
};

/// Every command carries a number of its own. Multiples of this are refused.
const REFUSED: u64 = 5;
/// Numbers in a chunk of a snapshot.
const CHUNK: usize = 5;

#[derive(Default)]
pub struct List {
    numbers: Vec<u64>,
    digest: u64,
}

pub struct ListFactory;

pub fn command(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

pub fn number(command: &[u8]) -> u64 {
    u64::from_le_bytes(command.try_into().expect("a command is a number"))
}

impl List {
    fn push(&mut self, number: u64) -> BackendReply {
        if number.is_multiple_of(REFUSED) {
            return Err(format!("{number} is refused after {}", self.numbers.len()));
        }
        self.numbers.push(number);
        self.digest = (self.digest ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        Ok(command(self.numbers.len() as u64))
    }
}

impl BackendFactory for ListFactory {
    fn init(&self, _at: Moment, _config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::<List>::default())
    }

    fn restore(
        &self,
        _at: Moment,
        _origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        let mut list = List::default();
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            for bytes in chunk.chunks(8) {
                list.push(number(bytes)).map_err(StartError::Refused)?;
            }
        }
        Ok(Box::new(list))
    }
}

impl Backend for List {
    fn version(&mut self) -> Result<String, Fault> {
        Ok("list 1".to_owned())
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        let outcome = |command: &BackendCommand| BackendOutcome {
            reply: self.push(number(&command.data)),
            changed: vec![command.data.clone()],
        };
        Ok(commands.iter().map(outcome).collect())
    }

    /// Where in the log the state stands and when, how long the list is, and a digest of it.
    fn query(&mut self, at: Moment, _request: &[u8]) -> Result<BackendAnswer, Fault> {
        let words = [at.index, at.time_ms, self.numbers.len() as u64, self.digest];
        let reply = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(BackendAnswer { reply: Ok(reply), watched: vec![] })
    }

    fn expire_session(&mut self, _at: Moment, _session: u64) -> Result<Vec<Key>, Fault> {
        Ok(vec![])
    }

    fn snapshot(
        &mut self,
        _at: Moment,
        _max_chunk_bytes: u32,
        sink: &mut dyn FnMut(Bytes) -> Result<(), String>,
    ) -> Result<(), SnapshotError> {
        let mut chunks =
            self.numbers.chunks(CHUNK).map(|chunk| chunk.iter().flat_map(|number| number.to_le_bytes()).collect());
        chunks.try_for_each(sink).map_err(SnapshotError::Sink)
    }
}

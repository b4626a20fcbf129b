//! The kv backend without WebAssembly, as a node would see it.

use bytes::Bytes;
use kv::Kv;
use zraft::machine::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, Budget, Fault, Key, Machine, Moment,
    Origin, StartError, StateReader,
};
use zraft_backend::{Apply, Backend as _, Bincode, Decode, Encode, Query, Snapshot};

/// Makes instances.
pub struct NativeFactory;

/// An instance.
struct Native(Kv);

impl BackendFactory for NativeFactory {
    fn init(&self, _: Moment, config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::new(Native(Kv::init(config).map_err(StartError::Refused)?)))
    }

    fn restore(
        &self,
        _: Moment,
        origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        let Origin { version, config, migration } = origin.clone();
        let origin = zraft_backend::Origin { version, config: config.into(), migration: migration.map(Vec::from) };
        let mut writer = Kv::begin(&origin).map_err(StartError::Refused)?;
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            Kv::take_chunk(&mut writer, chunk.into()).map_err(StartError::Refused)?;
        }
        Ok(Box::new(Native(Kv::finish(writer).map_err(StartError::Refused)?)))
    }
}

impl Native {
    /// What the SDK makes of a command that has crossed the boundary.
    fn apply_one(&mut self, BackendCommand { at, session, data }: &BackendCommand) -> BackendOutcome {
        let mut at = Apply::at(at.index, at.time_ms).ephemeral(*session);
        let reply = Bincode::decode(data.to_vec())
            .and_then(|command| self.0.apply(command, &mut at))
            .and_then(|reply| Bincode::encode(&reply));
        BackendOutcome { reply: reply.map(Bytes::from), changed: to_keys(at.into_changed()) }
    }
}

impl Backend for Native {
    fn version(&mut self) -> Result<String, Fault> {
        Ok(Kv::VERSION.to_owned())
    }

    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        Ok(commands.iter().map(|command| self.apply_one(command)).collect())
    }

    fn query(&mut self, _: Moment, request: &[u8]) -> Result<BackendAnswer, Fault> {
        let mut at = Query::default();
        let reply = Bincode::decode(request.to_vec())
            .and_then(|query| self.0.query(query, &mut at))
            .and_then(|reply| Bincode::encode(&reply));
        Ok(BackendAnswer { reply: reply.map(Bytes::from), watched: to_keys(at.into_watched()) })
    }

    fn expire_session(&mut self, at: Moment, session: u64) -> Result<Vec<Key>, Fault> {
        let mut at = Apply::at(at.index, at.time_ms);
        self.0.expire_session(session, &mut at);
        Ok(to_keys(at.into_changed()))
    }

    fn read_state(&mut self, _: Moment, _: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        let mut reader = <Kv as Snapshot>::Reader::default();
        let next = move || self.0.next_chunk(&mut reader, Machine::MAX_CHUNK_BYTES as usize).map(Bytes::from);
        Ok(Box::new(std::iter::from_fn(next)))
    }
}

fn to_keys(keys: Vec<Vec<u8>>) -> Vec<Key> {
    keys.into_iter().map(Bytes::from).collect()
}

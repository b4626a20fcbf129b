//! A cluster of zraft as what is driven.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Client, KvCommand, KvQuery, LightSession, Session, SessionOptions};
use crate::codec;
use crate::load::{Driven, Service};
use crate::transport::Credentials;
use crate::types::PeerId;

/// How long a session lives without a sign of its client, and how long a request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The cluster, and how to speak to it.
pub(super) struct Cluster {
    pub(super) credentials: Credentials,
    pub(super) peers: Vec<PeerId>,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) has_sessions: bool,
    pub(super) requests: Requests,
}

/// What is asked.
#[derive(Clone)]
pub(super) enum Requests {
    /// Puts and gets of the bundled kv.
    Kv,
    /// The same command and query each time.
    Any { write: Bytes, query: Bytes },
}

impl Requests {
    pub(super) fn any(write: Option<&str>, query: Option<&str>) -> Self {
        let bytes = |text: Option<&str>| Bytes::copy_from_slice(text.unwrap_or_default().as_bytes());
        Self::Any { write: bytes(write), query: bytes(query) }
    }

    fn write(&self, key: u64, value: &[u8]) -> Bytes {
        match self {
            Self::Kv => encode(&KvCommand::Put { key: name(key), value: value.to_vec() }),
            Self::Any { write, .. } => write.clone(),
        }
    }

    fn query(&self, key: u64) -> Bytes {
        match self {
            Self::Kv => encode(&KvQuery::Get { key: name(key) }),
            Self::Any { query, .. } => query.clone(),
        }
    }
}

fn encode(message: &impl serde::Serialize) -> Bytes {
    codec::encode(message).into()
}

/// Keys sort as their numbers do.
fn name(key: u64) -> Vec<u8> {
    format!("key-{key:012}").into_bytes()
}

/// One client.
pub(super) struct One {
    session: Either,
    requests: Requests,
}

enum Either {
    Light(Rc<LightSession>),
    Session(Session),
}

impl Service for Cluster {
    type Client = One;

    async fn connect(&self, thread: usize, count: usize) -> Result<Vec<One>, String> {
        let options =
            SessionOptions { request_timeout: TIMEOUT, attempt_timeout: TIMEOUT, ..SessionOptions::default() };
        // Each thread has its share of the connections, since they live on its runtime.
        let share = (thread..self.connections).step_by(self.threads).count().clamp(1, count.max(1));
        let connect = |_| Client::new(self.credentials.clone()).map_err(|error| error.to_string());
        let connections = (0..share).map(connect).collect::<Result<Vec<_>, _>>()?;
        let light = |client: &Client| Rc::new(LightSession::with_options(client.clone(), self.peers.clone(), options));
        let shared: Vec<_> = connections.iter().map(light).collect();
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let session = if self.has_sessions {
                let client = connections[number % share].clone();
                let connected = Session::connect_with(client, self.peers.clone(), TIMEOUT, options).await;
                Either::Session(connected.map_err(|error| error.to_string())?.0)
            } else {
                Either::Light(Rc::clone(&shared[number % share]))
            };
            clients.push(One { session, requests: self.requests.clone() });
        }
        Ok(clients)
    }
}

impl Driven for One {
    async fn write(&mut self, key: u64, value: &[u8]) -> Result<(), String> {
        let command = self.requests.write(key, value);
        match &self.session {
            Either::Light(session) => session.write(command).await.map(drop).map_err(|error| error.to_string()),
            Either::Session(session) => session.write(command).await.map(drop).map_err(|error| error.to_string()),
        }
    }

    async fn read(&mut self, key: u64) -> Result<(), String> {
        let query = self.requests.query(key);
        match &self.session {
            Either::Light(session) => session.query(query).await.map(drop).map_err(|error| error.to_string()),
            Either::Session(session) => session.query(query).await.map(drop).map_err(|error| error.to_string()),
        }
    }
}

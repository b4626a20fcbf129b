//! The dialing side: finds the node's addresses, tries them staggered, and waits until the node has let us in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Protocol;
use super::connection::{CloseCode, Connection};
use super::error::{ConnectError, ConnectionLost};
use super::handshake::WELCOME;
use super::identity::Role;
use super::keyring::{Keyring, Keys};
use super::tuning::{self, CONNECT_TIMEOUT};
use super::verify::{Refusal, Seen};
use crate::types::NodeAddr;

/// The next address is tried when the one before has not answered for this long (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 8;

/// One attempt to reach one node, at any of its addresses.
#[derive(Clone)]
struct Dial {
    quic: quinn::Endpoint,
    keyring: Arc<Keyring>,
    keys: Arc<Keys>,
    /// Who must answer.
    node: NodeAddr,
    /// Where.
    at: NodeAddr,
    protocol: Protocol,
}

pub(super) async fn connect(
    quic: &quinn::Endpoint,
    keyring: &Arc<Keyring>,
    node: &NodeAddr,
    at: &NodeAddr,
    protocol: Protocol,
) -> Result<Connection, ConnectError> {
    let (quic, keyring, keys) = (quic.clone(), Arc::clone(keyring), keyring.keys());
    let dial = Dial { quic, keyring, keys, node: node.clone(), at: at.clone(), protocol };
    let timed_out = || Err(ConnectError::Timeout { node: node.clone(), after: CONNECT_TIMEOUT });
    timeout(CONNECT_TIMEOUT, dial.any_address()).await.unwrap_or_else(|_| timed_out())
}

impl Dial {
    async fn any_address(&self) -> Result<Connection, ConnectError> {
        let mut addresses = self.resolve().await?.into_iter();
        let mut attempts = JoinSet::new();
        let mut failure = self.unreachable("its name has no address");
        loop {
            if let Some(address) = addresses.next() {
                let dial = self.clone();
                attempts.spawn(async move { dial.address(address).await });
            }
            let outcome = tokio::select! {
                outcome = attempts.join_next() => outcome,
                () = sleep(STAGGER), if addresses.len() > 0 => continue,
            };
            match outcome {
                None => return Err(failure),
                Some(Ok(Ok(connection))) => return Ok(connection),
                Some(Ok(Err(error))) if failure.is_an_answer() && !error.is_an_answer() => {}
                Some(Ok(Err(error))) => failure = error,
                Some(Err(crashed)) => failure = self.unreachable(&crashed.to_string()),
            }
        }
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let found = tokio::net::lookup_host((self.at.host(), self.at.port())).await;
        let found = found.map_err(|error| self.unreachable(&format!("its name does not resolve: {error}")))?;
        Ok(found.take(MAX_ADDRESSES).collect())
    }

    async fn address(&self, address: SocketAddr) -> Result<Connection, ConnectError> {
        let seen = Seen::default();
        let config = self.config(address, Arc::clone(&seen))?;
        let connecting = self.quic.connect_with(config, address, self.node.host()).map_err(|error| match error {
            quinn::ConnectError::EndpointStopping => ConnectError::EndpointClosed { node: self.node.clone() },
            error => self.unreachable(&error.to_string()),
        })?;
        let quic = connecting.await.map_err(|error| self.explain(error, &seen))?;
        self.welcomed(&quic).await.map_err(|error| self.explain(error, &seen))?;
        // The verifier accepts nobody else.
        let quic = Arc::new(quic);
        self.keyring.watch(&quic, &self.keys);
        Ok(Connection::new(quic, Role::Node(self.node.clone()), self.protocol, None))
    }

    fn config(&self, address: SocketAddr, seen: Seen) -> Result<quinn::ClientConfig, ConnectError> {
        let tls = self
            .keys
            .credentials
            .client_config(&self.node, self.protocol, seen)
            .map_err(|error| self.unreachable(&error.to_string()))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| self.unreachable(&error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(tuning::dialing(self.protocol, address)));
        Ok(config)
    }

    /// Waits for the server's verdict on us.
    async fn welcomed(&self, quic: &quinn::Connection) -> Result<(), quinn::ConnectionError> {
        let mut stream = quic.accept_uni().await?;
        let mut byte = [0];
        match stream.read_exact(&mut byte).await {
            Ok(()) if byte == [WELCOME] => Ok(()),
            Err(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => Err(error),
            _ => {
                quic.close(CloseCode::VIOLATION.var_int(), b"expected a welcome");
                Err(quic.closed().await)
            }
        }
    }

    fn explain(&self, error: quinn::ConnectionError, seen: &Seen) -> ConnectError {
        match seen.get().and_then(|sighting| sighting.refusal.as_ref()) {
            Some(Refusal::WrongNode { found }) => {
                ConnectError::WrongNode { expected: self.node.clone(), found: found.clone() }
            }
            Some(Refusal::Untrusted(reason)) => {
                ConnectError::ServerNotTrusted { node: self.node.clone(), reason: reason.clone() }
            }
            None => {
                let lost = ConnectionLost::from(error);
                ConnectError::from_lost(&self.node, self.protocol, lost, CONNECT_TIMEOUT)
            }
        }
    }

    fn unreachable(&self, reason: &str) -> ConnectError {
        ConnectError::Unreachable { node: self.node.clone(), reason: reason.to_owned() }
    }
}

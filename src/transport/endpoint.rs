//! One UDP socket that accepts connections and dials others.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use super::connection::{CloseCode, Connection, canonical};
use super::error::{ConnectError, TransportError};
use super::handshake::Doorkeeper;
use super::identity::Role;
use super::keyring::Keyring;
use super::limits::Limits;
use super::tls::Credentials;
use super::{Protocol, dial, tuning};
use crate::types::NodeAddr;

/// How long closing waits until the other sides have heard of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node's endpoint needs.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// Where to listen. Need not be the advertised address.
    pub listen: SocketAddr,
    /// The node's own certificate.
    pub credentials: Credentials,
    /// Bounds on accepted connections.
    pub limits: Limits,
}

/// A connection that was accepted: the other side is who its certificate says, and may use this protocol.
#[derive(Debug)]
pub struct Incoming {
    /// Who it is.
    pub identity: Role,
    /// Where it is.
    pub remote: SocketAddr,
    /// What the connection is for.
    pub protocol: Protocol,
    /// The connection.
    pub connection: Connection,
}

/// One UDP socket and its connections. Cheap to clone; dropping the last clone closes all connections.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quic: quinn::Endpoint,
    keyring: Arc<Keyring>,
    doorkeeper: Option<Arc<Doorkeeper>>,
    accepted: Mutex<mpsc::Receiver<Incoming>>,
}

impl Endpoint {
    /// Opens a node's endpoint. Must be called within a tokio runtime, which then drives it.
    ///
    /// # Errors
    /// [`TransportError`] when the address cannot be bound or the credentials are not a node's.
    pub fn server(options: EndpointOptions) -> Result<Self, TransportError> {
        Self::server_on(tuning::bind(options.listen)?, options.credentials, options.limits)
    }

    /// As [`Endpoint::server`], on a socket from [`bind`](super::bind): for who must know the port before there can be
    /// a certificate.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn server_on(socket: UdpSocket, credentials: Credentials, limits: Limits) -> Result<Self, TransportError> {
        Self::open(socket, credentials, limits, &[Protocol::Peer, Protocol::Client, Protocol::Bulk])
    }

    /// As [`Endpoint::server_on`], for nodes that bring snapshots: who wants something else is refused.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn for_snapshots(socket: UdpSocket, credentials: Credentials, limits: Limits) -> Result<Self, TransportError> {
        Self::open(socket, credentials, limits, &[Protocol::Snapshot])
    }

    fn open(
        socket: UdpSocket,
        credentials: Credentials,
        limits: Limits,
        protocols: &'static [Protocol],
    ) -> Result<Self, TransportError> {
        let config = tuning::endpoint(credentials.restart_key());
        let keyring = Arc::new(Keyring::new(credentials)?);
        let doorkeeper = Arc::new(Doorkeeper::new(Arc::clone(&keyring), limits, protocols)?);
        let quic = open(config, Some(doorkeeper.default_config()?), socket)?;
        let (sender, accepted) = mpsc::channel(tuning::MAX_UNTAKEN);
        tokio::spawn(Arc::clone(&doorkeeper).serve(quic.clone(), sender));
        Ok(Self::assemble(quic, keyring, Some(doorkeeper), accepted))
    }

    /// Opens an endpoint that only dials. Must be called within a tokio runtime, which then drives it.
    ///
    /// # Errors
    /// [`TransportError`] when there is no socket to be had.
    pub fn client(credentials: Credentials) -> Result<Self, TransportError> {
        let quic = open(tuning::endpoint(None), None, tuning::bind_any()?)?;
        let (_, accepted) = mpsc::channel(1);
        Ok(Self::assemble(quic, Arc::new(Keyring::new(credentials)?), None, accepted))
    }

    fn assemble(
        quic: quinn::Endpoint,
        keyring: Arc<Keyring>,
        doorkeeper: Option<Arc<Doorkeeper>>,
        accepted: mpsc::Receiver<Incoming>,
    ) -> Self {
        Self { inner: Arc::new(Inner { quic, keyring, doorkeeper, accepted: Mutex::new(accepted) }) }
    }

    /// The next connection that was let in; `None` once the endpoint is closed, or if it only dials. Who is not let in
    /// is logged as a warning and counted by [`Endpoint::refused`].
    pub async fn accept(&self) -> Option<Incoming> {
        self.inner.accepted.lock().await.recv().await
    }

    /// Dials a node and returns once it has accepted us. Tries all addresses of its host, within five seconds.
    ///
    /// # Errors
    /// [`ConnectError`] says who refused whom, and why.
    pub async fn connect(&self, node: &NodeAddr, protocol: Protocol) -> Result<Connection, ConnectError> {
        self.connect_at(node, node, protocol).await
    }

    /// As [`Endpoint::connect`], for an endpoint of the node that is elsewhere than its advertised one.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_at(
        &self,
        node: &NodeAddr,
        at: &NodeAddr,
        protocol: Protocol,
    ) -> Result<Connection, ConnectError> {
        dial::connect(&self.inner.quic, &self.inner.keyring, node, at, protocol).await
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// [`TransportError::Socket`].
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        Ok(canonical(self.inner.quic.local_addr()?))
    }

    /// Who this endpoint says it is.
    #[must_use]
    pub fn identity(&self) -> Option<Role> {
        self.inner.keyring.keys().credentials.identity().cloned()
    }

    /// Uses other credentials of the same identity from now on, for those who come and those who are dialed. Connections go
    /// on, but those whose other side would not be let in by the new ones are closed; returns how many.
    ///
    /// # Errors
    /// [`TransportError::OtherIdentity`], [`TransportError::Tls`]; the former credentials stay then.
    pub fn renew(&self, credentials: Credentials) -> Result<usize, TransportError> {
        let closed = self.inner.keyring.renew(credentials)?;
        if let Some(doorkeeper) = &self.inner.doorkeeper {
            self.inner.quic.set_server_config(Some(doorkeeper.default_config()?));
        }
        Ok(closed)
    }

    /// How many connections were refused since it was opened.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.inner.doorkeeper.as_ref().map_or(0, |doorkeeper| doorkeeper.refused())
    }

    /// Closes all connections and stops accepting. Waits, up to a second, until the other sides know. The port is free
    /// when, besides, the last clone is dropped and the runtime has ended the tasks that held it.
    pub async fn close(&self, reason: &str) {
        self.inner.quic.close(CloseCode::SHUTDOWN.var_int(), reason.as_bytes());
        let told = tokio::time::timeout(CLOSE_TIMEOUT, self.inner.quic.wait_idle()).await;
        told.unwrap_or_else(|_| tracing::debug!("some connections did not acknowledge the close"));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quic.close(CloseCode::SHUTDOWN.var_int(), b"the endpoint was dropped");
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

fn open(
    config: quinn::EndpointConfig,
    server: Option<quinn::ServerConfig>,
    socket: UdpSocket,
) -> Result<quinn::Endpoint, TransportError> {
    Ok(quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

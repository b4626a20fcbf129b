//! An established connection, whose other side is known.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
pub use quinn::{RecvStream, SendStream};

use super::Protocol;
use super::error::ConnectionLost;
use super::identity::Role;
use super::limits::Slot;

/// Why one side closes a connection, as a number (a QUIC application error code, below 2^62).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u64);

impl CloseCode {
    /// Done with it.
    pub const DONE: Self = Self(0);
    /// The endpoint is shutting down.
    pub const SHUTDOWN: Self = Self(1);
    /// This role may not use this protocol.
    pub const NOT_ALLOWED: Self = Self(2);
    /// A limit on connections is reached.
    pub const LIMIT: Self = Self(3);
    /// The other side sent what it must not.
    pub const VIOLATION: Self = Self(4);
    /// The other side's certificate is not trusted any more.
    pub const NOT_TRUSTED: Self = Self(5);

    pub(super) fn var_int(self) -> VarInt {
        VarInt::from_u64(self.0).unwrap_or(VarInt::MAX)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DONE => f.write_str("done"),
            Self::SHUTDOWN => f.write_str("shutting down"),
            Self::NOT_ALLOWED => f.write_str("not allowed"),
            Self::LIMIT => f.write_str("limit reached"),
            Self::VIOLATION => f.write_str("protocol violation"),
            Self::NOT_TRUSTED => f.write_str("certificate not trusted any more"),
            Self(code) => write!(f, "code {code}"),
        }
    }
}

/// A connection to a known other side. Cheap to clone; dropping the last clone closes it. An accepted connection counts
/// against its side's limits until the last clone is dropped: let go of connections that are lost.
#[derive(Clone)]
pub struct Connection {
    quic: Arc<quinn::Connection>,
    identity: Arc<Role>,
    protocol: Protocol,
    _slot: Option<Arc<Slot>>,
}

impl Connection {
    pub(super) fn new(quic: Arc<quinn::Connection>, identity: Role, protocol: Protocol, slot: Option<Slot>) -> Self {
        Self { quic, identity: Arc::new(identity), protocol, _slot: slot.map(Arc::new) }
    }

    /// Who the other side is, by its certificate.
    #[must_use]
    pub fn identity(&self) -> &Role {
        &self.identity
    }

    /// What the connection is for.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where the other side is.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        canonical(self.quic.remote_address())
    }

    /// The current estimate of the round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    /// How many datagrams have come from the other side, which acknowledges what it gets: one to which something was sent and of
    /// which nothing comes is gone, cut off, or stands still.
    #[must_use]
    pub fn received_datagrams(&self) -> u64 {
        self.quic.stats().udp_rx.datagrams
    }

    /// Opens a stream in both directions. Waits while the other side's limit on streams is reached. The other side
    /// learns of the stream with the first bytes on it.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionLost> {
        Ok(self.quic.open_bi().await?)
    }

    /// Opens a stream in one direction; otherwise as [`Connection::open_bi`].
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionLost> {
        Ok(self.quic.open_uni().await?)
    }

    /// The next stream that the other side opens in both directions.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionLost> {
        Ok(self.quic.accept_bi().await?)
    }

    /// The next stream that the other side opens in one direction.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionLost> {
        Ok(self.quic.accept_uni().await?)
    }

    /// Tells a client to ask somebody else from now on, as GOAWAY does in RFC 9114 section 5.2. What it has asked before may
    /// go on. An empty stream in one direction says so: there are no others from the side that accepted, but the welcome.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn go_away(&self) -> Result<(), ConnectionLost> {
        let mut stream = self.quic.open_uni().await?;
        // A stream that was stopped has been seen.
        let _ = stream.finish();
        Ok(())
    }

    /// Waits until the node on the other side says [`go_away`](Self::go_away).
    ///
    /// # Errors
    /// [`ConnectionLost`]: it has not said so before.
    pub async fn told_to_go_away(&self) -> Result<(), ConnectionLost> {
        self.quic.accept_uni().await?;
        Ok(())
    }

    /// Closes the connection at once, with all its streams. What is not acknowledged yet may be lost.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.quic.close(code.var_int(), reason.as_bytes());
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    /// Waits until the connection is gone and says why.
    pub async fn closed(&self) -> ConnectionLost {
        self.quic.closed().await.into()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} with {} at {})", self.protocol, self.identity, self.remote())
    }
}

/// A socket for IPv4 and IPv6 shows IPv4 addresses in IPv6 form; people expect the plain one.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

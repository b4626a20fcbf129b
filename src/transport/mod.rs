//! QUIC with mutual TLS 1.3, between nodes and from clients to nodes. It carries opaque, bounded frames and knows
//! nothing of what they say.
//!
//! - Who somebody is comes from the certificate alone: [`Role`], read from one `zraft://` URI in it. [`Credentials`]
//!   hold one's own certificate, key and the CA that one trusts; `issue` (feature `server`) makes them.
//! - [`Endpoint`] is one UDP socket that accepts and dials. What a connection is for is its [`Protocol`], negotiated by
//!   ALPN, whose names carry the version. [`Endpoint::connect`] returns only after the server has accepted the
//!   certificate and the role, so that a refusal is one typed [`ConnectError`] and not a later surprise.
//! - [`FrameReader`] and [`FrameWriter`] put bounded frames on streams.
//! - [`PeerLink`] keeps a connection to another node alive and sends on it without ever waiting; [`PeerReceiver`] is its
//!   other end. Bulk transfers ([`send_bulk`], [`accept_bulk`]) have connections of their own, and so have those that can go on
//!   where they were broken off ([`offer()`], [`accept_offer`]).
//!
//! Everything runs on a current-thread tokio runtime: one dedicated to an endpoint is the measured best.

mod budget;
mod bulk;
mod connection;
mod dial;
mod endpoint;
mod error;
mod frame;
mod handshake;
mod identity;
#[cfg(feature = "server")]
pub mod issue;
mod keyring;
mod limits;
mod offer;
mod peer;
mod tls;
mod tuning;
mod verify;

#[cfg(all(test, feature = "server"))]
mod tests;

use std::fmt;

pub use budget::{Budget, Charge};
pub use bulk::{BulkBody, BulkError, BulkReply, BulkRequest, MAX_BULK_HEADER_BYTES, accept_bulk, send_bulk};
pub use connection::{CloseCode, Connection, RecvStream, SendStream};
pub use endpoint::{Endpoint, EndpointOptions, Incoming};
pub use error::{ConnectError, ConnectionLost, TransportError};
pub use frame::{FrameError, FrameReader, FrameWriter};
pub use identity::{IdentityError, Role};
pub use limits::Limits;
pub use offer::{Answer, Download, Offer, OfferReply, Upload, accept_offer, offer};
pub use peer::{LinkState, LinkStatus, MAX_PEER_FRAME_BYTES, PeerLink, PeerReceiver};
pub use tls::{Credentials, TlsError, TlsFiles};
pub use tuning::bind;

/// What a connection is for. Its ALPN name (RFC 7301) carries the version: an endpoint that does not know the name
/// refuses the connection, and the caller gets [`ConnectError::Incompatible`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Between nodes, the small and urgent: `zraft-peer/1`.
    Peer,
    /// From clients to nodes: `zraft-client/1`.
    Client,
    /// Between nodes, components and what is asked about clusters, apart so that they never delay heartbeats:
    /// `zraft-bulk/2`.
    Bulk,
    /// Between nodes, snapshots: `zraft-snapshot/1`. On an endpoint of its own, [`Endpoint::for_snapshots`].
    Snapshot,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Peer, Self::Client, Self::Bulk, Self::Snapshot];

    /// The ALPN name.
    #[must_use]
    pub fn alpn(self) -> &'static str {
        match self {
            Self::Peer => "zraft-peer/1",
            Self::Client => "zraft-client/1",
            Self::Bulk => "zraft-bulk/2",
            Self::Snapshot => "zraft-snapshot/1",
        }
    }

    fn from_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.alpn().as_bytes() == name)
    }

    /// Whether somebody of this role may use it: only nodes speak to nodes as nodes.
    #[must_use]
    pub fn is_open_to(self, role: &Role) -> bool {
        self == Self::Client || matches!(role, Role::Node(_))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.alpn())
    }
}

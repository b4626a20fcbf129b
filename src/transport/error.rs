//! Why there is no connection, or no longer one, and what to do about it.

use std::net::SocketAddr;
use std::time::Duration;

use super::connection::CloseCode;
use super::tls::TlsError;
use crate::types::NodeAddr;

/// Why an endpoint could not be opened. The operator is to blame.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address cannot be bound.
    #[error("cannot listen on udp {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket cannot be used.
    #[error("cannot use the udp socket: {0}")]
    Socket(#[from] std::io::Error),
    /// A server needs a node's certificate.
    #[error("a node needs a node certificate, and this is {found}; issue one with `zraft cert node`")]
    NotANode {
        /// What was given.
        found: String,
    },
    /// Credentials may be renewed, and not become somebody else's.
    #[error("the new certificate is for {found}, and this is {own}")]
    OtherIdentity {
        /// Who this is.
        own: String,
        /// Who the certificate says it is.
        found: String,
    },
    /// Credentials that cannot be used.
    #[error(transparent)]
    Credentials(#[from] TlsError),
    /// The TLS library refused the configuration.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a node could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve, or nothing there speaks QUIC.
    #[error("cannot reach {node}: {reason}; check the address and that the node is running")]
    Unreachable {
        /// The node dialed.
        node: NodeAddr,
        /// What happened.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {node} within {after:?}; check that it is running and that UDP to its port is not blocked")]
    Timeout {
        /// The node dialed.
        node: NodeAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The node requires a certificate, and there is none.
    #[error("{node} requires a certificate and none was given; have one issued with `zraft cert client`")]
    NoCertificate {
        /// The node dialed.
        node: NodeAddr,
    },
    /// The node refused our certificate.
    #[error("{node} refused our certificate: {reason}")]
    RefusedByServer {
        /// The node dialed.
        node: NodeAddr,
        /// What it said.
        reason: String,
    },
    /// The node knows who we are and does not let us in: our role may not do this, it has too many connections, or it
    /// is shutting down.
    #[error("{node} refused the connection: {reason}")]
    NotAdmitted {
        /// The node dialed.
        node: NodeAddr,
        /// Which of these.
        code: CloseCode,
        /// What it said.
        reason: String,
    },
    /// We refused the node's certificate.
    #[error("{node} is not trusted: {reason}; check that the CA certificate is that of this cluster's nodes")]
    ServerNotTrusted {
        /// The node dialed.
        node: NodeAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate is genuine, but of somebody else than the node dialed.
    #[error("{found} answers at {expected}; dial a node by the address in its certificate")]
    WrongNode {
        /// The node dialed.
        expected: NodeAddr,
        /// Who answered.
        found: String,
    },
    /// The node speaks other versions of the protocol.
    #[error("{node} does not speak {protocol}; run versions of zraft that fit each other")]
    Incompatible {
        /// The node dialed.
        node: NodeAddr,
        /// The ALPN name asked for.
        protocol: &'static str,
    },
    /// This endpoint was closed.
    #[error("cannot dial {node}: this endpoint is closed")]
    EndpointClosed {
        /// The node dialed.
        node: NodeAddr,
    },
}

/// Why an established connection is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionLost {
    /// The other side closed it.
    #[error("closed by the other side: {reason} ({code})")]
    ClosedByPeer {
        /// Which kind of reason.
        code: CloseCode,
        /// What it said.
        reason: String,
    },
    /// This side closed it.
    #[error("closed by this side")]
    ClosedHere,
    /// Nothing was heard for the idle timeout: the other side, or the network between, is down.
    #[error("nothing heard from the other side any more")]
    TimedOut,
    /// The other side has lost the connection: its process was restarted.
    #[error("the other side was restarted")]
    Restarted,
    /// The other side sent a TLS alert (RFC 8446 section 6.2): it refused our certificate, or the handshake.
    #[error("{}", describe_alert(*alert, reason))]
    Alert {
        /// The number of the alert.
        alert: u8,
        /// What it said besides, if anything.
        reason: String,
    },
    /// One of the two violated QUIC or TLS.
    #[error("broken off: {reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
}

const ALERT_BAD_CERTIFICATE: u8 = 42;
const ALERT_CERTIFICATE_REVOKED: u8 = 44;
const ALERT_CERTIFICATE_EXPIRED: u8 = 45;
const ALERT_CERTIFICATE_UNKNOWN: u8 = 46;
const ALERT_UNKNOWN_CA: u8 = 48;
const ALERT_DECRYPT_ERROR: u8 = 51;
const ALERT_CERTIFICATE_REQUIRED: u8 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

fn describe_alert(alert: u8, reason: &str) -> String {
    match alert {
        ALERT_CERTIFICATE_REQUIRED => "a certificate is required".to_owned(),
        // A CA of the same name and another key shows as a bad signature.
        ALERT_UNKNOWN_CA | ALERT_DECRYPT_ERROR => "the certificate was issued by another CA (unknown CA)".to_owned(),
        ALERT_CERTIFICATE_EXPIRED => "the certificate has expired or is not valid yet".to_owned(),
        ALERT_CERTIFICATE_REVOKED => "the certificate was revoked".to_owned(),
        ALERT_NO_APPLICATION_PROTOCOL => "no common protocol version".to_owned(),
        ALERT_BAD_CERTIFICATE | ALERT_CERTIFICATE_UNKNOWN if !reason.is_empty() => reason.to_owned(),
        _ => format!("TLS alert {alert} {reason}"),
    }
}

/// QUIC error codes 0x100 to 0x1ff are TLS alerts (RFC 9001 section 4.8).
pub(super) fn alert_of(code: quinn::TransportErrorCode) -> Option<u8> {
    u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}

impl From<quinn::ConnectionError> for ConnectionLost {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as Quic;
        match error {
            Quic::ApplicationClosed(close) => {
                Self::ClosedByPeer { code: CloseCode(close.error_code.into_inner()), reason: printable(&close.reason) }
            }
            Quic::ConnectionClosed(close) => match alert_of(close.error_code) {
                Some(alert) => Self::Alert { alert, reason: printable(&close.reason) },
                None if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED => Self::ClosedByPeer {
                    code: CloseCode::LIMIT,
                    reason: "too many connections are being opened; try again later".to_owned(),
                },
                None => Self::Broken { reason: close.to_string() },
            },
            Quic::LocallyClosed => Self::ClosedHere,
            Quic::TimedOut => Self::TimedOut,
            Quic::Reset => Self::Restarted,
            Quic::VersionMismatch => Self::Broken { reason: "no common QUIC version".to_owned() },
            error @ (Quic::TransportError(_) | Quic::CidsExhausted) => Self::Broken { reason: error.to_string() },
        }
    }
}

/// What the other side wrote, bounded and without control characters, fit for a log or a terminal.
fn printable(reason: &[u8]) -> String {
    const MAX_REASON_CHARS: usize = 300;
    String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect()
}

impl ConnectError {
    /// What the loss of a connection means to somebody who wanted one to `node`.
    #[must_use]
    pub fn from_lost(node: &NodeAddr, protocol: super::Protocol, lost: ConnectionLost, after: Duration) -> Self {
        let node = node.clone();
        match lost {
            ConnectionLost::ClosedByPeer { code, reason } => Self::NotAdmitted { node, code, reason },
            ConnectionLost::Alert { alert: ALERT_CERTIFICATE_REQUIRED, .. } => Self::NoCertificate { node },
            ConnectionLost::Alert { alert: ALERT_NO_APPLICATION_PROTOCOL, .. } => {
                Self::Incompatible { node, protocol: protocol.alpn() }
            }
            lost @ ConnectionLost::Alert { .. } => Self::RefusedByServer { node, reason: lost.to_string() },
            ConnectionLost::TimedOut => Self::Timeout { node, after },
            ConnectionLost::ClosedHere => Self::EndpointClosed { node },
            lost @ (ConnectionLost::Restarted | ConnectionLost::Broken { .. }) => {
                Self::Unreachable { node, reason: lost.to_string() }
            }
        }
    }

    /// Whether a node answered: then another of its addresses will not say anything better.
    pub(super) fn is_an_answer(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }
}

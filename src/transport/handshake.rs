//! The accepting side: who is let in. Handshakes are bounded in number and time, and one that fails stops nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use tokio::sync::{Semaphore, mpsc};

use super::Protocol;
use super::connection::{CloseCode, Connection, canonical};
use super::endpoint::Incoming;
use super::error::{ConnectionLost, TransportError, alert_of};
use super::identity::Role;
use super::keyring::{Keyring, Keys};
use super::limits::{Census, Limits};
use super::tuning;
use super::verify::{Seen, VerifyClient};
use crate::log_limit::LogLimit;

/// The byte on the first stream that a server opens: the client is let in.
pub(super) const WELCOME: u8 = 1;

/// Decides who gets in and keeps count.
pub(super) struct Doorkeeper {
    keyring: Arc<Keyring>,
    census: Arc<Census>,
    handshakes: Arc<Semaphore>,
    timeout: Duration,
    protocols: &'static [Protocol],
    refused: AtomicU64,
    /// Of refusals to whom, from where, since when the clock runs.
    logged: Mutex<LogLimit<(IpAddr, String)>>,
    epoch: Instant,
}

/// Why a connection was not let in.
struct Refused {
    /// Who it says it is; unproven if the certificate is what was refused.
    identity: Option<Role>,
    reason: String,
}

impl Doorkeeper {
    pub(super) fn new(
        keyring: Arc<Keyring>,
        limits: Limits,
        protocols: &'static [Protocol],
    ) -> Result<Self, TransportError> {
        let keys = keyring.keys();
        let credentials = &keys.credentials;
        if !credentials.identity().is_some_and(Role::is_node) {
            let found = credentials.identity().map_or_else(|| "no certificate".to_owned(), Role::to_string);
            return Err(TransportError::NotANode { found });
        }
        let handshakes = Arc::new(Semaphore::new(tuning::MAX_HANDSHAKES));
        let census = Census::new(limits);
        let (timeout, refused) = (limits.handshake, AtomicU64::new(0));
        let (logged, epoch) = (Mutex::default(), Instant::now());
        Ok(Self { keyring, census, handshakes, timeout, protocols, refused, logged, epoch })
    }

    /// What the endpoint answers strangers with until they are looked at one by one.
    pub(super) fn default_config(&self) -> Result<quinn::ServerConfig, TransportError> {
        config(&self.keyring.keys(), Seen::default())
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Looks at everybody who comes until the endpoint is closed.
    pub(super) async fn serve(self: Arc<Self>, quic: quinn::Endpoint, accepted: mpsc::Sender<Incoming>) {
        while let Some(incoming) = quic.accept().await {
            let scarce = self.handshakes.available_permits() < tuning::PROVE_ADDRESS_BELOW;
            if scarce && !incoming.remote_address_validated() && incoming.may_retry() {
                incoming.retry().unwrap_or_else(|error| tracing::debug!(%error, "cannot ask for a retry"));
                continue;
            }
            let Ok(place) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
            let (doorkeeper, accepted) = (Arc::clone(&self), accepted.clone());
            tokio::spawn(async move {
                if let Some(incoming) = doorkeeper.look_at(incoming).await {
                    // An error means that nobody accepts any more: the connection is dropped, hence closed.
                    drop(accepted.send(incoming).await);
                }
                drop(place);
            });
        }
    }

    async fn look_at(&self, incoming: quinn::Incoming) -> Option<Incoming> {
        let remote = canonical(incoming.remote_address());
        let seen = Seen::default();
        let refused = match tokio::time::timeout(self.timeout, self.let_in(incoming, remote, &seen)).await {
            Ok(Ok(incoming)) => return Some(incoming),
            Ok(Err(refused)) => refused,
            Err(_) => Refused { identity: proven(&seen), reason: "it did not finish the handshake in time".to_owned() },
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        let identity = refused.identity.map_or_else(|| "unknown".to_owned(), |role| role.to_string());
        if let Some(unlogged) = self.may_log(remote.ip(), &identity) {
            tracing::warn!(%remote, %identity, reason = %refused.reason, unlogged, "refused a connection");
        }
        None
    }

    /// Whether the log may tell of a refusal, and of how many it did not before.
    fn may_log(&self, remote: IpAddr, identity: &str) -> Option<u64> {
        let now_ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.admit((remote, identity.to_owned()), now_ms)
    }

    async fn let_in(&self, incoming: quinn::Incoming, remote: SocketAddr, seen: &Seen) -> Result<Incoming, Refused> {
        let broken = |error: String| Refused { identity: None, reason: error };
        let keys = self.keyring.keys();
        let mut config = config(&keys, Arc::clone(seen)).map_err(|error| broken(error.to_string()))?;
        config.transport_config(Arc::new(tuning::accepting(remote)));
        let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| explain(error, seen))?;
        let quic = connecting.await.map_err(|error| explain(error, seen))?;
        let Some(identity) = proven(seen) else {
            return Err(broken("the handshake ended without a certificate".to_owned()));
        };
        let Some(protocol) = protocol_of(&quic) else {
            return Err(broken("the handshake ended without a protocol".to_owned()));
        };
        let refuse = |code: CloseCode, reason: String| {
            quic.close(code.var_int(), reason.as_bytes());
            Refused { identity: Some(identity.clone()), reason }
        };
        if !protocol.is_open_to(&identity) {
            return Err(refuse(
                CloseCode::NOT_ALLOWED,
                format!("only nodes may use {protocol}, and this is {identity}"),
            ));
        }
        if !self.protocols.contains(&protocol) {
            return Err(refuse(CloseCode::NOT_ALLOWED, format!("{protocol} is not spoken on this port")));
        }
        let slot = self.census.admit(&identity).map_err(|reason| refuse(CloseCode::LIMIT, reason))?;
        quic.set_receive_window(tuning::window(protocol).into());
        welcome(&quic).await.map_err(|reason| Refused { identity: Some(identity.clone()), reason })?;
        let quic = Arc::new(quic);
        self.keyring.watch(&quic, &keys);
        let connection = Connection::new(quic, identity.clone(), protocol, Some(slot));
        Ok(Incoming { identity, remote, protocol, connection })
    }
}

/// The configuration of one handshake.
fn config(keys: &Keys, seen: Seen) -> Result<quinn::ServerConfig, TransportError> {
    let general = |reason: &str| rustls::Error::General(reason.to_owned());
    let tls = keys
        .credentials
        .server_config(VerifyClient::new(Arc::clone(&keys.verifier), seen))
        .unwrap_or_else(|| Err(general("a server needs a certificate")))?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| general(&error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    tuning::bound_server(&mut config);
    Ok(config)
}

/// Who the other side has proven to be.
fn proven(seen: &Seen) -> Option<Role> {
    let sighting = seen.get().filter(|sighting| sighting.refusal.is_none())?;
    sighting.identity.clone().ok()
}

fn protocol_of(quic: &quinn::Connection) -> Option<Protocol> {
    let data = quic.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Protocol::from_alpn(data.protocol.as_deref()?)
}

/// Tells the client that it is in. In TLS 1.3 a client is done before the server has looked at its certificate: only
/// this tells it the verdict.
async fn welcome(quic: &quinn::Connection) -> Result<(), String> {
    let mut stream = quic.open_uni().await.map_err(|error| ConnectionLost::from(error).to_string())?;
    stream.write_all(&[WELCOME]).await.map_err(|error| error.to_string())?;
    stream.finish().map_err(|error| error.to_string())
}

fn explain(error: quinn::ConnectionError, seen: &Seen) -> Refused {
    const CERTIFICATE_REQUIRED: u8 = 116;
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    if let Some(sighting) = seen.get()
        && let Some(refusal) = &sighting.refusal
    {
        return Refused { identity: sighting.identity.clone().ok(), reason: refusal.to_string() };
    }
    let reason = match &error {
        quinn::ConnectionError::TransportError(error) => match alert_of(error.code) {
            Some(CERTIFICATE_REQUIRED) => "it presented no certificate".to_owned(),
            Some(NO_APPLICATION_PROTOCOL) => "it speaks no protocol version that this node knows".to_owned(),
            _ => error.to_string(),
        },
        _ => match ConnectionLost::from(error) {
            lost @ ConnectionLost::Alert { .. } => format!("it did not accept this node's certificate: {lost}"),
            lost => lost.to_string(),
        },
    };
    Refused { identity: proven(seen), reason }
}

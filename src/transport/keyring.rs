//! The credentials of an endpoint, which may be renewed while it serves, and the connections that were let in by them.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use super::connection::CloseCode;
use super::error::TransportError;
use super::tls::Credentials;

/// Credentials, and what checks others by them.
pub(super) struct Keys {
    pub(super) credentials: Credentials,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

impl Keys {
    fn new(credentials: Credentials) -> Result<Arc<Self>, rustls::Error> {
        let verifier = credentials.client_verifier()?;
        Ok(Arc::new(Self { credentials, verifier }))
    }

    /// Whether the other side of a connection would still be trusted.
    fn trust(&self, quic: &quinn::Connection) -> Result<(), rustls::Error> {
        let chain = quic.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        let no_chain = || rustls::Error::General("it has shown no certificate".to_owned());
        let chain = chain.ok_or_else(no_chain)?;
        let (own, intermediates) = chain.split_first().ok_or_else(no_chain)?;
        self.verifier.verify_client_cert(own, intermediates, UnixTime::now()).map(drop)
    }
}

/// The credentials that are in use now.
pub(super) struct Keyring {
    keys: RwLock<Arc<Keys>>,
    connections: Mutex<Watched>,
}

/// The connections that are to be looked at again, gone ones among them.
#[derive(Default)]
struct Watched {
    connections: Vec<Weak<quinn::Connection>>,
    /// At this many, those that have gone are dropped.
    sweep_at: usize,
}

impl Keyring {
    const MIN_SWEEP: usize = 64;

    pub(super) fn new(credentials: Credentials) -> Result<Self, rustls::Error> {
        Ok(Self { keys: RwLock::new(Keys::new(credentials)?), connections: Mutex::default() })
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has a connection looked at again when the credentials are renewed. Who came while they were is looked at now.
    pub(super) fn watch(&self, quic: &Arc<quinn::Connection>, let_in_by: &Arc<Keys>) {
        let mut watched = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.connections.len() >= watched.sweep_at {
            watched.connections.retain(|connection| connection.strong_count() > 0);
            watched.sweep_at = (2 * watched.connections.len()).max(Self::MIN_SWEEP);
        }
        watched.connections.push(Arc::downgrade(quic));
        drop(watched);
        let now = self.keys();
        if !Arc::ptr_eq(&now, let_in_by) {
            close_unless_trusted(&now, quic);
        }
    }

    /// Uses other credentials of the same identity from now on. Connections go on, but those whose other side is no longer
    /// trusted are closed; returns how many.
    pub(super) fn renew(&self, credentials: Credentials) -> Result<usize, TransportError> {
        let before = self.keys();
        if credentials.identity() != before.credentials.identity() {
            let name = |credentials: &Credentials| {
                credentials.identity().map_or_else(|| "nobody".to_owned(), ToString::to_string)
            };
            return Err(TransportError::OtherIdentity { own: name(&before.credentials), found: name(&credentials) });
        }
        let keys = Keys::new(credentials)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
        let watched = self.connections.lock().unwrap_or_else(PoisonError::into_inner).connections.clone();
        let alive = watched.iter().filter_map(Weak::upgrade).filter(|quic| quic.close_reason().is_none());
        Ok(alive.filter(|quic| close_unless_trusted(&keys, quic)).count())
    }
}

/// Returns whether the connection was closed.
fn close_unless_trusted(keys: &Keys, quic: &quinn::Connection) -> bool {
    let trust = keys.trust(quic);
    if let Err(error) = &trust {
        tracing::warn!(remote = %quic.remote_address(), %error, "closed a connection: its certificate is not trusted any more");
        quic.close(CloseCode::NOT_TRUSTED.var_int(), b"the certificate is not trusted any more");
    }
    trust.is_err()
}

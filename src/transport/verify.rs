//! Certificate checks: the ordinary ones of rustls, then the zraft identity. TLS reports only an alert number, so each
//! connection has its own verifier, which keeps what it saw for the error and the log.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};

use super::identity::{IdentityError, Role};
use crate::types::NodeAddr;

/// What a verifier saw of the other side's certificate, once it has seen one.
pub(super) type Seen = Arc<OnceLock<Sighting>>;

/// A certificate that was presented.
#[derive(Debug)]
pub(super) struct Sighting {
    /// Who it says it is. Only proven when there is no `refusal`, or when that is [`Refusal::WrongNode`].
    pub(super) identity: Result<Role, IdentityError>,
    /// Why it was refused.
    pub(super) refusal: Option<Refusal>,
}

/// Why a certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It is genuine, and another's than the node dialed.
    #[error("this is {found}, not the node that was dialed")]
    WrongNode { found: String },
    /// It is not genuine, not valid now, or names nobody.
    #[error("{0}")]
    Untrusted(String),
}

impl Refusal {
    fn untrusted(error: &Error) -> Self {
        Self::Untrusted(match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                "its certificate was issued by another CA".to_owned()
            }
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "its certificate has expired".to_owned()
            }
            Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                "its certificate is not valid yet".to_owned()
            }
            Error::InvalidCertificate(CertificateError::Revoked) => "its certificate was revoked".to_owned(),
            Error::InvalidCertificate(error) => format!("its certificate is not acceptable: {error}"),
            error => error.to_string(),
        })
    }

    fn into_tls(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

/// Accepts the one node that was dialed: its certificate is issued by a trusted CA, valid for the host dialed, and
/// names that node.
#[derive(Debug)]
pub(super) struct VerifyNode {
    webpki: Arc<dyn ServerCertVerifier>,
    expected: NodeAddr,
    seen: Seen,
}

impl VerifyNode {
    pub(super) fn new(webpki: Arc<dyn ServerCertVerifier>, expected: NodeAddr, seen: Seen) -> Self {
        Self { webpki, expected, seen }
    }

    fn judge(&self, identity: &Result<Role, IdentityError>, webpki: Result<(), Error>) -> Result<(), (Refusal, Error)> {
        let wrong_node = || {
            let found = match identity {
                Ok(role) => role.to_string(),
                Err(error) => format!("somebody whose certificate names nobody: {error}"),
            };
            let refusal = Refusal::WrongNode { found };
            (refusal.clone(), refusal.into_tls())
        };
        match webpki {
            // The chain is checked before the name: the certificate is genuine.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Err(wrong_node()),
            Err(error) => Err((Refusal::untrusted(&error), error)),
            Ok(()) if matches!(identity, Ok(Role::Node(addr)) if *addr == self.expected) => Ok(()),
            Ok(()) => Err(wrong_node()),
        }
    }
}

impl ServerCertVerifier for VerifyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = Role::of_certificate(end_entity);
        let webpki = self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let (refusal, answer) = match self.judge(&identity, webpki.map(drop)) {
            Ok(()) => (None, Ok(ServerCertVerified::assertion())),
            Err((refusal, error)) => (Some(refusal), Err(error)),
        };
        self.seen.get_or_init(|| Sighting { identity, refusal });
        answer
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Accepts everybody whose certificate is issued by a trusted CA and names a [`Role`]. What that role may do is decided
/// after the handshake, where the protocol is known.
#[derive(Debug)]
pub(super) struct VerifyClient {
    webpki: Arc<dyn ClientCertVerifier>,
    seen: Seen,
}

impl VerifyClient {
    pub(super) fn new(webpki: Arc<dyn ClientCertVerifier>, seen: Seen) -> Self {
        Self { webpki, seen }
    }
}

impl ClientCertVerifier for VerifyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identity = Role::of_certificate(end_entity);
        let webpki = self.webpki.verify_client_cert(end_entity, intermediates, now);
        let (refusal, answer) = match (webpki, &identity) {
            (Err(error), _) => (Some(Refusal::untrusted(&error)), Err(error)),
            (Ok(_), Err(error)) => {
                let refusal = Refusal::Untrusted(error.to_string());
                (Some(refusal.clone()), Err(refusal.into_tls()))
            }
            (Ok(verified), Ok(_)) => (None, Ok(verified)),
        };
        self.seen.get_or_init(|| Sighting { identity, refusal });
        answer
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

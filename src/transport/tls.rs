//! One's own certificate and key and the CA one trusts, checked once, and the TLS configurations made of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::Protocol;
use super::identity::{IdentityError, Role};
use super::verify::{Seen, VerifyClient, VerifyNode};
use crate::types::{Digest, NodeAddr};

/// Where the PEM files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the CAs that are trusted; more than one while a CA is being replaced.
    pub ca: PathBuf,
    /// One's own certificate, followed by intermediates if there are any.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The revocation lists of the CAs, if there are any.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// The files of a folder as `zraft cert` names them: `ca.pem`, `NAME.pem` and `NAME-key.pem`.
    #[must_use]
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        Self {
            ca: folder.join("ca.pem"),
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}-key.pem")),
            crl: None,
        }
    }
}

/// Why files are not usable credentials. The operator is to blame.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read the {what} {}: {source}", path.display())]
    Read {
        /// What the file should hold.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not PEM, or PEM of something else.
    #[error("the {what} is not PEM: {reason}")]
    NotPem {
        /// What was expected, and where.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A CA certificate that cannot be trusted as one.
    #[error("the {what} is not usable: {reason}")]
    BadCa {
        /// Which one.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A revocation list that cannot be read.
    #[error("the {what} is not usable: {reason}")]
    BadRevocationList {
        /// Which one.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A private key of an unsupported kind.
    #[error("the {what} is not usable: {reason}")]
    BadKey {
        /// Which one.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("the {key} does not belong to the {cert}")]
    KeyMismatch {
        /// The key.
        key: String,
        /// The certificate.
        cert: String,
    },
    /// One's own certificate is not valid any more.
    #[error("the {what} expired on {when}; issue a new one with `zraft cert`")]
    Expired {
        /// Which certificate.
        what: String,
        /// Its last moment.
        when: String,
    },
    /// One's own certificate is not valid yet.
    #[error("the {what} is not valid before {when}; check this machine's clock")]
    NotYetValid {
        /// Which certificate.
        what: String,
        /// Its first moment.
        when: String,
    },
    /// One's own certificate names no [`Role`].
    #[error("the {what} cannot be used: {source}")]
    Identity {
        /// Which certificate.
        what: String,
        /// Why.
        source: IdentityError,
    },
}

/// A certificate with its key and the CAs that are trusted. Cheap to clone. One that exists is usable: the key fits, the
/// certificate is valid now and names a [`Role`].
#[derive(Clone)]
pub struct Credentials {
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    own: Option<Own>,
    source: Option<Source>,
    provider: Arc<CryptoProvider>,
}

/// The files that credentials were read from.
#[derive(Clone)]
struct Source {
    files: Arc<TlsFiles>,
    /// Of what was in them.
    digest: Digest,
}

#[derive(Clone)]
struct Own {
    identity: Role,
    certified: Arc<SingleCertAndKey>,
    restart_key: [u8; 32],
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

/// A PEM text and what to call it in an error.
struct Named<'a> {
    what: String,
    pem: &'a [u8],
}

impl Credentials {
    /// Reads and checks PEM files. Blocks on the file system: call it before serving.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Pem::read(files)?.parse(files)
    }

    /// Reads and checks the files anew that these were read from, if any of them is another than it was. Blocks on the file
    /// system.
    ///
    /// # Errors
    /// [`TlsError`], also while the files are being replaced one after another and do not fit together yet.
    pub fn reload(&self) -> Result<Option<Self>, TlsError> {
        let Some(Source { files, digest }) = &self.source else { return Ok(None) };
        let pem = Pem::read(files)?;
        if pem.digest() == *digest { Ok(None) } else { pem.parse(files).map(Some) }
    }

    /// Checks PEM texts: trusted CA certificates, one's own certificate, its key.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong with which.
    pub fn from_pem(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Self::from_pem_at(ca, cert, key, SystemTime::now())
    }

    /// As [`Credentials::from_pem`], with the moment at which the certificate must be valid.
    pub(super) fn from_pem_at(ca: &[u8], cert: &[u8], key: &[u8], now: SystemTime) -> Result<Self, TlsError> {
        let named = |what: &str, pem| Named { what: what.to_owned(), pem };
        Self::parse(&named(CA, ca), &named(CERTIFICATE, cert), &named(PRIVATE_KEY, key), None, now)
    }

    /// Credentials of somebody who has no certificate. Every node refuses them with [`ConnectError::NoCertificate`]:
    /// they let a person without one hear that from the node itself.
    ///
    /// # Errors
    /// [`TlsError`] when `ca` holds no CA certificate.
    ///
    /// [`ConnectError::NoCertificate`]: super::ConnectError::NoCertificate
    pub fn without_certificate(ca: &[u8]) -> Result<Self, TlsError> {
        let roots = parse_roots(&Named { what: CA.to_owned(), pem: ca })?;
        Ok(Self { roots: Arc::new(roots), revoked: Vec::new(), own: None, source: None, provider: provider() })
    }

    /// Who these credentials say one is; `None` without a certificate.
    #[must_use]
    pub fn identity(&self) -> Option<&Role> {
        self.own.as_ref().map(|own| &own.identity)
    }

    fn parse(ca: &Named, cert: &Named, key: &Named, crl: Option<&Named>, now: SystemTime) -> Result<Self, TlsError> {
        let provider = provider();
        let roots = Arc::new(parse_roots(ca)?);
        let chain = parse_certificates(cert)?;
        let (first, identity) = (chain[0].clone(), Role::of_certificate(&chain[0]));
        let identity = identity.map_err(|source| TlsError::Identity { what: cert.what.clone(), source })?;
        check_validity(&first, &cert.what, now)?;
        let key_der = PrivateKeyDer::from_pem_slice(key.pem)
            .map_err(|error| TlsError::NotPem { what: key.what.clone(), reason: error.to_string() })?;
        let restart_key = Digest::of(key_der.secret_der()).0;
        let certified = CertifiedKey::from_der(chain, key_der, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyMismatch { key: key.what.clone(), cert: cert.what.clone() }
            }
            error => TlsError::BadKey { what: key.what.clone(), reason: error.to_string() },
        })?;
        let own = Own { identity, certified: Arc::new(certified.into()), restart_key };
        let revoked = crl.map(parse_revocation_lists).transpose()?.unwrap_or_default();
        let credentials = Self { roots, revoked, own: Some(own), source: None, provider };
        // The lists are looked into only here.
        credentials.client_verifier().map_err(|error| TlsError::BadRevocationList {
            what: crl.map_or_else(|| CRL.to_owned(), |crl| crl.what.clone()),
            reason: error.to_string(),
        })?;
        Ok(credentials)
    }

    /// Configures the side that dials `node` for `protocol`; what it sees of the node's certificate goes to `seen`.
    pub(super) fn client_config(
        &self,
        node: &NodeAddr,
        protocol: Protocol,
        seen: Seen,
    ) -> Result<ClientConfig, rustls::Error> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verifier = VerifyNode::new(webpki, node.clone(), seen);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.own {
            Some(own) => builder.with_client_cert_resolver(Arc::clone(&own.certified) as _),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.alpn().into()];
        // A resumed session would skip the certificate check; and a connection lives long.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// What checks the certificates of those who connect.
    pub(super) fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        // A CA without a list has revoked nothing.
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// Configures the side that accepts; what it sees of the other's certificate goes to `seen`. `None` without a
    /// certificate.
    pub(super) fn server_config(&self, verifier: VerifyClient) -> Option<Result<ServerConfig, rustls::Error>> {
        let own = self.own.as_ref()?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13]);
        Some(builder.map(|builder| {
            let mut config = builder
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::clone(&own.certified) as _);
            config.alpn_protocols = Protocol::ALL.iter().map(|protocol| protocol.alpn().into()).collect();
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config.max_early_data_size = 0;
            config
        }))
    }

    /// A secret that survives a restart of the process, as the private key does.
    pub(super) fn restart_key(&self) -> Option<&[u8; 32]> {
        self.own.as_ref().map(|own| &own.restart_key)
    }
}

const CA: &str = "CA certificate";
const CERTIFICATE: &str = "certificate";
const PRIVATE_KEY: &str = "private key";
const CRL: &str = "revocation list";

/// What is in the files of credentials.
struct Pem {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
    crl: Option<Vec<u8>>,
}

impl Pem {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            ca: read(CA, &files.ca)?,
            cert: read(CERTIFICATE, &files.cert)?,
            key: read(PRIVATE_KEY, &files.key)?,
            crl: files.crl.as_ref().map(|path| read(CRL, path)).transpose()?,
        })
    }

    fn digest(&self) -> Digest {
        let Self { ca, cert, key, crl } = self;
        let each = [Some(ca), Some(cert), Some(key), crl.as_ref()].map(|part| part.map(|part| Digest::of(part).0));
        Digest::of(&crate::codec::encode(&each))
    }

    fn parse(&self, files: &TlsFiles) -> Result<Credentials, TlsError> {
        let named = |what: &str, path: &Path| format!("{what} {}", path.display());
        let crl = files.crl.as_ref().zip(self.crl.as_ref());
        let crl = crl.map(|(path, pem)| Named { what: named(CRL, path), pem });
        let credentials = Credentials::parse(
            &Named { what: named(CA, &files.ca), pem: &self.ca },
            &Named { what: named(CERTIFICATE, &files.cert), pem: &self.cert },
            &Named { what: named(PRIVATE_KEY, &files.key), pem: &self.key },
            crl.as_ref(),
            SystemTime::now(),
        )?;
        let source = Some(Source { files: Arc::new(files.clone()), digest: self.digest() });
        Ok(Credentials { source, ..credentials })
    }
}

/// Given explicitly everywhere: the process-wide default belongs to the program, and might be another one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

/// At least one certificate.
fn parse_certificates(named: &Named) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |reason: String| TlsError::NotPem { what: named.what.clone(), reason };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(named.pem)
        .collect::<Result<_, _>>()
        .map_err(|error| not_pem(error.to_string()))?;
    match certificates.is_empty() {
        true => Err(not_pem("it holds no certificate".to_owned())),
        false => Ok(certificates),
    }
}

fn parse_roots(ca: &Named) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(ca)? {
        roots.add(certificate).map_err(|error| TlsError::BadCa { what: ca.what.clone(), reason: error.to_string() })?;
    }
    Ok(roots)
}

fn parse_revocation_lists(named: &Named) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(named.pem).collect::<Result<Vec<_>, _>>();
    lists.map_err(|error| TlsError::NotPem { what: named.what.clone(), reason: error.to_string() })
}

fn check_validity(certificate: &[u8], what: &str, now: SystemTime) -> Result<(), TlsError> {
    let what = what.to_owned();
    let certificate = match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, certificate)) => certificate,
        Err(error) => return Err(TlsError::Identity { what, source: IdentityError::NotX509(error.to_string()) }),
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Err(TlsError::Expired { what, when: validity.not_after.to_string() });
    }
    if now < validity.not_before.timestamp() {
        return Err(TlsError::NotYetValid { what, when: validity.not_before.to_string() });
    }
    Ok(())
}

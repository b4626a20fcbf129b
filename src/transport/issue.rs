//! Makes certificates: a CA, and certificates of nodes, clients and admins that it issues. Keys are ECDSA P-256.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::identity::Role;
use crate::types::NodeAddr;

/// Certificates are valid from this long before they are made, as clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The longest validity: a hundred years.
const MAX_DAYS: u32 = 36_525;

const MAX_COMMON_NAME_CHARS: usize = 64;

/// Why a certificate was not made. Who asked for it is to blame, unless it is [`IssueError::Crypto`].
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Not a name for an admin or client.
    #[error("'{0}' is not a name for a certificate: use 1 to 64 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// Not a DNS name or an IP address.
    #[error("'{0}' is neither a DNS name nor an IP address")]
    Host(String),
    /// Not a number of days.
    #[error("{0} days is not a validity: use 1 to {MAX_DAYS}")]
    Days(u32),
    /// Not a CA's certificate, or not its key.
    #[error("cannot issue with this CA: {0}")]
    Ca(String),
    /// A certificate that cannot be revoked, or a list that cannot be added to.
    #[error("cannot revoke it: {0}")]
    Revocation(String),
    /// The cryptographic library failed.
    #[error("cannot make a certificate: {0}")]
    Crypto(String),
}

/// A certificate and its private key, both PEM. Keep the key secret.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its key (PKCS #8).
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A CA that issues the certificates of one deployment: whoever holds its key decides who is a node, admin or client.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: Issued,
}

impl CertificateAuthority {
    /// Makes a new CA called `name`.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn create(name: &str, validity_days: u32) -> Result<Self, IssueError> {
        let mut params = params(name, validity(validity_days)?);
        // No intermediate CAs.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key()?;
        let cert_pem = params.self_signed(&key).map_err(crypto)?.pem();
        let pem = Issued { cert_pem, key_pem: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Loads a CA from its certificate and key.
    ///
    /// # Errors
    /// [`IssueError::Ca`] when they are not a CA's, or do not belong together.
    pub fn load(ca_pem: &str, ca_key_pem: &str) -> Result<Self, IssueError> {
        let ca = |error: &dyn std::fmt::Display| IssueError::Ca(error.to_string());
        let key = KeyPair::from_pem(ca_key_pem).map_err(|error| ca(&format!("its key: {error}")))?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|error| ca(&format!("its certificate is not PEM: {error}")))?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| ca(&format!("its certificate: {error}")))?;
        if !certificate.is_ca() {
            return Err(ca(&"its certificate is not a CA's"));
        }
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(ca(&"its key does not belong to its certificate"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| ca(&error))?;
        Ok(Self { issuer, pem: Issued { cert_pem: ca_pem.to_owned(), key_pem: ca_key_pem.to_owned() } })
    }

    /// Its certificate, which everybody needs, and its key, which nobody else does.
    #[must_use]
    pub fn pem(&self) -> &Issued {
        &self.pem
    }

    /// Issues the certificate of a node, for its advertised address and other hosts under which it may be reached.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_node(&self, node: &NodeAddr, extra_hosts: &[String], days: u32) -> Result<Issued, IssueError> {
        let hosts = std::iter::once(node.host()).chain(extra_hosts.iter().map(String::as_str));
        let hosts: Vec<&str> = hosts.collect();
        self.issue(&Role::Node(node.clone()), &hosts, validity(days)?)
    }

    /// Issues the certificate of a client.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_client(&self, name: &str, days: u32) -> Result<Issued, IssueError> {
        self.issue(&named("client", name)?, &[], validity(days)?)
    }

    /// Issues the certificate of an administrator.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_admin(&self, name: &str, days: u32) -> Result<Issued, IssueError> {
        self.issue(&named("admin", name)?, &[], validity(days)?)
    }

    /// Revokes a certificate: adds it to the list of those that this CA has revoked, if there is one, and returns the list, PEM.
    ///
    /// # Errors
    /// [`IssueError::Revocation`] when the certificate or the list cannot be read, or the certificate is of another CA.
    pub fn revoke(&self, cert_pem: &str, list_pem: Option<&str>) -> Result<String, IssueError> {
        let unusable = |what: &str, error: &dyn std::fmt::Display| IssueError::Revocation(format!("{what}: {error}"));
        let der =
            CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| unusable("the certificate", &error))?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| unusable("the certificate", &error))?;
        let ca =
            CertificateDer::from_pem_slice(self.pem.cert_pem.as_bytes()).map_err(|error| unusable("the CA", &error))?;
        let (_, ca) = x509_parser::parse_x509_certificate(&ca).map_err(|error| unusable("the CA", &error))?;
        certificate
            .verify_signature(Some(ca.public_key()))
            .map_err(|_| IssueError::Revocation("the certificate was issued by another CA".to_owned()))?;
        let now = SystemTime::now();
        let mut serials: Vec<(Vec<u8>, SystemTime)> = Vec::new();
        if let Some(list_pem) = list_pem {
            let der = CertificateRevocationListDer::from_pem_slice(list_pem.as_bytes())
                .map_err(|error| unusable("the list", &error))?;
            let (_, list) = x509_parser::parse_x509_crl(&der).map_err(|error| unusable("the list", &error))?;
            let since = |at: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(at.try_into().unwrap_or(0));
            let revoked = list.iter_revoked_certificates();
            serials.extend(revoked.map(|it| (it.raw_serial().to_vec(), since(it.revocation_date.timestamp()))));
        }
        if serials.iter().all(|(serial, _)| serial != certificate.raw_serial()) {
            serials.push((certificate.raw_serial().to_vec(), now));
        }
        // It grows with each, and so numbers the lists.
        let number = serials.len() as u64;
        let revoked = |(serial, since): (Vec<u8>, SystemTime)| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: since.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_secs(u64::from(MAX_DAYS) * 24 * 3600)).into(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.into_iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(crypto)
    }

    /// Issues a certificate for `role` that is valid for `hosts` from the first to the second moment.
    pub(super) fn issue(
        &self,
        role: &Role,
        hosts: &[&str],
        validity: (SystemTime, SystemTime),
    ) -> Result<Issued, IssueError> {
        let uri = role.to_string();
        let mut params = params(&uri, validity);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(crypto)?)];
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match role {
            Role::Node(_) => vec![Purpose::ServerAuth, Purpose::ClientAuth],
            Role::Admin(_) | Role::Client(_) => vec![Purpose::ClientAuth],
        };
        let key = new_key()?;
        let cert_pem = params.signed_by(&key, &self.issuer).map_err(crypto)?.pem();
        Ok(Issued { cert_pem, key_pem: key.serialize_pem() })
    }
}

fn new_key() -> Result<KeyPair, IssueError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)
}

fn crypto(error: rcgen::Error) -> IssueError {
    IssueError::Crypto(error.to_string())
}

fn named(kind: &str, name: &str) -> Result<Role, IssueError> {
    Role::from_uri(&format!("zraft://{kind}/{name}")).map_err(|_| IssueError::Name(name.to_owned()))
}

fn host_name(host: &str) -> Result<SanType, IssueError> {
    let bad = || IssueError::Host(host.to_owned());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    rustls::pki_types::DnsName::try_from(host).map_err(|_| bad())?;
    Ok(SanType::DnsName(host.try_into().map_err(|_| bad())?))
}

fn validity(days: u32) -> Result<(SystemTime, SystemTime), IssueError> {
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(IssueError::Days(days));
    }
    let now = SystemTime::now();
    Ok((now - BACKDATED, now + Duration::from_secs(u64::from(days) * 24 * 3600)))
}

fn params(common_name: &str, (from, until): (SystemTime, SystemTime)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = from.into();
    params.not_after = until.into();
    params.distinguished_name = DistinguishedName::new();
    // For people only; X.520 bounds it.
    let common_name: String = common_name.chars().take(MAX_COMMON_NAME_CHARS).collect();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

//! Who somebody is: read from the certificate, from exactly one URI among its subject alternative names.

use std::fmt;

use x509_parser::extensions::GeneralName;

use crate::access::{ADMIN_PREFIX, CLIENT_PREFIX, NODE_PREFIX, is_name};
use crate::types::NodeAddr;

/// An identity and what it may do. A certificate says it as the URI that [`Role`] displays as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `zraft://node/HOST:PORT` (IPv6 in brackets): the node with that advertised address. May speak to nodes.
    Node(NodeAddr),
    /// `zraft://admin/NAME`: may do everything a client may, and administer clusters.
    Admin(String),
    /// `zraft://client/NAME`: may do what the access list of a cluster lets it.
    Client(String),
}

impl Role {
    /// The role that `uri` names.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`] when it names none.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Malformed(uri.to_owned());
        let named = |prefix| uri.strip_prefix(prefix).filter(|name| is_name(name)).map(str::to_owned);
        if let Some(addr) = uri.strip_prefix(NODE_PREFIX) {
            return addr.parse().map(Self::Node).map_err(|_| malformed());
        }
        let admin = named(ADMIN_PREFIX).map(Self::Admin);
        admin.or_else(|| named(CLIENT_PREFIX).map(Self::Client)).ok_or_else(malformed)
    }

    /// The role that a certificate (DER) names. Says nothing about whether the certificate is genuine.
    pub(super) fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| IdentityError::NotX509(error.to_string()))?;
        let names =
            certificate.subject_alternative_name().map_err(|error| IdentityError::NotX509(error.to_string()))?;
        let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (None, _) => Err(IdentityError::Missing),
            (Some(_), Some(_)) => Err(IdentityError::Several),
            (Some(uri), None) => Self::from_uri(uri),
        }
    }

    /// Whether this is a node.
    #[must_use]
    pub fn is_node(&self) -> bool {
        matches!(self, Self::Node(_))
    }

    /// Whether this is an administrator.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        matches!(self, Self::Admin(_))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(addr) => write!(f, "{NODE_PREFIX}{addr}"),
            Self::Admin(name) => write!(f, "{ADMIN_PREFIX}{name}"),
            Self::Client(name) => write!(f, "{CLIENT_PREFIX}{name}"),
        }
    }
}

/// Why a certificate names no [`Role`]. Whoever issued it is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not an X.509 certificate.
    #[error("it is not an X.509 certificate: {0}")]
    NotX509(String),
    /// No URI among its names.
    #[error("it has no zraft identity; issue it with `zraft cert`")]
    Missing,
    /// More than one URI: it would be ambiguous who this is.
    #[error("it has more than one URI among its names, so that its zraft identity is ambiguous")]
    Several,
    /// A URI that is no identity.
    #[error(
        "'{0}' is not a zraft identity: expected zraft://node/HOST:PORT, zraft://admin/NAME or zraft://client/NAME"
    )]
    Malformed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_written_the_way_it_is_read() {
        for uri in ["zraft://node/10.0.0.1:7400", "zraft://node/[::1]:1", "zraft://admin/ann", "zraft://client/a-1.b_2"]
        {
            assert_eq!(Role::from_uri(uri).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("zraft://client/{}", "a".repeat(crate::access::AccessList::MAX_NAME_LEN + 1));
        for uri in ["", "zraft://", "zraft://client/", "zraft://root/a", "https://client/a", "zraft://node/a", &long] {
            assert_eq!(Role::from_uri(uri), Err(IdentityError::Malformed(uri.to_owned())));
        }
        assert!(Role::from_uri("zraft://client/a/b").is_err());
        assert!(matches!(Role::of_certificate(b"\x30\x03abc"), Err(IdentityError::NotX509(_))));
    }
}

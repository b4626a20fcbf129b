//! How commands get to a cluster: certificates and peers.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output::Failure;
use crate::client::{Client, LightSession};
use crate::transport::{Credentials, TlsError, TlsFiles};
use crate::types::{ParseError, PeerId};

/// Whose certificate to use.
#[derive(Debug, Args)]
pub(super) struct Identity {
    /// The folder with ca.pem, NAME.pem and NAME-key.pem.
    #[arg(long, env = "ZRAFT_CERTS", value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// The name of the certificate in that folder.
    #[arg(long = "as", env = "ZRAFT_IDENTITY", value_name = "NAME", default_value = "admin")]
    name: String,
}

impl Identity {
    /// A client with that certificate. Must be called within a runtime.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.credentials()?)?)
    }

    /// That certificate.
    pub(super) fn credentials(&self) -> Result<Credentials, Failure> {
        let hint = |error: TlsError| {
            let certs = self.certs.display();
            Failure::usage(format!(
                "{error}; --certs (or ZRAFT_CERTS) says where certificates are, now {certs}, and --as whose to use, now \
                 {name}; `zraft cert client {name} --certs {certs}` makes one where the CA's key is",
                name = self.name,
            ))
        };
        Credentials::load(&TlsFiles::in_folder(&self.certs, &self.name)).map_err(hint)
    }

    /// A light session with that certificate. Must be called within a runtime.
    pub(super) fn session(&self, peers: &Peers) -> Result<LightSession, Failure> {
        Ok(LightSession::new(self.client()?, peers.0.clone()))
    }
}

/// Some peers of a cluster, as typed: `name@host:port`, several separated by commas.
#[derive(Clone, Debug)]
pub(super) struct Peers(pub(super) Vec<PeerId>);

impl std::str::FromStr for Peers {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.split(',').map(|peer| peer.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

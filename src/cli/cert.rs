//! `zraft cert`: a CA, and certificates for nodes and clients, as PEM files in one folder.
//!
//! `NAME.pem` is a certificate, `NAME-key.pem` its private key, `ca.pem` and `ca-key.pem` the CA's, `crl.pem` what it has revoked.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::output::{Failure, Output};
use crate::transport::TlsFiles;
use crate::transport::issue::{CertificateAuthority, Issued};
use crate::types::NodeAddr;

/// The CA's name in its folder.
const CA: &str = "ca";
/// The file of the certificates that the CA has revoked.
const CRL_FILE: &str = "crl.pem";

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make a CA. Whoever has its key decides who is a node, an admin or a client.
    Ca {
        #[command(flatten)]
        folder: Folder,
        /// How long it is valid, in days.
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Make a node's certificate.
    Node {
        /// The node's advertised address, host:port.
        node: NodeAddr,
        /// Other names or IP addresses of the node.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        #[command(flatten)]
        renewal: Renewal,
        #[command(flatten)]
        folder: Folder,
        /// How long it is valid, in days.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Make a client's certificate.
    Client {
        /// The client's name.
        name: String,
        /// Let it create and administer clusters too.
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        renewal: Renewal,
        #[command(flatten)]
        folder: Folder,
        /// How long it is valid, in days.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// Revoke a certificate: add it to crl.pem, which every node needs then (setting `crl`).
    Revoke {
        /// The certificate, a PEM file.
        cert: PathBuf,
        #[command(flatten)]
        folder: Folder,
    },
}

/// What becomes of files that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// They stay, and it is an error.
    Keep,
    /// They are replaced, each at once.
    Replace,
}

#[derive(Debug, Args)]
pub(super) struct Renewal {
    /// Replace the certificate and key that are there. Nodes take note by themselves.
    #[arg(long)]
    replace: bool,
}

impl Renewal {
    fn present(&self) -> Present {
        if self.replace { Present::Replace } else { Present::Keep }
    }
}

#[derive(Debug, Args)]
pub(super) struct Folder {
    /// Where the files are, and go.
    #[arg(long = "certs", env = "ZRAFT_CERTS", value_name = "DIR", default_value = "certs")]
    folder: PathBuf,
}

impl Cert {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let written = match self {
            Self::Ca { folder, days } => {
                let authority = CertificateAuthority::create("zraft CA", days).map_err(refused)?;
                store(&folder.folder, CA, authority.pem(), Present::Keep)?
            }
            Self::Node { node, hosts, renewal, folder, days } => {
                let issued = folder.authority()?.issue_node(&node, &hosts, days).map_err(refused)?;
                store(&folder.folder, &file_name(&node), &issued, renewal.present())?
            }
            Self::Client { name, admin, renewal, folder, days } => {
                let authority = folder.authority()?;
                let issue = if admin { CertificateAuthority::issue_admin } else { CertificateAuthority::issue_client };
                store(&folder.folder, &name, &issue(&authority, &name, days).map_err(refused)?, renewal.present())?
            }
            Self::Revoke { cert, folder } => return folder.revoke(&cert, output),
        };
        let (cert, key) = (written.cert.display().to_string(), written.key.display().to_string());
        output.result(format_args!("wrote {cert} and {key}"), &json!({ "cert": cert, "key": key }));
        Ok(())
    }
}

impl Folder {
    /// Adds a certificate to the list of those that are revoked.
    fn revoke(&self, cert: &Path, output: Output) -> Result<(), Failure> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
        };
        let path = self.folder.join(CRL_FILE);
        let list = path.exists().then(|| read(&path)).transpose()?;
        let list = self.authority()?.revoke(&read(cert)?, list.as_deref()).map_err(refused)?;
        write(&path, &list, 0o644, Present::Replace)?;
        let (cert, path) = (cert.display().to_string(), path.display().to_string());
        output.result(format_args!("{cert} is revoked by {path}"), &json!({ "cert": cert, "crl": path }));
        Ok(())
    }

    fn authority(&self) -> Result<CertificateAuthority, Failure> {
        let files = TlsFiles::in_folder(&self.folder, CA);
        let read = |path: &Path| {
            let hint = format!("make a CA first: zraft cert ca --certs {}", self.folder.display());
            std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}; {hint}", path.display())))
        };
        CertificateAuthority::load(&read(&files.cert)?, &read(&files.key)?).map_err(refused)
    }
}

fn refused(error: crate::transport::issue::IssueError) -> Failure {
    Failure::usage(error.to_string())
}

/// The name of a node's files: its address, with what file names should not have replaced.
pub(super) fn file_name(node: &NodeAddr) -> String {
    node.as_str().chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// Writes a certificate and its key, the key readable by the owner alone.
pub(super) fn store(folder: &Path, name: &str, issued: &Issued, present: Present) -> Result<TlsFiles, Failure> {
    let files = TlsFiles::in_folder(folder, name);
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::usage(format!("cannot make the folder {}: {error}", folder.display())))?;
    write(&files.key, &issued.key_pem, 0o600, present)?;
    write(&files.cert, &issued.cert_pem, 0o644, present)?;
    Ok(files)
}

fn write(path: &Path, text: &str, mode: u32, present: Present) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let written = match present {
        Present::Keep => path.to_owned(),
        Present::Replace => path.with_extension("pem.new"),
    };
    let mut options = OpenOptions::new();
    options.write(true).mode(mode);
    match present {
        Present::Keep => options.create_new(true),
        Present::Replace => options.create(true).truncate(true),
    };
    let result = options
        .open(&written)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| if written == path { Ok(()) } else { std::fs::rename(&written, path) });
    result.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} exists already; --replace replaces certificates", path.display()))
        }
        _ => Failure::usage(format!("cannot write {}: {error}", path.display())),
    })
}

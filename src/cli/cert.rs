//! `zraft cert`: a CA, and certificates for nodes and clients, as PEM files in one folder.
//!
//! `NAME.pem` is a certificate, `NAME-key.pem` its private key, `ca.pem` and `ca-key.pem` the CA's.

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
        folder: Folder,
        /// How long it is valid, in days.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
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
                store(&folder.folder, CA, authority.pem())?
            }
            Self::Node { node, hosts, folder, days } => {
                let issued = folder.authority()?.issue_node(&node, &hosts, days).map_err(refused)?;
                store(&folder.folder, &file_name(&node), &issued)?
            }
            Self::Client { name, admin, folder, days } => {
                let authority = folder.authority()?;
                let issue = if admin { CertificateAuthority::issue_admin } else { CertificateAuthority::issue_client };
                store(&folder.folder, &name, &issue(&authority, &name, days).map_err(refused)?)?
            }
        };
        let (cert, key) = (written.cert.display().to_string(), written.key.display().to_string());
        output.result(format_args!("wrote {cert} and {key}"), &json!({ "cert": cert, "key": key }));
        Ok(())
    }
}

impl Folder {
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

/// Writes a certificate and its key as new files, the key readable by the owner alone.
pub(super) fn store(folder: &Path, name: &str, issued: &Issued) -> Result<TlsFiles, Failure> {
    let files = TlsFiles::in_folder(folder, name);
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::usage(format!("cannot make the folder {}: {error}", folder.display())))?;
    write_new(&files.key, &issued.key_pem, 0o600)?;
    write_new(&files.cert, &issued.cert_pem, 0o644)?;
    Ok(files)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let result = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    result.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} exists already; remove it first to replace it", path.display()))
        }
        _ => Failure::usage(format!("cannot write {}: {error}", path.display())),
    })
}

//! Real QUIC on 127.0.0.1, on ports that the system chooses.

mod admission;
mod offers;
mod streams;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::issue::{CertificateAuthority, Issued};
use super::*;
use crate::types::NodeAddr;

/// Nothing here takes this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

fn authority() -> CertificateAuthority {
    CertificateAuthority::create("test CA", 1).unwrap()
}

fn credentials(trusted: &CertificateAuthority, issued: &Issued) -> Credentials {
    let Issued { cert_pem, key_pem } = issued;
    Credentials::from_pem(trusted.pem().cert_pem.as_bytes(), cert_pem.as_bytes(), key_pem.as_bytes()).unwrap()
}

/// A certificate that expired an hour ago, accepted as one's own as if it had not.
fn expired_credentials(ca: &CertificateAuthority, role: &Role) -> Credentials {
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    credentials_of_another_time(ca, role, (hours_ago(3), hours_ago(1)), hours_ago(2))
}

/// A certificate that is valid in an hour, accepted as one's own as if it were.
fn early_credentials(ca: &CertificateAuthority, role: &Role) -> Credentials {
    let in_hours = |hours: u64| SystemTime::now() + Duration::from_secs(hours * 3600);
    credentials_of_another_time(ca, role, (in_hours(1), in_hours(3)), in_hours(2))
}

fn credentials_of_another_time(
    ca: &CertificateAuthority,
    role: &Role,
    valid: (SystemTime, SystemTime),
    at: SystemTime,
) -> Credentials {
    let issued = ca.issue(role, &["127.0.0.1"], valid).unwrap();
    let (cert, key) = (issued.cert_pem.as_bytes(), issued.key_pem.as_bytes());
    Credentials::from_pem_at(ca.pem().cert_pem.as_bytes(), cert, key, at).unwrap()
}

fn client(ca: &CertificateAuthority) -> Endpoint {
    Endpoint::client(credentials(ca, &ca.issue_client("ann", 1).unwrap())).unwrap()
}

/// A node on a port of its own, with a certificate for it.
fn node(ca: &CertificateAuthority) -> (Endpoint, NodeAddr) {
    node_with(ca, Limits::default())
}

fn node_with(ca: &CertificateAuthority, limits: Limits) -> (Endpoint, NodeAddr) {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr: NodeAddr = socket.local_addr().unwrap().to_string().parse().unwrap();
    let credentials = credentials(ca, &ca.issue_node(&addr, &[], 1).unwrap());
    (Endpoint::server_on(socket, credentials, limits).unwrap(), addr)
}

fn socket_addr(node: &NodeAddr) -> SocketAddr {
    node.as_str().parse().unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it takes longer than the deadline")
}

/// Both ends of a connection for `protocol` from a second node.
async fn pair(protocol: Protocol) -> (Connection, Connection, [Endpoint; 2]) {
    let ca = authority();
    let ((server, addr), (other, _)) = (node(&ca), node(&ca));
    let (dialed, accepted) = within(async { tokio::join!(other.connect(&addr, protocol), server.accept()) }).await;
    (dialed.unwrap(), accepted.unwrap().connection, [server, other])
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "it never happens: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is logged on this thread while it exists.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct LogWriter(Arc<Mutex<Vec<u8>>>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = LogWriter(Arc::clone(&text));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    async fn has(&self, parts: &[&str]) {
        eventually(&format!("a line of the log with {parts:?}"), || {
            let text = String::from_utf8(self.text.lock().unwrap().clone()).unwrap();
            text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await;
    }
}

//! A client that sends its streams in pieces of a byte, with a gap behind each, and never fills the gaps. What a node keeps of
//! pieces that it cannot read yet must not depend on how small they are.
//!
//! QUIC libraries do not do that, so a proxy makes the gaps: it passes on every second packet of Mallory's, and none of the
//! node's, so that nothing is sent again.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, SendStream, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use zraft::transport::Protocol;

use crate::harness::{Nodes, PATIENCE};
use crate::hostile_clients::{memory, while_alice_is_served};

/// Packets with one small piece are smaller; what is sent again is larger, and is not to fill the gaps.
const MAX_PACKET_BYTES: usize = 100;
/// Pieces that are to reach the node on many streams. If each kept its packet's buffer of 6,000 bytes, they would take 72 MB.
const PIECES: u64 = 12_000;
const MAX_GROWTH_BYTES: u64 = 32 << 20;
/// Not even: every stream is to have gaps.
const STREAMS: usize = 15;
/// More than a connection bears on one stream.
const PIECES_OF_ONE: u64 = 8_000;

/// Stands between Mallory and a node, on threads of its own.
struct Proxy {
    front: UdpSocket,
    cuts: Arc<AtomicBool>,
    /// Packets of Mallory's that went through.
    passed: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Proxy {
    fn start(mallory: SocketAddr, node: SocketAddr) -> Self {
        let bind_towards = |other| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.connect(other).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            socket
        };
        let (front, back) = (bind_towards(mallory), bind_towards(node));
        let (cuts, passed, ends) = (Arc::default(), Arc::default(), Arc::default());
        let proxy = Self { front, cuts, passed, ends };
        let (to_node, mut is_second) = (back.try_clone().unwrap(), false);
        let (cuts, passed) = (Arc::clone(&proxy.cuts), Arc::clone(&proxy.passed));
        proxy.each_packet_of(proxy.front.try_clone().unwrap(), move |packet| {
            is_second = !is_second;
            if !cuts.load(Ordering::SeqCst) || (is_second && packet.len() <= MAX_PACKET_BYTES) {
                // What the node's socket cannot take is lost, as on any network.
                let _ = to_node.send(packet);
                passed.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (to_mallory, cuts) = (proxy.front.try_clone().unwrap(), Arc::clone(&proxy.cuts));
        proxy.each_packet_of(back, move |packet| {
            if !cuts.load(Ordering::SeqCst) {
                let _ = to_mallory.send(packet);
            }
        });
        proxy
    }

    fn each_packet_of(&self, socket: UdpSocket, mut take: impl FnMut(&[u8]) + Send + 'static) {
        let ends = Arc::clone(&self.ends);
        std::thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            while !ends.load(Ordering::SeqCst) {
                // Without a packet there is an error after a while.
                if let Ok(length) = socket.recv(&mut packet) {
                    take(&packet[..length]);
                }
            }
        });
    }

    /// Has Mallory write single bytes on some streams by turns, until so many have come through or the connection has ended.
    async fn pass(&self, pieces: u64, connection: &Connection, streams: &mut [SendStream]) {
        let (begun, before) = (Instant::now(), self.passed.load(Ordering::SeqCst));
        for turn in 0.. {
            if self.passed.load(Ordering::SeqCst) - before >= pieces || connection.close_reason().is_some() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{} pieces came through", self.passed.load(Ordering::SeqCst) - before);
            let stream = turn % streams.len();
            if streams[stream].write_all(&[0]).await.is_err() {
                return;
            }
            // The packet leaves before the next byte could share it.
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
    }
}

/// Mallory does not wait for acknowledgements.
#[derive(Clone)]
struct Unlimited;

impl ControllerFactory for Unlimited {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for Unlimited {
    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _is_persistent: bool, _lost_bytes: u64) {}

    fn on_mtu_update(&mut self, _mtu: u16) {}

    fn window(&self) -> u64 {
        1 << 32
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self)
    }

    fn initial_window(&self) -> u64 {
        1 << 32
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Mallory does not care whom the proxy leads to.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("QUIC has TLS 1.3")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config(nodes: &Nodes) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let file = |name: &str| nodes.certs().join(name);
    let certificates = CertificateDer::pem_file_iter(file("mallory.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(file("mallory-key.pem")).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(certificates, key)
        .unwrap();
    tls.alpn_protocols = vec![Protocol::Client.alpn().as_bytes().to_vec()];
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(Unlimited));
    // Larger packets would be thrown away.
    transport.mtu_discovery_config(None);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

#[test]
fn pieces_with_gaps_are_bounded_in_number_and_memory() {
    while_alice_is_served(async |_, nodes| {
        let mallory = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let node = nodes.address(0).as_str().parse().unwrap();
        let connect = async || {
            let proxy = Proxy::start(mallory.local_addr().unwrap(), node);
            let address = proxy.front.local_addr().unwrap();
            let connection = mallory.connect_with(config(&nodes), address, "node").unwrap().await.unwrap();
            // The node has let her in.
            connection.accept_uni().await.unwrap();
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                streams.push(connection.open_bi().await.unwrap().0);
            }
            (proxy, connection, streams)
        };

        let (proxy, connection, mut streams) = connect().await;
        let before = memory(&nodes, 0);
        proxy.cuts.store(true, Ordering::SeqCst);
        proxy.pass(PIECES, &connection, &mut streams).await;
        let grown = memory(&nodes, 0).saturating_sub(before);
        assert!(grown < MAX_GROWTH_BYTES, "the node has grown by {grown} bytes");
        assert!(connection.close_reason().is_none(), "{:?}", connection.close_reason());
        connection.close(0_u32.into(), b"");

        // Too many on one stream end the connection. Mallory learns it once the node's packets come through again.
        let (proxy, connection, mut streams) = connect().await;
        proxy.cuts.store(true, Ordering::SeqCst);
        proxy.pass(PIECES_OF_ONE, &connection, &mut streams[..1]).await;
        proxy.cuts.store(false, Ordering::SeqCst);
        let ended = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the connection has ended");
        assert!(matches!(ended, ConnectionError::ConnectionClosed(_) | ConnectionError::Reset), "{ended}");
    });
}

//! Every setting of QUIC and of the socket, each with its reason. Figures were measured on loopback with 128-byte
//! requests and 1 GiB transfers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Socket, Type};

use super::Protocol;
use super::error::TransportError;
use crate::types::Digest;

/// A dial, from the first packet to the server's welcome.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes in progress at a time. Each costs signatures and a few KiB.
pub(super) const MAX_HANDSHAKES: usize = 128;

/// With fewer free places than this for handshakes, callers must first prove their address (QUIC Retry, RFC 9000
/// section 8.1.2), so that forged addresses cannot take the rest.
pub(super) const PROVE_ADDRESS_BELOW: usize = MAX_HANDSHAKES / 2;

/// First packets that wait for a place; more are refused.
const MAX_WAITING_HANDSHAKES: usize = 256;

/// Bytes buffered for each of them, and for all.
const WAITING_BYTES_EACH: u64 = 16 << 10;
const WAITING_BYTES_TOTAL: u64 = 1 << 20;

/// Accepted connections that nobody has taken with `accept` yet.
pub(super) const MAX_UNTAKEN: usize = 64;

/// Kernel buffers in bytes. The usual 208 KiB drop packets even on loopback: p99 of 4 to 28 ms instead of 2 ms.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Streams one side may have open. The default of 100 halves the throughput of 512 requests in flight.
const MAX_BIDI_STREAMS: u32 = 1024;

/// A welcome, two streams of a peer link, and room.
const MAX_UNI_STREAMS: u32 = 64;

/// Received and unread bytes of one stream. 1 to 4 MiB measured the best for bulk transfers.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Received and unread bytes of a client's connection. Without this bound (the default) each could hold gigabytes.
const CLIENT_WINDOW_BYTES: u32 = 4 << 20;

/// The same for nodes, which are few: both streams of a peer link may be full.
const NODE_WINDOW_BYTES: u32 = 16 << 20;

/// Sent and unacknowledged bytes of a connection, kept for sending again.
const SEND_WINDOW_BYTES: u64 = 8 << 20;

/// Silence after which a connection is dead. A peer link finds out sooner: its heartbeats go nowhere meanwhile.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The dialing side keeps a quiet connection alive; the accepting side does not, so that it forgets the silent.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const PEER_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Assumed before the first measurement; a lost first packet is sent again after three of these. The default of
/// 333 ms finds a restarted node late. Too low on a slow network costs a few packets.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Largest packet on loopback in bytes: bulk transfers run at 2.0 instead of 0.85 GB/s. Ten of them must stay below
/// 64 KiB, or segmentation offload, which sends up to ten at once, stalls.
const LOOPBACK_MTU: u16 = 6000;

/// The settings of a connection that this side dials.
pub(super) fn dialing(protocol: Protocol, remote: SocketAddr) -> TransportConfig {
    let (idle, keep_alive) = match protocol {
        // Who was restarted listens for snapshots on another port: nobody says there that the connection is gone.
        Protocol::Peer | Protocol::Snapshot => (PEER_IDLE_TIMEOUT, PEER_KEEP_ALIVE),
        Protocol::Client | Protocol::Bulk => (IDLE_TIMEOUT, KEEP_ALIVE),
    };
    let mut transport = common(remote, idle);
    transport.keep_alive_interval(Some(keep_alive));
    transport.receive_window(VarInt::from_u32(window(protocol)));
    transport
}

/// The settings of a connection that this side accepts. The protocol is not known yet: see [`window`].
pub(super) fn accepting(remote: SocketAddr) -> TransportConfig {
    let mut transport = common(remote, IDLE_TIMEOUT);
    transport.receive_window(VarInt::from_u32(CLIENT_WINDOW_BYTES));
    transport
}

/// Received and unread bytes that a connection for `protocol` may hold.
pub(super) fn window(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Client => CLIENT_WINDOW_BYTES,
        Protocol::Peer | Protocol::Bulk | Protocol::Snapshot => NODE_WINDOW_BYTES,
    }
}

/// Left at their defaults: congestion control (Cubic, NewReno and BBR are within 3 %), acknowledgement frequency (-11 %
/// CPU, -14 % rate).
fn common(remote: SocketAddr, idle: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(MAX_BIDI_STREAMS.into());
    transport.max_concurrent_uni_streams(MAX_UNI_STREAMS.into());
    transport.stream_receive_window(STREAM_WINDOW_BYTES.into());
    transport.send_window(SEND_WINDOW_BYTES);
    transport.max_idle_timeout(Some(IdleTimeout::try_from(idle).expect("seconds fit in a QUIC timeout")));
    transport.initial_rtt(INITIAL_RTT);
    // Without it bulk transfers fall from 850 to 234 MB/s.
    transport.enable_segmentation_offload(true);
    // Unused, and each would be a buffer.
    transport.datagram_receive_buffer_size(None);
    if remote.ip().to_canonical().is_loopback() {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(LOOPBACK_MTU);
        transport.mtu_discovery_config(Some(discovery));
    }
    transport
}

/// Bounds what strangers can make an endpoint hold before it knows them, and pins connections to their address: nodes
/// do not move, and a client that does dials again.
pub(super) fn bound_server(config: &mut quinn::ServerConfig) {
    config
        .migration(false)
        .max_incoming(MAX_WAITING_HANDSHAKES)
        .incoming_buffer_size(WAITING_BYTES_EACH)
        .incoming_buffer_size_total(WAITING_BYTES_TOTAL);
}

/// The settings of the endpoint. With a `restart_key` that outlives the process, a node that was killed and restarted
/// tells the others at their next packet that their connections are gone (stateless reset, RFC 9000 section 10.3);
/// otherwise, as after a change of the private key, they find out only by the idle timeout.
pub(super) fn endpoint(restart_key: Option<&[u8; 32]>) -> EndpointConfig {
    let mut config = match restart_key {
        None => EndpointConfig::default(),
        Some(key) => {
            let mut config = EndpointConfig::new(Arc::new(RestartKey(*key)));
            let seed = Digest::of(&[key.as_slice(), b"zraft connection ids"].concat());
            let seed = seed.0.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
            config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(seed)));
            config
        }
    };
    config.max_udp_payload_size(LOOPBACK_MTU).expect("more than the least that QUIC allows");
    config
}

/// Signs reset tokens with HMAC-SHA-256 (RFC 2104).
struct RestartKey([u8; 32]);

impl RestartKey {
    fn hmac(&self, data: &[u8]) -> [u8; 32] {
        const BLOCK: usize = 64;
        let padded = |pad: u8| {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(self.0).for_each(|(byte, key)| *byte ^= key);
            block
        };
        let inner = Digest::of(&[padded(0x36).as_slice(), data].concat());
        Digest::of(&[padded(0x5c).as_slice(), &inner.0].concat()).0
    }
}

impl HmacKey for RestartKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.hmac(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = self.hmac(data);
        let differing = expected.iter().zip(signature).fold(0, |bits, (a, b)| bits | (a ^ b));
        if differing == 0 && signature.len() == expected.len() { Ok(()) } else { Err(CryptoError) }
    }
}

/// Binds a UDP socket with buffers fit for QUIC; `[::]` takes IPv4 too. Port 0 lets the system choose.
///
/// # Errors
/// [`TransportError::Bind`].
pub fn bind(addr: SocketAddr) -> Result<UdpSocket, TransportError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // The system may grant less (net.core.rmem_max); then it is slower under load, and works.
        for result in
            [socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES), socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)]
        {
            result.unwrap_or_else(|error| tracing::debug!(%error, "cannot enlarge the socket buffers"));
        }
        socket.bind(&addr.into())?;
        Ok(socket.into())
    };
    bound().map_err(|source| TransportError::Bind { addr, source })
}

/// Binds a socket for dialing only: for IPv4 and IPv6 where there is IPv6.
pub(super) fn bind_any() -> Result<UdpSocket, TransportError> {
    bind((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_| bind((Ipv4Addr::UNSPECIFIED, 0).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_tokens_are_hmac_sha_256() {
        // RFC 4231 test case 2, whose key is shorter than ours and padded with zeros all the same.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let signature = RestartKey(key).hmac(b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(Digest(signature).to_string(), expected);
        assert!(RestartKey(key).verify(b"what do ya want for nothing?", &signature).is_ok());
        assert!(RestartKey(key).verify(b"other", &signature).is_err());
    }

    #[test]
    fn ten_of_the_largest_packets_fit_in_one_offloaded_send() {
        assert!(10 * u32::from(LOOPBACK_MTU) < 64 << 10);
    }
}

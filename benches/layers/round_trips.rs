//! The transport: requests over mutual TLS on loopback, answered as soon as they arrive.

use std::net::UdpSocket;

use criterion::{Criterion, Throughput};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use zraft::transport::issue::{CertificateAuthority, Issued};
use zraft::transport::{
    Connection, Credentials, Endpoint, FrameReader, FrameWriter, Limits, Protocol, RecvStream, SendStream, bind,
};
use zraft::types::NodeAddr;

const REQUEST: [u8; 160] = [7; 160];
const MAX_FRAME_BYTES: usize = 4096;
const AT_ONCE: usize = 64;

pub fn measure(criterion: &mut Criterion) {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let socket = bind("127.0.0.1:0".parse().expect("an address")).expect("a port can be had");
    let (client, server) = credentials(&socket);
    let node = node_of(&socket);
    std::thread::spawn(move || runtime().block_on(serve(socket, server)));
    let runtime = runtime();
    let (_endpoint, connection) = runtime.block_on(async {
        let endpoint = Endpoint::client(client).expect("a socket can be had");
        let connection = endpoint.connect(&node, Protocol::Client).await.expect("it listens");
        (endpoint, connection)
    });
    let mut group = criterion.benchmark_group("transport");
    let mut streams = open(&runtime, &connection, AT_ONCE);
    group.bench_function("a round trip", |bencher| {
        bencher.iter(|| runtime.block_on(streams[0].ask()));
    });
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    group.bench_function("64 round trips at once", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let mut asking: JoinSet<Stream> = streams
                    .drain(..)
                    .map(|mut stream| async move {
                        stream.ask().await;
                        stream
                    })
                    .collect();
                while let Some(stream) = asking.join_next().await {
                    streams.push(stream.expect("it is answered"));
                }
            });
        });
    });
}

struct Stream(FrameWriter, FrameReader);

impl Stream {
    fn new((send, recv): (SendStream, RecvStream)) -> Self {
        Self(FrameWriter::new(send, MAX_FRAME_BYTES), FrameReader::new(recv, MAX_FRAME_BYTES))
    }

    async fn ask(&mut self) {
        self.0.write(&REQUEST).await.expect("it is sent");
        self.1.next().await.expect("it is answered").expect("it is answered");
    }
}

fn open(runtime: &Runtime, connection: &Connection, count: usize) -> Vec<Stream> {
    let open = || runtime.block_on(connection.open_bi()).expect("a stream can be had");
    (0..count).map(|_| Stream::new(open())).collect()
}

/// Answers every stream with what comes on it, until the process ends.
async fn serve(socket: UdpSocket, credentials: Credentials) {
    let endpoint = Endpoint::server_on(socket, credentials, Limits::default()).expect("it is a node's");
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            while let Ok(streams) = incoming.connection.accept_bi().await {
                let Stream(mut writer, mut reader) = Stream::new(streams);
                tokio::spawn(async move {
                    while let Ok(Some(frame)) = reader.next().await {
                        writer.write(&frame).await.expect("it is sent");
                    }
                });
            }
        });
    }
}

fn node_of(socket: &UdpSocket) -> NodeAddr {
    socket.local_addr().expect("it is bound").to_string().parse().expect("an address")
}

/// Those of a client, and of the node on this socket.
fn credentials(socket: &UdpSocket) -> (Credentials, Credentials) {
    let authority = CertificateAuthority::create("bench CA", 1).expect("a CA can be made");
    let of = |issued: Issued| {
        let Issued { cert_pem, key_pem } = issued;
        let ca = authority.pem().cert_pem.as_bytes();
        Credentials::from_pem(ca, cert_pem.as_bytes(), key_pem.as_bytes()).expect("they were just made")
    };
    let node = authority.issue_node(&node_of(socket), &[], 1).expect("a certificate can be made");
    (of(authority.issue_client("bench", 1).expect("a certificate can be made")), of(node))
}

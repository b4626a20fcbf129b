//! Transfers that can go on where they were broken off, on an endpoint of their own.

use bytes::Bytes;

use super::*;

/// An endpoint for snapshots of a node that has another beside it, and where both are.
fn for_snapshots(ca: &CertificateAuthority) -> (Endpoint, NodeAddr, NodeAddr) {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let at: NodeAddr = socket.local_addr().unwrap().to_string().parse().unwrap();
    let node: NodeAddr = "127.0.0.1:1".parse().unwrap();
    let credentials = credentials(ca, &ca.issue_node(&node, &[], 1).unwrap());
    (Endpoint::for_snapshots(socket, credentials, Limits::default()).unwrap(), node, at)
}

async fn snapshot_pair() -> (Connection, Connection, [Endpoint; 2]) {
    let ca = authority();
    let ((server, addr, at), (other, _)) = (for_snapshots(&ca), node(&ca));
    let dialing = other.connect_at(&addr, &at, Protocol::Snapshot);
    let (dialed, accepted) = within(async { tokio::join!(dialing, server.accept()) }).await;
    (dialed.unwrap(), accepted.unwrap().connection, [server, other])
}

fn content() -> Bytes {
    (0..3_000_000).map(|i| ((i * 31) >> 8) as u8).collect::<Vec<u8>>().into()
}

/// Offers the content, and sends so much of what is wanted.
async fn send(connection: &Connection, content: Bytes, at_most: usize) -> Result<Bytes, BulkError> {
    match offer(connection, b"snapshot 1").await? {
        Answer::Replied(reply) => Ok(reply),
        Answer::Wanted(mut upload) => {
            let mut rest = content.slice(upload.from() as usize..);
            rest.truncate(at_most);
            while !rest.is_empty() && upload.send(rest.split_to(rest.len().min(100_000))).await? {}
            upload.finish().await
        }
    }
}

async fn receive(connection: &Connection, from: u64, size: u64) -> Result<(Vec<u8>, OfferReply), BulkError> {
    let offered = accept_offer(connection.accept_bi().await.unwrap()).await?;
    assert_eq!(offered.header, "snapshot 1");
    let (mut download, reply) = offered.want(from, size - from).await?;
    let mut bytes = Vec::new();
    while let Some(batch) = download.next().await? {
        batch.iter().for_each(|piece| bytes.extend_from_slice(piece));
    }
    Ok((bytes, reply))
}

#[tokio::test]
async fn what_is_wanted_of_an_offer_arrives_and_is_answered() {
    let (dialed, accepted, _endpoints) = snapshot_pair().await;
    let content = content();
    let size = content.len() as u64;
    for from in [0, 1_234_567, size] {
        let receiving = async {
            let (bytes, reply) = receive(&accepted, from, size).await.unwrap();
            reply.send(b"thanks").await.unwrap();
            bytes
        };
        let sending = send(&dialed, content.clone(), usize::MAX);
        let (sent, bytes) = within(async { tokio::join!(sending, receiving) }).await;
        assert_eq!(sent.unwrap(), "thanks");
        assert!(bytes == content[from as usize..]);
    }
}

#[tokio::test]
async fn an_offer_is_declined_or_sent_too_little_or_too_much_of() {
    let (dialed, accepted, _endpoints) = snapshot_pair().await;
    let content = content();
    let size = content.len() as u64;
    let declining = async {
        let offered = accept_offer(accepted.accept_bi().await.unwrap()).await.unwrap();
        offered.decline(b"no room").await.unwrap();
    };
    let (sent, ()) = within(async { tokio::join!(send(&dialed, content.clone(), usize::MAX), declining) }).await;
    assert_eq!(sent.unwrap(), "no room");
    let sending = send(&dialed, content.clone(), 1_000);
    let (sent, received) = within(async { tokio::join!(sending, receive(&accepted, 0, size)) }).await;
    assert!(matches!(received, Err(BulkError::TooShort { received: 1_000, .. })));
    assert!(sent.is_err(), "there is no reply");
    let sending = send(&dialed, content.clone(), usize::MAX);
    let (_, received) = within(async { tokio::join!(sending, receive(&accepted, 0, size - 1)) }).await;
    assert!(matches!(received, Err(BulkError::TooLong { .. })));
}

#[tokio::test]
async fn snapshots_have_an_endpoint_of_their_own_for_nodes_alone() {
    let (log, ca) = (Log::capture(), authority());
    let ((server, addr, at), (other, _)) = (for_snapshots(&ca), node(&ca));
    let admin = Endpoint::client(credentials(&ca, &ca.issue_admin("root", 1).unwrap())).unwrap();
    let refused = async |endpoint: &Endpoint, protocol| {
        let error = within(endpoint.connect_at(&addr, &at, protocol)).await.unwrap_err();
        assert!(matches!(&error, ConnectError::NotAdmitted { code: CloseCode::NOT_ALLOWED, .. }), "{error}");
    };
    refused(&admin, Protocol::Snapshot).await;
    log.has(&["WARN", "zraft://admin/root", "only nodes may use", "zraft-snapshot"]).await;
    refused(&admin, Protocol::Client).await;
    refused(&other, Protocol::Bulk).await;
    log.has(&["WARN", "zraft-bulk", "is not spoken on this port"]).await;
    assert_eq!(server.refused(), 3);

    let (main, main_addr) = node(&ca);
    let error = within(other.connect(&main_addr, Protocol::Snapshot)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::NotAdmitted { code: CloseCode::NOT_ALLOWED, .. }), "{error}");
    assert_eq!(main.refused(), 1);
    // Who answers there must be the node that is meant.
    let error = within(other.connect_at(&main_addr, &at, Protocol::Snapshot)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::WrongNode { .. }), "{error}");
}

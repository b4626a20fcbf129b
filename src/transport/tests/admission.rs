//! Who is let in, who is not, and what both sides are told.

use super::*;

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = authority();
    let (server, addr) = node(&ca);
    let admin = Endpoint::client(credentials(&ca, &ca.issue_admin("root", 1).unwrap())).unwrap();
    let (other, other_addr) = node(&ca);
    let ann = client(&ca);
    let cases = [
        (&ann, Role::Client("ann".to_owned()), Protocol::Client),
        (&admin, Role::Admin("root".to_owned()), Protocol::Client),
        (&other, Role::Node(other_addr.clone()), Protocol::Client),
        (&other, Role::Node(other_addr.clone()), Protocol::Peer),
        (&other, Role::Node(other_addr), Protocol::Bulk),
    ];
    for (dialer, role, protocol) in cases {
        let connection = within(dialer.connect(&addr, protocol)).await.unwrap();
        assert_eq!(connection.identity(), &Role::Node(addr.clone()));
        let incoming = within(server.accept()).await.unwrap();
        assert_eq!((&incoming.identity, incoming.protocol), (&role, protocol));
        assert_eq!(incoming.connection.identity(), &role);
        assert_eq!(incoming.remote.ip().to_string(), "127.0.0.1");
    }
    assert_eq!(server.refused(), 0);
}

#[tokio::test]
async fn a_client_without_certificate_is_told_so_and_logged() {
    let (log, ca) = (Log::capture(), authority());
    let (server, addr) = node(&ca);
    let nobody = Credentials::without_certificate(ca.pem().cert_pem.as_bytes()).unwrap();
    let nobody = Endpoint::client(nobody).unwrap();
    let error = within(nobody.connect(&addr, Protocol::Client)).await.unwrap_err();
    assert_eq!(error, ConnectError::NoCertificate { node: addr.clone() });
    log.has(&["WARN", "127.0.0.1:", "unknown", "no certificate"]).await;
    assert_eq!(server.refused(), 1);
    within(client(&ca).connect(&addr, Protocol::Client)).await.expect("others are let in all the same");
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_logged_with_its_name() {
    let log = Log::capture();
    let (ca, other_ca) = (authority(), CertificateAuthority::create("other CA", 1).unwrap());
    let (_server, addr) = node(&ca);
    // The second has the same name as the right one, and another key.
    for wrong in [other_ca, authority()] {
        let eve = Endpoint::client(credentials(&ca, &wrong.issue_client("eve", 1).unwrap())).unwrap();
        let error = within(eve.connect(&addr, Protocol::Client)).await.unwrap_err();
        assert!(
            matches!(&error, ConnectError::RefusedByServer { reason, .. } if reason.contains("another CA")),
            "{error}"
        );
        log.has(&["WARN", "zraft://client/eve", "issued by another CA"]).await;
    }
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_trusted() {
    let (log, ca, other_ca) = (Log::capture(), authority(), authority());
    let (_server, addr) = node(&ca);
    let ann = Endpoint::client(credentials(&other_ca, &ca.issue_client("ann", 1).unwrap())).unwrap();
    let error = within(ann.connect(&addr, Protocol::Client)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::ServerNotTrusted { .. }), "{error}");
    assert!(error.to_string().contains("check that the CA certificate"), "{error}");
    log.has(&["WARN", "did not accept this node's certificate"]).await;
}

#[tokio::test]
async fn certificates_that_are_expired_or_not_yet_valid_are_refused() {
    let (log, ca) = (Log::capture(), authority());
    let (_server, addr) = node(&ca);
    let late = Endpoint::client(expired_credentials(&ca, &Role::Client("late".to_owned()))).unwrap();
    let error = within(late.connect(&addr, Protocol::Client)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::RefusedByServer { reason, .. } if reason.contains("expired")), "{error}");
    log.has(&["WARN", "zraft://client/late", "has expired"]).await;
    let early = Endpoint::client(early_credentials(&ca, &Role::Client("early".to_owned()))).unwrap();
    let error = within(early.connect(&addr, Protocol::Client)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::RefusedByServer { .. }), "{error}");
    log.has(&["WARN", "zraft://client/early", "not valid yet"]).await;

    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr: NodeAddr = socket.local_addr().unwrap().to_string().parse().unwrap();
    let stale = expired_credentials(&ca, &Role::Node(addr.clone()));
    let _server = Endpoint::server_on(socket, stale, Limits::default()).unwrap();
    let error = within(client(&ca).connect(&addr, Protocol::Client)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::ServerNotTrusted { reason, .. } if reason.contains("expired")), "{error}");
}

#[tokio::test]
async fn only_nodes_speak_to_nodes_as_nodes() {
    let (log, ca) = (Log::capture(), authority());
    let (server, addr) = node(&ca);
    let admin = Endpoint::client(credentials(&ca, &ca.issue_admin("root", 1).unwrap())).unwrap();
    for protocol in [Protocol::Peer, Protocol::Bulk, Protocol::Snapshot] {
        let error = within(admin.connect(&addr, protocol)).await.unwrap_err();
        assert!(matches!(&error, ConnectError::NotAdmitted { code: CloseCode::NOT_ALLOWED, .. }), "{error}");
        log.has(&["WARN", "zraft://admin/root", "only nodes may use", protocol.alpn()]).await;
    }
    assert_eq!(server.refused(), 3);
}

#[tokio::test]
async fn another_node_than_the_one_dialed_is_found_out() {
    let ca = authority();
    let ann = client(&ca);
    // Another port in the identity, the right host; then another host.
    for claimed in ["127.0.0.1:1", "db.example:7400"] {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr: NodeAddr = socket.local_addr().unwrap().to_string().parse().unwrap();
        let issued = ca.issue_node(&claimed.parse().unwrap(), &[], 1).unwrap();
        let _server = Endpoint::server_on(socket, credentials(&ca, &issued), Limits::default()).unwrap();
        let error = within(ann.connect(&addr, Protocol::Client)).await.unwrap_err();
        let found = format!("zraft://node/{claimed}");
        assert_eq!(error, ConnectError::WrongNode { expected: addr, found });
    }
}

#[tokio::test]
async fn a_client_cannot_pose_as_a_server() {
    let ca = authority();
    let issued = ca.issue_client("eve", 1).unwrap();
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Endpoint::server_on(socket, credentials(&ca, &issued), Limits::default()).unwrap_err();
    assert!(matches!(error, TransportError::NotANode { found } if found == "zraft://client/eve"));
}

#[tokio::test]
async fn a_host_name_is_resolved_and_a_silent_address_does_not_stop_the_dial() {
    let ca = authority();
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // "localhost" is often [::1] too, where nothing listens.
    let addr: NodeAddr = format!("localhost:{}", socket.local_addr().unwrap().port()).parse().unwrap();
    let issued = ca.issue_node(&addr, &[], 1).unwrap();
    let _server = Endpoint::server_on(socket, credentials(&ca, &issued), Limits::default()).unwrap();
    within(client(&ca).connect(&addr, Protocol::Client)).await.unwrap();

    let nowhere: NodeAddr = "no-such-host.invalid:1".parse().unwrap();
    let error = within(client(&ca).connect(&nowhere, Protocol::Client)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_ipv6_node_is_dialed_by_its_bracketed_address() {
    let ca = authority();
    // A machine without IPv6 has nothing to test here.
    let Ok(socket) = bind("[::1]:0".parse().unwrap()) else { return };
    let addr: NodeAddr = socket.local_addr().unwrap().to_string().parse().unwrap();
    let issued = ca.issue_node(&addr, &[], 1).unwrap();
    let server = Endpoint::server_on(socket, credentials(&ca, &issued), Limits::default()).unwrap();
    let ann = client(&ca);
    let connection = within(ann.connect(&addr, Protocol::Client)).await.unwrap();
    assert_eq!(connection.remote().to_string(), addr.to_string());
    assert_eq!(within(server.accept()).await.unwrap().identity, Role::Client("ann".to_owned()));
}

#[tokio::test]
async fn another_protocol_version_is_called_incompatible() {
    let (log, ca) = (Log::capture(), authority());
    let (_server, addr) = node(&ca);
    let issued = ca.issue_client("ann", 1).unwrap();
    let mut tls = credentials(&ca, &issued).client_config(&addr, Protocol::Client, Default::default()).unwrap();
    tls.alpn_protocols = vec![b"zraft-client/99".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let quic = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = quic.connect_with(config, socket_addr(&addr), "127.0.0.1").unwrap();
    let lost = within(connecting).await.unwrap_err().into();
    let error = ConnectError::from_lost(&addr, Protocol::Client, lost, DEADLINE);
    assert_eq!(error, ConnectError::Incompatible { node: addr, protocol: "zraft-client/1" });
    log.has(&["WARN", "no protocol version that this node knows"]).await;
}

#[tokio::test]
async fn connections_of_one_identity_are_bounded_until_they_are_let_go() {
    let ca = authority();
    let (server, addr) = node_with(&ca, Limits { per_client: 2, ..Limits::default() });
    let ann = client(&ca);
    let mut held = Vec::new();
    for _ in 0..2 {
        let dialed = within(ann.connect(&addr, Protocol::Client)).await.unwrap();
        held.push((dialed, within(server.accept()).await.unwrap()));
    }
    let error = within(ann.connect(&addr, Protocol::Client)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::NotAdmitted { code: CloseCode::LIMIT, .. }), "{error}");
    assert!(error.to_string().contains("zraft://client/ann has 2 connections"), "{error}");
    drop(held.pop());
    within(ann.connect(&addr, Protocol::Client)).await.unwrap();
}

/// Passes on only the first packet of each of `count` who dial, all of them at once when they are there: those that
/// came late, to places that are free again, would be let in as well. The sockets must live: an answer finds them.
async fn half_open(socket: tokio::net::UdpSocket, server: SocketAddr, count: usize) -> Vec<tokio::net::UdpSocket> {
    let mut first_packets = std::collections::BTreeMap::new();
    let mut packet = vec![0; 65536];
    while first_packets.len() < count {
        let (size, from) = socket.recv_from(&mut packet).await.unwrap();
        first_packets.entry(from).or_insert_with(|| packet[..size].to_vec());
    }
    let mut onward = Vec::with_capacity(count);
    for packet in first_packets.values() {
        onward.push(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
        onward[onward.len() - 1].send_to(packet, server).await.unwrap();
    }
    onward
}

#[tokio::test]
async fn half_open_handshakes_are_bounded_and_given_up_and_keep_nobody_out() {
    const SILENT: usize = 100;
    let (log, ca) = (Log::capture(), authority());
    let (server, addr) = node_with(&ca, Limits { handshake: Duration::from_millis(2500), ..Limits::default() });
    let proxy = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let through: NodeAddr = proxy.local_addr().unwrap().to_string().parse().unwrap();
    let eve = credentials(&ca, &ca.issue_client("eve", 1).unwrap());
    let mut silent = tokio::task::JoinSet::new();
    for _ in 0..SILENT {
        let (eve, through) = (Endpoint::client(eve.clone()).unwrap(), through.clone());
        silent.spawn(async move { eve.connect(&through, Protocol::Client).await });
    }
    let _onward = within(half_open(proxy, socket_addr(&addr), SILENT)).await;
    within(client(&ca).connect(&addr, Protocol::Client)).await.expect("let in meanwhile");
    // The places that are given away without a proof of address; the others never proved theirs.
    let places = tuning::MAX_HANDSHAKES - tuning::PROVE_ADDRESS_BELOW + 1;
    eventually("the silent ones are given up", || server.refused() == places as u64).await;
    log.has(&["WARN", "127.0.0.1:", "did not finish the handshake in time"]).await;
    while silent.join_next().await.is_some() {}
    assert_eq!(server.refused(), places as u64);
}

#[tokio::test]
async fn closing_tells_the_other_side_why() {
    let ca = authority();
    let (server, addr) = node(&ca);
    let ann = client(&ca);
    let connection = within(ann.connect(&addr, Protocol::Client)).await.unwrap();
    let _incoming = within(server.accept()).await.unwrap();
    within(server.close("maintenance")).await;
    let expected = ConnectionLost::ClosedByPeer { code: CloseCode::SHUTDOWN, reason: "maintenance".to_owned() };
    assert_eq!(within(connection.closed()).await, expected);
    assert!(within(server.accept()).await.is_none());
    let error = within(server.connect(&addr, Protocol::Peer)).await.unwrap_err();
    assert_eq!(error, ConnectError::EndpointClosed { node: addr });
}

#[test]
fn unusable_credentials_are_refused_with_the_reason() {
    let ca = authority();
    let (ann, bob) = (ca.issue_client("ann", 1).unwrap(), ca.issue_client("bob", 1).unwrap());
    let ca_pem = ca.pem().cert_pem.as_bytes();
    let parse = |ca: &[u8], cert: &str, key: &str| Credentials::from_pem(ca, cert.as_bytes(), key.as_bytes());
    assert_eq!(parse(ca_pem, &ann.cert_pem, &ann.key_pem).unwrap().identity(), Some(&Role::Client("ann".to_owned())));
    assert!(matches!(parse(ca_pem, &ann.cert_pem, &bob.key_pem), Err(TlsError::KeyMismatch { .. })));
    assert!(matches!(parse(b"", &ann.cert_pem, &ann.key_pem), Err(TlsError::NotPem { .. })));
    assert!(matches!(parse(ca_pem, "garbage", &ann.key_pem), Err(TlsError::NotPem { .. })));
    assert!(matches!(parse(ca_pem, &ann.cert_pem, &ann.cert_pem), Err(TlsError::NotPem { .. })));
    let nameless = parse(ca_pem, &ca.pem().cert_pem, &ca.pem().key_pem);
    assert!(matches!(nameless, Err(TlsError::Identity { source: IdentityError::Missing, .. })));

    let day = Duration::from_secs(24 * 3600);
    let at = |now| Credentials::from_pem_at(ca_pem, ann.cert_pem.as_bytes(), ann.key_pem.as_bytes(), now).unwrap_err();
    let (late, early) = (at(SystemTime::now() + 2 * day), at(SystemTime::now() - day));
    assert!(matches!(late, TlsError::Expired { .. }) && late.to_string().contains("expired on"), "{late}");
    assert!(matches!(early, TlsError::NotYetValid { .. }), "{early}");
}

#[test]
fn credentials_are_loaded_from_files_that_an_error_names() {
    let (ca, folder) = (authority(), tempfile::tempdir().unwrap());
    let ann = ca.issue_client("ann", 1).unwrap();
    let path = |name: &str| folder.path().join(name);
    let files = TlsFiles { ca: path("ca.pem"), cert: path("ann.pem"), key: path("ann.key"), crl: None };
    std::fs::write(&files.ca, &ca.pem().cert_pem).unwrap();
    std::fs::write(&files.cert, &ann.cert_pem).unwrap();
    let error = Credentials::load(&files).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the private key") && error.to_string().contains("ann.key"));
    std::fs::write(&files.key, &ann.key_pem).unwrap();
    Credentials::load(&files).unwrap();
    std::fs::write(&files.key, ca.pem().key_pem.as_bytes()).unwrap();
    let error = Credentials::load(&files).unwrap_err().to_string();
    assert!(error.contains("ann.key") && error.contains("does not belong to") && error.contains("ann.pem"), "{error}");
}

#[test]
fn a_ca_issues_after_it_was_loaded_and_refuses_nonsense() {
    let ca = authority();
    let Issued { cert_pem, key_pem } = ca.pem();
    let loaded = CertificateAuthority::load(cert_pem, key_pem).unwrap();
    credentials(&ca, &loaded.issue_node(&"[::1]:7400".parse().unwrap(), &["db.example".to_owned()], 1).unwrap());
    use super::issue::IssueError;
    assert!(matches!(ca.issue_client("a b", 1), Err(IssueError::Name(_))));
    assert!(matches!(ca.issue_admin("a", 0), Err(IssueError::Days(0))));
    let node: NodeAddr = "h:1".parse().unwrap();
    assert!(matches!(ca.issue_node(&node, &["a host".to_owned()], 1), Err(IssueError::Host(_))));
    let ann = ca.issue_client("ann", 1).unwrap();
    assert!(matches!(CertificateAuthority::load(&ann.cert_pem, &ann.key_pem), Err(IssueError::Ca(_))));
    assert!(matches!(CertificateAuthority::load(cert_pem, &ann.key_pem), Err(IssueError::Ca(_))));
}

//! Sessions over real QUIC on 127.0.0.1, with nodes that say what the test has them say.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::client::connection::tests::pass;
use crate::client::{Client, Ending, Notice, Notices, Session, SessionFailure, SessionOptions};
use crate::codec;
use crate::protocol::{
    MAX_DATA_BYTES, MAX_FRAME_BYTES, Request, RequestError, SessionEnd, SessionEvent, SessionRefusal, SessionRequest,
    SessionStart, TriggerReason,
};
use crate::transport::issue::{CertificateAuthority, Issued};
use crate::transport::{Connection, Credentials, Endpoint, FrameReader, FrameWriter, Limits, bind};
use crate::types::{Index, NodeAddr, PeerId, SessionId};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// A session's timeout in tests that do not wait for it.
const LONG: Duration = Duration::from_secs(60);
const SESSION: SessionId = SessionId(7);

/// A node that does nothing by itself.
struct Node {
    endpoint: Endpoint,
    peer: PeerId,
    connection: Mutex<Option<Connection>>,
}

/// A session's stream, at the node.
struct Stream {
    start: SessionStart,
    reader: FrameReader,
    writer: FrameWriter,
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes longer than the deadline")
}

fn credentials(authority: &CertificateAuthority, issued: &Issued) -> Credentials {
    let ca = authority.pem().cert_pem.as_bytes();
    Credentials::from_pem(ca, issued.cert_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap()
}

/// Two nodes and a client.
fn world() -> ([Node; 2], Client) {
    world_behind(|socket| socket.to_string())
}

/// The same, where a node with this socket is found elsewhere.
fn world_behind(mut front: impl FnMut(SocketAddr) -> String) -> ([Node; 2], Client) {
    let authority = CertificateAuthority::create("test CA", 1).unwrap();
    let mut node = || {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr: NodeAddr = front(socket.local_addr().unwrap()).parse().unwrap();
        let issued = authority.issue_node(&addr, &[], 1).unwrap();
        let endpoint = Endpoint::server_on(socket, credentials(&authority, &issued), Limits::default()).unwrap();
        Node { endpoint, peer: PeerId::new("kv", addr).unwrap(), connection: Mutex::default() }
    };
    let client = Client::new(credentials(&authority, &authority.issue_client("ann", 1).unwrap())).unwrap();
    ([node(), node()], client)
}

fn options() -> SessionOptions {
    SessionOptions { leader_fail_timeout: Duration::ZERO, request_timeout: PATIENCE, ..SessionOptions::default() }
}

impl Node {
    /// The next stream that a client opens for a session.
    async fn stream(&self) -> Stream {
        let mut connection = self.connection.lock().await;
        let (send, recv) = within(async {
            loop {
                if let Some(connection) = &*connection
                    && let Ok(streams) = connection.accept_bi().await
                {
                    return streams;
                }
                *connection = Some(self.endpoint.accept().await.unwrap().connection);
            }
        })
        .await;
        let mut reader = FrameReader::new(recv, MAX_FRAME_BYTES);
        let frame = within(reader.next()).await.unwrap().unwrap();
        let request = codec::decode(&frame).unwrap();
        let Request::Session { peer, start } = request else { panic!("{request:?}") };
        assert_eq!(peer, "kv");
        Stream { start, reader, writer: FrameWriter::new(send, MAX_FRAME_BYTES) }
    }

    /// Serves the session on the next stream.
    async fn attach(&self) -> Stream {
        let mut stream = self.stream().await;
        stream.say(SessionEvent::Attached { session: SESSION }).await;
        stream
    }
}

impl Stream {
    async fn say(&mut self, event: SessionEvent) {
        within(self.writer.write(&codec::encode(&event))).await.unwrap();
    }

    async fn hear(&mut self) -> SessionRequest {
        let frame = within(self.reader.next()).await.unwrap().unwrap();
        codec::decode(&frame).unwrap()
    }

    /// Hears what is asked, and answers the pings of those who wait for long.
    async fn hear_asked(&mut self) -> SessionRequest {
        loop {
            match self.hear().await {
                SessionRequest::Ping { number } => self.say(SessionEvent::Pong { number }).await,
                request => return request,
            }
        }
    }

    async fn refuse(mut self, error: RequestError) {
        self.say(SessionEvent::Detached(error)).await;
        self.writer.finish();
    }

    /// Hears a write with this number, and returns what it acknowledges.
    async fn hear_write(&mut self, expected: u64) -> u64 {
        let request = self.hear_asked().await;
        let SessionRequest::Write { seq, acked_up_to, .. } = request else { panic!("{request:?}") };
        assert_eq!(seq, expected);
        acked_up_to
    }

    async fn answer_write(&mut self, seq: u64) {
        let reply = Ok(Bytes::from(format!("reply {seq}")));
        self.say(SessionEvent::Written { seq, result: Ok((Index(seq), reply)) }).await;
    }

    async fn answer_query(&mut self) {
        let request = self.hear_asked().await;
        let SessionRequest::Query { id, request, watch } = request else { panic!("{request:?}") };
        let watched = if watch { vec![request.clone()] } else { vec![] };
        self.say(SessionEvent::Answered { id, index: Index(9), result: Ok(Ok(request)), watched }).await;
    }
}

/// A session on the first node.
async fn open(nodes: &[Node; 2], client: Client, timeout: Duration) -> (Session, Notices, Stream) {
    let peers = nodes.iter().map(|node| node.peer.clone()).collect();
    let connect = Session::connect_with(client, peers, timeout, options());
    let (connected, stream) = within(async { tokio::join!(connect, nodes[0].attach()) }).await;
    let (session, notices) = connected.unwrap();
    (session, notices, stream)
}

#[tokio::test]
async fn a_session_is_opened_where_the_leader_is() {
    let (nodes, client) = world();
    let connect = Session::connect(client, vec![nodes[0].peer.clone()], LONG);
    let serve = async {
        let leader = Some(nodes[1].peer.clone());
        nodes[0].stream().await.refuse(RequestError::NotLeader { leader }).await;
        nodes[1].attach().await
    };
    let (connected, mut stream) = within(async { tokio::join!(connect, serve) }).await;
    let (session, _notices) = connected.unwrap();
    assert_eq!(session.id(), SESSION);
    assert!(matches!(stream.start, SessionStart::Open { timeout_ms: 60_000, .. }));
    let serve = async {
        assert_eq!(stream.hear_write(1).await, 0);
        stream.answer_write(1).await;
        stream.answer_query().await;
    };
    let ask = async { (session.write("a").await, session.query("who?").await) };
    let ((written, answer), ()) = within(async { tokio::join!(ask, serve) }).await;
    assert_eq!(written.unwrap().reply, "reply 1");
    assert_eq!(answer.unwrap(), "who?");
}

#[tokio::test]
async fn what_was_not_answered_goes_on_on_another_stream() {
    let (nodes, client) = world();
    let (session, mut notices, mut first) = open(&nodes, client, LONG).await;
    let (watched, ()) = within(async { tokio::join!(session.query_watch("key"), first.answer_query()) }).await;
    let watched = watched.unwrap();
    let mut pending = Vec::new();
    for data in ["a", "b", "c"] {
        pending.push(session.submit_ephemeral(data).await.unwrap());
    }
    for seq in 1..=3 {
        assert_eq!(first.hear_write(seq).await, 0);
    }
    first.answer_write(1).await;
    assert_eq!(within(pending.remove(0)).await.unwrap().reply, "reply 1");
    let SessionStart::Open { secret, .. } = first.start else { panic!() };
    first.writer.reset(1);

    let mut second = nodes[1].attach().await;
    assert_eq!(second.start, SessionStart::Resume { session: SESSION, secret });
    let rearm =
        SessionRequest::Rearm { id: watched.trigger, keys: vec![Bytes::from_static(b"key")], since: watched.index };
    assert_eq!(second.hear().await, rearm);
    assert_eq!(second.hear_write(2).await, 1);
    let request = second.hear().await;
    let data = Bytes::from_static(b"c");
    assert_eq!(request, SessionRequest::Write { seq: 3, acked_up_to: 1, is_ephemeral: true, data });
    second.answer_write(2).await;
    second.answer_write(3).await;
    assert_eq!(within(pending.remove(0)).await.unwrap().reply, "reply 2");
    assert_eq!(within(pending.remove(0)).await.unwrap().reply, "reply 3");
    let reason = TriggerReason::LeaderChanged;
    second.say(SessionEvent::Fired { id: watched.trigger, reason }).await;
    assert_eq!(within(notices.next()).await, Some(Notice::Fired { trigger: watched.trigger, reason }));
}

#[tokio::test]
async fn a_node_that_falls_silent_is_left_before_its_stream_is_given_up() {
    let mut are_cut = Vec::new();
    let (nodes, client) = world_behind(|node| {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        front.set_nonblocking(true).unwrap();
        let addr = front.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        are_cut.push(Arc::clone(&is_cut));
        tokio::spawn(pass(tokio::net::UdpSocket::from_std(front).unwrap(), node, is_cut));
        addr.to_string()
    });
    let (session, _notices, _first) = open(&nodes, client, LONG).await;
    are_cut[0].store(true, Ordering::SeqCst);
    let serve = async {
        let mut second = nodes[1].stream().await;
        let trouble = session.trouble().unwrap_or_default();
        assert!(trouble.contains("is silent"), "{trouble}");
        second.say(SessionEvent::Attached { session: SESSION }).await;
        assert_eq!(second.hear_write(1).await, 0);
        second.answer_write(1).await;
        second
    };
    let (written, _second) = within(async { tokio::join!(session.write("a"), serve) }).await;
    assert_eq!(written.unwrap().reply, "reply 1");
}

#[tokio::test]
async fn the_end_is_told_to_all_who_wait() {
    let (nodes, client) = world();
    let (session, mut notices, mut first) = open(&nodes, client, LONG).await;
    let (watched, ()) = within(async { tokio::join!(session.query_watch("key"), first.answer_query()) }).await;
    let sent = session.submit("sent before").await.unwrap();
    first.hear_write(1).await;
    first.refuse(RequestError::Stopping).await;
    let mut second = nodes[1].attach().await;
    assert!(matches!(second.hear().await, SessionRequest::Rearm { .. }));
    second.hear_write(1).await;
    let unsent = session.submit("not sent before").await.unwrap();
    second.say(SessionEvent::Ended(SessionEnd::Expired)).await;

    assert_eq!(within(sent).await, Err(SessionFailure::Unknown(Ending::Expired)));
    assert_eq!(within(unsent).await, Err(SessionFailure::Ended(Ending::Expired)));
    let (trigger, reason) = (watched.unwrap().trigger, TriggerReason::SessionExpired);
    assert_eq!(within(notices.next()).await, Some(Notice::Fired { trigger, reason }));
    assert_eq!(within(notices.next()).await, Some(Notice::Ended(Ending::Expired)));
    assert_eq!(within(notices.next()).await, None);
    assert_eq!(within(session.write("late")).await, Err(SessionFailure::Ended(Ending::Expired)));
    assert_eq!(within(session.query("late")).await, Err(SessionFailure::Ended(Ending::Expired)));
    assert_eq!(within(session.close()).await, Ok(()));
}

#[tokio::test]
async fn pings_keep_a_session_known_to_live() {
    let (nodes, client) = world();
    let (session, mut notices, mut first) = open(&nodes, client, Duration::from_secs(1)).await;
    for expected in 1..=6 {
        let SessionRequest::Ping { number } = first.hear().await else { panic!() };
        assert_eq!(number, expected);
        first.say(SessionEvent::Pong { number }).await;
    }
    assert!(!session.is_suspended());
    // The first node goes silent: the session moves, but nobody serves it before its time is up.
    let refuse = async {
        loop {
            let stream = nodes[1].stream().await;
            stream.refuse(RequestError::NoLeader).await;
        }
    };
    let notice = tokio::select! {
        notice = within(notices.next()) => notice,
        () = refuse => unreachable!(),
    };
    assert_eq!(notice, Some(Notice::Suspended));
    assert!(session.is_suspended());
    let (notice, _stream) = within(async { tokio::join!(notices.next(), nodes[1].attach()) }).await;
    assert_eq!(notice, Some(Notice::Resumed));
    assert!(!session.is_suspended());
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_runs_all_the_same() {
    let (nodes, client) = world();
    let peers = nodes.iter().map(|node| node.peer.clone()).collect();
    let hasty = SessionOptions { request_timeout: Duration::from_millis(500), ..options() };
    let connect = Session::connect_with(client, peers, LONG, hasty);
    let (connected, mut stream) = within(async { tokio::join!(connect, nodes[0].attach()) }).await;
    let (session, _notices) = connected.unwrap();
    drop(session.submit("dropped").await.unwrap());
    let failure = within(session.write("slow")).await.unwrap_err();
    assert!(matches!(failure, SessionFailure::Unanswered { .. }), "{failure}");
    let last = session.submit("last").await.unwrap();
    for seq in 1..=3 {
        assert_eq!(stream.hear_write(seq).await, 0);
        stream.answer_write(seq).await;
    }
    assert_eq!(within(last).await.unwrap().reply, "reply 3");
    let large = session.write(vec![0; MAX_DATA_BYTES + 1]).await;
    assert_eq!(large, Err(SessionFailure::TooLarge { size_bytes: MAX_DATA_BYTES + 1 }));
    let serve = async {
        assert_eq!(stream.hear_asked().await, SessionRequest::Close);
        stream.say(SessionEvent::Ended(SessionEnd::Closed)).await;
    };
    let (closed, ()) = within(async { tokio::join!(session.close(), serve) }).await;
    assert_eq!(closed, Ok(()));
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_says_why() {
    let (nodes, client) = world();
    let connect = |peers| Session::connect(client.clone(), peers, LONG);
    let refused = nodes[0].peer.clone();
    let refuse = async {
        nodes[0].stream().await.refuse(RequestError::NotOpened(SessionRefusal::TooManySessions)).await;
    };
    let (connected, ()) = within(async { tokio::join!(connect(vec![refused]), refuse) }).await;
    let failure = RequestError::NotOpened(SessionRefusal::TooManySessions);
    assert_eq!(connected.err(), Some(SessionFailure::Failed(failure)));
    let refuse = async {
        let (name, node) = ("kv".to_owned(), nodes[1].peer.node().clone());
        nodes[1].stream().await.refuse(RequestError::NoSuchPeer { name, node }).await;
    };
    let (connected, ()) = within(async { tokio::join!(connect(vec![nodes[1].peer.clone()]), refuse) }).await;
    let failure = connected.err().unwrap().to_string();
    assert!(failure.starts_with("every peer failed") && failure.contains("there is no peer 'kv'"), "{failure}");
    assert_eq!(within(connect(vec![])).await.err(), Some(SessionFailure::NoPeers));
}

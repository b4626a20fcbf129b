//! Connections to nodes, and one request over them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::client::alarm::Alarm;
use crate::codec::{self, DecodeError};
use crate::protocol::{MAX_FRAME_BYTES, Reply, Request, RequestError};
use crate::transport::{
    ConnectError, Connection, Credentials, Endpoint, FrameError, FrameReader, FrameWriter, Protocol, TransportError,
};
use crate::types::NodeAddr;

/// Connections to any number of nodes, made when first needed and shared. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    /// The latest connection to each node; empty while it is being made.
    connections: Mutex<BTreeMap<NodeAddr, Slot>>,
    /// Nodes that are being dialed for whoever may ask them later.
    dialing: Mutex<BTreeSet<NodeAddr>>,
}

type Slot = Arc<OnceCell<Arc<Link>>>;

/// A connection to a node.
struct Link {
    connection: Connection,
    /// Streams on which everything asked was answered, the last used last: to ask on one of these costs less than to open one.
    idle: Mutex<Vec<(FrameWriter, FrameReader)>>,
    /// Something was asked, and nothing at all has come since, not even that it has arrived.
    is_silent: AtomicBool,
    /// The node has said that it goes.
    is_going: Arc<AtomicBool>,
    /// What listens for that, and ends with the link.
    _listening: JoinSet<()>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection: the node has not seen the request.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection was lost: the node may have seen the request.
    #[error("the connection to {node} was lost: {source}")]
    Lost {
        /// The node.
        node: NodeAddr,
        /// How.
        source: FrameError,
    },
    /// The node did not answer in time: it may have seen the request.
    #[error("{node} did not answer within {} ms", after.as_millis())]
    Timeout {
        /// The node.
        node: NodeAddr,
        /// How long it was given.
        after: Duration,
    },
    /// The node's answer makes no sense.
    #[error("the answer of {node} cannot be read; does it run another version of zraft? ({source})")]
    Malformed {
        /// The node.
        node: NodeAddr,
        /// What is wrong.
        source: DecodeError,
    },
    /// The peer serves nothing until its operator has acted.
    #[error("the peer on {node} has stopped: {reason}")]
    Stopped {
        /// The node.
        node: NodeAddr,
        /// Why it has stopped.
        reason: String,
    },
    /// The node has no such peer, or no longer: it may have left its cluster.
    #[error(transparent)]
    Absent(RequestError),
    /// The node answered something else than was asked.
    #[error("{node} answered another question than was asked: a defect of zraft")]
    Mismatched {
        /// The node.
        node: NodeAddr,
    },
}

impl CallError {
    /// Whether the node may have seen the request and acted on it.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Stopped { .. } | Self::Absent(_))
    }

    /// Whether there is no connection to the node: it may be gone.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Lost { .. })
    }
}

impl Client {
    /// How long a node may take to answer an attempt to connect.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

    /// A client with this certificate. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TransportError`] when there is no UDP socket to be had.
    pub fn new(credentials: Credentials) -> Result<Self, TransportError> {
        let endpoint = Endpoint::client(credentials)?;
        Ok(Self { inner: Arc::new(Inner { endpoint, connections: Mutex::default(), dialing: Mutex::default() }) })
    }

    /// Uses another certificate of the same identity from now on. Connections go on; those to nodes that it does not trust are
    /// closed.
    ///
    /// # Errors
    /// [`TransportError::OtherIdentity`], [`TransportError::Tls`]; the former certificate stays in use then.
    pub fn renew(&self, credentials: Credentials) -> Result<(), TransportError> {
        self.inner.endpoint.renew(credentials).map(drop)
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`] when there is no answer. An answer that says no is not an error here.
    pub async fn call(&self, node: &NodeAddr, request: &Request, timeout: Duration) -> Result<Reply, CallError> {
        self.call_with_body(node, request, &Bytes::new(), timeout).await
    }

    /// Sends one request with bytes that follow it.
    pub(super) async fn call_with_body(
        &self,
        node: &NodeAddr,
        request: &Request,
        body: &Bytes,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let started = Instant::now();
        let link = self.link(node, timeout.min(Self::CONNECT_TIMEOUT)).await?;
        let exchange = async {
            if request.may_be_followed() {
                link.ask(request).await
            } else {
                exchange(&link.connection, request, body).await
            }
        };
        match link.listen_during(exchange, started + timeout).await {
            None => Err(CallError::Timeout { node: node.clone(), after: timeout }),
            Some(Err(source)) => Err(CallError::Lost { node: node.clone(), source }),
            Some(Ok(reply)) => reply.map_err(|source| CallError::Malformed { node: node.clone(), source }),
        }
    }

    /// Opens a stream that begins with a request and goes on in both directions, and listens for its node.
    pub(super) async fn open(
        &self,
        node: &NodeAddr,
        request: &Request,
    ) -> Result<(FrameWriter, FrameReader, Ear), CallError> {
        let link = self.link(node, Self::CONNECT_TIMEOUT).await?;
        let lost = |source| CallError::Lost { node: node.clone(), source };
        let (writer, reader) = begin(&link.connection, request).await.map_err(lost)?;
        Ok((writer, reader, Ear { link, alarm: Alarm::new(), since: None }))
    }

    async fn link(&self, node: &NodeAddr, timeout: Duration) -> Result<Arc<Link>, CallError> {
        let slot = self.slot(node);
        if let Some(link) = slot.get() {
            return Ok(Arc::clone(link));
        }
        let connect = slot.get_or_try_init(|| async {
            let connection = self.inner.endpoint.connect(node, Protocol::Client).await?;
            Ok::<_, ConnectError>(Arc::new(Link::new(connection)))
        });
        match tokio::time::timeout(timeout, connect).await {
            Ok(connected) => Ok(connected?.clone()),
            Err(_) => Err(ConnectError::Timeout { node: node.clone(), after: timeout }.into()),
        }
    }

    /// Whether the connection to a node has been lost since it was last used, or the node is silent or has said that it goes: told
    /// once for each connection.
    pub(super) fn has_lost(&self, node: &NodeAddr) -> bool {
        let mut connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let has_lost = connections.get(node).is_some_and(|slot| is_of_no_use(slot));
        if has_lost {
            connections.remove(node);
        }
        has_lost
    }

    /// Whether there is a connection to a node that is of use.
    pub(super) fn is_connected(&self, node: &NodeAddr) -> bool {
        let connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.get(node).is_some_and(|slot| slot.initialized() && !is_of_no_use(slot))
    }

    /// Connects to a node in the background, if that can be, for whoever asks it later.
    pub(super) fn dial(&self, node: &NodeAddr) {
        let is_first = self.dialing().insert(node.clone());
        if is_first {
            let (this, node) = (self.clone(), node.clone());
            tokio::spawn(async move {
                // Why not, is told to who needs it.
                let _ = this.link(&node, Self::CONNECT_TIMEOUT).await;
                this.dialing().remove(&node);
            });
        }
    }

    fn dialing(&self) -> MutexGuard<'_, BTreeSet<NodeAddr>> {
        self.inner.dialing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of the node's connection: the one in use, or a new one if that has ended.
    fn slot(&self, node: &NodeAddr) -> Slot {
        let mut connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match connections.get(node) {
            Some(slot) if !is_of_no_use(slot) => Arc::clone(slot),
            _ => {
                let slot = Slot::default();
                connections.insert(node.clone(), Arc::clone(&slot));
                slot
            }
        }
    }
}

/// Whether the connection is gone, or another is to be asked. What was asked on it goes on.
fn is_of_no_use(slot: &OnceCell<Arc<Link>>) -> bool {
    slot.get().is_some_and(|link| {
        let is_passed_over = link.is_silent.load(Ordering::Relaxed) || link.is_going.load(Ordering::Relaxed);
        is_passed_over || link.connection.is_closed()
    })
}

/// Finds out whether a node is silent: whether nothing at all comes of it, not even that what it was sent has arrived.
pub(super) struct Ear {
    link: Arc<Link>,
    alarm: Alarm,
    /// Since when something is to come, and how many datagrams had come before.
    since: Option<(Instant, u64)>,
}

impl Ear {
    /// Something is sent: a sign of the node is due.
    pub(super) fn sent(&mut self) {
        self.since.get_or_insert_with(|| (Instant::now(), self.link.connection.received_datagrams()));
    }

    /// The node has said something.
    pub(super) fn heard(&mut self) {
        self.since = None;
    }

    /// Ends once the node is silent; others are asked from then on. Cancel safe.
    pub(super) async fn silence(&mut self) {
        while let Some((since, before)) = self.since {
            self.alarm.at(since + self.link.patience()).await;
            if self.link.connection.received_datagrams() == before {
                return self.link.is_silent.store(true, Ordering::Relaxed);
            }
            self.since = None;
        }
        std::future::pending().await
    }
}

impl Link {
    /// Streams that are kept; others are closed.
    const MAX_IDLE_STREAMS: usize = 256;
    /// A node is silent of which nothing has come for so long, or three times as long as it takes there and back, though something
    /// was sent to it. It is half of an election timeout, so nobody waits for a dead leader when there is another one.
    const SILENT_AFTER: Duration = Duration::from_millis(250);
    const SILENT_AFTER_RTTS: u32 = 3;

    fn new(connection: Connection) -> Self {
        let is_going = Arc::new(AtomicBool::new(false));
        let mut listening = JoinSet::new();
        let (told, says_so) = (connection.clone(), Arc::clone(&is_going));
        listening.spawn(async move {
            if told.told_to_go_away().await.is_ok() {
                says_so.store(true, Ordering::Relaxed);
            }
        });
        Self { connection, idle: Mutex::default(), is_silent: AtomicBool::new(false), is_going, _listening: listening }
    }

    /// How long it may take until anything comes.
    fn patience(&self) -> Duration {
        Self::SILENT_AFTER.max(self.connection.rtt() * Self::SILENT_AFTER_RTTS)
    }

    /// Waits for an answer until `deadline`, and finds out meanwhile whether the node is silent. What was asked may still be
    /// answered, if it only stood still; but others are asked from then on.
    async fn listen_during<T>(&self, exchange: impl Future<Output = T>, deadline: Instant) -> Option<T> {
        let mut exchange = pin!(exchange);
        let before = self.connection.received_datagrams();
        // One timer at a time: setting them is a good part of what a call costs here.
        let patient_until = deadline.min(Instant::now() + self.patience());
        if let Ok(answer) = timeout_at(patient_until, &mut exchange).await {
            return Some(answer);
        }
        if patient_until < deadline && self.connection.received_datagrams() == before {
            self.is_silent.store(true, Ordering::Relaxed);
        }
        timeout_at(deadline, exchange).await.ok()
    }

    /// Asks on a stream that others may ask on later.
    async fn ask(&self, request: &Request) -> Result<Result<Reply, DecodeError>, FrameError> {
        let idle = self.idle().pop();
        let (writer, mut reader) = match idle {
            Some((mut writer, reader)) => {
                writer.write(&codec::encode(request)).await?;
                (writer, reader)
            }
            None => begin(&self.connection, request).await?,
        };
        let frame = reader.next().await?.ok_or(FrameError::Finished)?;
        let reply = codec::decode(&frame);
        // A node that has too much to do ends the stream.
        if matches!(&reply, Ok(reply) if !matches!(reply, Reply::Failed(RequestError::Overloaded))) {
            reader.dealt_with();
            let mut idle = self.idle();
            if idle.len() < Self::MAX_IDLE_STREAMS {
                idle.push((writer, reader));
            }
        }
        Ok(reply)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(FrameWriter, FrameReader)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn exchange(
    connection: &Connection,
    request: &Request,
    body: &Bytes,
) -> Result<Result<Reply, DecodeError>, FrameError> {
    let (mut writer, mut reader) = begin(connection, request).await?;
    for chunk in body.chunks(BODY_CHUNK_BYTES) {
        match writer.write(chunk).await {
            Ok(()) => {}
            // The node has heard enough. Why, is in its reply.
            Err(FrameError::Stopped { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    writer.finish();
    reader.next().await?.ok_or(FrameError::Finished).map(|frame| codec::decode(&frame))
}

async fn begin(connection: &Connection, request: &Request) -> Result<(FrameWriter, FrameReader), FrameError> {
    let (send, recv) = connection.open_bi().await?;
    let mut writer = FrameWriter::new(send, MAX_FRAME_BYTES);
    writer.write(&codec::encode(request)).await?;
    Ok((writer, FrameReader::new(recv, MAX_FRAME_BYTES)))
}

/// Bytes of a body in one frame.
const BODY_CHUNK_BYTES: usize = 256 << 10;

#[cfg(all(test, feature = "server"))]
pub(super) mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::net::UdpSocket;

    use super::*;
    use crate::access::AccessList;
    use crate::transport::issue::CertificateAuthority;
    use crate::transport::{Limits, bind};
    use crate::types::{Index, PeerId};

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A node that answers each query of each stream with what it asks for, and counts the streams. The first access list that is
    /// to be set is lost to another leader.
    async fn answer(endpoint: Endpoint, streams: Arc<AtomicUsize>) {
        let connection = endpoint.accept().await.unwrap().connection;
        let has_lost = Arc::new(AtomicBool::new(false));
        while let Ok((send, recv)) = connection.accept_bi().await {
            streams.fetch_add(1, Ordering::SeqCst);
            let (has_lost, connection) = (Arc::clone(&has_lost), connection.clone());
            tokio::spawn(async move {
                let (mut writer, mut reader) =
                    (FrameWriter::new(send, MAX_FRAME_BYTES), FrameReader::new(recv, MAX_FRAME_BYTES));
                while let Ok(Some(frame)) = reader.next().await {
                    let reply = match codec::decode(&frame).unwrap() {
                        Request::Query { request, .. } => match &request[..] {
                            b"too much" => Reply::Failed(RequestError::Overloaded),
                            b"never" => continue,
                            b"goodbye" => {
                                connection.go_away().await.unwrap();
                                Reply::Answered { reply: Ok(request) }
                            }
                            _ => Reply::Answered { reply: Ok(request) },
                        },
                        Request::SetAccess { expected, .. } if has_lost.swap(true, Ordering::SeqCst) => {
                            Reply::AccessSet { set_at: expected.next() }
                        }
                        Request::SetAccess { .. } => Reply::Failed(RequestError::NotApplied),
                        request => panic!("{request:?}"),
                    };
                    writer.write(&codec::encode(&reply)).await.unwrap();
                    reader.dealt_with();
                }
            });
        }
    }

    /// A client, and a node that is found at an address, though its socket is another.
    fn client_and_node(at: Option<NodeAddr>) -> (Client, NodeAddr, std::net::SocketAddr, Arc<AtomicUsize>) {
        let ca = CertificateAuthority::create("test CA", 1).unwrap();
        let credentials = |issued: crate::transport::issue::Issued| {
            let trusted = &ca.pem().cert_pem;
            Credentials::from_pem(trusted.as_bytes(), issued.cert_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap()
        };
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let node = at.unwrap_or_else(|| address.to_string().parse().unwrap());
        let server = credentials(ca.issue_node(&node, &[], 1).unwrap());
        let server = Endpoint::server_on(socket, server, Limits::default()).unwrap();
        let streams = Arc::new(AtomicUsize::new(0));
        tokio::spawn(answer(server, Arc::clone(&streams)));
        (Client::new(credentials(ca.issue_client("ann", 1).unwrap())).unwrap(), node, address, streams)
    }

    /// Passes packets on between who dials a socket and a node, until it is told to cut them off from each other.
    pub(in crate::client) async fn pass(front: UdpSocket, node: std::net::SocketAddr, is_cut: Arc<AtomicBool>) {
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (mut client, mut there, mut here) = (None, vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                Ok((size, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    if !is_cut.load(Ordering::SeqCst) {
                        back.send_to(&there[..size], node).await.unwrap();
                    }
                }
                Ok((size, _)) = back.recv_from(&mut here) => {
                    if let Some(client) = client.filter(|_| !is_cut.load(Ordering::SeqCst)) {
                        front.send_to(&here[..size], client).await.unwrap();
                    }
                }
            }
        }
    }

    fn query(what: &str) -> Request {
        let request = Bytes::copy_from_slice(what.as_bytes());
        Request::Query { peer: "kv".to_owned(), request, timeout_ms: 1_000 }
    }

    #[tokio::test]
    async fn a_node_of_which_nothing_comes_is_passed_over_and_one_that_takes_long_is_not() {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = front.local_addr().unwrap().to_string().parse().unwrap();
        let (client, node, address, _) = client_and_node(Some(at));
        let is_cut = Arc::new(AtomicBool::new(false));
        tokio::spawn(pass(front, address, Arc::clone(&is_cut)));
        client.call(&node, &query("a"), TIMEOUT).await.unwrap();
        // It has said that this has arrived.
        let long = client.call(&node, &query("never"), 4 * Link::SILENT_AFTER).await;
        assert!(matches!(long, Err(CallError::Timeout { .. })), "{long:?}");
        assert!(!client.has_lost(&node));
        is_cut.store(true, Ordering::SeqCst);
        let waiting = query("b");
        let waits = client.call(&node, &waiting, TIMEOUT);
        let is_passed_over = async {
            while !client.has_lost(&node) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            is_cut.store(false, Ordering::SeqCst);
        };
        let (answered, ()) = tokio::join!(waits, async {
            tokio::time::timeout(TIMEOUT, is_passed_over).await.expect("others are asked")
        });
        assert_eq!(answered.unwrap(), Reply::Answered { reply: Ok(Bytes::from_static(b"b")) }, "who waits gets it yet");
    }

    #[tokio::test]
    async fn an_ear_hears_that_what_was_sent_has_arrived_and_when_it_does_not() {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = front.local_addr().unwrap().to_string().parse().unwrap();
        let (client, node, address, _) = client_and_node(Some(at));
        let is_cut = Arc::new(AtomicBool::new(false));
        tokio::spawn(pass(front, address, Arc::clone(&is_cut)));
        let (mut writer, _reader, mut ear) = client.open(&node, &query("never")).await.unwrap();
        ear.sent();
        let silence = tokio::time::timeout(4 * Link::SILENT_AFTER, ear.silence()).await;
        assert!(silence.is_err() && !client.has_lost(&node), "no answer, but it has said that this has arrived");
        is_cut.store(true, Ordering::SeqCst);
        ear.sent();
        writer.write(&codec::encode(&query("never"))).await.unwrap();
        tokio::time::timeout(TIMEOUT, ear.silence()).await.expect("nothing comes");
        assert!(client.has_lost(&node));
    }

    #[tokio::test]
    async fn a_node_that_says_goodbye_is_passed_over_and_what_it_was_asked_is_answered() {
        let (client, node, ..) = client_and_node(None);
        client.call(&node, &query("a"), TIMEOUT).await.unwrap();
        assert!(client.is_connected(&node) && !client.has_lost(&node));
        let answer = client.call(&node, &query("goodbye"), TIMEOUT).await.unwrap();
        assert_eq!(answer, Reply::Answered { reply: Ok(Bytes::from_static(b"goodbye")) });
        let is_passed_over = async {
            while client.is_connected(&node) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, is_passed_over).await.expect("it has said that it goes");
        assert!(client.has_lost(&node));
    }

    #[tokio::test]
    async fn what_is_known_not_to_be_done_since_another_leads_is_asked_again() {
        let (client, node, ..) = client_and_node(None);
        let peer = PeerId::new("kv", node).unwrap();
        let set = client.set_access(&peer, &AccessList::default(), Index(7), TIMEOUT).await;
        assert_eq!(set.unwrap(), Index(8));
    }

    #[tokio::test]
    async fn a_stream_is_used_again_unless_something_on_it_was_left_open() {
        let (client, node, _, streams) = client_and_node(None);
        let ask = async |what: &str, timeout| {
            let expected = Reply::Answered { reply: Ok(Bytes::copy_from_slice(what.as_bytes())) };
            (client.call(&node, &query(what), timeout).await, expected)
        };
        for number in 0..100 {
            let (found, expected) = ask(&number.to_string(), TIMEOUT).await;
            assert_eq!(found.unwrap(), expected);
        }
        assert_eq!(streams.load(Ordering::SeqCst), 1, "one after the other takes one stream");
        // As many streams as requests that wait at once, and the same again for the next.
        for _ in 0..10 {
            let (one, other) = tokio::join!(ask("one", TIMEOUT), ask("other", TIMEOUT));
            assert_eq!((one.0.unwrap(), other.0.unwrap()), (one.1, other.1));
        }
        assert_eq!(streams.load(Ordering::SeqCst), 2);
        // An answer that comes late must not be taken for that to the next question.
        assert!(matches!(ask("never", Duration::from_millis(100)).await.0, Err(CallError::Timeout { .. })));
        assert!(matches!(ask("too much", TIMEOUT).await.0, Ok(Reply::Failed(RequestError::Overloaded))));
        let (found, expected) = ask("after", TIMEOUT).await;
        assert_eq!(found.unwrap(), expected);
        assert_eq!(streams.load(Ordering::SeqCst), 3);
    }
}

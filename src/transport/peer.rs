//! Frames between two nodes. Each node dials the other and sends on the connection it dialed; a [`PeerLink`] is the
//! sending end and a [`PeerReceiver`] the receiving one.
//!
//! There are two streams: one for the urgent (heartbeats, votes) and one for the ordered (appends), so that a heartbeat
//! never waits behind a megabyte of entries. Frames of one stream arrive in order. Some may never arrive: a link drops
//! what it cannot send, as Raft tolerates loss and would rather have its next message soon than an old one late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Protocol;
use super::connection::{CloseCode, Connection};
use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::frame::{FrameError, FrameReader, FrameWriter};
use super::identity::Role;
use crate::types::NodeAddr;

/// Largest frame between nodes in bytes.
pub const MAX_PEER_FRAME_BYTES: usize = 16 << 20;

/// Frames that wait on one stream of a link, in bytes; as many may be in the middle of being written.
const MAX_QUEUED_BYTES: usize = 2 * MAX_PEER_FRAME_BYTES;

/// What a queued frame costs besides its bytes.
const FRAME_OVERHEAD_BYTES: usize = 64;

/// An attempt to connect. Shorter than a dial may take, so that a node that has just come up is found soon.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits between attempts: doubled from the first to the last, of which each time half is random.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A receiver gives the sender this long to open its streams.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// The first frame of each stream says which it is.
const URGENT: &[u8] = b"urgent";
const ORDERED: &[u8] = b"ordered";

/// Streams of higher priority are sent first; the default is 0.
const URGENT_PRIORITY: i32 = 1;

/// The way from this node to another. Keeps a connection, redials when it is lost, and never makes the sender wait.
/// Dropping it ends it.
#[derive(Debug)]
pub struct PeerLink {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// Where a link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether it is connected.
    pub state: LinkState,
    /// Frames dropped since the link was made: the queue was full, the node down, or the frame too large.
    pub dropped: u64,
}

/// Whether a link is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Its first attempt is under way. Frames are queued.
    Connecting,
    /// Connected.
    Connected {
        /// Since when.
        since: Instant,
    },
    /// Not connected, and trying again. Frames are dropped.
    Down {
        /// Since when.
        since: Instant,
        /// What happened last, for a person.
        error: String,
    },
}

#[derive(Debug)]
struct Shared {
    node: NodeAddr,
    urgent: Queue,
    ordered: Queue,
    state: Mutex<LinkState>,
    dropped: AtomicU64,
    /// The node has dialed this one: it is there.
    came: Notify,
}

impl PeerLink {
    /// Makes a link to `node` and begins to dial. Must be called within a tokio runtime.
    #[must_use]
    pub fn spawn(endpoint: Endpoint, node: NodeAddr) -> Self {
        let shared = Arc::new(Shared {
            node,
            urgent: Queue::default(),
            ordered: Queue::default(),
            state: Mutex::new(LinkState::Connecting),
            dropped: AtomicU64::new(0),
            came: Notify::new(),
        });
        let task = tokio::spawn(run(endpoint, Arc::clone(&shared))).abort_handle();
        Self { shared, task }
    }

    /// The node at the other end.
    #[must_use]
    pub fn node(&self) -> &NodeAddr {
        &self.shared.node
    }

    /// Queues a frame, urgent or ordered, and returns at once. False when it was dropped (and counted): the queue is
    /// full, the node is down, or the frame is larger than [`MAX_PEER_FRAME_BYTES`]. True is no promise either.
    pub fn send(&self, urgent: bool, frame: Bytes) -> bool {
        let queue = if urgent { &self.shared.urgent } else { &self.shared.ordered };
        let queued = frame.len() <= MAX_PEER_FRAME_BYTES && queue.push(frame);
        if !queued {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// The other node has dialed this one, so it is there: unless it is connected, it is dialed anew at once.
    pub fn came(&self) {
        self.shared.came.notify_one();
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LinkStatus { state, dropped: self.shared.dropped.load(Ordering::Relaxed) }
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn up(&self) {
        // After a loss the queues are shut and empty: nothing old is sent on a new connection.
        self.urgent.open();
        self.ordered.open();
        self.set(LinkState::Connected { since: Instant::now() });
        tracing::info!(node = %self.node, "connected");
    }

    /// Not connected. Whether that is news: the reason is another than at the last attempt.
    fn down(&self, error: &str) -> bool {
        let shut = self.urgent.shut() + self.ordered.shut();
        self.dropped.fetch_add(shut, Ordering::Relaxed);
        let before = self.set(LinkState::Down { since: Instant::now(), error: error.to_owned() });
        match before {
            LinkState::Down { error: known, since } if known == error => {
                self.set(LinkState::Down { since, error: known });
                false
            }
            _ => true,
        }
    }

    fn set(&self, state: LinkState) -> LinkState {
        std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}

/// Dials, sends until the connection is lost, and starts over, until the endpoint is closed.
async fn run(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut wait = FIRST_WAIT;
    loop {
        let attempt = timeout(ATTEMPT_TIMEOUT, Streams::open(&endpoint, &shared.node));
        let outcome = tokio::select! {
            biased;
            outcome = attempt => outcome,
            // One that began while the node was down would wait for the next of its packets to be sent again.
            () = shared.came.notified() => continue,
        };
        let closed = matches!(outcome, Ok(Err(OpenError::Connect(ConnectError::EndpointClosed { .. }))));
        let error = match outcome {
            Ok(Ok(streams)) => {
                wait = FIRST_WAIT;
                shared.up();
                streams.carry(&shared).await.to_string()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => ConnectError::Timeout { node: shared.node.clone(), after: ATTEMPT_TIMEOUT }.to_string(),
        };
        let is_news = shared.down(&error);
        if closed {
            return;
        }
        if is_news {
            tracing::warn!(node = %shared.node, %error, "not connected; trying again");
        }
        tokio::select! {
            () = sleep(half_random(wait)) => wait = LAST_WAIT.min(wait * 2),
            () = shared.came.notified() => wait = FIRST_WAIT,
        }
    }
}

/// Between a half and the whole of `wait`, so that many links to one node do not dial in step.
fn half_random(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    wait / 2 + (wait / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The sending end of a connection.
struct Streams {
    connection: Connection,
    urgent: FrameWriter,
    ordered: FrameWriter,
}

impl Streams {
    async fn open(endpoint: &Endpoint, node: &NodeAddr) -> Result<Self, OpenError> {
        let connection = endpoint.connect(node, Protocol::Peer).await?;
        let stream = connection.open_uni().await.map_err(FrameError::from)?;
        // An error means that the stream is closed already, which the first write says better.
        drop(stream.set_priority(URGENT_PRIORITY));
        let mut urgent = FrameWriter::new(stream, MAX_PEER_FRAME_BYTES);
        urgent.write(URGENT).await?;
        let mut ordered =
            FrameWriter::new(connection.open_uni().await.map_err(FrameError::from)?, MAX_PEER_FRAME_BYTES);
        ordered.write(ORDERED).await?;
        Ok(Self { connection, urgent, ordered })
    }

    /// Sends what is queued until the connection is lost; says why it was.
    async fn carry(mut self, shared: &Shared) -> FrameError {
        tokio::select! {
            error = pump(&shared.urgent, &mut self.urgent) => error,
            error = pump(&shared.ordered, &mut self.ordered) => error,
            lost = self.connection.closed() => lost.into(),
        }
    }
}

async fn pump(queue: &Queue, writer: &mut FrameWriter) -> FrameError {
    loop {
        let frames = queue.take().await;
        if let Err(error) = writer.write_all(&frames).await {
            return error;
        }
    }
}

/// Frames that wait for their stream.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<Bytes>,
    bytes: usize,
    shut: bool,
}

impl Queue {
    fn push(&self, frame: Bytes) -> bool {
        let mut waiting = self.lock();
        let cost = frame.len() + FRAME_OVERHEAD_BYTES;
        if waiting.shut || waiting.bytes + cost > MAX_QUEUED_BYTES {
            return false;
        }
        waiting.bytes += cost;
        waiting.frames.push(frame);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// All frames, once there are any.
    async fn take(&self) -> Vec<Bytes> {
        loop {
            let frames = self.empty();
            if !frames.is_empty() {
                return frames;
            }
            self.filled.notified().await;
        }
    }

    fn empty(&self) -> Vec<Bytes> {
        let mut waiting = self.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.frames)
    }

    fn open(&self) {
        self.lock().shut = false;
    }

    /// Refuses frames from now on and drops the waiting ones; says how many.
    fn shut(&self) -> u64 {
        self.lock().shut = true;
        self.empty().len() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end of a connection that another node dialed. Buffers nothing of its own: who receives slowly makes the
/// sender's queue grow, which is bounded.
#[derive(Debug)]
pub struct PeerReceiver {
    connection: Connection,
    sender: NodeAddr,
    urgent: FrameReader,
    ordered: FrameReader,
}

impl PeerReceiver {
    /// Takes the two streams of an accepted connection for [`Protocol::Peer`].
    ///
    /// # Errors
    /// [`FrameError`] when the other side does not open them as a [`PeerLink`] does, in time.
    pub async fn accept(connection: Connection) -> Result<Self, FrameError> {
        let Role::Node(sender) = connection.identity().clone() else {
            return Err(violation(&connection, "only nodes send to nodes"));
        };
        let opening = async {
            let urgent = expect(&connection, URGENT).await?;
            let ordered = expect(&connection, ORDERED).await?;
            Ok((urgent, ordered))
        };
        match timeout(OPENING_TIMEOUT, opening).await {
            Ok(Ok((urgent, ordered))) => Ok(Self { connection, sender, urgent, ordered }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(violation(&connection, "it did not open its streams in time")),
        }
    }

    /// Who sends: proven by its certificate.
    #[must_use]
    pub fn sender(&self) -> &NodeAddr {
        &self.sender
    }

    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The next frame, urgent ones first. Cancel safe.
    ///
    /// # Errors
    /// [`FrameError`] when the sender is gone or sent too large a frame. Drop the receiver then: a living sender dials
    /// again.
    pub async fn recv(&mut self) -> Result<Bytes, FrameError> {
        let frame = tokio::select! {
            biased;
            frame = self.urgent.next() => frame,
            frame = self.ordered.next() => frame,
        };
        match frame {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(FrameError::Finished),
            Err(error @ FrameError::TooLarge { .. }) => {
                self.connection.close(CloseCode::VIOLATION, &error.to_string());
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// The next stream, which must begin with `kind`.
async fn expect(connection: &Connection, kind: &[u8]) -> Result<FrameReader, FrameError> {
    let mut reader = FrameReader::new(connection.accept_uni().await?, MAX_PEER_FRAME_BYTES);
    match reader.next().await? {
        Some(frame) if frame == kind => Ok(reader),
        _ => Err(violation(connection, "its streams do not begin as they should")),
    }
}

fn violation(connection: &Connection, reason: &str) -> FrameError {
    connection.close(CloseCode::VIOLATION, reason);
    FrameError::Violation { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_bounded_in_bytes_and_shut_while_down() {
        let queue = Queue::default();
        let frame = Bytes::from(vec![0; MAX_PEER_FRAME_BYTES]);
        assert!(queue.push(frame.clone()));
        assert!(!queue.push(frame.clone()), "two frames and their overhead are more than the bound");
        let small = std::iter::repeat_with(|| queue.push(Bytes::new())).take_while(|pushed| *pushed).count();
        assert_eq!(small, (MAX_PEER_FRAME_BYTES - FRAME_OVERHEAD_BYTES) / FRAME_OVERHEAD_BYTES);
        assert_eq!(queue.shut(), small as u64 + 1);
        assert!(!queue.push(Bytes::new()));
        queue.open();
        assert!(queue.push(frame));
    }

    #[test]
    fn waits_are_at_least_half() {
        for _ in 0..100 {
            let wait = half_random(LAST_WAIT);
            assert!(wait >= LAST_WAIT / 2 && wait <= LAST_WAIT);
        }
    }
}

//! Brings snapshots to other nodes, and takes in theirs: a second endpoint of the node, on a thread of its own, so that
//! gigabytes never delay a heartbeat.
//!
//! A node asks another where it takes snapshots ([`BulkRequest::WhereSnapshots`](super::frames::BulkRequest)) each time that it
//! has one for it: the port may be another after a restart. There it offers the very file that it has, and the other says
//! from which byte on it wants that. What breaks off goes on so, also after either has been restarted.

mod pace;
mod receiving;
mod sending;
mod shipments;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::node::NodeError;
use crate::node::config::Listen;
use crate::node::driver::Event;
use crate::node::frames::PeerFrame;
use crate::node::refusals::RefusalLog;
use crate::protocol::SnapshotProgress;
use crate::store::Snapshots;
use crate::transport::{Credentials, Endpoint, Incoming, Limits, Role, bind};
use crate::types::{Incarnation, NodeAddr};
use pace::Pace;
use receiving::Turns;
use shipments::{Direction, Shipments};

/// Snapshots that are sent at a time, over all peers of the node; others wait.
const MAX_SENT_AT_ONCE: usize = 4;
/// Snapshots that are received at a time; others wait a little, and then are refused and offered again.
const MAX_RECEIVED_AT_ONCE: usize = 16;
/// Snapshots that are to be sent and wait.
const MAX_ORDERS: usize = 1024;

/// What the thread is made from.
pub(super) struct CourierParts {
    pub(super) node: NodeAddr,
    pub(super) listen: Listen,
    /// Where others find it, if not on the node's host at the port on which it listens.
    pub(super) advertised: Option<NodeAddr>,
    pub(super) credentials: Credentials,
    pub(super) snapshots: Snapshots,
    pub(super) refusal_log: RefusalLog,
    pub(super) events: mpsc::Sender<Event>,
    /// What is to stay free on the disk of the snapshots, in bytes: others must not be able to fill it.
    pub(super) min_free_bytes: u64,
    /// What it sends at most, over all snapshots; 0 for no limit.
    pub(super) bytes_per_second: u64,
}

/// The way to the thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Courier {
    orders: mpsc::Sender<Order>,
    events: mpsc::Sender<Event>,
    shipments: Shipments,
}

/// The running thread.
pub(super) struct CourierThread {
    /// Its endpoint.
    pub(super) endpoint: Endpoint,
    /// Where others find it.
    pub(super) address: NodeAddr,
    stop: oneshot::Sender<()>,
    /// Answers, with an error, once the thread has ended.
    ended: oneshot::Receiver<()>,
}

/// A snapshot that is to be sent: the message that names it, and the node that it is for.
struct Order {
    to: NodeAddr,
    frame: PeerFrame,
}

/// What all transfers share.
struct Context {
    endpoint: Endpoint,
    snapshots: Snapshots,
    min_free_bytes: u64,
    refusal_log: RefusalLog,
    events: mpsc::Sender<Event>,
    shipments: Shipments,
    pace: Pace,
    sending: Semaphore,
    receiving: Semaphore,
    turns: Turns,
}

impl Courier {
    /// Starts the thread, and returns once its endpoint accepts connections.
    ///
    /// # Errors
    /// [`NodeError`] when the address cannot be used, or the system refuses a thread.
    pub(super) fn start(parts: CourierParts) -> Result<(Self, CourierThread), NodeError> {
        let (orders, waiting) = mpsc::channel(MAX_ORDERS);
        let courier = Self { orders, events: parts.events.clone(), shipments: Shipments::default() };
        let shipments = courier.shipments.clone();
        let (node, advertised) = (parts.node.clone(), parts.advertised.clone());
        let (stop, stopped) = oneshot::channel();
        let (has_ended, ended) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let socket = match parts.listen {
            Listen::Address(address) => bind(address)?,
            Listen::Socket(socket) => socket,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("zraft-courier".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let opened = Endpoint::for_snapshots(socket, parts.credentials, Limits::default());
                let endpoint = opened.as_ref().ok().cloned();
                // Who starts the node waits for it.
                let _ = ready.send(opened);
                let Some(endpoint) = endpoint else { return };
                let context = Context {
                    endpoint,
                    snapshots: parts.snapshots,
                    min_free_bytes: parts.min_free_bytes,
                    refusal_log: parts.refusal_log,
                    events: parts.events,
                    shipments,
                    pace: Pace::new(parts.bytes_per_second),
                    sending: Semaphore::new(MAX_SENT_AT_ONCE),
                    receiving: Semaphore::new(MAX_RECEIVED_AT_ONCE),
                    turns: Turns::default(),
                };
                run(Arc::new(context), waiting, stopped).await;
            });
            // A disk that does not answer must not keep the node from ending.
            runtime.shutdown_background();
            drop(has_ended);
        })?;
        let endpoint = is_ready.recv().map_err(|_| NodeError::Panicked)??;
        let address = match advertised {
            Some(address) => address,
            None => at_port(&node, endpoint.local_addr()?),
        };
        Ok((courier, CourierThread { endpoint, address, stop, ended }))
    }

    /// Has a snapshot sent along with its message. The end of it is reported by [`Event::SnapshotSent`].
    pub(super) fn send(&self, to: NodeAddr, frame: PeerFrame) {
        let Err(error) = self.orders.try_send(Order { to, frame }) else { return };
        let (mpsc::error::TrySendError::Full(order) | mpsc::error::TrySendError::Closed(order)) = error;
        tracing::warn!(node = %order.to, "a snapshot is not sent: too many wait");
        let events = self.events.clone();
        // The loop has ended if it takes no more events.
        tokio::spawn(async move { drop(events.send(order.failed()).await) });
    }

    /// How far the snapshot is that a peer of this node receives.
    pub(super) fn received_by(&self, peer: Incarnation) -> Option<SnapshotProgress> {
        self.shipments.of(Direction::In, peer).pop().map(|(_, progress)| progress)
    }

    /// How far the snapshots are that a peer of this node sends, and to whom.
    pub(super) fn sent_by(&self, peer: Incarnation) -> Vec<(Incarnation, SnapshotProgress)> {
        self.shipments.of(Direction::Out, peer)
    }
}

impl CourierThread {
    /// Closes the endpoint and waits for the end of the thread.
    pub(super) async fn stop(self) {
        drop(self.endpoint);
        // It has ended already if it does not hear this.
        let _ = self.stop.send(());
        let _ = self.ended.await;
    }
}

impl Order {
    fn failed(&self) -> Event {
        let envelope = &self.frame.message.envelope;
        Event::SnapshotSent { from: envelope.from, to: envelope.to, ok: false }
    }
}

/// Serves until the node stops.
async fn run(context: Arc<Context>, mut orders: mpsc::Receiver<Order>, mut stopped: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { break };
                tokio::spawn(sending::deliver(Arc::clone(&context), order));
            }
            incoming = context.endpoint.accept() => {
                let Some(Incoming { identity: Role::Node(from), connection, .. }) = incoming else { break };
                tokio::spawn(receiving::serve(Arc::clone(&context), from, connection));
            }
            _ = &mut stopped => break,
        }
    }
    context.endpoint.close("the node is stopping").await;
}

/// The node's host, at the port of a socket.
fn at_port(node: &NodeAddr, socket: SocketAddr) -> NodeAddr {
    let host = node.as_str().rsplit_once(':').map_or("", |(host, _)| host);
    format!("{host}:{}", socket.port()).parse().expect("a bound socket has a port")
}

//! Snapshots that come from other nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Context;
use super::shipments::{Direction, Shipment};
use crate::codec;
use crate::node::driver::Event;
use crate::node::frames::{BulkReply, PeerFrame, SnapshotOffer};
use crate::node::refusals::{Refusal, Refused};
use crate::protocol::SnapshotProgress;
use crate::raft::Message;
use crate::store::{SnapshotIdentity, SnapshotReceiver, StoreError};
use crate::transport::{BulkError, Connection, Download, Offer, accept_offer};
use crate::types::{Incarnation, NodeAddr, Term};

/// What has come from the network and waits for the disk, in batches of a quarter of a megabyte or little more.
const MAX_WAITING_BATCHES: usize = 4;
/// How long an offer may wait for one of the places, of which there are so many: the sender waits a little longer for an answer.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
/// How long a transfer whose place is taken has to let go of its file.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error(transparent)]
    Bulk(#[from] BulkError),
    #[error(transparent)]
    Header(#[from] codec::DecodeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    NotForUs(#[from] Refusal),
    #[error("{0}")]
    Refused(&'static str),
}

const STOPPING: ReceiveError = ReceiveError::Refused("the node is stopping");

/// Takes what a node offers on a connection.
pub(super) async fn serve(context: Arc<Context>, from: NodeAddr, connection: Connection) {
    while let Ok(streams) = connection.accept_bi().await {
        let (context, from) = (Arc::clone(&context), from.clone());
        tokio::spawn(async move {
            let taken = match accept_offer(streams).await {
                Ok(offered) => take(&context, &from, offered).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = taken
                && let Some(unlogged) = context.refusal_log.admit(&from, Refused::Snapshot)
            {
                tracing::warn!(node = %from, %error, unlogged, "a snapshot from another node was not received");
            }
        });
    }
}

async fn take(context: &Context, from: &NodeAddr, mut offered: Offer) -> Result<(), ReceiveError> {
    let header = std::mem::take(&mut offered.header);
    let prepared = match codec::decode::<SnapshotOffer>(&header) {
        Ok(SnapshotOffer { frame, identity }) => prepare(context, from, frame, identity).await,
        Err(error) => Err(error.into()),
    };
    let mut incoming = match prepared {
        Ok(incoming) => incoming,
        Err(error) => {
            offered.decline(&codec::encode(&BulkReply::Refused(error.to_string()))).await?;
            return Err(error);
        }
    };
    let began_at_bytes = incoming.began_at_bytes;
    let (mut download, reply) =
        offered.want(began_at_bytes, incoming.offer.identity.size_bytes - began_at_bytes).await?;
    let received = incoming.receive(context, from, &mut download).await;
    let answer = match &received {
        Ok(()) => BulkReply::Done,
        Err(error) => BulkReply::Refused(error.to_string()),
    };
    // Of a transfer that has broken off nobody hears.
    if !matches!(received, Err(ReceiveError::Bulk(_))) {
        reply.send(&codec::encode(&answer)).await?;
    }
    received
}

/// A snapshot that is being received.
struct IncomingSnapshot<'a> {
    offer: SnapshotOffer,
    began_at_bytes: u64,
    receiver: Option<SnapshotReceiver>,
    turn: Turn<'a>,
    _permit: SemaphorePermit<'a>,
}

/// Makes a place for a snapshot, or says why it is not taken.
async fn prepare<'a>(
    context: &'a Context,
    from: &NodeAddr,
    frame: PeerFrame,
    identity: SnapshotIdentity,
) -> Result<IncomingSnapshot<'a>, ReceiveError> {
    let (envelope, cluster) = (&frame.message.envelope, frame.cluster);
    let is_named = matches!(&envelope.message, Message::Snapshot { meta } if meta.position == identity.position);
    if !is_named {
        return Err(ReceiveError::Refused("a snapshot travels with its own message"));
    }
    let peer = envelope.to;
    let (reply, is_welcome) = oneshot::channel();
    let lookup = Event::Lookup { from: from.clone(), cluster, envelope: envelope.clone(), reply };
    context.events.send(lookup).await.map_err(|_| STOPPING)?;
    is_welcome.await.map_err(|_| STOPPING)??;
    let waiting = timeout(PLACE_WITHIN, context.receiving.acquire()).await;
    let too_many = || ReceiveError::Refused("too many snapshots are being received here; it is to be offered again");
    let permit = waiting.map_err(|_| too_many())?.expect("the semaphore is never closed");
    let turn = context.turns.take(peer, envelope.term).await?;
    let snapshots = context.snapshots.clone();
    let (receiver, free_bytes) = blocking(move || {
        let receiver = snapshots.receive(peer, identity)?;
        Ok((receiver, snapshots.free_bytes()?))
    })
    .await?;
    let began_at_bytes = receiver.received_bytes();
    if !has_room(identity.size_bytes - began_at_bytes, free_bytes, context.min_free_bytes) {
        return Err(ReceiveError::Refused("there is no room for it on the disk"));
    }
    let offer = SnapshotOffer { frame, identity };
    Ok(IncomingSnapshot { offer, began_at_bytes, receiver: Some(receiver), turn, _permit: permit })
}

/// Whether so much may be written to a disk with so much left. The log, for which room is kept, may be on it too.
fn has_room(wanted_bytes: u64, free_bytes: u64, min_free_bytes: u64) -> bool {
    wanted_bytes <= free_bytes.saturating_sub(min_free_bytes)
}

impl IncomingSnapshot<'_> {
    /// Stores the snapshot's file, then hands its message to the peer.
    async fn receive(
        &mut self,
        context: &Context,
        from: &NodeAddr,
        download: &mut Download,
    ) -> Result<(), ReceiveError> {
        let (snapshot, size_bytes) = (self.offer.identity.position, self.offer.identity.size_bytes);
        let (began_at_bytes, start) = (self.began_at_bytes, Instant::now());
        match began_at_bytes {
            0 => tracing::info!(node = %from, %snapshot, size_bytes, "receiving a snapshot"),
            _ => tracing::info!(node = %from, %snapshot, size_bytes, from = began_at_bytes,
                "going on with a snapshot that was received in part"),
        }
        let (index, total_bytes) = (snapshot.index, size_bytes);
        let progress = SnapshotProgress { index, began_at_bytes, done_bytes: began_at_bytes, total_bytes };
        let envelope = &self.offer.frame.message.envelope;
        let shipment = context.shipments.begin(Direction::In, envelope.to, envelope.from, progress);
        let Some(receiver) = self.receiver.take() else { return Err(STOPPING) };
        let (batches, writing) = write_behind(receiver);
        let loaded = tokio::select! {
            loaded = load(download, batches, &shipment) => loaded,
            () = self.turn.over() => Err(ReceiveError::Refused("a later transfer has taken its place")),
        };
        // Also of what has broken off, all that has come is to be in the file before another goes on with it.
        let receiver = writing.await.map_err(|_| STOPPING)??;
        loaded?;
        blocking(move || receiver.finish()).await?;
        let seconds = start.elapsed().as_secs_f64();
        let mb_per_second = (size_bytes - began_at_bytes) as f64 / 1e6 / seconds;
        tracing::info!(node = %from, %snapshot, size_bytes, from = began_at_bytes, seconds, mb_per_second,
            "a snapshot was received");
        let event = Event::Peer { from: from.clone(), frame: self.offer.frame.clone() };
        context.events.send(event).await.map_err(|_| STOPPING)
    }
}

/// Takes what comes from the network to the disk's thread.
async fn load(
    download: &mut Download,
    batches: mpsc::Sender<Vec<Bytes>>,
    shipment: &Shipment,
) -> Result<(), ReceiveError> {
    while let Some(batch) = download.next().await? {
        shipment.add(batch.iter().map(|piece| piece.len() as u64).sum());
        // What the disk has said is found where its thread is waited for.
        if batches.send(batch).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A thread that checks and writes what it is given.
fn write_behind(
    mut receiver: SnapshotReceiver,
) -> (mpsc::Sender<Vec<Bytes>>, JoinHandle<Result<SnapshotReceiver, StoreError>>) {
    let (batches, mut waiting) = mpsc::channel::<Vec<Bytes>>(MAX_WAITING_BATCHES);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(batch) = waiting.blocking_recv() {
            batch.iter().try_for_each(|piece| receiver.write(piece))?;
        }
        Ok(receiver)
    });
    (batches, writing)
}

/// Does file work off the network's thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ReceiveError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ReceiveError::Refused("the node failed at its files")),
    }
}

/// Who receives a snapshot for which peer: one at a time. A later offer takes the place of an earlier one, which may be on a
/// connection that is dead and does not know it yet; but a leader of the past does not take that of a later one.
#[derive(Default)]
pub(super) struct Turns {
    holders: Mutex<BTreeMap<Incarnation, Holder>>,
}

struct Holder {
    term: Term,
    /// Taken once it was told to let go.
    cancel: Option<oneshot::Sender<()>>,
    /// Closed once it has.
    gone: Arc<Semaphore>,
}

/// The right to receive a snapshot for a peer.
struct Turn<'a> {
    turns: &'a Turns,
    peer: Incarnation,
    cancelled: oneshot::Receiver<()>,
}

impl Turns {
    async fn take(&self, peer: Incarnation, term: Term) -> Result<Turn<'_>, ReceiveError> {
        loop {
            let gone = match self.try_take(peer, term)? {
                Ok(turn) => return Ok(turn),
                Err(gone) => gone,
            };
            // It is closed, never acquired.
            if timeout(LET_GO_WITHIN, gone.acquire()).await.is_err() {
                return Err(ReceiveError::Refused("another transfer does not let go of the peer's file"));
            }
        }
    }

    /// The turn; or what is closed once somebody else has given theirs back, who is told to.
    fn try_take(&self, peer: Incarnation, term: Term) -> Result<Result<Turn<'_>, Arc<Semaphore>>, ReceiveError> {
        let mut holders = self.lock();
        if let Some(holder) = holders.get_mut(&peer) {
            if term < holder.term {
                return Err(ReceiveError::Refused("a later leader's snapshot is being received"));
            }
            // It may have ended just now.
            holder.cancel.take().map(|cancel| cancel.send(()));
            return Ok(Err(Arc::clone(&holder.gone)));
        }
        let (cancel, cancelled) = oneshot::channel();
        holders.insert(peer, Holder { term, cancel: Some(cancel), gone: Arc::new(Semaphore::new(0)) });
        Ok(Ok(Turn { turns: self, peer, cancelled }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Incarnation, Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits until another takes the turn.
    async fn over(&mut self) {
        if (&mut self.cancelled).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(holder) = self.turns.lock().remove(&self.peer) {
            holder.gone.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Incarnation = Incarnation(1);

    #[test]
    fn a_snapshot_leaves_the_room_that_is_to_stay_free() {
        assert!(has_room(60, 100, 40) && has_room(0, 10, 40), "what is here already needs no room");
        assert!(!has_room(61, 100, 40) && !has_room(1, 10, 40) && !has_room(u64::MAX, u64::MAX, 1));
    }

    #[tokio::test]
    async fn a_later_offer_takes_the_turn_but_not_from_a_later_leader() {
        let turns = Turns::default();
        let mut first = turns.take(PEER, Term(2)).await.unwrap();
        let other = turns.take(Incarnation(2), Term(1)).await.unwrap();
        assert!(matches!(turns.take(PEER, Term(1)).await, Err(ReceiveError::Refused(_))));
        let second = async { turns.take(PEER, Term(2)).await.unwrap() };
        let letting_go = async {
            first.over().await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, letting_go);
        drop((second, other));
        assert!(turns.lock().is_empty());
    }
}

//! Snapshots that go to other nodes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::shipments::{Direction, Shipment};
use super::{Context, Order};
use crate::codec;
use crate::node::driver::Event;
use crate::node::frames::{BulkReply, BulkRequest, SnapshotOffer};
use crate::node::network::{CallError, ask};
use crate::protocol::SnapshotProgress;
use crate::raft::Message;
use crate::store::SnapshotIdentity;
use crate::transport::{Answer, BulkError, CloseCode, Protocol, Upload, offer};
use crate::types::NodeAddr;

/// A transfer that has broken off goes on if the receiver is there again within this time. Then Raft is told, and waits for a
/// sign of life before it begins again with the snapshot of then.
const RESUME_WITHIN: Duration = Duration::from_secs(30);
/// Pauses between attempts.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Bytes read from the file at a time, and how many such chunks are read ahead.
const CHUNK_BYTES: usize = 512 << 10;
const CHUNKS_AHEAD: usize = 4;
/// Where the rate is bounded, so many bytes leave at a time: what a heartbeat on the same wire may have to wait for.
const PACED_BYTES: usize = 64 << 10;

/// Sends a snapshot, and reports the end of it.
pub(super) async fn deliver(context: Arc<Context>, order: Order) {
    let failed = order.failed();
    let Event::SnapshotSent { from, to, .. } = failed else { return };
    let result = transfer(&context, &order).await;
    if let Err(error) = &result {
        tracing::warn!(node = %order.to, %error, "could not send a snapshot");
    }
    // The loop has ended if it takes no more events.
    let _ = context.events.send(Event::SnapshotSent { from, to, ok: result.is_ok() }).await;
}

/// One snapshot, on its way to one peer.
struct Delivery<'a> {
    context: &'a Context,
    order: &'a Order,
    file: Arc<File>,
    identity: SnapshotIdentity,
    /// When a byte has left last.
    moved_at: Option<Instant>,
}

async fn transfer(context: &Context, order: &Order) -> Result<(), CallError> {
    let Message::Snapshot { meta } = &order.frame.message.envelope.message else {
        return Err(CallError::Refused("only a snapshot's message travels with a snapshot".to_owned()));
    };
    let _turn = context.sending.acquire().await.expect("the semaphore is never closed");
    let (snapshots, peer, position) = (context.snapshots.clone(), order.frame.message.envelope.from, meta.position);
    // An open file can be read to its end whatever becomes of its name meanwhile.
    let opened = tokio::task::spawn_blocking(move || snapshots.open_raw(peer, position)).await;
    let (file, identity) = opened.map_err(|_| CallError::Refused("the node is stopping".to_owned()))??;
    let mut delivery = Delivery { context, order, file: Arc::new(file), identity, moved_at: None };
    loop {
        let error = match delivery.attempt().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_broken = matches!(error, CallError::Connect(_) | CallError::Bulk(_));
        let is_soon = delivery.moved_at.is_some_and(|moved_at| moved_at.elapsed() < RESUME_WITHIN);
        if !is_broken || !is_soon {
            return Err(error);
        }
        tracing::info!(node = %order.to, %error, "a snapshot's transfer broke off; trying to go on with it");
        sleep(RETRY_AFTER).await;
    }
}

impl Delivery<'_> {
    /// Sends what the receiver does not have.
    async fn attempt(&mut self) -> Result<(), CallError> {
        let (endpoint, to) = (&self.context.endpoint, &self.order.to);
        let at = where_to(self.context, to).await?;
        let connection = endpoint.connect_at(to, &at, Protocol::Snapshot).await?;
        let header = SnapshotOffer { frame: self.order.frame.clone(), identity: self.identity };
        let reply = match offer(&connection, &codec::encode(&header)).await? {
            Answer::Replied(reply) => reply,
            Answer::Wanted(upload) => self.send(upload).await?,
        };
        connection.close(CloseCode::DONE, "done");
        match codec::decode(&reply)? {
            BulkReply::Done => Ok(()),
            BulkReply::Refused(reason) => Err(CallError::Refused(reason)),
            BulkReply::Failed(_) | BulkReply::SnapshotsAt(_) => {
                Err(CallError::Refused("it answers what was not asked".to_owned()))
            }
        }
    }

    async fn send(&mut self, mut upload: Upload) -> Result<Bytes, CallError> {
        let (from, size_bytes) = (upload.from(), self.identity.size_bytes);
        if from > size_bytes {
            return Err(CallError::Refused("it wants more than there is".to_owned()));
        }
        let (node, snapshot, start) = (&self.order.to, self.identity.position, Instant::now());
        match from {
            0 => tracing::info!(%node, %snapshot, size_bytes, "sending a snapshot"),
            _ => tracing::info!(%node, %snapshot, size_bytes, from, "going on with a snapshot that was sent in part"),
        }
        let envelope = &self.order.frame.message.envelope;
        let (index, total_bytes) = (snapshot.index, size_bytes);
        let progress = SnapshotProgress { index, began_at_bytes: from, done_bytes: from, total_bytes };
        let shipment = self.context.shipments.begin(Direction::Out, envelope.from, envelope.to, progress);
        let is_wanted = match self.send_from(from, &mut upload, &shipment).await {
            Ok(is_wanted) => is_wanted,
            Err(error) => {
                upload.give_up();
                return Err(error);
            }
        };
        let reply = upload.finish().await?;
        if is_wanted {
            let seconds = start.elapsed().as_secs_f64();
            let (sent_bytes, mb_per_second) = (size_bytes - from, (size_bytes - from) as f64 / 1e6 / seconds);
            tracing::info!(%node, %snapshot, sent_bytes, seconds, mb_per_second, "a snapshot has arrived");
        }
        Ok(reply)
    }

    /// Sends the file from a byte on. Tells whether the receiver wanted all of it.
    async fn send_from(&mut self, from: u64, upload: &mut Upload, shipment: &Shipment) -> Result<bool, CallError> {
        let mut chunks = read_ahead(Arc::clone(&self.file), from, self.identity.size_bytes);
        let mut left_bytes = self.identity.size_bytes - from;
        while let Some(chunk) = chunks.recv().await {
            let mut chunk = chunk.map_err(BulkError::Source)?;
            left_bytes -= chunk.len() as u64;
            while !chunk.is_empty() {
                let most = if self.context.pace.is_bounded() { PACED_BYTES } else { CHUNK_BYTES };
                let piece = chunk.split_to(most.min(chunk.len()));
                let piece_bytes = piece.len();
                self.context.pace.take(piece_bytes).await;
                if !upload.send(piece).await? {
                    return Ok(false);
                }
                shipment.add(piece_bytes as u64);
                self.moved_at = Some(Instant::now());
            }
        }
        if left_bytes > 0 {
            let expected = self.identity.size_bytes;
            return Err(BulkError::SourceTooShort { expected, found: expected - left_bytes }.into());
        }
        Ok(true)
    }
}

/// Where a node takes snapshots.
async fn where_to(context: &Context, node: &NodeAddr) -> Result<NodeAddr, CallError> {
    match ask(&context.endpoint, node, &BulkRequest::WhereSnapshots, Bytes::new()).await? {
        BulkReply::SnapshotsAt(at) => Ok(at),
        BulkReply::Refused(reason) => Err(CallError::Refused(reason)),
        BulkReply::Done | BulkReply::Failed(_) => Err(CallError::Refused("it answers what was not asked".to_owned())),
    }
}

/// Reads a file from a byte on to its end, ahead of who takes the chunks, on a thread that may wait for the disk.
fn read_ahead(file: Arc<File>, from: u64, size_bytes: u64) -> mpsc::Receiver<io::Result<Bytes>> {
    let (chunks, taken) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut at = from;
        while at < size_bytes {
            let mut chunk = vec![0; usize::try_from(size_bytes - at).unwrap_or(usize::MAX).min(CHUNK_BYTES)];
            let read = file.read_exact_at(&mut chunk, at).map(|()| Bytes::from(chunk));
            let is_over = read.is_err();
            at += CHUNK_BYTES as u64;
            // Nobody takes them any more once the transfer has broken off.
            if chunks.blocking_send(read).is_err() || is_over {
                return;
            }
        }
    });
    taken
}

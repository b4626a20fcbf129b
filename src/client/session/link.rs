//! One stream of a session with one node.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::connection::Ear;
use crate::client::{CallError, Client};
use crate::codec;
use crate::protocol::{Request, RequestError, SessionEnd, SessionEvent, SessionRequest, SessionStart};
use crate::transport::{FrameReader, FrameWriter};
use crate::types::{PeerId, SessionId};

/// A stream on which a node serves the session. Dropping it ends the stream; the session goes on.
pub(super) struct Link {
    pub(super) peer: PeerId,
    pub(super) session: SessionId,
    /// Before the node was asked for it.
    pub(super) asked_at: Instant,
    reader: FrameReader,
    ear: Ear,
    frames: mpsc::Sender<Bytes>,
    /// The task that writes, which ends with this. A frame must be written whole, and reading must not wait for it.
    _writer: JoinSet<()>,
}

/// Why a node does not serve the session.
#[derive(Debug)]
pub(super) enum AttachError {
    /// It could not be asked.
    Call(CallError),
    /// It says no.
    Refused(RequestError),
    /// The session is over.
    Ended(SessionEnd),
}

/// What happens on a stream.
#[derive(Debug)]
pub(super) enum Happened {
    /// The node says something.
    Event(SessionEvent),
    /// There is room for a frame.
    Room,
    /// The stream is gone.
    Lost(String),
}

impl Link {
    /// Most frames that wait to be written, and most that are written at once.
    const MAX_FRAMES: usize = 16;

    /// Asks a peer to serve a session.
    pub(super) async fn attach(
        client: &Client,
        peer: PeerId,
        start: SessionStart,
        timeout: Duration,
    ) -> Result<Self, AttachError> {
        let node = peer.node().clone();
        let attached = tokio::time::timeout(timeout, Self::ask(client, peer, start)).await;
        attached.unwrap_or(Err(AttachError::Call(CallError::Timeout { node, after: timeout })))
    }

    async fn ask(client: &Client, peer: PeerId, start: SessionStart) -> Result<Self, AttachError> {
        let asked_at = Instant::now();
        let node = peer.node();
        let request = Request::Session { peer: peer.name().to_owned(), start };
        let (writer, mut reader, ear) = client.open(node, &request).await.map_err(AttachError::Call)?;
        let lost = |source| AttachError::Call(CallError::Lost { node: node.clone(), source });
        let frame = reader.next().await.map_err(lost)?;
        let mismatched = || AttachError::Call(CallError::Mismatched { node: node.clone() });
        let frame = frame.ok_or_else(mismatched)?;
        match codec::decode(&frame) {
            Ok(SessionEvent::Attached { session }) => {
                let (frames, waiting) = mpsc::channel(Self::MAX_FRAMES);
                let mut tasks = JoinSet::new();
                tasks.spawn(write(writer, waiting));
                Ok(Self { peer, session, asked_at, reader, ear, frames, _writer: tasks })
            }
            Ok(SessionEvent::Ended(end)) => Err(AttachError::Ended(end)),
            Ok(SessionEvent::Detached(error)) => Err(AttachError::Refused(error)),
            Ok(_) => Err(mismatched()),
            Err(source) => Err(AttachError::Call(CallError::Malformed { node: node.clone(), source })),
        }
    }

    /// Waits for what happens next; for room only if something is to be sent. Cancel safe.
    pub(super) async fn next(&mut self, has_to_send: bool) -> Happened {
        tokio::select! {
            frame = self.reader.next() => {
                self.ear.heard();
                match frame {
                    Ok(Some(frame)) => codec::decode(&frame).map_or_else(
                        |error| Happened::Lost(format!("what the node says cannot be read ({error})")),
                        Happened::Event,
                    ),
                    Ok(None) => Happened::Lost("the node ended the stream".to_owned()),
                    Err(error) => Happened::Lost(error.to_string()),
                }
            },
            room = self.frames.reserve(), if has_to_send => match room {
                Ok(_) => Happened::Room,
                Err(_) => Happened::Lost("the node takes no more".to_owned()),
            },
            () = self.ear.silence() => Happened::Lost("the node is silent".to_owned()),
        }
    }

    /// Whether there is room for a frame.
    pub(super) fn has_room(&self) -> bool {
        self.frames.capacity() > 0
    }

    /// Has a frame written, for which there is room.
    pub(super) fn send(&mut self, request: &SessionRequest) {
        self.ear.sent();
        // There is room; and where the stream is gone, reading says so.
        let _ = self.frames.try_send(codec::encode(request).into());
    }
}

async fn write(mut writer: FrameWriter, mut waiting: mpsc::Receiver<Bytes>) {
    let mut frames = Vec::with_capacity(Link::MAX_FRAMES);
    while waiting.recv_many(&mut frames, Link::MAX_FRAMES).await > 0 {
        if writer.write_all(&frames).await.is_err() {
            return;
        }
        frames.clear();
    }
    writer.finish();
}

//! One stream of a session with one node.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

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
    writer: FrameWriter,
    /// Frames since all was last written.
    unwritten: usize,
    ear: Ear,
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
    /// All is written: there is room for more.
    Room,
    /// The stream is gone.
    Lost(String),
}

impl Link {
    /// Most frames that wait to be written.
    pub(super) const MAX_FRAMES: usize = 16;

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
                Ok(Self { peer, session, asked_at, reader, writer, unwritten: 0, ear })
            }
            Ok(SessionEvent::Ended(end)) => Err(AttachError::Ended(end)),
            Ok(SessionEvent::Detached(error)) => Err(AttachError::Refused(error)),
            Ok(_) => Err(mismatched()),
            Err(source) => Err(AttachError::Call(CallError::Malformed { node: node.clone(), source })),
        }
    }

    /// Waits for what happens next, and writes meanwhile. Cancel safe.
    pub(super) async fn next(&mut self) -> Happened {
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
            written = self.writer.flush(), if !self.writer.is_flushed() => match written {
                Ok(()) => {
                    self.unwritten = 0;
                    Happened::Room
                }
                Err(error) => Happened::Lost(error.to_string()),
            },
            () = self.ear.silence() => Happened::Lost("the node is silent".to_owned()),
        }
    }

    /// Whether there is room for a frame.
    pub(super) fn has_room(&self) -> bool {
        self.unwritten < Self::MAX_FRAMES
    }

    /// Takes in a frame, for which there is room.
    pub(super) fn send(&mut self, request: &SessionRequest) {
        self.ear.sent();
        self.unwritten += 1;
        // What is too large for a frame was refused to who wished it.
        let _ = self.writer.queue(&codec::encode(request).into());
    }

    /// Writes what can be written at once; the rest, and errors, are left to [`Link::next`].
    pub(super) fn write(&mut self) {
        let written = pin!(self.writer.flush()).poll(&mut Context::from_waker(Waker::noop()));
        if matches!(written, Poll::Ready(Ok(()))) {
            self.unwritten = 0;
        }
    }
}

//! The streams of sessions on a node. A client's frames become events of the loop; what the replica says becomes frames,
//! which wait here until the client reads them. One that does not read is dropped, and its session goes on without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::access::{self, Access};
use crate::codec;
use crate::node::driver::{Driver, Event};
use crate::node::journey::{Asker, Journey};
use crate::protocol::{
    CommandError, MAX_DATA_BYTES, MAX_FRAME_BYTES, MAX_TRIGGERS, RequestError, SessionEvent, SessionRequest,
    SessionStart,
};
use crate::replica::LinkId;
use crate::transport::{Budget, FrameError, FrameReader, FrameWriter};
use crate::types::Incarnation;

/// Frames that may wait for a client to read them: all that it may have asked, and all its triggers.
const MAX_WAITING_FRAMES: usize = 4 * MAX_TRIGGERS;
/// Bytes of these frames. One frame may exceed it.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// Frames written at once.
const MAX_FRAMES_AT_ONCE: usize = 64;
/// Why a stream was taken back: its client did not read.
const NOT_READ: u32 = 1;

/// The loop's end of a stream.
pub(super) struct LinkSender {
    frames: mpsc::Sender<Bytes>,
    waiting: Arc<Waiting>,
}

/// The stream's end of it.
pub(super) struct LinkReceiver {
    frames: mpsc::Receiver<Bytes>,
    waiting: Arc<Waiting>,
}

struct Waiting {
    bytes: AtomicUsize,
    /// Of the client's identity; the bytes that wait were taken from it.
    budget: Budget,
    overflown: Notify,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.budget.put_back(*self.bytes.get_mut());
    }
}

/// The two ends of a stream. What waits on it is charged to a budget.
pub(super) fn channel(budget: &Budget) -> (LinkSender, LinkReceiver) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING_FRAMES);
    let waiting = Waiting { bytes: AtomicUsize::new(0), budget: budget.clone(), overflown: Notify::new() };
    let waiting = Arc::new(waiting);
    (LinkSender { frames: sender, waiting: Arc::clone(&waiting) }, LinkReceiver { frames: receiver, waiting })
}

impl LinkSender {
    /// Has an event sent; false if the client is gone or reads too slowly.
    fn send(&self, event: SessionEvent) -> bool {
        let frame = encode(event);
        let is_charged = self.waiting.budget.take(frame.len());
        let before = self.waiting.bytes.fetch_add(if is_charged { frame.len() } else { 0 }, Ordering::Relaxed);
        let fits = is_charged && before <= MAX_WAITING_BYTES && self.frames.try_send(frame).is_ok();
        if !fits {
            self.waiting.overflown.notify_one();
        }
        fits
    }
}

/// The frame of an event. A reply that no frame can hold becomes a refusal that says so: the command has run.
fn encode(event: SessionEvent) -> Bytes {
    let bytes = codec::encode(&event);
    if bytes.len() <= MAX_FRAME_BYTES {
        return bytes.into();
    }
    let reason = format!("the backend's reply has {} bytes, more than a reply may have; ask for less", bytes.len());
    codec::encode(&match event {
        SessionEvent::Written { seq, result } => {
            SessionEvent::Written { seq, result: result.map(|(index, _)| (index, Err(CommandError::Refused(reason)))) }
        }
        SessionEvent::Answered { id, index, watched, .. } => {
            SessionEvent::Answered { id, index, watched, result: Ok(Err(reason)) }
        }
        event => event,
    })
    .into()
}

/// Serves a session's stream until one side has had enough of it.
pub(super) async fn serve(
    (link, identity): (LinkId, &str),
    events: mpsc::Sender<Event>,
    receiver: LinkReceiver,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), FrameError> {
    let overflown = Arc::clone(&receiver.waiting);
    let result = tokio::select! {
        read = read((link, identity), &events, &mut reader) => read,
        written = receiver.write_to(&mut writer) => written.map(|()| writer.finish()),
        () = overflown.overflown.notified() => {
            writer.reset(NOT_READ);
            Ok(())
        }
    };
    // A loop that has ended has forgotten the stream.
    let _ = events.send(Event::Detach { link }).await;
    result
}

/// Brings a client's frames to the loop.
async fn read(
    (link, identity): (LinkId, &str),
    events: &mpsc::Sender<Event>,
    reader: &mut FrameReader,
) -> Result<(), FrameError> {
    while let Some(frame) = reader.next().await? {
        // What a session asks has bounds of its own.
        reader.dealt_with();
        let event = match codec::decode::<SessionRequest>(&frame) {
            Ok(request) => match check(&request) {
                Ok(()) => Event::Ask { link, journey: begin(identity, link, &request), request },
                Err(reason) => Event::EndLink { link, error: RequestError::Invalid { reason } },
            },
            Err(error) => Event::EndLink { link, error: RequestError::Invalid { reason: error.to_string() } },
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A session's write is followed.
fn begin(identity: &str, link: LinkId, request: &SessionRequest) -> Option<Box<Journey>> {
    let SessionRequest::Write { seq, data, .. } = request else { return None };
    Journey::begin(&identity, &format_args!("write {seq} of the session on stream {}", link.0), data)
}

fn check(request: &SessionRequest) -> Result<(), String> {
    match request {
        SessionRequest::Write { data, .. } | SessionRequest::Query { request: data, .. }
            if data.len() > MAX_DATA_BYTES =>
        {
            Err(format!("{} bytes are more than the {MAX_DATA_BYTES} of a command or query", data.len()))
        }
        _ => Ok(()),
    }
}

impl LinkReceiver {
    /// Writes what waits for the client, until the loop has no more to say.
    pub(super) async fn write_to(mut self, writer: &mut FrameWriter) -> Result<(), FrameError> {
        let mut frames = Vec::with_capacity(MAX_FRAMES_AT_ONCE);
        while self.frames.recv_many(&mut frames, MAX_FRAMES_AT_ONCE).await > 0 {
            writer.write_all(&frames).await?;
            let written = frames.drain(..).map(|frame| frame.len()).sum();
            self.waiting.bytes.fetch_sub(written, Ordering::Relaxed);
            self.waiting.budget.put_back(written);
        }
        Ok(())
    }
}

/// A stream, as the loop knows it.
pub(super) struct ClientLink {
    peer: Incarnation,
    sender: LinkSender,
}

impl ClientLink {
    pub(super) fn end(self, error: RequestError) {
        self.sender.send(SessionEvent::Detached(error));
    }
}

impl Driver {
    /// A client wants to use a session; `None` if it was refused on the spot.
    pub(super) fn attach(
        &mut self,
        name: &str,
        identity: &str,
        start: SessionStart,
        sender: LinkSender,
    ) -> Option<LinkId> {
        let named = self.names.get(name).and_then(|incarnation| Some((*incarnation, self.peers.get(incarnation)?)));
        let refusal = match named {
            None => Some(RequestError::NoSuchPeer { name: name.to_owned(), node: self.parts.node.clone() }),
            Some((_, peer)) => peer.stopped.clone().map(|reason| RequestError::PeerStopped { reason }),
        };
        // Who resumes is judged by the replica once it knows that it leads.
        let is_new = matches!(start, SessionStart::Open { .. });
        let client = access::client_of(identity).filter(|_| is_new);
        let refusal = refusal.or_else(|| self.denied(name, client?, Access::Read));
        if let Some(error) = refusal {
            sender.send(SessionEvent::Detached(error));
            return None;
        }
        let (peer, _) = named?;
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(link, ClientLink { peer, sender });
        let now = self.now();
        self.running(peer)?.replica.attach(link, identity, start, now);
        Some(link)
    }

    /// A client asks something on its session's stream.
    pub(super) fn ask(&mut self, link: LinkId, request: SessionRequest, journey: Option<Box<Journey>>) {
        let Some(ClientLink { peer, .. }) = self.links.get(&link) else { return };
        let (peer, now) = (*peer, self.now());
        if let SessionRequest::Write { seq, .. } = &request {
            if let Some(nodes) = self.shortage_at(peer) {
                return self.end_link(link, RequestError::DiskFull { nodes });
            }
            self.journeys.add(peer, Asker::Session(link, *seq), journey);
        }
        if let Some(peer) = self.running(peer) {
            peer.replica.ask(link, request, now);
        }
    }

    /// Ends a stream, saying why.
    pub(super) fn end_link(&mut self, link: LinkId, error: RequestError) {
        let Some(ClientLink { peer, .. }) = self.links.get(&link) else { return };
        if let Some(peer) = self.running(*peer) {
            peer.replica.end_link(link, error);
        }
    }

    /// A stream has ended.
    pub(super) fn detach(&mut self, link: LinkId) {
        self.journeys.forget_link(link);
        let Some(ClientLink { peer, .. }) = self.links.remove(&link) else { return };
        if let Some(peer) = self.running(peer) {
            peer.replica.detach(link);
        }
    }

    /// Sends what a replica says on a stream.
    pub(super) fn tell(&mut self, link: LinkId, event: SessionEvent) {
        let Some(client) = self.links.get(&link) else { return };
        if let SessionEvent::Written { seq, result } = &event {
            let result = result.as_ref().map(|(index, _)| *index);
            self.journeys.end(client.peer, Asker::Session(link, *seq), result);
        }
        let is_last = matches!(event, SessionEvent::Ended(_) | SessionEvent::Detached(_));
        let is_sent = client.sender.send(event);
        if is_last {
            self.links.remove(&link);
            self.journeys.forget_link(link);
        } else if !is_sent {
            tracing::debug!(link = link.0, "a session's client does not read; its stream is dropped");
            self.detach(link);
        }
    }

    /// Ends the streams of a peer that serves nobody any more.
    pub(super) fn end_links(&mut self, incarnation: Incarnation, error: &RequestError) {
        for (_, link) in self.links.extract_if(|_, link| link.peer == incarnation) {
            link.end(error.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;

    fn reply(seq: u64, size: usize) -> SessionEvent {
        SessionEvent::Written { seq, result: Ok((Index(seq), Ok(Bytes::from(vec![0; size])))) }
    }

    #[test]
    fn a_client_that_does_not_read_is_dropped_after_so_many_frames_or_bytes() {
        let budget = Budget::new(1 << 30);
        let (sender, _receiver) = channel(&budget);
        assert_eq!((0..).take_while(|number| sender.send(SessionEvent::Pong { number: *number })).count(), 4096);
        let (sender, _receiver) = channel(&budget);
        let sent = (1..).take_while(|seq| sender.send(reply(*seq, MAX_WAITING_BYTES / 4))).count();
        assert_eq!(sent, 4);
        let (sender, receiver) = channel(&budget);
        drop(receiver);
        assert!(!sender.send(SessionEvent::Pong { number: 1 }));
    }

    #[test]
    fn streams_of_one_client_share_a_budget_and_give_back_what_they_held() {
        let budget = Budget::new(MAX_WAITING_BYTES);
        let (some, other) = (channel(&budget), channel(&budget));
        assert!(some.0.send(reply(1, MAX_WAITING_BYTES / 2)));
        assert!(!other.0.send(reply(1, MAX_WAITING_BYTES / 2)));
        drop(some);
        let (third, _receiver) = channel(&budget);
        assert!(third.send(reply(1, MAX_WAITING_BYTES / 2)));
        drop((third, _receiver, other));
        assert!(budget.take(MAX_WAITING_BYTES) && !budget.take(1));
    }

    #[test]
    fn a_reply_too_large_for_a_frame_says_that_its_command_has_run() {
        let frame = encode(reply(7, MAX_FRAME_BYTES));
        let event = codec::decode(&frame).unwrap();
        let SessionEvent::Written { seq: 7, result: Ok((Index(7), Err(CommandError::Refused(reason)))) } = event else {
            panic!("{event:?}")
        };
        assert!(reason.contains("more than a reply may have"), "{reason}");
    }
}

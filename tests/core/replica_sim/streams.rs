//! The streams of sessions. Frames take their time, come in order, and are lost with their stream. Either side may be
//! long gone before the other one notices.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;
use zraft::protocol::{
    RequestError, SessionEvent, SessionRequest, SessionSecret, SessionStart, TriggerId, TriggerReason,
};
use zraft::replica::LinkId;
use zraft::types::{Incarnation, SessionId};

use super::Sim;

/// Steps after which a stream of somebody who tries another's session ends at the latest.
const IMPOSTOR_STEPS: u64 = 200;

pub struct Stream {
    /// None for somebody who tries another's session.
    client: Option<usize>,
    pub node: Incarnation,
    session: Option<SessionId>,
    /// When the client has sent what it begins with, and its pings.
    started_ms: u64,
    pings: BTreeMap<u64, u64>,
    /// Triggers to be armed again at a node that does not know what has changed meanwhile.
    in_doubt: BTreeSet<TriggerId>,
    to_node: VecDeque<(u64, ToNode)>,
    to_client: VecDeque<(u64, ToClient)>,
    stalled_until: u64,
    /// The node has said its last event.
    is_over: bool,
    /// The node has crashed.
    is_dead: bool,
}

enum ToNode {
    Start(String, SessionStart),
    Ask(SessionRequest),
    Gone,
}

enum ToClient {
    Event(SessionEvent),
    Lost,
}

impl Sim {
    pub(super) fn open_stream(
        &mut self,
        client: Option<usize>,
        node: Incarnation,
        identity: &str,
        start: SessionStart,
    ) -> LinkId {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        let session = match start {
            SessionStart::Open { .. } => None,
            SessionStart::Resume { session, .. } => Some(session),
        };
        let stream = Stream {
            client,
            node,
            session,
            started_ms: self.now_ms(),
            pings: BTreeMap::new(),
            in_doubt: BTreeSet::new(),
            to_node: VecDeque::new(),
            to_client: VecDeque::new(),
            stalled_until: 0,
            is_over: false,
            is_dead: self.down.contains(&node),
        };
        self.streams.insert(link, stream);
        self.post_frame(link, ToNode::Start(identity.to_owned(), start), 0);
        link
    }

    /// Somebody else tries to use a session.
    pub(super) fn try_as_impostor(
        &mut self,
        node: Incarnation,
        identity: &str,
        session: SessionId,
        secret: SessionSecret,
    ) {
        if self.down.contains(&node) {
            return;
        }
        let link = self.open_stream(None, node, identity, SessionStart::Resume { session, secret });
        self.post_frame(link, ToNode::Gone, IMPOSTOR_STEPS);
    }

    pub(super) fn send(&mut self, link: LinkId, request: SessionRequest) {
        if let SessionRequest::Ping { number } = request {
            let now_ms = self.now_ms();
            self.streams.get_mut(&link).expect("a stream").pings.insert(number, now_ms);
        }
        self.post_frame(link, ToNode::Ask(request), 0);
    }

    fn post_frame(&mut self, link: LinkId, frame: ToNode, delay: u64) {
        let due = self.now + delay + self.frame_delay();
        let stream = self.streams.get_mut(&link).expect("a stream");
        if !stream.is_dead {
            let due = stream.to_node.back().map_or(due, |(last, _)| due.max(*last));
            stream.to_node.push_back((due, frame));
        } else if stream.to_client.is_empty() {
            stream.to_client.push_back((due, ToClient::Lost));
        }
    }

    fn frame_delay(&mut self) -> u64 {
        if self.rng.random_bool(0.1) { self.rng.random_range(0..20) } else { self.rng.random_range(0..3) }
    }

    /// The client leaves. Some of what it has sent may still come to the node, which notices sooner or later.
    pub(super) fn abandon(&mut self, link: LinkId) {
        let Some(stream) = self.streams.get_mut(&link) else { return };
        if stream.is_dead || stream.is_over {
            self.streams.remove(&link);
            return;
        }
        let kept = self.rng.random_range(0..=stream.to_node.len());
        stream.to_node.truncate(kept);
        stream.to_client.clear();
        let delay = self.rng.random_range(0..100);
        self.post_frame(link, ToNode::Gone, delay);
    }

    pub(super) fn stall(&mut self, link: LinkId, steps: u64) {
        let until = self.now + steps;
        if let Some(stream) = self.streams.get_mut(&link) {
            stream.stalled_until = until;
        }
    }

    /// A node has crashed, and its clients notice.
    pub(super) fn lose_streams(&mut self, node: Incarnation) {
        let links: Vec<_> =
            self.streams.iter().filter(|(_, stream)| stream.node == node).map(|(link, _)| *link).collect();
        for link in links {
            let is_used =
                self.sessions.iter().filter_map(|client| client.stream.as_ref()).any(|used| used.link == link);
            if !is_used {
                self.streams.remove(&link);
                continue;
            }
            self.count("stream: lost in a crash");
            let due = self.now + self.frame_delay();
            let stream = self.streams.get_mut(&link).expect("a stream");
            stream.is_dead = true;
            stream.to_node.clear();
            let arrives = self.rng.random_range(0..=stream.to_client.len());
            stream.to_client.truncate(arrives);
            let due = stream.to_client.back().map_or(due, |(last, _)| due.max(*last));
            stream.to_client.push_back((due, ToClient::Lost));
        }
    }

    pub(super) fn deliver_frames(&mut self) {
        let is_used = |stream: &Stream| !stream.to_node.is_empty() || !stream.to_client.is_empty();
        let used = self.streams.iter().filter(|(_, stream)| is_used(stream)).map(|(link, _)| *link);
        for link in used.collect::<Vec<_>>() {
            while let Some(frame) = self.next_for_node(link) {
                self.on_frame(link, frame);
            }
            while let Some(frame) = self.next_for_client(link) {
                let client = self.streams[&link].client.expect("nothing is kept for impostors");
                match frame {
                    ToClient::Event(event) => self.on_event(client, link, event),
                    ToClient::Lost => self.on_stream_lost(client, link),
                }
            }
        }
    }

    fn next_for_node(&mut self, link: LinkId) -> Option<ToNode> {
        let stream = self.streams.get_mut(&link)?;
        if self.down.contains(&stream.node) || self.paused.contains_key(&stream.node) || stream.stalled_until > self.now
        {
            return None;
        }
        Some(stream.to_node.pop_front_if(|(due, _)| *due <= self.now)?.1)
    }

    fn next_for_client(&mut self, link: LinkId) -> Option<ToClient> {
        let stream = self.streams.get(&link)?;
        let is_read = stream.client.is_some_and(|client| self.listens(client, link));
        if !is_read || stream.stalled_until > self.now {
            return None;
        }
        Some(self.streams.get_mut(&link)?.to_client.pop_front_if(|(due, _)| *due <= self.now)?.1)
    }

    fn on_frame(&mut self, link: LinkId, frame: ToNode) {
        let node = self.streams[&link].node;
        let clocks = self.clocks(node);
        match frame {
            ToNode::Start(identity, start) => self.replica(node).attach(link, &identity, start, clocks),
            ToNode::Ask(request) => {
                if let SessionRequest::Rearm { id, since, .. } = request
                    && since < self.nodes[&node].knows_changes_after
                {
                    self.streams.get_mut(&link).expect("a stream").in_doubt.insert(id);
                }
                self.replica(node).ask(link, request, clocks);
            }
            ToNode::Gone => {
                self.replica(node).detach(link);
                self.streams.remove(&link);
            }
        }
        if self.rng.random_bool(self.eagerness) {
            self.settle(node);
        }
    }

    /// A replica has something to say. Whatever a client has, it must be true of the history by then, whether the client
    /// ever hears of it or not.
    pub(super) fn say(&mut self, link: LinkId, event: SessionEvent) {
        let due = self.now + self.frame_delay();
        let Some(stream) = self.streams.get_mut(&link) else { return };
        assert!(!stream.is_over, "{link:?} gets {event:?} behind its last event");
        match &event {
            SessionEvent::Attached { session } => {
                assert!(stream.client.is_some(), "a session is for the client that has opened it");
                assert_eq!(*stream.session.get_or_insert(*session), *session, "attached to another session");
                self.promises.alive(*session, stream.started_ms);
            }
            SessionEvent::Pong { number } => {
                let session = stream.session.expect("attached before");
                self.promises.alive(session, stream.pings[number]);
            }
            SessionEvent::Fired { id, reason: TriggerReason::LeaderChanged } => {
                let is_upgraded = self.promises.is_upgrade(self.nodes[&stream.node].knows_changes_after);
                assert!(stream.in_doubt.remove(id) || is_upgraded, "{id:?} fires in doubt, where there is none");
            }
            SessionEvent::Ended(_) => {
                let session = stream.session.expect("only what was opened ends");
                assert!(self.promises.has_ended(session), "{session} is said to have ended, and has not");
                stream.is_over = true;
            }
            SessionEvent::Detached(error) => {
                stream.is_over = true;
                let count = match error {
                    RequestError::NotLeader { .. } => "stream: not leader",
                    RequestError::Overloaded => "stream: overloaded",
                    RequestError::Superseded => "stream: superseded",
                    RequestError::NotYourSession => "stream: not your session",
                    RequestError::NotApplied => "stream: write not applied",
                    RequestError::Unknown => "stream: write unknown",
                    RequestError::NotOpened(_) => "stream: no session opened",
                    RequestError::Invalid { .. } => "stream: asked too early",
                    // Its node was deaf for long, and pings went on.
                    RequestError::TooMuch => "stream: too many pings",
                    error => panic!("a stream is ended with '{error}'"),
                };
                assert!(stream.client.is_some() || !matches!(error, RequestError::Superseded), "an impostor is served");
                self.count(count);
            }
            SessionEvent::Written { .. } | SessionEvent::Answered { .. } | SessionEvent::Fired { .. } => {}
        }
        let stream = self.streams.get_mut(&link).expect("a stream");
        if stream.client.is_some() {
            let due = stream.to_client.back().map_or(due, |(last, _)| due.max(*last));
            stream.to_client.push_back((due, ToClient::Event(event)));
        }
    }
}

//! Clients whose requests wait for their answer: how each is handed to its peer, and answered whatever becomes of that.

use tokio::sync::oneshot;

use crate::access::Access;
use crate::machine::Command;
use crate::node::driver::Driver;
use crate::node::hosting::HostedPeer;
use crate::node::journey::{Asker, Journey};
use crate::protocol::{Reply, RequestError};
use crate::replica::{Answer, Ticket, Wanted};
use crate::types::Incarnation;

/// Requests of clients that wait for their answer, over all peers of the node.
const MAX_WAITING_CLIENTS: usize = 1 << 16;

/// A client whose request a replica has.
pub(super) struct WaitingClient {
    peer: Incarnation,
    asked: Asked,
    reply: oneshot::Sender<Reply>,
}

/// What a client has asked a replica.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Write,
    Query,
    Access,
    SetAccess,
    Upgrade,
}

impl WaitingClient {
    /// Answers that there will be no answer. What becomes of a write is then not known.
    pub(super) fn give_up(self, error: RequestError) {
        let is_write = matches!(self.asked, Asked::Write | Asked::SetAccess | Asked::Upgrade);
        let error = if is_write { RequestError::Unknown } else { error };
        let _ = self.reply.send(Reply::Failed(error));
    }
}

impl Driver {
    pub(super) fn write(
        &mut self,
        name: &str,
        (needs, asked): (Option<(String, Access)>, Asked),
        command: &Command,
        timeout_ms: u64,
        journey: Option<Box<Journey>>,
        reply: oneshot::Sender<Reply>,
    ) {
        let denied = needs.and_then(|(client, needed)| self.denied(name, &client, needed));
        let full = || self.shortage(name).map(|nodes| RequestError::DiskFull { nodes });
        if let Some(error) = denied.or_else(full) {
            let _ = reply.send(Reply::Failed(error));
            return;
        }
        let deadline_ms = self.now().monotonic_ms + timeout_ms;
        if let Some((ticket, peer)) = self.admit(name, asked, reply) {
            peer.replica.write(ticket, command.encode(), deadline_ms);
            let peer = peer.replica.raft().id();
            self.journeys.add(peer, Asker::Client(ticket), journey);
        }
    }

    /// Why a client may not do what needs this, where the peer knows that it may not.
    pub(super) fn denied(&self, name: &str, client: &str, needed: Access) -> Option<RequestError> {
        let peer = self.peers.get(self.names.get(name)?)?;
        peer.replica.check_access(client, needed).err().map(RequestError::AccessDenied)
    }

    /// Only a leader tells, as of its peers, once it knows that it still leads.
    pub(super) fn access(
        &mut self,
        name: &str,
        client: Option<String>,
        timeout_ms: u64,
        reply: oneshot::Sender<Reply>,
    ) {
        if let Err(error) = self.leader_named(name) {
            let _ = reply.send(Reply::Failed(error));
            return;
        }
        let deadline_ms = self.now().monotonic_ms + timeout_ms;
        if let Some((ticket, peer)) = self.admit(name, Asked::Access, reply) {
            peer.replica.query(ticket, client, Wanted::Access, deadline_ms);
        }
    }

    /// Mints a ticket for a client's request to a peer, or answers why it cannot be served.
    pub(super) fn admit(
        &mut self,
        name: &str,
        asked: Asked,
        reply: oneshot::Sender<Reply>,
    ) -> Option<(Ticket, &mut HostedPeer)> {
        let named = self.names.get(name).and_then(|incarnation| Some((*incarnation, self.peers.get_mut(incarnation)?)));
        let Some((incarnation, peer)) = named else {
            let error = RequestError::NoSuchPeer { name: name.to_owned(), node: self.parts.node.clone() };
            let _ = reply.send(Reply::Failed(error));
            return None;
        };
        if let Some(reason) = &peer.stopped {
            let _ = reply.send(Reply::Failed(RequestError::PeerStopped { reason: reason.clone() }));
            return None;
        }
        if self.waiting.len() >= MAX_WAITING_CLIENTS {
            let _ = reply.send(Reply::Failed(RequestError::Overloaded));
            return None;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.insert(ticket, WaitingClient { peer: incarnation, asked, reply });
        self.touched.insert(incarnation);
        Some((ticket, peer))
    }

    /// Answers all who wait for a peer that will not answer any more.
    pub(super) fn give_up_clients(&mut self, incarnation: Incarnation, error: &RequestError) {
        for (_, client) in self.waiting.extract_if(|_, client| client.peer == incarnation) {
            client.give_up(error.clone());
        }
        self.end_links(incarnation, error);
        self.journeys.forget_peer(incarnation);
    }

    pub(super) fn answer(&mut self, Answer { ticket, result }: Answer) {
        let Some(client) = self.waiting.remove(&ticket) else { return };
        self.journeys.end(client.peer, Asker::Client(ticket), result.as_ref().map(|(index, _)| *index));
        let access = self.peers.get(&client.peer).map(|peer| peer.replica.access());
        let reply = result.map_or_else(Reply::Failed, |(index, reply)| match client.asked {
            Asked::Write => Reply::Written { index, reply },
            Asked::Query => Reply::Answered { reply },
            Asked::Access => Reply::Access(access.cloned().unwrap_or_default()),
            Asked::SetAccess => Reply::AccessSet { set_at: index },
            Asked::Upgrade => Reply::Upgraded { index: Some(index) },
        });
        // A client that has gone does not want its answer.
        let _ = client.reply.send(reply);
    }
}

//! How messages leave: none before what it implies is durable (thesis section 3.8).

use crate::raft::{Envelope, Message, Raft};
use crate::types::Incarnation;

impl Raft {
    pub(super) fn send(&mut self, to: Incarnation, message: Message) {
        self.out.messages.push(Envelope { from: self.id, to, term: self.term(), message });
    }

    /// Sends a message once everything up to now is durable. Of several that wait for the same write and answer the same
    /// peer, one is enough: whoever repeats its requests to a peer with a slow disk must not fill that one's memory.
    pub(super) fn send_durable(&mut self, to: Incarnation, message: Message) {
        let envelope = Envelope { from: self.id, to, term: self.term(), message };
        let Some(token) = self.log.durable_after() else { return self.dispatch(envelope) };
        let after_the_same = self.held.iter_mut().rev().take_while(|(after, _)| *after == token);
        let mut said = after_the_same.map(|(_, held)| held).filter(|held| held.to == to);
        if !said.any(|held| held.message.absorb(&envelope.message)) {
            self.held.push_back((token, envelope));
        }
    }

    pub(super) fn dispatch(&mut self, envelope: Envelope) {
        if envelope.to == self.id {
            self.step_checked(envelope);
        } else {
            self.out.messages.push(envelope);
        }
    }
}

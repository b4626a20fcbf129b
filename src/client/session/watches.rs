//! The triggers of a session as its client knows them: armed on the stream, or to be armed again on the next.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::protocol::{MAX_WATCHED_BYTES, SessionRequest, TriggerId};
use crate::types::Index;

/// Armed triggers.
///
/// - A trigger is here from its query's answer until it fires or is given up; so it fires once at most.
/// - What they watch is bounded as nodes bound it: together it fits on any stream.
#[derive(Debug, Default)]
pub(super) struct Watches {
    armed: BTreeMap<TriggerId, Watch>,
    /// Those that are to be armed again on this stream.
    to_rearm: BTreeSet<TriggerId>,
    /// Triggers that the node has armed and nobody wants.
    to_disarm: BTreeSet<TriggerId>,
    size_bytes: usize,
}

#[derive(Debug)]
struct Watch {
    keys: Vec<Bytes>,
    since: Index,
}

impl Watch {
    /// What a key takes besides its bytes, in a frame and in memory.
    const KEY_OVERHEAD_BYTES: usize = 8;

    fn size_bytes(&self) -> usize {
        self.keys.iter().map(|key| key.len() + Self::KEY_OVERHEAD_BYTES).sum()
    }
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.armed.len()
    }

    /// The node has armed a trigger. False if all together watch too much: then it is given up.
    pub(super) fn arm(&mut self, id: TriggerId, keys: Vec<Bytes>, since: Index) -> bool {
        let watch = Watch { keys, since };
        let size_bytes = watch.size_bytes();
        if self.size_bytes + size_bytes > MAX_WATCHED_BYTES {
            self.to_disarm.insert(id);
            return false;
        }
        self.size_bytes += size_bytes;
        self.armed.insert(id, watch);
        true
    }

    /// A trigger has fired. False if nobody waits for it.
    pub(super) fn fired(&mut self, id: TriggerId) -> bool {
        self.to_disarm.remove(&id);
        self.remove(id).is_some()
    }

    /// Nobody wants this trigger any more.
    pub(super) fn give_up(&mut self, id: TriggerId) {
        let is_on_stream = !self.to_rearm.contains(&id);
        if self.remove(id).is_some() && is_on_stream {
            self.to_disarm.insert(id);
        }
    }

    /// The node has armed a trigger for a query that nobody waits for.
    pub(super) fn unwanted(&mut self, id: TriggerId) {
        self.to_disarm.insert(id);
    }

    fn remove(&mut self, id: TriggerId) -> Option<Watch> {
        self.to_rearm.remove(&id);
        let watch = self.armed.remove(&id)?;
        self.size_bytes -= watch.size_bytes();
        Some(watch)
    }

    /// The stream is gone, and all triggers on it.
    pub(super) fn detached(&mut self) {
        self.to_disarm.clear();
        self.to_rearm = self.armed.keys().copied().collect();
    }

    /// All triggers, which are gone.
    pub(super) fn end(&mut self) -> Vec<TriggerId> {
        let armed = std::mem::take(self).armed;
        armed.into_keys().collect()
    }

    pub(super) fn has_to_send(&self) -> bool {
        !self.to_disarm.is_empty() || !self.to_rearm.is_empty()
    }

    /// The next frame about triggers.
    pub(super) fn send(&mut self) -> Option<SessionRequest> {
        if let Some(id) = self.to_disarm.pop_first() {
            return Some(SessionRequest::Disarm { id });
        }
        let id = self.to_rearm.pop_first()?;
        let Watch { keys, since } = self.armed.get(&id)?;
        Some(SessionRequest::Rearm { id, keys: keys.clone(), since: *since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TriggerId = TriggerId(1);

    fn armed() -> Watches {
        let mut watches = Watches::default();
        assert!(watches.arm(ID, vec![Bytes::from_static(b"key")], Index(5)));
        watches
    }

    #[test]
    fn a_trigger_is_armed_again_on_the_next_stream_from_its_answer_on() {
        let mut watches = armed();
        assert_eq!(watches.send(), None, "the answer has armed it");
        watches.detached();
        let rearm = SessionRequest::Rearm { id: ID, keys: vec![Bytes::from_static(b"key")], since: Index(5) };
        assert_eq!((watches.send(), watches.send()), (Some(rearm), None));
        assert!(watches.fired(ID) && !watches.fired(ID));
        watches.detached();
        assert!(!watches.has_to_send());
        assert_eq!(watches.size_bytes, 0);
    }

    #[test]
    fn a_trigger_given_up_is_disarmed_where_it_is_armed() {
        let mut watches = armed();
        watches.give_up(ID);
        assert_eq!(watches.send(), Some(SessionRequest::Disarm { id: ID }));
        assert!(!watches.fired(ID), "it was about to; nobody wants to know");
        let mut watches = armed();
        watches.detached();
        watches.give_up(ID);
        assert_eq!(watches.send(), None, "it is armed nowhere");
    }

    #[test]
    fn what_would_not_fit_on_the_next_stream_is_given_up() {
        let mut watches = armed();
        let half = || vec![Bytes::from(vec![0; MAX_WATCHED_BYTES / 2])];
        assert!(watches.arm(TriggerId(2), half(), Index(6)));
        assert!(!watches.arm(TriggerId(3), half(), Index(6)));
        assert_eq!(watches.send(), Some(SessionRequest::Disarm { id: TriggerId(3) }));
        assert_eq!(watches.end(), [ID, TriggerId(2)]);
    }
}

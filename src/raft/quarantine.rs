//! A peer whose machine is not what the others' are. Its log is as good as any: it stores and votes. It does not lead, and
//! takes the next snapshot that the leader sends in place of its own state, also where its log would not need one.

use crate::raft::role::Role;
use crate::raft::{Raft, SnapshotMeta};
use crate::types::Index;

impl Raft {
    /// Puts this peer into quarantine, until it has a snapshot of the leader's. A leader steps down.
    pub fn quarantine(&mut self) {
        self.is_quarantined = true;
        if !matches!(self.role, Role::Follower(_)) {
            self.follow(self.term(), None);
        }
    }

    /// There is nothing to be replaced any more.
    pub fn end_quarantine(&mut self) {
        self.is_quarantined = false;
    }

    /// The last entry of the peer's snapshot; zero without one.
    #[must_use]
    pub fn snapshot_index(&self) -> Index {
        self.log.snapshot().map_or(Index::ZERO, |meta| meta.position.index)
    }

    /// The peer's snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.log.snapshot()
    }

    /// Takes a snapshot in place of the machine's state, if that is to be replaced. Only a later one than the own can: the
    /// own is of that state as well. One of entries that are not durable yet comes too early. Tells whether it was taken.
    pub(super) fn replace_state(&mut self, meta: &SnapshotMeta) -> bool {
        let position = meta.position;
        let is_of_use = self.snapshot_index() < position.index && position.index <= self.log.stable();
        if !self.is_quarantined || !is_of_use || !self.log.holds(position) {
            return false;
        }
        self.is_quarantined = false;
        self.log.commit_to(position.index);
        self.log.compact(meta.clone(), 0);
        self.delivery.rewind(position.index);
        self.out.install = Some(meta.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::raft::{Config, Configuration, Entry, Envelope, MemStorage, Message, Payload, RoleName, Write};
    use crate::types::{Incarnation, LogPosition, Term};

    const ME: Incarnation = Incarnation(1);
    const LEADER: Incarnation = Incarnation(2);

    fn configuration() -> Configuration {
        Configuration::of([ME, LEADER].map(|id| (id, format!("p{}@h:1", id.0).parse().unwrap())).into())
    }

    fn meta(index: u64) -> SnapshotMeta {
        let position = LogPosition::new(Term(1), Index(index));
        SnapshotMeta { position, time_ms: 0, configuration: configuration() }
    }

    fn hear(raft: &mut Raft, message: Message) {
        raft.step(Envelope { from: LEADER, to: ME, term: Term(1), message }, 0);
    }

    /// A follower that has applied entries 1 to 5. The first four are durable.
    fn follower() -> Raft {
        let mut disk = MemStorage::default();
        disk.write(&Write::bootstrap(configuration(), 0)).unwrap();
        let mut raft = Raft::new(ME, Config::default(), disk.restored(), 7);
        let payload = || Payload::Data(Bytes::from_static(b"a"));
        for index in 2..=5 {
            let prev = LogPosition::new(Term(1), Index(index - 1));
            let entries = vec![Entry { term: Term(1), index: Index(index), time_ms: 0, payload: payload() }];
            hear(&mut raft, Message::Append { prev, entries, commit: Index(index) });
            let write = raft.ready().write.unwrap();
            if index < 5 {
                raft.persisted(write.token);
            }
            let given = raft.ready().apply.last().map(|entry| entry.index);
            given.into_iter().for_each(|last| raft.applied(last));
        }
        raft
    }

    #[test]
    fn a_snapshot_replaces_the_state_of_who_is_in_quarantine_and_of_nobody_else() {
        let mut raft = follower();
        hear(&mut raft, Message::Snapshot { meta: meta(3) });
        assert_eq!((raft.ready().install, raft.status().refused), (None, 0), "its own state is as good");
        raft.quarantine();
        hear(&mut raft, Message::Snapshot { meta: meta(5) });
        assert_eq!(raft.ready().install, None, "the entries are not durable yet");
        hear(&mut raft, Message::Snapshot { meta: meta(3) });
        let ready = raft.ready();
        assert_eq!((ready.install, ready.apply.first().map(|entry| entry.index)), (Some(meta(3)), Some(Index(4))));
        assert_eq!(raft.snapshot(), Some(&meta(3)));
        hear(&mut raft, Message::Snapshot { meta: meta(4) });
        assert_eq!(raft.ready().install, None, "once");
        raft.quarantine();
        hear(&mut raft, Message::Snapshot { meta: meta(3) });
        assert_eq!(raft.ready().install, None, "its own may be of what is to be replaced");
        assert_eq!(raft.committed(), LogPosition::new(Term(1), Index(5)), "the log is as good as any");
    }

    #[test]
    fn who_is_in_quarantine_does_not_run() {
        let mut raft = follower();
        raft.quarantine();
        hear(&mut raft, Message::TimeoutNow);
        (0..1000).for_each(|_| raft.tick(0));
        assert_eq!((raft.status().role, raft.term()), (RoleName::Follower, Term(1)));
        let mut raft = follower();
        hear(&mut raft, Message::TimeoutNow);
        assert_eq!(raft.status().role, RoleName::Candidate);
        raft.quarantine();
        assert_eq!(raft.status().role, RoleName::Follower);
    }
}

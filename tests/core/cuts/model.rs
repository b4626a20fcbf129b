//! What a node should have on its disk, and random things to do to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::Rng;
use rand::seq::IteratorRandom;
use rand_chacha::ChaCha8Rng;
use zraft::raft::{
    Entry, HardState, InvalidWrite, LogRead, LogReadPurpose, MemStorage, Payload, SnapshotMeta, Upgrade, Write,
    WriteToken,
};
use zraft::store::Operation;
use zraft::types::{Digest, Incarnation, Index, LogPosition, Term};

use crate::peer::configuration;

/// The peers of a node, as its store must give them back.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub peers: BTreeMap<Incarnation, Peer>,
}

#[derive(Clone, Debug)]
pub struct Peer {
    pub record: Bytes,
    pub storage: MemStorage,
}

/// A thing to make durable; an [`Operation`] that can be applied twice.
#[derive(Clone, Debug)]
pub enum Step {
    Create(Incarnation, Write),
    Remove(Incarnation),
    Write(Incarnation, Write),
}

impl Step {
    pub fn operation(&self) -> Operation {
        match self.clone() {
            Self::Create(incarnation, bootstrap) => {
                Operation::Create { incarnation, record: record(incarnation), bootstrap }
            }
            Self::Remove(incarnation) => Operation::Remove(incarnation),
            Self::Write(incarnation, write) => Operation::Write(incarnation, write),
        }
    }
}

fn record(incarnation: Incarnation) -> Bytes {
    Bytes::from(format!("the record of {incarnation}"))
}

impl Model {
    pub fn apply(&mut self, step: &Step) -> Result<(), InvalidWrite> {
        match step {
            Step::Create(incarnation, bootstrap) => {
                let mut storage = MemStorage::default();
                storage.write(bootstrap)?;
                self.peers.insert(*incarnation, Peer { record: record(*incarnation), storage });
            }
            Step::Remove(incarnation) => drop(self.peers.remove(incarnation)),
            Step::Write(incarnation, write) => {
                if let Some(peer) = self.peers.get_mut(incarnation) {
                    peer.storage.write(write)?;
                }
            }
        }
        Ok(())
    }

    /// The snapshots that the peers refer to.
    pub fn snapshots(&self) -> BTreeSet<(Incarnation, LogPosition)> {
        let snapshot =
            |(id, peer): (&Incarnation, &Peer)| Some((*id, peer.storage.state().snapshot.as_ref()?.position));
        self.peers.iter().filter_map(snapshot).collect()
    }

    pub fn random_peer(&self, rng: &mut ChaCha8Rng) -> Option<Incarnation> {
        self.peers.keys().copied().choose(rng)
    }
}

impl Peer {
    /// The newest term that the log or the vote knows.
    fn term(&self) -> u64 {
        let state = self.storage.state();
        state.hard_state.term.max(state.last_position().term).0
    }

    /// A write as Raft makes them: entries at the end or in the place of others, a vote, a shorter log.
    pub fn random_write(&self, rng: &mut ChaCha8Rng) -> Write {
        let state = self.storage.state();
        let (base, last, term) = (self.settled().0, state.last.0, self.term());
        let mut write = Write::new(WriteToken(rng.random()));
        let (mut next, mut entry_term) = (last + 1, term);
        match rng.random_range(0..10) {
            0..3 => {
                let vote = rng.random_bool(0.7).then(|| Incarnation(rng.random_range(1..5)));
                write.hard_state = Some(HardState { term: Term(term + 1), vote, commit: Index(base) });
                if rng.random() {
                    return write;
                }
            }
            3 if last > base => {
                next = rng.random_range(base + 1..=last);
                entry_term = term + 1;
                write.truncate_from = Some(Index(next));
                write.hard_state = Some(HardState { term: Term(entry_term), vote: None, commit: Index(base) });
            }
            _ => {}
        }
        let count = rng.random_range(1..=4);
        write.entries = (next..next + count).map(|index| random_entry(entry_term, index, rng)).collect();
        write
    }

    /// What is under a snapshot is never truncated.
    fn settled(&self) -> Index {
        let state = self.storage.state();
        state.snapshot.as_ref().map_or(state.base.index, |snapshot| snapshot.position.index.max(state.base.index))
    }

    /// What a snapshot taken now may cover, if there is anything new in the log.
    pub fn random_position(&self, rng: &mut ChaCha8Rng) -> Option<LogPosition> {
        let state = self.storage.state();
        let index = Index((self.settled().0 + 1..=state.last.0).choose(rng)?);
        Some(LogPosition::new(state.term_at(index)?, index))
    }

    /// What a snapshot from a leader may cover: more than is in the log.
    pub fn position_ahead(&self, rng: &mut ChaCha8Rng) -> LogPosition {
        LogPosition::new(Term(self.term() + 1), Index(self.storage.state().last.0 + rng.random_range(1..5)))
    }

    /// Reads all of the log.
    pub fn whole_log(&self) -> LogRead {
        let state = self.storage.state();
        LogRead { purpose: LogReadPurpose::Apply, from: state.base.index.next(), to: state.last, max_bytes: usize::MAX }
    }
}

fn random_entry(term: u64, index: u64, rng: &mut ChaCha8Rng) -> Entry {
    let size = if rng.random_bool(0.05) { rng.random_range(0..9_000) } else { rng.random_range(0..200) };
    let payload = match rng.random_range(0..20) {
        0 => Payload::Noop,
        1 => Payload::Membership(configuration(rng.random_range(1..5))),
        2 => Payload::Upgrade(upgrade(rng.random())),
        _ => Payload::Data(vec![rng.random(); size].into()),
    };
    Entry { term: Term(term), index: Index(index), time_ms: 1_000 + index, payload }
}

fn upgrade(to: u8) -> Upgrade {
    Upgrade {
        from: Digest::of(b"before"),
        to: Digest::of(&[to]),
        migration: (to > 128).then(|| Bytes::from(vec![to; 9])),
    }
}

pub fn snapshot_meta(position: LogPosition) -> SnapshotMeta {
    SnapshotMeta { position, time_ms: 1_000 + position.index.0, configuration: configuration(1) }
}

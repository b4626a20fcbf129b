//! A machine with the backend of [`keys`](super::keys), and its snapshots.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zraft::access::AccessControl;
use zraft::codec;
use zraft::feature_level::FeatureLevel;
use zraft::machine::{Applied, Genesis, HostPart, Machine, NoOthers, Rulings, SessionTerms, SnapshotHead, StartError};
use zraft::protocol::CommandReply;
use zraft::raft::{Configuration, Entry, SnapshotMeta};
use zraft::settings::Settings;
use zraft::types::{ClusterId, Digest, Index, SessionId};

use super::keys::{Call, KeysFactory};

/// What a snapshot says of a session: the shape of what the machine keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub terms: SessionTerms,
    pub next: u64,
    pub acked_up_to: u64,
    /// By number: the entry that ran the command, and what the backend said.
    pub replies: BTreeMap<u64, (Index, CommandReply)>,
}

pub type Table = BTreeMap<SessionId, Row>;

/// The shape of a snapshot's host part.
type Host = (Bytes, Settings, String, Table, BTreeSet<SessionId>, AccessControl, FeatureLevel);

/// A snapshot as it lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub head: SnapshotHead,
    pub chunks: Vec<Bytes>,
}

impl Snapshot {
    /// The same with another table of sessions.
    pub fn forged(&self, forge: impl FnOnce(&mut Table)) -> Self {
        let bytes = self.head.host.encode();
        let (config, settings, version, mut table, orphaned, access, level) =
            codec::decode::<Host>(&bytes).expect("a host part");
        forge(&mut table);
        let bytes = codec::encode(&(config, settings, version, table, orphaned, access, level));
        let host = HostPart::decode(&bytes).expect("the shape of a host part");
        Self { head: SnapshotHead { host, ..self.head.clone() }, chunks: self.chunks.clone() }
    }
}

/// A machine and the calls that its backend has got.
pub struct Replica {
    pub machine: Machine,
    factory: KeysFactory,
}

impl Replica {
    pub fn start(settings: Settings) -> Self {
        let factory = KeysFactory::default();
        let genesis = Genesis { cluster: ClusterId(1), component: Digest::of(b"keys"), config: Bytes::new(), settings };
        Self { machine: Machine::start(genesis, &factory).expect("keys start"), factory }
    }

    pub fn apply(&mut self, entries: &[Entry]) -> Vec<Applied> {
        self.apply_ruled(entries, &Rulings::default())
    }

    pub fn apply_ruled(&mut self, entries: &[Entry], rulings: &Rulings) -> Vec<Applied> {
        let applied = self.machine.apply(entries, rulings, &mut NoOthers).expect("keys do not die");
        assert_eq!(applied.len(), entries.len(), "an outcome for each entry");
        applied
    }

    /// The calls into the backend since this was last asked, also those before a restart.
    pub fn take_calls(&self) -> Vec<Call> {
        self.factory.take_calls()
    }

    pub fn query(&mut self) -> Bytes {
        self.machine.query(b"").expect("keys do not die").reply.expect("keys refuse no query")
    }

    pub fn table(&self) -> Table {
        let (.., table, _, _, _) = codec::decode::<Host>(&self.head().host.encode()).expect("a host part");
        table
    }

    pub fn snapshot(&mut self) -> Snapshot {
        let mut chunks = Vec::new();
        let mut sink = |chunk| {
            chunks.push(chunk);
            Ok(())
        };
        self.machine.write_snapshot(&mut sink).expect("keys do not die");
        Snapshot { head: self.head(), chunks }
    }

    fn head(&self) -> SnapshotHead {
        let meta =
            SnapshotMeta { position: self.machine.applied(), time_ms: 0, configuration: Configuration::default() };
        self.machine.snapshot_head(meta)
    }

    /// Goes on from a snapshot.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), StartError> {
        let Snapshot { mut head, chunks } = snapshot.clone();
        head.host = HostPart::decode(&head.host.encode()).expect("a host part");
        let mut chunks = chunks.into_iter();
        self.machine = Machine::restore(head, &self.factory, &mut || Ok(chunks.next()))?;
        Ok(())
    }
}

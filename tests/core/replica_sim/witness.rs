//! Who has seen everything: the history that all replicas must agree on, and what each client may be told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use zraft::machine::{Applied, BackendReply, Command, Genesis, HashChain, Machine, Outcome};
use zraft::raft::{Entry, Payload};
use zraft::types::Index;

use super::backend::{ListFactory, number};
use super::node::Node;

/// One applied entry, and the state behind it.
struct Record {
    entry: Entry,
    outcome: Outcome,
    chain: HashChain,
    /// What a query answers from that state; it begins with the index.
    answer: Bytes,
}

/// What is known of the past. History grows with whichever replica is first to apply an entry.
pub struct Witness {
    /// Applies every entry once, one at a time, and is never restored.
    machine: Machine,
    /// What was applied; the entry at index `i` is at `i - 1`.
    records: Vec<Record>,
    /// Where each written number stands.
    placed: BTreeMap<u64, Index>,
    /// Numbers whose clients were told that nothing was changed.
    never: BTreeSet<u64>,
    /// Writes that may or may not come to pass.
    unknown: BTreeSet<u64>,
    /// Acknowledged writes.
    acknowledged: BTreeMap<u64, Index>,
    /// The latest state that any client has seen, by a write or a read.
    known: Index,
}

impl Witness {
    pub fn new(genesis: &Genesis) -> Self {
        Self {
            machine: Machine::start(genesis.clone(), &ListFactory).expect("a list starts"),
            records: Vec::new(),
            placed: BTreeMap::new(),
            never: BTreeSet::new(),
            unknown: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            known: Index::ZERO,
        }
    }

    /// What a read that is asked now must at least know.
    pub fn known(&self) -> Index {
        self.known
    }

    pub fn last(&self) -> Index {
        Index(self.records.len() as u64)
    }

    pub fn last_chain(&self) -> HashChain {
        self.machine.chain()
    }

    fn record(&self, index: Index) -> &Record {
        let place = usize::try_from(index.0 - 1).expect("an index is small here");
        self.records.get(place).unwrap_or_else(|| panic!("nobody has applied entry {index}"))
    }

    fn chain_at(&self, index: Index) -> HashChain {
        if index == Index::ZERO { HashChain::default() } else { self.record(index).chain }
    }

    /// A replica has applied entries; its chain is now `chain`.
    pub fn applied(&mut self, entries: &[Entry], applied: &[Applied], chain: HashChain) {
        assert_eq!(entries.len(), applied.len());
        for (entry, applied) in entries.iter().zip(applied) {
            if entry.index > self.last() {
                self.learn(entry);
            }
            let record = self.record(entry.index);
            assert_eq!(record.entry, *entry, "replicas apply the same entries");
            assert_eq!(record.outcome, applied.outcome, "replicas answer the same at {}", entry.index);
        }
        let last = entries.last().expect("no job is empty").index;
        assert_eq!(self.record(last).chain, chain, "hash chains are equal at {last}");
    }

    fn learn(&mut self, entry: &Entry) {
        let applied = self.machine.apply(std::slice::from_ref(entry)).expect("a list does not die").remove(0);
        let answer = self.machine.query(b"").expect("a list does not die").reply.expect("a list refuses no query");
        if let Payload::Data(data) = &entry.payload {
            let command = Command::decode(data).expect("a command as it was written");
            let Command::Write { data } = command else { panic!("no client has a session") };
            let number = number(&data);
            assert!(!self.never.contains(&number), "write {number} was said to change nothing, and stands in the log");
            let before = self.placed.insert(number, entry.index);
            assert_eq!(before, None, "write {number} is applied twice");
        }
        let chain = self.machine.chain();
        self.records.push(Record { entry: entry.clone(), outcome: applied.outcome, chain, answer });
    }

    /// A client was told where its write stands and what the backend said.
    pub fn acknowledged(&mut self, number: u64, index: Index, reply: &BackendReply) {
        assert_eq!(self.placed.get(&number), Some(&index), "write {number} is acknowledged where it does not stand");
        let outcome = Outcome::Written(reply.clone());
        assert_eq!(self.record(index).outcome, outcome, "write {number} gets the outcome of another");
        assert_eq!(self.acknowledged.insert(number, index), None, "write {number} is acknowledged twice");
        self.known = self.known.max(index);
    }

    /// A client was told that its write changed nothing and never will.
    pub fn never(&mut self, number: u64) {
        assert!(!self.placed.contains_key(&number), "write {number} stands in the log, and is said to change nothing");
        self.never.insert(number);
    }

    /// A client was told that its write may have been applied.
    pub fn unknown(&mut self, number: u64) {
        self.unknown.insert(number);
    }

    /// A client has read. Its answer is the state at one index: not one before `floor`, which some client knew of
    /// when the read was asked.
    pub fn read(&mut self, floor: Index, index: Index, answer: &Bytes) {
        assert_eq!(index, Index(number(&answer[..8])), "a read of another state than it is said to be");
        assert!(index >= floor, "a stale read: of {index}, when {floor} was known already");
        if index > Index::ZERO {
            assert_eq!(self.record(index).answer, answer, "a read of what was never the state at {index}");
        }
        self.known = self.known.max(index);
    }

    pub fn check_machine(&self, machine: &Machine) {
        let applied = machine.applied().index;
        assert_eq!(machine.chain(), self.chain_at(applied), "a machine at {applied} has the history of another");
    }

    /// What a node has and what its replica says of it are of the one history.
    pub fn check_node(&self, node: &Node) {
        self.check_machine(&node.machine);
        let (applied, chain) = node.replica.machine();
        assert_eq!(chain, self.chain_at(applied), "{} says of {applied} what is not so", node.id);
        assert!(applied <= node.machine.applied().index, "{} says it has applied what it has not", node.id);
        let status = node.replica.raft().status();
        assert!(status.snapshot.index <= node.machine.applied().index || !node.jobs.is_empty(), "{status:?}");
        assert_eq!(status.refused, 0, "correct peers talk no nonsense");
    }

    /// In the end all replicas are equal, and every write is where its client was told.
    pub fn check_end<'a>(&self, nodes: impl Iterator<Item = &'a Node>) {
        for node in nodes {
            assert_eq!(node.machine.applied().index, self.last(), "{} is behind", node.id);
            assert_eq!(node.replica.machine(), (self.last(), self.machine.chain()), "{} differs", node.id);
        }
        for number in self.placed.keys() {
            let fates = [self.acknowledged.contains_key(number), self.unknown.contains(number)];
            let known = fates.into_iter().filter(|fate| *fate).count();
            assert_eq!(known, 1, "write {number} stands in the log, and its client was told something else");
        }
    }
}

//! Who has seen everything: the history that all replicas must agree on, and what each client may be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use zraft::machine::{
    Applied, BackendFactory, BackendSource, Budget, Command, Fault, Genesis, HashChain, Key, Machine, Outcome, Ruling,
    Rulings,
};
use zraft::protocol::{CommandError, CommandReply};
use zraft::raft::{Entry, Payload};
use zraft::types::{Digest, Index, Term};

use super::backend::{KeyState, NumbersFactory, OWNERS, QUERY_HEAD_BYTES, command, number, version_of, words};
use super::node::Node;
use super::promises::SessionPromises;

/// One applied entry, and the state behind it.
struct Record {
    entry: Entry,
    outcome: Outcome,
    chain: HashChain,
    changed: Vec<Key>,
}

/// What is known of the past. History grows with whichever replica is first to apply an entry.
pub struct Witness {
    /// Applies every entry once, one at a time, and is never restored.
    machine: Machine,
    /// The backend that runs entries from here on.
    component: Digest,
    /// What was applied; the entry at index `i` is at `i - 1`.
    records: Vec<Record>,
    /// What was under each key from an entry on that has changed it.
    states: BTreeMap<Key, Vec<(Index, Bytes)>>,
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
            machine: Machine::start(genesis.clone(), &NumbersFactory::default().of(genesis.component))
                .expect("numbers start"),
            component: genesis.component,
            records: Vec::new(),
            states: BTreeMap::new(),
            placed: BTreeMap::new(),
            never: BTreeSet::new(),
            unknown: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            known: Index::ZERO,
        }
    }

    /// A client has seen the state of this index.
    pub fn know(&mut self, index: Index) {
        self.known = self.known.max(index);
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

    /// The term of an entry.
    pub fn term(&self, index: Index) -> Term {
        self.record(index).entry.term
    }

    /// What the entries behind one take in a log, in bytes.
    pub fn log_bytes_behind(&self, index: Index) -> u64 {
        let records = self.records.iter().filter(|record| record.entry.index > index);
        records.map(|record| record.entry.size_bytes() as u64).sum()
    }

    fn chain_at(&self, index: Index) -> HashChain {
        if index == Index::ZERO { HashChain::default() } else { self.record(index).chain }
    }

    /// A replica says what came of an entry, as it was ruled.
    pub fn applied(
        &mut self,
        entry: &Entry,
        told: &Applied,
        ruling: Option<&Ruling>,
        promises: &mut SessionPromises,
        now_ms: u64,
    ) {
        if entry.index > self.last() {
            self.learn(entry, ruling, promises, now_ms);
        }
        let record = self.record(entry.index);
        assert_eq!(record.entry, *entry, "replicas apply the same entries");
        assert_eq!(record.outcome, told.outcome, "replicas answer the same at {}", entry.index);
        assert_eq!(record.changed, told.changed, "replicas change the same at {}", entry.index);
        assert_eq!(record.chain, told.chain, "hash chains are equal at {}", entry.index);
    }

    fn learn(&mut self, entry: &Entry, ruling: Option<&Ruling>, promises: &mut SessionPromises, now_ms: u64) {
        let rulings = ruling.map(|ruling| (entry.index, ruling.clone())).into_iter().collect();
        let rulings = Rulings { budget: Budget::Unlimited, rulings };
        let applied =
            self.machine.apply(std::slice::from_ref(entry), &rulings, &mut AllVersions).expect("it was applied before");
        let applied = applied.into_iter().next().expect("an outcome");
        let mut query = |request: &[u8]| {
            let answer = self.machine.query(request).expect("numbers do not die");
            answer.reply.expect("numbers refuse no query")
        };
        for key in &applied.changed {
            let state = query(key).split_off(QUERY_HEAD_BYTES);
            self.states.entry(key.clone()).or_default().push((entry.index, state));
        }
        if let Outcome::Written(Ok(reply)) | Outcome::Answered { index: _, reply: Ok(reply), .. } = &applied.outcome
            && !matches!(&applied.outcome, Outcome::Answered { index, .. } if *index != entry.index)
        {
            let ran_by = words(reply).last().copied();
            assert_eq!(ran_by, Some(version_of(self.component)), "entry {} is run by another version", entry.index);
        }
        if let Outcome::Upgraded { component, .. } = &applied.outcome {
            self.component = *component;
            promises.upgraded(entry.index);
            promises.check_owned(&query(&OWNERS));
        }
        if let Payload::Data(data) = &entry.payload {
            let command = Command::decode(data).expect("a command as it was written");
            let has_run = promises.applied(entry.index, &command, &applied.outcome, &applied.changed, now_ms);
            promises.check_owned(&query(&OWNERS));
            if let (
                true,
                Command::Write { data } | Command::WriteBy { data, .. } | Command::SessionWrite { data, .. },
            ) = (has_run, &command)
            {
                self.place(number(data), entry.index);
            }
        }
        let Applied { outcome, changed, chain, .. } = applied;
        self.records.push(Record { entry: entry.clone(), outcome, chain, changed });
    }

    /// The backend that runs entries from here on.
    pub fn component(&self) -> Digest {
        self.component
    }

    /// Whether the backend has died of the end of sessions, and what they owned is still there.
    pub fn has_orphans(&self) -> bool {
        self.machine.orphaned() > 0
    }

    /// A client was told that the cluster has moved to another backend.
    pub fn upgraded(&self, index: Index, to: Digest) {
        let outcome = &self.record(index).outcome;
        assert!(matches!(outcome, Outcome::Upgraded { component, .. } if *component == to), "{outcome:?}");
    }

    fn place(&mut self, number: u64, index: Index) {
        assert!(!self.never.contains(&number), "write {number} was said to change nothing, and stands in the log");
        let before = self.placed.insert(number, index);
        assert_eq!(before, None, "write {number} is applied twice");
    }

    /// A client was told where its write stands and what the backend said.
    pub fn acknowledged(&mut self, number: u64, index: Index, reply: &CommandReply) {
        assert_eq!(self.placed.get(&number), Some(&index), "write {number} is acknowledged where it does not stand");
        let outcome = Outcome::Written(reply.clone());
        assert_eq!(self.record(index).outcome, outcome, "write {number} gets the outcome of another");
        assert_eq!(self.acknowledged.insert(number, index), None, "write {number} is acknowledged twice");
        self.known = self.known.max(index);
    }

    /// A client was told that it may not write.
    pub fn denied(&mut self, number: u64) {
        let index = *self.placed.get(&number).expect("only the machine denies a write here");
        let outcome = &self.record(index).outcome;
        assert!(
            matches!(outcome, Outcome::Written(Err(CommandError::Denied(_)))),
            "write {number} is not: {outcome:?}"
        );
        assert_eq!(self.acknowledged.insert(number, index), None, "write {number} is acknowledged twice");
        self.know(index);
    }

    /// A client was told where a command of its session has run.
    pub fn session_acknowledged(&mut self, number: u64, index: Index) {
        assert_eq!(self.placed.get(&number), Some(&index), "command {number} is acknowledged where it does not stand");
        assert_eq!(self.acknowledged.insert(number, index), None, "command {number} is acknowledged twice");
    }

    /// A client was not answered before its session has ended: what has not run never will. Tells whether that is so.
    pub fn never_if_not_placed(&mut self, number: u64) -> bool {
        let is_placed = self.placed.contains_key(&number);
        if is_placed {
            self.unknown.insert(number)
        } else {
            self.never.insert(number)
        };
        !is_placed
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
    pub fn read(&mut self, floor: Index, index: Index, keys: &[u8], answer: &Bytes) {
        assert_eq!(index, Index(number(&answer[..8])), "a read of another state than it is said to be");
        assert!(index >= floor, "a stale read: of {index}, when {floor} was known already");
        let time_ms = if index == Index::ZERO { 0 } else { self.record(index).entry.time_ms };
        let states = keys.iter().map(|key| self.state(*key, index));
        let expected = [command(index.0), command(time_ms)].into_iter().chain(states).collect::<Vec<_>>().concat();
        assert_eq!(answer, &expected, "a read of what was never the state at {index}");
        self.know(index);
    }

    /// What was under a key behind the entry at `index`.
    fn state(&self, key: u8, index: Index) -> Bytes {
        let states = self.states.get(&[key][..]).map(Vec::as_slice).unwrap_or_default();
        match states.partition_point(|(since, _)| *since <= index) {
            0 => vec![0; 8 * KeyState::WORDS].into(),
            after => states[after - 1].1.clone(),
        }
    }

    /// A machine that has come from a snapshot.
    pub fn check_restored(&self, machine: &Machine) {
        let applied = machine.applied().index;
        assert_eq!(machine.chain(), self.chain_at(applied), "a machine at {applied} has the history of another");
    }

    /// Whether a node's machine, and what its replica says of it, are of the one history.
    pub fn agrees_with(&self, node: &Node) -> bool {
        let machine = node.runner.machine().map(|machine| (machine.applied().index, machine.chain()));
        machine.is_some_and(|machine| self.knows(machine)) && self.knows(node.replica.machine())
    }

    /// Whether the one history has come to this entry with this hash chain.
    pub fn knows(&self, (at, chain): (Index, HashChain)) -> bool {
        at <= self.last() && chain == self.chain_at(at)
    }

    /// What a node's replica says of its machine is of the one history, unless it has gone wrong.
    pub fn check_node(&self, node: &Node) {
        let (applied, chain) = node.replica.machine();
        assert!(node.is_wrong || chain == self.chain_at(applied), "{} says of {applied} what is not so", node.id);
        let may_be_in_quarantine = node.is_wrong || node.lacks_backend;
        assert!(
            may_be_in_quarantine || node.replica.quarantine().is_none(),
            "{} is in quarantine for nothing",
            node.id
        );
        assert!(node.is_wrong || applied <= node.applied(), "{} says it has applied what it has not", node.id);
        let status = node.replica.raft().status();
        assert!(status.snapshot.index <= node.applied() || !node.jobs.is_empty(), "{status:?}");
        assert_eq!(status.refused, 0, "correct peers talk no nonsense");
    }

    /// In the end all replicas are equal, and every write is where its client was told.
    pub fn check_end<'a>(&self, nodes: impl Iterator<Item = &'a Node>, promises: &SessionPromises) {
        for node in nodes {
            assert_eq!(node.applied(), self.last(), "{} is behind", node.id);
            assert_eq!(node.replica.machine(), (self.last(), self.machine.chain()), "{} differs", node.id);
            assert_eq!(node.orphaned(), promises.orphaned(), "{} has other orphans", node.id);
            assert_eq!(node.runner.machine().map(Machine::component), Some(self.component), "{}", node.id);
        }
        for number in self.placed.keys() {
            let fates = [self.acknowledged.contains_key(number), self.unknown.contains(number)];
            let known = fates.into_iter().filter(|fate| *fate).count();
            assert_eq!(known, 1, "write {number} stands in the log, and its client was told something else");
        }
    }
}

/// Whatever the history moves to is there for who has seen everything.
struct AllVersions;

impl BackendSource for AllVersions {
    fn factory(&mut self, component: Digest) -> Result<Arc<dyn BackendFactory>, Fault> {
        Ok(Arc::new(NumbersFactory::default().of(component)))
    }
}

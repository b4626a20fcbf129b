//! What must hold, remembered over a whole run and checked after every step. Only what is new is looked at.

use std::collections::{BTreeMap, BTreeSet};

use zraft::raft::{
    AppendReply, ConfigValues, Configuration, Entry, Envelope, Message, Payload, ReadId, ReadReady, Restored, Status,
    Write,
};
use zraft::types::{Incarnation, Index, LogPosition, PeerId, Term};

use crate::peer::{Job, Machine, Peer};
use crate::sim::faults::Counts;
use crate::sim::world::Host;

/// No entry of a run is larger, and so no append that goes beyond a limit: the largest entries are joint configurations,
/// which may name every peer twice.
const LARGEST_ENTRY_BYTES: usize = 1500;

type Hosts = BTreeMap<Incarnation, Host>;

/// A peer as it was when last looked at.
#[derive(Default)]
struct Seen {
    term: Term,
    commit: Index,
    applied: Index,
    configuration_index: Index,
    /// The last entry of a leader, and its term.
    leading: Option<(Term, Index)>,
    /// The latest term in which it has said something that only a durable term allows.
    said: Term,
    /// Ticks since its disk has finished a write, while it owes one.
    disk_silent_ticks: u32,
    transfer_ticks: u32,
}

pub struct Promises {
    seen: BTreeMap<Incarnation, Seen>,
    leaders: BTreeMap<Term, Incarnation>,
    votes: BTreeMap<(Incarnation, Term), Incarnation>,
    /// Every entry ever written, by position, with the term of the entry before it (Log Matching).
    entries: BTreeMap<LogPosition, (Entry, Option<Term>)>,
    /// The terms of the committed entries, by index.
    committed: Vec<Term>,
    /// The terms of which an entry is committed.
    committed_terms: BTreeSet<Term>,
    /// The newest committed configuration.
    configuration: (Index, Configuration),
    /// The machine by applied index, whoever's it is.
    machines: BTreeMap<Index, Machine>,
    /// What a read must know at least.
    reads: BTreeMap<(Incarnation, ReadId), Index>,
    transfers: BTreeSet<(Term, Incarnation)>,
}

/// Whether more than half of the voters fit; true when there are none.
fn majority(voters: &BTreeMap<Incarnation, PeerId>, fits: impl Fn(Incarnation) -> bool) -> bool {
    voters.is_empty() || voters.keys().filter(|voter| fits(**voter)).count() * 2 > voters.len()
}

impl Promises {
    pub fn new(bootstrap: Write) -> Self {
        let [first] = &bootstrap.entries[..] else { panic!("a cluster begins with one entry") };
        let Payload::Membership(configuration) = &first.payload else { panic!("which says who belongs to it") };
        Self {
            seen: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            entries: [(first.position(), (first.clone(), Some(Term(0))))].into(),
            committed: vec![Term(0), first.term],
            committed_terms: [first.term].into(),
            configuration: (first.index, configuration.clone()),
            machines: BTreeMap::new(),
            reads: BTreeMap::new(),
            transfers: BTreeSet::new(),
        }
    }

    /// The last committed index.
    pub fn committed(&self) -> u64 {
        self.committed.len() as u64 - 1
    }

    /// The newest committed configuration, and where it stands.
    pub fn configuration(&self) -> (Index, &Configuration) {
        (self.configuration.0, &self.configuration.1)
    }

    fn seen(&mut self, id: Incarnation) -> &mut Seen {
        self.seen.entry(id).or_default()
    }

    /// Looks at a peer that has just spoken; the writes and jobs before these are known.
    pub fn check(&mut self, hosts: &Hosts, id: Incarnation, writes: usize, jobs: usize, counts: &mut Counts) {
        let peer = &hosts[&id].peer;
        let status = peer.raft.status();
        let led_before = self.seen(id).leading.map(|(term, _)| term);
        self.check_order(peer, &status);
        self.check_commits(hosts, peer, &status, counts);
        self.check_leader(hosts, peer, &status, counts);
        for write in peer.writes.iter().skip(writes) {
            let leads_on = led_before == Some(status.term) && peer.raft.is_leader();
            assert!(!leads_on || write.truncate_from.is_none(), "a leader only appends");
            self.check_write(peer, write);
        }
        self.check_configuration(peer, counts);
        for envelope in &peer.outbox {
            self.check_message(hosts, peer, envelope);
        }
        self.check_jobs(peer, jobs, counts);
        let seen = self.seen(id);
        (seen.term, seen.commit, seen.applied) = (status.term, status.commit, status.applied);
        seen.leading = peer.raft.is_leader().then_some((status.term, status.last.index));
    }

    /// Nothing goes back, and the log's parts are where they belong, in memory and on disk.
    fn check_order(&mut self, peer: &Peer, status: &Status) {
        let seen = self.seen(peer.id);
        assert!(status.term >= seen.term && status.commit >= seen.commit, "terms and commits do not go back");
        assert!(status.applied >= seen.applied, "what is applied stays so");
        let ordered = [status.first.prev(), status.snapshot.index, status.commit, status.last.index];
        assert!(ordered.is_sorted() && status.applied <= status.commit, "{status:?}");
        let disk = peer.disk.state();
        let snapshot = disk.snapshot.as_ref().map_or(Index::ZERO, |meta| meta.position.index);
        assert!([disk.base.index, snapshot, disk.last].is_sorted(), "{disk:?}");
        assert!(disk.hard_state.commit.0 <= self.committed() || disk.hard_state.commit <= status.commit);
        assert!(peer.machine.position.index >= snapshot || !peer.jobs.is_empty(), "a snapshot comes with its machine");
    }

    fn check_commits(&mut self, hosts: &Hosts, peer: &Peer, status: &Status, counts: &mut Counts) {
        let log = peer.written.state();
        let seen = self.seen(peer.id).commit;
        let first_new = Index(self.committed() + 1);
        for index in (seen.max(log.base.index).next().0..=status.commit.0).map(Index) {
            let term = log.term_at(index).expect("committed entries are in the log");
            if let Some(known) = self.committed.get(usize::try_from(index.0).expect("a small number")) {
                assert_eq!(*known, term, "a committed entry is the same everywhere");
                continue;
            }
            assert_eq!(self.committed() + 1, index.0, "entries are committed in order");
            self.committed.push(term);
            self.committed_terms.insert(term);
            if let Some((_, configuration)) = log.configurations.iter().find(|(at, _)| *at == index) {
                self.configuration_committed(index, configuration, counts);
                check_holders(hosts, log, index, configuration, true);
            }
        }
        if status.commit >= first_new {
            assert!(peer.raft.is_leader() || log.configuration_at(status.commit).is_some_and(|c| !c.is_voter(peer.id)));
            let of = log.term_at(status.commit);
            assert!(of == Some(status.term), "only entries of the own term are counted");
            let configuration = log.configuration_at(status.commit).expect("a leader knows who belongs to the cluster");
            let is_followed = peer.raft.configuration_index() > status.commit;
            check_holders(hosts, log, status.commit, configuration, !is_followed);
        }
    }

    fn configuration_committed(&mut self, index: Index, configuration: &Configuration, counts: &mut Counts) {
        counts.count(match (configuration.is_joint(), self.configuration.1.is_waiting()) {
            (true, true) => "learners promoted",
            (true, false) => "joint committed",
            (false, _) => "settled committed",
        });
        if configuration.is_joint() && self.configuration.1.is_waiting() {
            counts.count("joint committed");
        }
        self.configuration = (index, configuration.clone());
    }

    fn check_leader(&mut self, hosts: &Hosts, peer: &Peer, status: &Status, counts: &mut Counts) {
        let before = self.seen(peer.id).leading;
        if !peer.raft.is_leader() {
            if before.is_some_and(|(term, _)| term == status.term) && !peer.raft.configuration().is_voter(peer.id) {
                counts.count("leader left");
            }
            return;
        }
        match before {
            Some((term, last)) if term == status.term => {
                assert!(status.last.index >= last, "a leader only appends");
            }
            _ => self.check_new_leader(hosts, peer, status, counts),
        }
        let log = peer.written.state();
        let pending = log.configurations.iter().filter(|(index, _)| *index > status.commit).count();
        assert!(pending <= 1, "one change at a time");
    }

    fn check_new_leader(&mut self, hosts: &Hosts, peer: &Peer, status: &Status, counts: &mut Counts) {
        let term = status.term;
        assert!(self.leaders.insert(term, peer.id).is_none(), "one leader a term");
        let log = peer.written.state();
        let later = self.leaders.range(term.next()..).next().is_some();
        for (index, committed) in (0..).map(Index).zip(&self.committed).skip(1).filter(|_| !later) {
            let is_held = index <= log.base.index || log.term_at(index) == Some(*committed);
            assert!(is_held, "a leader has every committed entry: {index} is missing");
        }
        let configuration = peer.raft.configuration();
        let state = |id| hosts.get(&id).map(|host: &Host| host.peer.disk.state().hard_state);
        let voted = |id| {
            let for_itself = id == peer.id && state(id).is_some_and(|it| (it.term, it.vote) == (term, Some(id)));
            for_itself || self.votes.get(&(id, term)) == Some(&peer.id)
        };
        assert!(majority(&configuration.voters, voted), "elected by no majority");
        assert!(majority(&configuration.outgoing, voted), "elected by no majority of the outgoing voters");
        if configuration.is_joint() {
            counts.count("leader change in joint");
        }
        if self.transfers.iter().any(|(before, to)| *to == peer.id && before.next() == term) {
            counts.count("transfer succeeded");
        }
    }

    /// Log Matching: an entry's position determines its content and the entry before it, and so all before it.
    fn check_write(&mut self, peer: &Peer, write: &Write) {
        let log = peer.written.state();
        for entry in &write.entries {
            let is_still_there = log.term_at(entry.index) == Some(entry.term);
            let before = log.term_at(entry.index.prev()).filter(|_| is_still_there);
            let is_new = !self.entries.contains_key(&entry.position());
            if is_new && let Payload::Membership(configuration) = &entry.payload {
                self.check_change(log, entry, configuration);
            }
            let known = self.entries.entry(entry.position()).or_insert_with(|| (entry.clone(), before));
            assert_eq!(&known.0, entry, "entries at equal positions are equal");
            match (known.1, before) {
                (Some(known), Some(before)) => {
                    assert_eq!(known, before, "logs that agree on an entry agree on the one before it");
                }
                (None, before) => known.1 = before,
                (Some(_), None) => {}
            }
        }
    }

    /// A leader changes the peers only once it knows what is committed, and only to a configuration each of whose
    /// quorums intersects each of the one before.
    fn check_change(&self, log: &Restored, entry: &Entry, new: &Configuration) {
        assert!(self.committed_terms.contains(&entry.term), "a change before an entry of the own term is committed");
        let old = log.configuration_at(entry.index.prev()).expect("a leader knows who belongs to the cluster");
        let ids: Vec<_> = old.members().union(&new.members()).copied().collect();
        let quorums = |of: &Configuration| -> Vec<u64> {
            let is_quorum = |set: &u64| {
                let fits = |id| ids.iter().position(|known| *known == id).is_some_and(|at| set & (1 << at) != 0);
                majority(&of.voters, fits) && majority(&of.outgoing, fits)
            };
            (0..1 << ids.len()).filter(is_quorum).collect()
        };
        let (before, after) = (quorums(old), quorums(new));
        assert!(before.iter().all(|one| after.iter().all(|other| one & other != 0)), "{old:?} -> {new:?}");
    }

    /// In effect is the newest configuration in the log.
    fn check_configuration(&mut self, peer: &Peer, counts: &mut Counts) {
        let (log, index) = (peer.written.state(), peer.raft.configuration_index());
        let seen = self.seen(peer.id);
        let before = std::mem::replace(&mut seen.configuration_index, index);
        if before == index {
            return;
        }
        if index < before {
            counts.count("configuration rolled back");
        }
        let newest = log.configuration_at(log.last).cloned().unwrap_or_default();
        assert_eq!(*peer.raft.configuration(), newest, "the newest configuration is in effect");
    }

    /// Nothing is said before what it implies is durable; one vote a term, over all lives.
    fn check_message(&mut self, hosts: &Hosts, peer: &Peer, envelope: &Envelope) {
        let durable = peer.disk.state();
        let voted_for = match envelope.message {
            Message::VoteReply { granted: true } => envelope.to,
            Message::Vote { .. } => envelope.from,
            Message::AppendReply(AppendReply::Accepted { matched }) => {
                assert!(durable.last >= matched && durable.hard_state.term >= envelope.term, "accepted too early");
                self.check_acceptance(hosts, durable, envelope, matched);
                self.said(peer.id, envelope.term);
                return;
            }
            Message::Append { .. } | Message::Heartbeat { .. } | Message::TimeoutNow => {
                assert!(peer.raft.address(envelope.to).is_some(), "a leader knows where its followers live");
                return check_inflights(peer, envelope.to);
            }
            _ => return,
        };
        assert!(durable.hard_state.term >= envelope.term, "a vote before its term is durable");
        if durable.hard_state.term == envelope.term {
            assert_eq!(durable.hard_state.vote, Some(voted_for), "a vote before it is durable");
        }
        self.said(peer.id, envelope.term);
        let vote = *self.votes.entry((peer.id, envelope.term)).or_insert(voted_for);
        assert_eq!(vote, voted_for, "one vote a term");
    }

    /// Only what is committed and durable here is given to the machine.
    fn check_jobs(&self, peer: &Peer, known: usize, counts: &mut Counts) {
        let durable = peer.disk.state();
        for job in peer.jobs.iter().skip(known) {
            let Job::Apply(entries) = job else {
                counts.count("snapshot installed");
                self.check_whole_log(peer);
                continue;
            };
            let last = entries.last().expect("a job is not empty");
            let term = durable.term_at(last.index);
            assert!(durable.base.index > last.index || term == Some(last.term), "applied before it is durable");
            assert!(last.index <= peer.raft.status().commit, "applied before it is committed");
        }
    }

    /// Log Matching for what an install has left, which no write mentions.
    fn check_whole_log(&self, peer: &Peer) {
        let log = peer.written.state();
        for index in (log.base.index.next().0..=log.last.0).map(Index) {
            let position = LogPosition::new(log.term_at(index).expect("a log has no gaps"), index);
            if let Some((_, Some(before))) = self.entries.get(&position) {
                assert_eq!(
                    log.term_at(index.prev()),
                    Some(*before),
                    "a snapshot's log goes on with what is not behind it"
                );
            }
        }
    }

    /// What is accepted is what the leader has there.
    fn check_acceptance(&self, hosts: &Hosts, durable: &Restored, envelope: &Envelope, matched: Index) {
        let leader = &hosts[&envelope.to].peer;
        let leads = leader.raft.is_leader() && leader.raft.term() == envelope.term;
        if let (true, Some(here), Some(there)) =
            (leads, durable.term_at(matched), leader.written.state().term_at(matched))
        {
            assert_eq!(here, there, "accepted what the leader does not have");
        }
    }

    fn said(&mut self, id: Incarnation, term: Term) {
        let seen = self.seen(id);
        seen.said = seen.said.max(term);
    }

    pub fn check_machine(&mut self, machine: &Machine) {
        if machine.position != LogPosition::ZERO {
            let index = machine.position.index;
            let term = self.committed[usize::try_from(index.0).expect("a small number")];
            assert_eq!(term, machine.position.term, "only what is committed is applied");
            let known = self.machines.entry(index).or_insert_with(|| machine.clone());
            assert_eq!(known, machine, "machines at equal indexes are equal");
        }
    }

    pub fn persisted(&mut self, id: Incarnation) {
        self.seen(id).disk_silent_ticks = 0;
    }

    /// After a tick: a transfer ends in time, and a leader whose disk stands still steps down in time.
    pub fn check_tick(&mut self, peer: &Peer, values: &ConfigValues, led_before: bool, counts: &mut Counts) {
        let is_transferring = peer.raft.transferring_to().is_some();
        let seen = self.seen(peer.id);
        seen.transfer_ticks = if is_transferring { seen.transfer_ticks + 1 } else { 0 };
        assert!(seen.transfer_ticks <= values.election_ticks, "a transfer blocks proposals");
        // Who sleeps has nothing to commit, and begins to count when it wakes.
        let is_disk_asked = !peer.writes.is_empty() && !peer.raft.is_asleep();
        seen.disk_silent_ticks = if is_disk_asked { seen.disk_silent_ticks + 1 } else { 0 };
        if led_before && !peer.raft.is_leader() && seen.disk_silent_ticks >= values.election_ticks {
            counts.count("stepped down with a stalled disk");
        }
        let is_stalled = seen.disk_silent_ticks > values.election_ticks + 1;
        assert!(!is_stalled || !peer.raft.is_leader(), "a leader whose disk stands still leads on");
    }

    pub fn transfer_started(&mut self, leader: &Peer, to: Incarnation) {
        self.seen(leader.id).transfer_ticks = 0;
        self.transfers.insert((leader.raft.term(), to));
    }

    pub fn read_started(&mut self, id: Incarnation, read: ReadId) {
        let committed = Index(self.committed());
        assert!(self.reads.insert((id, read), committed).is_none(), "a read's name is used once");
    }

    pub fn is_answered(&self, id: Incarnation, read: ReadId) -> bool {
        !self.reads.contains_key(&(id, read))
    }

    pub fn check_read(&mut self, id: Incarnation, read: ReadReady) {
        let at_least = self.reads.remove(&(id, read.id)).expect("a read is answered once");
        assert!(read.index >= at_least, "a stale read: {read:?} < {at_least}");
    }

    pub fn read_lost(&mut self, id: Incarnation, read: ReadId) {
        self.reads.remove(&(id, read)).expect("a read is lost once");
    }

    pub fn check_no_read_waits(&self) {
        assert!(self.reads.is_empty(), "reads were never answered: {:?}", self.reads);
    }

    pub fn crashed(&mut self, id: Incarnation) {
        self.reads.retain(|(reader, _), _| *reader != id);
    }

    /// What was said is remembered; what was never said may be forgotten.
    pub fn check_restart(&mut self, peer: &Peer) {
        let disk = peer.disk.state();
        let said = self.seen(peer.id).said;
        assert!(disk.hard_state.term >= said, "a term is forgotten");
        assert!(disk.hard_state.commit.0 <= self.committed(), "what was not committed is taken for it");
        let last_vote = self.votes.range((peer.id, Term(0))..=(peer.id, Term(u64::MAX))).next_back();
        if let Some(((_, term), vote)) = last_vote.filter(|((_, term), _)| *term == disk.hard_state.term) {
            assert_eq!(disk.hard_state.vote, Some(*vote), "the vote in {term} is forgotten");
        }
        let seen = Seen { term: disk.hard_state.term, said, ..Seen::default() };
        self.seen.insert(peer.id, seen);
        self.check_machine(&peer.machine);
    }
}

/// A committed entry is on the synced disks of a majority of every set of voters that decides about it. Where a leader
/// has left the joint configuration already, the outgoing voters may have missed what came after it.
fn check_holders(hosts: &Hosts, log: &Restored, index: Index, configuration: &Configuration, with_outgoing: bool) {
    let term = log.term_at(index);
    let holds = |id| {
        let disk = hosts.get(&id).map(|host: &Host| host.peer.disk.state());
        disk.is_some_and(|disk| disk.base.index >= index || disk.term_at(index) == term)
    };
    assert!(majority(&configuration.voters, holds), "{index} is committed and durable on no majority");
    let outgoing = !with_outgoing || majority(&configuration.outgoing, holds);
    assert!(outgoing, "{index} is committed and durable on no majority of the outgoing voters");
}

/// What is on its way to a follower is bounded.
fn check_inflights(peer: &Peer, to: Incarnation) {
    let status = peer.raft.status();
    let Some(follower) = status.followers.iter().find(|follower| follower.id == to) else { return };
    let values = &peer.values;
    assert!(follower.inflight_messages <= values.max_inflight_messages, "{follower:?}");
    assert!(follower.inflight_bytes < values.max_inflight_bytes + LARGEST_ENTRY_BYTES, "{follower:?}");
}

//! Scripts that tell one story of a small cluster each: `tests/raft/*.golden`. What a command prints is what the
//! peers did. `UPDATE_GOLDENFILES=1 cargo test --test core` writes the outputs anew.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster COUNT [KEY=VALUE]...` | starts peers 1 to COUNT; keys are those of `ConfigValues` |
//! | `join ID` | starts a peer that has nothing yet |
//! | `members ID PEER...` | asks a leader to change the voters to these |
//! | `transfer ID TO` | asks a leader to hand leadership to another |
//! | `disk ID TERM...` | replaces the peer by one whose log holds entry 1 and then entries of these terms |
//! | `campaign ID` | lets time pass for one peer until it stops following |
//! | `hasten ID` | asks a peer to run at once if it knows no leader |
//! | `tick ID COUNT` | lets time pass for one peer |
//! | `propose ID DATA...`, `read ID` | what clients want |
//! | `persist ID [COUNT]` | makes the oldest writes durable; without COUNT all |
//! | `deliver`, `drop`, `repeat [from=ID] [to=ID] [nth=N]` | what happens to messages that are on their way now, or to one |
//! | `deliver ... report=lost`, `report=failed` | and what the sender of a snapshot hears of it, when not that it arrived |
//! | `suspect ID` | the peer is told that its leader may be gone |
//! | `settle` | persists and delivers everything until nothing is left |
//! | `stall ID`, `unstall ID` | `settle` leaves this peer's disk alone |
//! | `cut ID...`, `heal` | drops what crosses between these peers and the others |
//! | `crash ID`, `restart ID` | writes that were not persisted are lost |
//! | `snapshot ID KEEP` | takes a snapshot and lets the log before it go |
//! | `status [ID...]` | shows where peers stand |

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use zraft::raft::{ConfigValues, Entry, Envelope, FollowerState, HardState, MemStorage, Message, Payload, Write};
use zraft::types::{Incarnation, Index, Term};

use crate::peer::{Machine, Peer, configuration, peers};
use crate::words::{listed, said, written};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A message on its way, and the snapshot's bytes that travel with it.
type Travelling = (Envelope, Option<Machine>);

/// What becomes of a message.
#[derive(Clone, Copy)]
struct Fate {
    arrives: bool,
    /// What the sender of a snapshot is told: whether it arrived. Nothing when the report is lost.
    report: Option<bool>,
}

impl Fate {
    const ARRIVES: Self = Self { arrives: true, report: Some(true) };
    const LOST: Self = Self { arrives: false, report: Some(false) };

    /// It arrives, and this becomes of the report.
    fn arrives(report: Option<&str>) -> Outcome<Self> {
        let report = match report {
            None => Some(true),
            Some("failed") => Some(false),
            Some("lost") => None,
            Some(other) => return Err(format!("no report '{other}'").into()),
        };
        Ok(Self { report, ..Self::ARRIVES })
    }
}

/// Rounds after which `settle` calls it a livelock, and ticks after which `campaign` does.
const MAX_ROUNDS: usize = 200;

#[derive(Default)]
struct Script {
    values: ConfigValues,
    count: u64,
    peers: BTreeMap<Incarnation, Peer>,
    down: BTreeSet<Incarnation>,
    stalled: BTreeSet<Incarnation>,
    cut: BTreeSet<Incarnation>,
    network: Vec<Travelling>,
    lives: u64,
    output: String,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome<String> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "cluster" => self.cluster(&mut args)?,
            "disk" => self.disk(&mut args)?,
            "join" => {
                let id = peer_id(&mut args)?;
                self.peers.insert(id, Peer::start(id, &self.values, MemStorage::default(), id.0));
            }
            "members" => self.members(&mut args)?,
            "transfer" => {
                let (id, to) = (peer_id(&mut args)?, peer_id(&mut args)?);
                self.peer(id)?.raft.transfer(to)?;
                self.pump(id)?;
            }
            "campaign" => self.campaign(peer_id(&mut args)?)?,
            "hasten" => {
                let id = peer_id(&mut args)?;
                self.peer(id)?.raft.hasten_election();
                self.pump(id)?;
            }
            "tick" => {
                let id = peer_id(&mut args)?;
                for _ in 0..number(&mut args)?.unwrap_or(1) {
                    self.peer(id)?.raft.tick(0);
                    self.pump(id)?;
                }
            }
            "propose" => self.propose(&mut args)?,
            "read" => self.read(peer_id(&mut args)?)?,
            "persist" => self.persist(&mut args)?,
            "deliver" | "drop" => {
                let fate = if command.name == "drop" { Fate::LOST } else { Fate::arrives(args.take_key("report"))? };
                let (meant, rest) = self.meant(&mut args)?;
                self.network = rest;
                meant.into_iter().try_for_each(|(envelope, file)| self.deliver_one(envelope, file, fate))?;
            }
            "repeat" => {
                let (mut copies, rest) = self.meant(&mut args)?;
                self.network = rest;
                copies.extend(copies.clone());
                self.network.extend(copies);
            }
            "settle" => self.settle()?,
            "stall" => drop(self.stalled.insert(peer_id(&mut args)?)),
            "unstall" => drop(self.stalled.remove(&peer_id(&mut args)?)),
            "cut" => {
                while let Some(id) = number(&mut args)? {
                    self.cut.insert(Incarnation(id));
                }
            }
            "heal" => self.cut.clear(),
            "crash" => drop(self.down.insert(peer_id(&mut args)?)),
            "restart" => self.restart(peer_id(&mut args)?)?,
            "suspect" => {
                let id = peer_id(&mut args)?;
                self.peer(id)?.raft.suspect_leader();
                self.pump(id)?;
            }
            "snapshot" => {
                let id = peer_id(&mut args)?;
                let keep = number(&mut args)?.unwrap_or(0);
                self.peer(id)?.take_snapshot(keep);
                self.pump(id)?;
            }
            "status" => self.status(&mut args)?,
            other => return Err(format!("no command '{other}'").into()),
        }
        args.reject_next()?;
        Ok(std::mem::take(&mut self.output))
    }
}

fn number(args: &mut ArgumentConsumer<'_>) -> Outcome<Option<u64>> {
    Ok(args.next_pos().map(str::parse).transpose()?)
}

fn peer_id(args: &mut ArgumentConsumer<'_>) -> Outcome<Incarnation> {
    number(args)?.map(Incarnation).ok_or("which peer?".into())
}

impl Script {
    fn peer(&mut self, id: Incarnation) -> Outcome<&mut Peer> {
        if self.down.contains(&id) {
            return Err(format!("{id} is down").into());
        }
        self.peers.get_mut(&id).ok_or(format!("there is no {id}").into())
    }

    fn cluster(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        *self = Self { lives: self.lives, ..Self::default() };
        self.count = number(args)?.ok_or("how many peers?")?;
        while let Some((key, value)) = args.next_key() {
            let value: usize = value.parse()?;
            match key {
                "max_append_bytes" => self.values.max_append_bytes = value,
                "max_inflight_messages" => self.values.max_inflight_messages = value,
                "max_inflight_bytes" => self.values.max_inflight_bytes = value,
                "max_uncommitted_bytes" => self.values.max_uncommitted_bytes = value,
                "quiesce_ticks" => self.values.quiesce_ticks = u32::try_from(value)?,
                "lease_ticks" => self.values.lease_ticks = u32::try_from(value)?,
                "max_promotion_lag" => self.values.max_promotion_lag = value as u64,
                "cached_log_bytes" => self.values.cached_log_bytes = value,
                other => return Err(format!("no setting '{other}'").into()),
            }
        }
        (1..=self.count).try_for_each(|id| self.start(Incarnation(id), &[]))
    }

    fn disk(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = peer_id(args)?;
        let mut terms = Vec::new();
        while let Some(term) = number(args)? {
            terms.push(Term(term));
        }
        self.start(id, &terms)
    }

    fn start(&mut self, id: Incarnation, terms: &[Term]) -> Outcome {
        let mut write = Write::bootstrap(configuration(self.count), 0);
        let entry = |(index, term): (u64, &Term)| {
            let payload = Payload::Data(Bytes::from(format!("{index}@{term}")));
            Entry { term: *term, index: Index(index), time_ms: 0, payload }
        };
        write.entries.extend((2..).zip(terms).map(entry));
        let term = terms.last().copied().unwrap_or(Term(1));
        write.hard_state = Some(HardState { term, vote: None, commit: Index(1) });
        let mut disk = MemStorage::default();
        disk.write(&write)?;
        self.peers.insert(id, Peer::start(id, &self.values, disk, id.0));
        self.pump(id)
    }

    fn restart(&mut self, id: Incarnation) -> Outcome {
        self.down.remove(&id);
        self.lives += 1;
        let (values, seed) = (self.values.clone(), 100 + self.lives);
        self.peer(id)?.restart(&values, seed);
        self.pump(id)
    }

    fn campaign(&mut self, id: Incarnation) -> Outcome {
        let role = self.peer(id)?.raft.status().role;
        for _ in 0..MAX_ROUNDS {
            self.peer(id)?.raft.tick(0);
            if self.peer(id)?.raft.status().role != role {
                return self.pump(id);
            }
        }
        Err(format!("{id} stays {role:?}").into())
    }

    fn propose(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = peer_id(args)?;
        let data = std::iter::from_fn(|| args.next_pos()).map(|data| Bytes::from(data.to_owned())).collect();
        self.peer(id)?.raft.propose(data, 0)?;
        self.pump(id)
    }

    fn members(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = peer_id(args)?;
        let voters: Vec<_> = std::iter::from_fn(|| number(args).transpose()).collect::<Outcome<_>>()?;
        self.peer(id)?.raft.propose_membership(peers(voters), 0)?;
        self.pump(id)
    }

    fn read(&mut self, id: Incarnation) -> Outcome {
        self.peer(id)?.raft.read_index()?;
        self.pump(id)
    }

    fn persist(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = peer_id(args)?;
        for _ in 0..number(args)?.unwrap_or(u64::MAX) {
            if !self.peer(id)?.persist_one() {
                break;
            }
            self.pump(id)?;
        }
        Ok(())
    }

    /// Parts the messages on their way into those between the named peers, or one of them, and the rest.
    fn meant(&self, args: &mut ArgumentConsumer<'_>) -> Outcome<(Vec<Travelling>, Vec<Travelling>)> {
        let mut key = |name| args.take_key(name).map(str::parse::<u64>).transpose();
        let (from, to, nth) = (key("from")?, key("to")?, key("nth")?);
        let mut seen = 0;
        let parts: (Vec<_>, Vec<_>) = self.network.iter().cloned().partition(|(envelope, _)| {
            let is_between = from.is_none_or(|id| id == envelope.from.0) && to.is_none_or(|id| id == envelope.to.0);
            seen += u64::from(is_between);
            is_between && nth.is_none_or(|nth| nth == seen)
        });
        if nth.is_some() && parts.0.is_empty() {
            return Err(format!("there are only {seen} such messages").into());
        }
        Ok(parts)
    }

    fn deliver_one(&mut self, envelope: Envelope, file: Option<Machine>, fate: Fate) -> Outcome {
        let (from, to) = (envelope.from, envelope.to);
        let lost = !fate.arrives
            || self.down.contains(&to)
            || !self.peers.contains_key(&to)
            || self.cut.contains(&from) != self.cut.contains(&to);
        let snapshot = match &envelope.message {
            Message::Snapshot { meta } => Some(meta.position.index),
            _ => None,
        };
        if lost {
            writeln!(self.output, "lost: {}", said(&envelope))?;
        } else {
            let peer = self.peer(to)?;
            if let (Some(index), Some(file)) = (snapshot, file) {
                peer.files.insert(index, file);
            }
            peer.raft.step(envelope, 0);
            self.pump(to)?;
        }
        if let (Some(_), Some(report)) = (snapshot, fate.report)
            && !self.down.contains(&from)
        {
            self.peer(from)?.raft.snapshot_sent(to, report && !lost);
            self.pump(from)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Outcome {
        for _ in 0..MAX_ROUNDS {
            let ids: Vec<_> = self.peers.keys().copied().filter(|id| !self.down.contains(id)).collect();
            let mut busy = !self.network.is_empty();
            for id in ids {
                while !self.stalled.contains(&id) && self.peer(id)?.persist_one() {
                    busy = true;
                    self.pump(id)?;
                }
            }
            for (envelope, file) in std::mem::take(&mut self.network) {
                self.deliver_one(envelope, file, Fate::ARRIVES)?;
            }
            if !busy {
                return Ok(());
            }
        }
        Err("it never settles".into())
    }

    /// Tells what the peer does; its machine and its reads of the log never wait.
    fn pump(&mut self, id: Incarnation) -> Outcome {
        let output = &mut self.output;
        let peer = self.peers.get_mut(&id).ok_or("no such peer")?;
        let mut writes_seen = peer.writes.len();
        loop {
            peer.pump();
            for status in peer.statuses.drain(..) {
                let leader = status.leader.map(|leader| format!(" of {leader}")).unwrap_or_default();
                writeln!(output, "{id} is {:?}{leader} in term {}", status.role, status.term)?;
            }
            for write in peer.writes.iter().skip(writes_seen) {
                writeln!(output, "{id} writes {}", written(write))?;
            }
            writes_seen = peer.writes.len();
            let files = &peer.files;
            let with_file = |envelope: Envelope| match &envelope.message {
                Message::Snapshot { meta } => (envelope.clone(), files.get(&meta.position.index).cloned()),
                _ => (envelope, None),
            };
            let sent: Vec<_> = peer.outbox.drain(..).chain(peer.snapshots.drain(..)).map(with_file).collect();
            sent.iter().try_for_each(|(envelope, _)| writeln!(output, "{}", said(envelope)))?;
            self.network.extend(sent);
            for read in peer.reads.drain(..) {
                writeln!(output, "{id} may read at {}", read.index)?;
            }
            for _ in peer.reads_lost.drain(..) {
                writeln!(output, "{id} has lost a read")?;
            }
            let installing = matches!(peer.jobs.front(), Some(crate::peer::Job::Install(_)));
            match peer.work_one() {
                Some(_) if installing => writeln!(output, "{id} installs {}", peer.machine.position)?,
                Some(entries) => writeln!(output, "{id} applies {}", listed(&entries))?,
                None if peer.read_one() => {}
                None => return Ok(()),
            }
        }
    }

    fn status(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let mut wanted = Vec::new();
        while let Some(id) = number(args)? {
            wanted.push(Incarnation(id));
        }
        for (id, peer) in self.peers.iter().filter(|(id, _)| wanted.is_empty() || wanted.contains(id)) {
            let status = peer.raft.status();
            writeln!(
                self.output,
                "{id}: {:?} in term {}, log {}..{} stable {} commit {} applied {}{}",
                status.role,
                status.term,
                status.first,
                status.last,
                status.stable,
                status.commit,
                status.applied,
                if status.is_asleep { ", asleep" } else { "" }
            )?;
            for follower in &status.followers {
                let state = match follower.state {
                    FollowerState::Probe => "is probed",
                    FollowerState::Replicate => "is sent to",
                    FollowerState::Snapshot => "needs a snapshot",
                };
                let (id, matched, next) = (follower.id, follower.matched, follower.next);
                writeln!(self.output, "  {id} {state}: matched {matched}, next {next}")?;
            }
        }
        Ok(())
    }
}

#[test]
fn stories() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/raft");
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("the folder of scripts") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "golden") {
            println!("{}", path.display());
            goldenscript::run(&mut Script::default(), &path).expect("the script runs");
            count += 1;
        }
    }
    assert!(count > 10, "only {count} scripts found in {folder}");
}

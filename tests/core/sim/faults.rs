//! What goes wrong, what operators do, and how it all ends well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rand::Rng;
use rand::seq::IteratorRandom;
use zraft::raft::{Configuration, Write, WriteToken};
use zraft::types::{Incarnation, Index};

use crate::peer::peers;
use crate::sim::world::{Host, Sim};

/// Steps within which a healed cluster must be of one mind.
const HEALED_STEPS: u64 = 1500;
/// Steps within which the last reads are answered or given up.
const QUIET_STEPS: u64 = 150;
/// The most peers that ever exist in a run, and vote at once.
const MAX_PEERS: u64 = 9;
const MAX_VOTERS: usize = 5;

/// What every long enough run has to see.
pub const MUST_OCCUR: [&str; 34] = [
    "compaction",
    "configuration rolled back",
    "crash",
    "dead for good",
    "delayed message",
    "duplicate",
    "joint committed",
    "leader change in joint",
    "leader left",
    "learners promoted",
    "lost message",
    "lost read",
    "lost snapshot",
    "lost write",
    "membership change",
    "membership withdrawn",
    "one-way partition",
    "overtaken message",
    "partition",
    "pause",
    "read by lease",
    "settled committed",
    "skewed clock",
    "slow disk",
    "snapshot",
    "snapshot installed",
    "stalled disk",
    "stepped down with a stalled disk",
    "tick of a leader that sleeps",
    "transfer",
    "transfer succeeded",
    "woken by mistake",
    "woken: the leader may be gone",
    "woken: the quorum may be gone",
];

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    counts: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Self) {
        other.counts.iter().for_each(|(what, count)| *self.counts.entry(what).or_default() += count);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "{count:10} {what}"))
    }
}

impl Sim {
    pub fn inject_faults(&mut self) {
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        if self.rng.random_bool(0.01 * self.wildness) {
            let share: f64 = self.rng.random();
            for id in &ids {
                if self.rng.random_bool(share) {
                    self.crash(*id);
                }
            }
        }
        let down = |(id, host): (&Incarnation, &Host)| host.is_down.then_some(*id);
        if self.rng.random_bool(0.08)
            && let Some(id) = self.hosts.iter().filter_map(down).choose(&mut self.rng)
        {
            self.restart(id);
        }
        if self.rng.random_bool(0.01 * self.wildness) {
            self.partition(&ids);
        }
        if self.rng.random_bool(0.03) {
            self.blocked.clear();
        }
        if self.rng.random_bool(0.04 * self.wildness) {
            self.disturb_a_host(&ids);
        }
        if self.rng.random_bool(0.01) {
            self.change_members();
        }
        if self.rng.random_bool(0.02) {
            self.transfer(&ids);
        }
    }

    /// Cuts some peers off from the rest, in both directions or in one.
    fn partition(&mut self, ids: &[Incarnation]) {
        let (one_way, side) = (self.rng.random_bool(0.3), self.rng.random_range(0..1_u64 << ids.len()));
        self.counts.count(if one_way { "one-way partition" } else { "partition" });
        let in_side = |id: &Incarnation| side & (1 << (id.0 - 1)) != 0;
        for (a, b) in ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b))) {
            if in_side(&a) && !in_side(&b) {
                self.blocked.insert((a, b));
                if !one_way {
                    self.blocked.insert((b, a));
                }
            }
        }
    }

    fn leaders(&self) -> Vec<Incarnation> {
        let leads = |(_, host): &(&Incarnation, &Host)| !host.is_down && host.peer.raft.is_leader();
        self.hosts.iter().filter(leads).map(|(id, _)| *id).collect()
    }

    /// Something happens to one host, to a leader's more often than not.
    fn disturb_a_host(&mut self, ids: &[Incarnation]) {
        let leader = self.leaders().into_iter().choose(&mut self.rng).filter(|_| self.rng.random_bool(0.6));
        let Some(id) = leader.or_else(|| ids.iter().copied().choose(&mut self.rng)) else { return };
        let until = |sim: &mut Self, most: u64| sim.now + sim.rng.random_range(0..most);
        match self.rng.random_range(0..6) {
            0 => {
                self.host(id).stalled_until = until(self, 100);
                self.counts.count("stalled disk");
            }
            1 => {
                self.host(id).slow_until = until(self, 300);
                self.counts.count("slow disk");
            }
            2 if !self.has_leases() => {
                self.host(id).paused_until = until(self, 60);
                self.counts.count("pause");
            }
            3 if !self.has_leases() => {
                self.host(id).tick_rate = self.rng.random_range(0.4..1.8);
                self.counts.count("skewed clock");
            }
            4 => self.host(id).clock_offset_ms = self.rng.random_range(0..5000),
            _ => {}
        }
    }

    /// A crash keeps the writes that happened to reach the disk, reported or not.
    fn crash(&mut self, id: Incarnation) {
        let host = self.hosts.get_mut(&id).expect("a host");
        if std::mem::replace(&mut host.is_down, true) {
            return;
        }
        self.counts.count("crash");
        if host.store.is_some() {
            self.counts.count("crash of a real store");
        }
        let kept = host.crash(self.rng.random_range(0..=host.peer.writes.len()));
        for _ in 0..kept {
            let write = host.peer.writes.pop_front().expect("counted");
            host.peer.disk.write(&write).expect("writes fit the disk");
        }
        host.peer.writes.iter().for_each(|_| self.counts.count("lost write"));
        self.promises.crashed(id);
        let now = self.now;
        self.trace.note(&[now, id.0], || format!("{now:5} {id} crashes"));
    }

    fn restart(&mut self, id: Incarnation) {
        let life = self.next_life();
        let host = self.hosts.get_mut(&id).expect("a host");
        host.restart(&self.values, life);
        let now = self.now;
        self.trace.note(&[now, id.0], || format!("{now:5} {id} restarts"));
        self.promises.check_restart(&host.peer);
        self.settle(id);
    }

    /// An operator changes the set of peers, to anything.
    fn change_members(&mut self) {
        let Some(leader) = self.leaders().into_iter().choose(&mut self.rng) else { return };
        let now: BTreeSet<u64> = self.hosts[&leader].peer.raft.configuration().voters.keys().map(|id| id.0).collect();
        let is_waiting = self.hosts[&leader].peer.raft.configuration().is_waiting();
        let mut new = now.clone();
        let next_id = self.hosts.len() as u64 + 1;
        match self.rng.random_range(0..5) {
            0 if next_id <= MAX_PEERS => drop(new.insert(next_id)),
            1 => new = now.iter().copied().filter(|_| self.rng.random()).collect(),
            2 if is_waiting => {}
            2 | 3 => new = self.hosts.keys().map(|id| id.0).filter(|_| self.rng.random()).collect(),
            _ => drop(new.insert(self.rng.random_range(1..next_id))),
        }
        while new.len() > MAX_VOTERS {
            new.pop_first();
        }
        let is_withdrawal = is_waiting && new == now;
        let clock_ms = self.clock_ms(leader);
        if self.host(leader).peer.raft.propose_membership(peers(new.iter().copied()), clock_ms).is_err() {
            return;
        }
        self.counts.count(if is_withdrawal { "membership withdrawn" } else { "membership change" });
        let at = self.now;
        self.trace.note(&[at, leader.0], || format!("{at:5} {leader} is to change the peers to {new:?}"));
        if new.contains(&next_id) {
            self.add_peer(Incarnation(next_id), Write::new(WriteToken(0)));
        }
        self.settle(leader);
    }

    fn transfer(&mut self, ids: &[Incarnation]) {
        let Some(leader) = self.leaders().into_iter().choose(&mut self.rng) else { return };
        let Some(to) = ids.iter().copied().choose(&mut self.rng) else { return };
        let is_first = self.hosts[&leader].peer.raft.transferring_to().is_none();
        if self.host(leader).peer.raft.transfer(to).is_ok() && is_first && to != leader {
            self.counts.count("transfer");
            self.promises.transfer_started(&self.hosts[&leader].peer, to);
            let now = self.now;
            self.trace.note(&[now, leader.0, to.0], || format!("{now:5} {leader} is to hand over to {to}"));
        }
        self.settle(leader);
    }

    /// All is well again, except for a few hosts that no quorum needs: they stay away for good.
    fn heal(&mut self) {
        self.is_calm = true;
        self.blocked.clear();
        self.loss = 0.0;
        let dead = self.expendable_hosts();
        for (id, host) in &mut self.hosts {
            host.paused_until = 0;
            host.stalled_until = 0;
            host.slow_until = 0;
            host.tick_rate = 1.0;
            if dead.contains(id) {
                self.counts.count("dead for good");
            }
        }
        let down: Vec<_> = self.hosts.iter().filter(|(_, host)| host.is_down).map(|(id, _)| *id).collect();
        down.into_iter().filter(|id| !dead.contains(id)).for_each(|id| self.restart(id));
        dead.into_iter().for_each(|id| self.crash(id));
    }

    /// Some hosts, so few that every configuration that may be in effect has its majorities without them.
    fn expendable_hosts(&mut self) -> BTreeSet<Incarnation> {
        let candidates: BTreeSet<_> = self.hosts.keys().copied().filter(|_| self.rng.random_bool(0.3)).collect();
        let (decided, last) = self.promises.configuration();
        let has_majority = |voters: BTreeSet<Incarnation>| {
            voters.is_empty() || voters.difference(&candidates).count() * 2 > voters.len()
        };
        let has_majorities = |Configuration { voters, outgoing, learners, leaving }: &Configuration| {
            // What waits for learners may become joint any moment.
            let next = voters.keys().filter(|id| !leaving.contains(id)).chain(learners.keys());
            [voters.keys().copied().collect(), outgoing.keys().copied().collect(), next.copied().collect()]
                .into_iter()
                .all(has_majority)
        };
        let in_logs = self.hosts.values().flat_map(|host| {
            let (disk, written) = (host.peer.disk.state(), host.peer.written.state());
            disk.configurations.iter().chain(&written.configurations).filter(|(index, _)| *index >= decided)
        });
        let survives = has_majorities(last) && in_logs.map(|(_, configuration)| configuration).all(has_majorities);
        if survives { candidates } else { BTreeSet::new() }
    }

    /// With the faults gone, the cluster finds a leader, commits, ends what it had begun, and everybody applies the
    /// same; and every read is answered or known to be lost.
    pub fn check_liveness(&mut self) {
        self.heal();
        let target = Index(self.promises.committed());
        let converged = (0..HEALED_STEPS).any(|step| {
            self.step();
            step % 10 == 0 && self.is_of_one_mind(target).is_ok()
        });
        assert!(converged, "after {HEALED_STEPS} quiet steps: {}", self.why_stuck(target));
        self.is_quiet = true;
        (0..QUIET_STEPS).for_each(|_| self.step());
        self.promises.check_no_read_waits();
        for host in self.hosts.values() {
            assert_eq!(host.peer.raft.status().refused, 0, "correct peers talk no nonsense");
        }
    }

    fn why_stuck(&self, target: Index) -> String {
        let mut why = self.is_of_one_mind(target).unwrap_err();
        for (id, host) in &self.hosts {
            let (raft, state) = (&host.peer.raft, if host.is_down { "down" } else { "up" });
            why += &format!("\n{id} {state} {:?}\n  {:?}", raft.status(), raft.configuration());
        }
        why
    }

    fn is_of_one_mind(&self, target: Index) -> Result<(), String> {
        let leaders = self.leaders();
        let [leader] = leaders[..] else { return Err(format!("leaders: {leaders:?}")) };
        let raft = &self.hosts[&leader].peer.raft;
        let configuration = raft.configuration();
        let learner_is_dead = configuration.learners.keys().any(|id| self.hosts[id].is_down);
        if !configuration.is_settled() && !learner_is_dead {
            return Err(format!("unfinished: {configuration:?}"));
        }
        if configuration.is_settled() && !configuration.is_voter(leader) {
            return Err(format!("{leader} leads a cluster that it has left"));
        }
        if raft.status().commit < raft.configuration_index() {
            return Err("the configuration is not committed".to_owned());
        }
        for member in configuration.members() {
            let host = &self.hosts[&member];
            if !host.is_down && host.peer.machine.position.index <= target {
                return Err(format!("{member} has not come beyond {target}: {:?}", host.peer.raft.status()));
            }
        }
        Ok(())
    }
}

//! What clients ask, and what they make of the answers.

use bytes::Bytes;
use rand::Rng;
use rand::seq::IteratorRandom;
use zraft::access::{Access, AccessList, AccessRefusal};
use zraft::machine::{BackendReply, Command};
use zraft::protocol::{CommandError, RequestError};
use zraft::replica::{Ticket, Wanted};
use zraft::types::{Digest, Incarnation, Index, PeerId};

use super::backend::{ALL_KEYS, KeyState, command, is_refused, key_of, words};
use super::history::{Call, OperationId};
use super::{CLIENTS, HEALED_STEPS, STEP_MS, Sim};

/// Requests of one client that wait at a time.
const MAX_OUTSTANDING: usize = 4;

/// A client's request that has not been answered.
pub struct Waiting {
    client: usize,
    pub node: Incarnation,
    pub deadline_ms: u64,
    pub asked: Asked,
}

#[derive(Clone, Copy)]
pub enum Asked {
    Write {
        number: u64,
        operation: Option<OperationId>,
    },
    /// The answer must know everything up to `floor`.
    Read {
        floor: Index,
        key: u8,
        operation: Option<OperationId>,
    },
    SetAccess {
        expected: Index,
    },
    Upgrade {
        from: Digest,
        to: Digest,
    },
}

impl Sim {
    pub(super) fn run_client(&mut self, client: usize) {
        if !self.rng.random_bool(0.15) {
            return;
        }
        let outstanding = self.waiting.values().filter(|waiting| waiting.client == client).count();
        if outstanding >= MAX_OUTSTANDING {
            return;
        }
        if self.down.contains(&self.targets[client]) || self.rng.random_bool(0.02) {
            self.count("give up on a node");
            self.targets[client] = self.any_node();
        }
        for _ in 0..self.rng.random_range(1..=MAX_OUTSTANDING - outstanding) {
            if self.rng.random_bool(0.02) {
                self.ask_access(client, self.targets[client]);
            } else if self.rng.random_bool(0.6) && self.history.may_append(key_of(self.tickets + 1, false)) {
                self.ask_write(client, self.targets[client]);
            } else {
                let any = self.any_node();
                let node = if self.rng.random() { any } else { self.targets[client] };
                self.ask_read(client, node);
            }
        }
    }

    pub(super) fn any_node(&mut self) -> Incarnation {
        self.nodes.keys().copied().choose(&mut self.rng).expect("a node")
    }

    pub(super) fn ask(&mut self, client: usize, node: Incarnation, asked: Asked) -> (Ticket, u64) {
        let patience_steps = match self.is_healed {
            true => HEALED_STEPS,
            false if self.rng.random_bool(0.3) => self.rng.random_range(1..300),
            false => self.rng.random_range(1..60),
        };
        let deadline_ms = self.clock_ms(node) + STEP_MS * patience_steps;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, Waiting { client, node, deadline_ms, asked });
        (ticket, deadline_ms)
    }

    pub(super) fn ask_write(&mut self, client: usize, node: Incarnation) {
        if self.down.contains(&node) {
            return;
        }
        self.count("ask: write");
        let number = self.tickets + 1;
        let operation = (!is_refused(number)).then(|| self.history.call(key_of(number, false), Call::Append(number)));
        let (ticket, deadline_ms) = self.ask(client, node, Asked::Write { number, operation });
        let data = command(number);
        // Some write as those do who may always.
        let write = match client {
            0 => Command::Write { data },
            _ => Command::WriteBy { client: name_of(client), data },
        };
        self.replica(node).write(ticket, write.encode(), deadline_ms);
    }

    /// An administrator lets some clients only read.
    fn ask_access(&mut self, client: usize, node: Incarnation) {
        if self.down.contains(&node) {
            return;
        }
        self.count("ask: access");
        let readers: Vec<_> = (0..CLIENTS).filter(|_| self.rng.random_bool(0.05)).collect();
        let named = readers.into_iter().map(|reader| (name_of(reader), Access::Read)).collect();
        let expected = self.access_set_at;
        let command = Command::SetAccess { by: None, expected, list: AccessList { named, ..AccessList::default() } };
        let (ticket, deadline_ms) = self.ask(client, node, Asked::SetAccess { expected });
        self.replica(node).write(ticket, command.encode(), deadline_ms);
    }

    pub(super) fn ask_read(&mut self, client: usize, node: Incarnation) {
        if self.down.contains(&node) {
            return;
        }
        self.count("ask: read");
        let floor = self.witness.known();
        let key = ALL_KEYS.into_iter().choose(&mut self.rng).expect("some key");
        let operation = (key < key_of(0, true)).then(|| self.history.call(key, Call::Read));
        let (ticket, deadline_ms) = self.ask(client, node, Asked::Read { floor, key, operation });
        self.replica(node).query(ticket, None, Wanted::Answer(Bytes::copy_from_slice(&[key])), deadline_ms);
    }

    fn take_waiting(&mut self, ticket: Ticket, node: Incarnation) -> Waiting {
        let waiting = self.waiting.remove(&ticket).unwrap_or_else(|| panic!("{ticket:?} is answered twice"));
        assert_eq!(waiting.node, node, "{ticket:?} is answered by a replica that was not asked");
        waiting
    }

    pub(super) fn on_answer(
        &mut self,
        node: Incarnation,
        ticket: Ticket,
        result: Result<(Index, BackendReply), RequestError>,
    ) {
        let waiting = self.take_waiting(ticket, node);
        let is_doubtful = self.nodes.get_mut(&node).expect("a node").is_doubtful(ticket);
        if is_doubtful && matches!(result, Ok(_) | Err(RequestError::Skipped { .. } | RequestError::AccessDenied(_))) {
            // It may be anything.
            return self.on_nothing(waiting.asked);
        }
        let error = match (waiting.asked, result) {
            (Asked::Write { number, operation }, Ok((index, reply))) => {
                self.count(if reply.is_ok() { "write: answered" } else { "write: refused" });
                if let (Some(operation), Ok(reply)) = (operation, &reply) {
                    self.history.returned(operation, KeyState::of(&words(reply)));
                }
                return self.witness.acknowledged(number, index, &reply.map_err(CommandError::Refused));
            }
            (Asked::Read { floor, key, operation }, Ok((index, reply))) => {
                let reply = reply.expect("numbers refuse no query");
                operation.into_iter().for_each(|read| self.history.returned(read, KeyState::of(&words(&reply)[2..])));
                return self.on_read(node, floor, index, key, &reply);
            }
            (Asked::Write { number, operation }, Err(RequestError::Skipped { index, fault })) => {
                self.count("write: skipped by a verdict");
                operation.into_iter().for_each(|write| self.history.nothing(write));
                return self.witness.acknowledged(number, index, &Err(CommandError::Fault(fault)));
            }
            (Asked::Write { number, operation }, Err(RequestError::AccessDenied(denied))) => {
                self.count("write: denied");
                assert_eq!((denied.client, denied.needed), (name_of(waiting.client), Access::Write));
                operation.into_iter().for_each(|write| self.history.nothing(write));
                return self.witness.denied(number);
            }
            (Asked::SetAccess { .. }, Ok((index, _))) => {
                self.count("access: set");
                self.access_set_at = self.access_set_at.max(index);
                return self.witness.know(index);
            }
            (Asked::SetAccess { expected }, Err(RequestError::AccessNotSet(AccessRefusal::Changed { now }))) => {
                self.count("access: changed meanwhile");
                assert_ne!(now, expected);
                self.access_set_at = self.access_set_at.max(now);
                return;
            }
            (Asked::Upgrade { to, .. }, Ok((index, _))) => {
                self.count("upgrade: answered");
                self.witness.upgraded(index, to);
                return self.witness.know(index);
            }
            (Asked::Upgrade { from, to }, Err(RequestError::NotUpgraded(refusal))) => {
                return self.on_not_upgraded(from, to, &refusal);
            }
            (_, Err(error)) => error,
        };
        self.on_failed(waiting, error);
    }

    /// Nobody will know what came of it.
    pub(super) fn on_nothing(&mut self, asked: Asked) {
        match asked {
            Asked::Write { number, .. } => self.witness.unknown(number),
            Asked::Read { operation, .. } => operation.into_iter().for_each(|read| self.history.nothing(read)),
            Asked::SetAccess { .. } | Asked::Upgrade { .. } => {}
        }
    }

    fn on_failed(&mut self, waiting: Waiting, error: RequestError) {
        let is_late = waiting.deadline_ms <= self.clock_ms(waiting.node);
        match (waiting.asked, error) {
            (Asked::Write { number, .. }, RequestError::Unknown) => {
                self.count(if is_late { "write: unknown" } else { "write: skipped by a snapshot" });
                self.witness.unknown(number);
            }
            (Asked::Write { number, operation }, error) => {
                operation.into_iter().for_each(|write| self.history.nothing(write));
                self.witness.never(number);
                self.on_refused(waiting.client, error);
            }
            (Asked::SetAccess { .. }, RequestError::Unknown) => self.count("access: unknown"),
            (Asked::Upgrade { .. }, RequestError::Unknown) => self.count("upgrade: unknown"),
            (Asked::SetAccess { .. } | Asked::Upgrade { .. }, error) => self.on_refused(waiting.client, error),
            (Asked::Read { operation, .. }, error) => {
                operation.into_iter().for_each(|read| self.history.nothing(read));
                let is_refused = error == RequestError::Quarantined;
                assert!(is_late || is_refused, "a read was given up before its deadline");
                self.count(match error {
                    RequestError::Quarantined => "read: refused in quarantine",
                    RequestError::NoLeader => "read: no leader",
                    RequestError::Overloaded => "read: overloaded",
                    error => panic!("a read failed with '{error}'"),
                });
            }
        }
    }

    fn on_refused(&mut self, client: usize, error: RequestError) {
        match error {
            RequestError::NotLeader { leader } => {
                self.count("write: not leader");
                self.targets[client] = leader.map_or_else(|| self.any_node(), |leader| incarnation(&leader));
            }
            RequestError::NotApplied => self.count("write: not applied"),
            RequestError::Overloaded => self.count("write: overloaded"),
            error => panic!("a write failed with '{error}'"),
        }
    }

    fn on_read(&mut self, node: Incarnation, floor: Index, index: Index, key: u8, reply: &Bytes) {
        self.count("read: answered");
        if !self.nodes[&node].replica.raft().is_leader() {
            self.count("read: at a follower");
        }
        self.witness.read(floor, index, &[key], reply);
    }
}

/// A client, as lists name it.
fn name_of(client: usize) -> String {
    format!("c{client}")
}

/// The configuration names peers after their incarnations.
pub fn incarnation(peer: &PeerId) -> Incarnation {
    Incarnation(peer.name()[1..].parse().expect("a name is p and a number"))
}

//! Locks, held by sessions and handed on in order, replicated by zraft.
//!
//! Whoever wants a lock asks for it in a session, by an ephemeral command, and either has it or stands in line. The
//! session is the lease: when it ends, closed or not heard of for its timeout, its locks go to those who are first in
//! line. Every grant has a *fencing token*, greater than all before it of the same lock: have what the lock protects
//! refuse whoever comes with a smaller one than it has seen, and a holder that slept through the end of its session harms
//! nothing.
//!
//! # Messages
//!
//! JSON. Commands must be ephemeral, since a lock belongs to a session:
//!
//! | command | answer |
//! |---|---|
//! | `{"acquire":"door"}` | `{"granted":{"token":7}}`, or `{"waiting":{"ahead":2}}`: how many come before |
//! | `{"try_acquire":"door"}` | `{"granted":{"token":7}}`, or `{"held":{"by":4}}`, and it stands in no line |
//! | `{"release":"door"}` | `"released"`: the lock, or the place in line, is given up |
//!
//! Asking again changes nothing and has the same answer as asking where one stands:
//!
//! | query | answer | watches |
//! |---|---|---|
//! | `{"place":{"lock":"door","session":9}}` | `granted`, `waiting` as above, or `"none"` | that it becomes or stops being the session's turn |
//! | `{"holder":"door"}` | `{"held_by":{"session":4,"token":7,"waiting":2}}`, or `"free"` | every change of the lock |
//!
//! So who waits asks `place` with a trigger, which fires when its turn has come, and not whenever somebody ahead gives up.
//!
//! ```text
//! $ zraft create lock@127.0.0.1:7400 lock@127.0.0.1:7401 lock@127.0.0.1:7402 --backend lock
//! $ zraft session lock@127.0.0.1:7400
//! session 9 is open; `help` tells what to type
//! > ephemeral {"acquire":"door"}
//! {"waiting":{"ahead":0}}
//! > watch {"place":{"lock":"door","session":9}}
//! {"waiting":{"ahead":0}}
//! trigger 1 is armed as of index 10
//! trigger 1 fired: data-changed
//! > query {"place":{"lock":"door","session":9}}
//! {"granted":{"token":11}}
//! ```

pub mod api;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::{Answer, Command, Question};
use serde::{Deserialize, Serialize};
use zraft_backend::{Apply, Backend, Json, Query};

/// Longest name of a lock, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// Most sessions that may stand in line for one lock.
pub const MAX_WAITING: usize = 10_000;

/// All locks that somebody has.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    locks: BTreeMap<String, Lock>,
    /// By session, the locks that it has or waits for.
    by_session: BTreeMap<u64, BTreeSet<String>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lock {
    holder: u64,
    token: u64,
    waiting: VecDeque<u64>,
}

impl Lock {
    fn place(&self, session: u64) -> Answer {
        if self.holder == session {
            return Answer::Granted { token: self.token };
        }
        let ahead = self.waiting.iter().position(|waiting| *waiting == session);
        ahead.map_or(Answer::None, |ahead| Answer::Waiting { ahead: ahead as u64 })
    }
}

impl Backend for Locks {
    const VERSION: &'static str = "lock 1";
    type Codec = Json;
    type Command = Command;
    type Query = Question;
    type Reply = Answer;

    fn init(config: &[u8]) -> Result<Self, String> {
        if config.is_empty() { Ok(Self::default()) } else { Err("the lock backend takes no config".to_owned()) }
    }

    fn apply(&mut self, command: Command, at: &mut Apply) -> Result<Answer, String> {
        let session = at.session().ok_or("a lock belongs to a session: send this as an ephemeral command of one")?;
        match command {
            Command::Acquire(name) => self.acquire(name, session, true, at),
            Command::TryAcquire(name) => self.acquire(name, session, false, at),
            Command::Release(name) => self.release(&name, session, at),
        }
    }

    fn query(&self, question: Question, at: &mut Query) -> Result<Answer, String> {
        Ok(match question {
            Question::Place { lock: name, session } => {
                at.watch(turn_key(&name, session));
                self.locks.get(&name).map_or(Answer::None, |lock| lock.place(session))
            }
            Question::Holder(name) => {
                at.watch(lock_key(&name));
                self.locks.get(&name).map_or(Answer::Free, |lock| Answer::HeldBy {
                    session: lock.holder,
                    token: lock.token,
                    waiting: lock.waiting.len() as u64,
                })
            }
        })
    }

    fn expire_session(&mut self, session: u64, at: &mut Apply) {
        for name in self.by_session.remove(&session).unwrap_or_default() {
            self.leave(&name, session, at);
        }
    }
}

impl Locks {
    fn acquire(&mut self, name: String, session: u64, waits: bool, at: &mut Apply) -> Result<Answer, String> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(format!("a lock's name has 1 to {MAX_NAME_BYTES} bytes, this one {}", name.len()));
        }
        let place = match self.locks.get_mut(&name) {
            None => {
                let token = at.index();
                self.locks.insert(name.clone(), Lock { holder: session, token, waiting: VecDeque::new() });
                at.changed(turn_key(&name, session));
                Answer::Granted { token }
            }
            Some(lock) => match lock.place(session) {
                Answer::None if !waits => return Ok(Answer::Held { by: lock.holder }),
                Answer::None if lock.waiting.len() == MAX_WAITING => {
                    return Err(format!("{MAX_WAITING} sessions wait for '{name}' already"));
                }
                Answer::None => {
                    lock.waiting.push_back(session);
                    Answer::Waiting { ahead: lock.waiting.len() as u64 - 1 }
                }
                already => return Ok(already),
            },
        };
        at.changed(lock_key(&name));
        self.by_session.entry(session).or_default().insert(name);
        Ok(place)
    }

    fn release(&mut self, name: &str, session: u64, at: &mut Apply) -> Result<Answer, String> {
        let names = self.by_session.get_mut(&session).filter(|names| names.contains(name));
        let names = names.ok_or_else(|| format!("session {session} neither has '{name}' nor waits for it"))?;
        names.remove(name);
        if names.is_empty() {
            self.by_session.remove(&session);
        }
        self.leave(name, session, at);
        Ok(Answer::Released)
    }

    /// Takes a session from a lock or its line, and hands the lock on.
    fn leave(&mut self, name: &str, session: u64, at: &mut Apply) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        at.changed(lock_key(name));
        at.changed(turn_key(name, session));
        if lock.holder != session {
            lock.waiting.retain(|waiting| *waiting != session);
        } else if let Some(next) = lock.waiting.pop_front() {
            (lock.holder, lock.token) = (next, at.index());
            at.changed(turn_key(name, next));
        } else {
            self.locks.remove(name);
        }
    }
}

/// What changes with the lock.
fn lock_key(name: &str) -> String {
    format!("lock/{name}")
}

/// What changes when it becomes, or stops being, a session's turn.
fn turn_key(name: &str, session: u64) -> String {
    format!("turn/{session}/{name}")
}

zraft_backend::export!(Locks);

#[cfg(test)]
mod tests;

//! The session's state against a model of a cluster, over streams that are lost at random points.
//!
//! The model runs a session's commands as `machine::session` does, fires triggers as `replica::triggers` does, and expires
//! the session by its own clock. What is checked is what people are promised: each write runs once and in order, each call
//! is answered once and truly, each trigger fires once, and nobody believes in a session that has expired.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use crate::client::session::state::{Completion, State};
use crate::client::session::{Ending, Notice, SessionFailure};
use crate::protocol::{
    CommandReply, SessionEnd, SessionEvent, SessionRefusal, SessionRequest, TriggerId, TriggerReason,
};
use crate::types::{Index, SessionId};

const TIMEOUT_MS: u64 = 1000;
const KEYS: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    Write,
    Query {
        key: u8,
        watch: bool,
    },
    Disarm {
        which: usize,
    },
    /// Somebody else changes a key.
    Change {
        key: u8,
    },
    /// Requests arrive at the node.
    Arrive {
        count: usize,
    },
    /// Events arrive at the client.
    Return {
        count: usize,
    },
    /// The stream is lost; the node has still taken in this many requests.
    Lose {
        taken: usize,
    },
    Attach,
    Wait {
        ms: u64,
    },
    /// The leader expires the session, if it may.
    Expire,
    /// The replica forgets what has changed up to now.
    ForgetChanges,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Write),
        4 => (0..KEYS, any::<bool>()).prop_map(|(key, watch)| Step::Query { key, watch }),
        1 => any::<usize>().prop_map(|which| Step::Disarm { which }),
        2 => (0..KEYS).prop_map(|key| Step::Change { key }),
        8 => (1..8usize).prop_map(|count| Step::Arrive { count }),
        8 => (1..8usize).prop_map(|count| Step::Return { count }),
        2 => (0..8usize).prop_map(|taken| Step::Lose { taken }),
        4 => Just(Step::Attach),
        6 => (1..TIMEOUT_MS / 2).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Expire),
        1 => Just(Step::ForgetChanges),
    ];
    prop::collection::vec(step, 1..150)
}

/// The cluster.
struct Cluster {
    index: u64,
    /// Commands in the order in which they ran, with their numbers.
    ran: Vec<(u64, Bytes)>,
    acked_up_to: u64,
    replies: BTreeMap<u64, Index>,
    max_unacknowledged: u64,
    changed_at: BTreeMap<Bytes, Index>,
    changes_known_after: Index,
    heard_at_ms: u64,
    is_over: bool,
    armed: BTreeMap<TriggerId, (Vec<Bytes>, Index)>,
}

impl Cluster {
    fn next_index(&mut self) -> Index {
        self.index += 1;
        Index(self.index)
    }

    fn take(&mut self, request: SessionRequest, now_ms: u64) -> Vec<SessionEvent> {
        if self.is_over {
            return Vec::new();
        }
        self.heard_at_ms = now_ms;
        match request {
            SessionRequest::Write { seq, acked_up_to, data, .. } => {
                let result = self.run(seq, acked_up_to, data);
                vec![SessionEvent::Written { seq, result }]
            }
            SessionRequest::Query { id, request, watch } => {
                let index = Index(self.index);
                let watched = if watch { vec![request.clone()] } else { vec![] };
                if watch {
                    assert!(self.armed.insert(id, (watched.clone(), index)).is_none(), "a trigger is armed twice");
                }
                vec![SessionEvent::Answered { id, index, result: Ok(Ok(request)), watched }]
            }
            SessionRequest::Rearm { id, keys, since } => {
                let has_changed = |key| self.changed_at.get(key).is_some_and(|at| *at > since);
                let reason = if since < self.changes_known_after {
                    TriggerReason::LeaderChanged
                } else if keys.iter().any(has_changed) {
                    TriggerReason::DataChanged
                } else {
                    assert!(self.armed.insert(id, (keys, since)).is_none(), "a trigger is armed twice");
                    return vec![];
                };
                vec![SessionEvent::Fired { id, reason }]
            }
            SessionRequest::Disarm { id } => {
                self.armed.remove(&id);
                vec![]
            }
            SessionRequest::Ping { number } => vec![SessionEvent::Pong { number }],
            SessionRequest::Close => {
                self.is_over = true;
                vec![SessionEvent::Ended(SessionEnd::Closed)]
            }
        }
    }

    fn run(&mut self, seq: u64, acked_up_to: u64, data: Bytes) -> Result<(Index, CommandReply), SessionRefusal> {
        let next = self.ran.len() as u64 + 1;
        self.acked_up_to = self.acked_up_to.max(acked_up_to.min(next - 1));
        self.replies = self.replies.split_off(&(self.acked_up_to + 1));
        if seq <= self.acked_up_to {
            return Err(SessionRefusal::AlreadyAcknowledged);
        } else if seq > next {
            return Err(SessionRefusal::OutOfOrder { expected: next });
        } else if seq == next {
            if next - 1 - self.acked_up_to >= self.max_unacknowledged {
                return Err(SessionRefusal::TooManyUnacknowledged);
            }
            let index = self.next_index();
            self.ran.push((seq, data.clone()));
            self.replies.insert(seq, index);
        }
        Ok((self.replies[&seq], Ok(self.ran[seq as usize - 1].1.clone())))
    }

    fn change(&mut self, key: Bytes) -> Vec<SessionEvent> {
        let index = self.next_index();
        self.changed_at.insert(key.clone(), index);
        let firing: Vec<_> = self.armed.extract_if(.., |_, (keys, _)| keys.contains(&key)).collect();
        firing.into_iter().map(|(id, _)| SessionEvent::Fired { id, reason: TriggerReason::DataChanged }).collect()
    }
}

/// A client, a cluster, and at times a stream between them.
struct World {
    now_ms: u64,
    client: State,
    cluster: Cluster,
    /// Requests and events on their way.
    stream: Option<(VecDeque<SessionRequest>, VecDeque<SessionEvent>)>,
    written: Vec<Bytes>,
    done: BTreeMap<u64, Result<Bytes, SessionFailure>>,
    /// Queries that wait, and whether they are to watch.
    queries: BTreeMap<TriggerId, bool>,
    watching: BTreeMap<TriggerId, (Bytes, Index)>,
    fired: BTreeMap<TriggerId, TriggerReason>,
    last_notice: Option<Notice>,
}

impl World {
    fn new(max_unacknowledged: u64) -> Self {
        let cluster = Cluster {
            index: 7,
            ran: Vec::new(),
            acked_up_to: 0,
            replies: BTreeMap::new(),
            max_unacknowledged,
            changed_at: BTreeMap::new(),
            changes_known_after: Index::ZERO,
            heard_at_ms: 0,
            is_over: false,
            armed: BTreeMap::new(),
        };
        Self {
            now_ms: 0,
            client: State::new(TIMEOUT_MS),
            cluster,
            stream: None,
            written: Vec::new(),
            done: BTreeMap::new(),
            queries: BTreeMap::new(),
            watching: BTreeMap::new(),
            fired: BTreeMap::new(),
            last_notice: None,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write => {
                let data = Bytes::from(self.written.len().to_string());
                if let Ok(seq) = self.client.write(data.clone(), false) {
                    self.written.push(data);
                    assert_eq!(seq, self.written.len() as u64);
                }
            }
            Step::Query { key, watch } => {
                if let Ok(id) = self.client.query(Bytes::from(vec![key]), watch) {
                    assert_eq!(self.queries.insert(id, watch), None);
                }
            }
            Step::Disarm { which } => {
                let count = self.watching.len().max(1);
                if let Some(id) = self.watching.keys().nth(which % count).copied() {
                    self.client.disarm(id);
                    self.watching.remove(&id);
                }
            }
            Step::Change { key } => {
                let events = self.cluster.change(Bytes::from(vec![key]));
                self.say(events);
            }
            Step::Arrive { count } => (0..count).for_each(|_| self.arrive()),
            Step::Return { count } => (0..count).for_each(|_| self.deliver()),
            Step::Lose { taken } => self.lose(taken),
            Step::Attach => self.attach(),
            Step::Wait { ms } => self.now_ms += ms,
            Step::Expire => {
                if self.now_ms - self.cluster.heard_at_ms > TIMEOUT_MS && self.client.session().is_some() {
                    self.cluster.is_over = true;
                    self.cluster.armed.clear();
                    self.say(vec![SessionEvent::Ended(SessionEnd::Expired)]);
                }
            }
            Step::ForgetChanges => self.cluster.changes_known_after = Index(self.cluster.index),
        }
        self.settle();
    }

    /// The client sends what it has to, and hears what is done.
    fn settle(&mut self) {
        self.client.tick(self.now_ms);
        while let Some(request) = self.client.send(self.now_ms) {
            let (requests, _) = self.stream.as_mut().expect("nothing is sent without a stream");
            requests.push_back(request);
        }
        while let Some(completion) = self.client.next_completion() {
            match completion {
                Completion::Write { seq, result } => {
                    let before = self.done.insert(seq, result.map(|written| written.reply));
                    assert_eq!(before, None, "write {seq} was answered twice");
                }
                Completion::Query { id, result } => {
                    let watch = self.queries.remove(&id).unwrap_or_else(|| panic!("{id:?} was answered twice"));
                    if let Ok(answer) = result
                        && watch
                    {
                        self.watching.insert(answer.trigger, (answer.reply, answer.index));
                    }
                }
            }
        }
        while let Some(notice) = self.client.next_notice() {
            assert!(!matches!(self.last_notice, Some(Notice::Ended(_))), "{notice:?} comes after the end");
            if let Notice::Fired { trigger, reason } = notice {
                assert_eq!(self.fired.insert(trigger, reason), None, "{trigger:?} fired twice");
                let (key, since) = &self.watching[&trigger];
                if reason == TriggerReason::DataChanged {
                    assert!(self.cluster.changed_at[key] > *since, "{trigger:?} fired for an older change");
                }
            }
            self.last_notice = Some(notice);
        }
        if self.client.session().is_some() && !self.client.is_suspended() && self.client.ending().is_none() {
            let is_closed = self
                .stream
                .as_ref()
                .is_some_and(|(_, events)| events.contains(&SessionEvent::Ended(SessionEnd::Closed)));
            assert!(!self.cluster.is_over || is_closed, "the client believes in a session that has expired");
        }
    }

    fn say(&mut self, said: Vec<SessionEvent>) {
        if let Some((_, events)) = &mut self.stream {
            events.extend(said);
        }
    }

    fn arrive(&mut self) {
        let Some((requests, _)) = &mut self.stream else { return };
        let Some(request) = requests.pop_front() else { return };
        let events = self.cluster.take(request, self.now_ms);
        self.say(events);
    }

    fn deliver(&mut self) {
        let Some((_, events)) = &mut self.stream else { return };
        let Some(event) = events.pop_front() else { return };
        self.client.received(event, self.now_ms);
        if self.client.ending().is_some() {
            self.stream = None;
        }
        self.settle();
    }

    fn lose(&mut self, taken: usize) {
        if self.stream.is_none() {
            return;
        }
        (0..taken).for_each(|_| self.arrive());
        self.stream = None;
        self.cluster.armed.clear();
        self.client.detached(None, self.now_ms);
    }

    fn attach(&mut self) {
        if self.stream.is_some() || self.client.ending().is_some() {
            return;
        }
        if self.cluster.is_over {
            return self.client.end(Ending::Expired);
        }
        self.cluster.heard_at_ms = self.now_ms;
        self.stream = Some(Default::default());
        self.client.attached(SessionId(7), self.now_ms, self.now_ms);
    }

    /// Goes on without losses until nothing is left to do.
    fn run_out(&mut self) {
        self.step(Step::Attach);
        let mut rounds = 0;
        while self.stream.as_ref().is_some_and(|(requests, events)| !requests.is_empty() || !events.is_empty()) {
            self.arrive();
            self.deliver();
            self.settle();
            rounds += 1;
            assert!(rounds < 10_000, "client and cluster go on for ever");
        }
    }

    fn check_writes(&self) {
        let ran: Vec<_> = self.cluster.ran.iter().map(|(_, data)| data).collect();
        assert_eq!(ran, self.written.iter().take(ran.len()).collect::<Vec<_>>(), "each once, and in order");
        assert_eq!(self.done.len(), self.written.len(), "each is answered");
        for (seq, result) in &self.done {
            let has_run = *seq <= ran.len() as u64;
            match result {
                Ok(reply) => assert!(has_run && *reply == self.written[*seq as usize - 1]),
                Err(SessionFailure::Ended(_)) => assert!(!has_run, "write {seq} has run"),
                Err(SessionFailure::Unknown(_)) => assert!(self.cluster.is_over),
                Err(failure) => panic!("write {seq}: {failure}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_promise_is_kept_whatever_is_lost(max_unacknowledged in 1..8u64, steps in steps()) {
        let mut world = World::new(max_unacknowledged);
        world.step(Step::Attach);
        steps.into_iter().for_each(|step| world.step(step));
        world.run_out();
        world.check_writes();
        assert!(world.queries.is_empty(), "every query is answered");
        let has_ended = world.client.ending().is_some();
        (0..KEYS).for_each(|key| world.step(Step::Change { key }));
        world.run_out();
        let silent: Vec<_> = world.watching.keys().filter(|trigger| !world.fired.contains_key(trigger)).collect();
        assert!(silent.is_empty(), "all keys have changed, and {silent:?} have not fired");
        world.client.close();
        world.settle();
        world.run_out();
        assert!(world.client.ending().is_some());
        assert_eq!(world.client.ending(), Some(if has_ended { &Ending::Expired } else { &Ending::Closed }));
        assert!(matches!(world.last_notice, Some(Notice::Ended(_))), "{:?}", world.last_notice);
    }
}

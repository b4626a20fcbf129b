//! A canary: another backend that is given the state of a peer's machine, and then each entry that the machine applies, to see what
//! it makes of them.
//!
//! It has a machine of its own on a thread of its own, which gets only the time that nobody else wants. The peer's thread hands it
//! what was applied and never waits for it: a canary that cannot keep up ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{HostPast, PastError};
use crate::machine::{Applied, Budget, Fault, Key, Machine, NoOthers, Outcome, Ruling, Rulings, Run, RunError, Target};
use crate::node::guests::yield_to_others;
use crate::protocol::{
    BackendFault, CanaryDifference, CanaryEnd, CanaryReport, CommandError, CommandReply, MAX_CANARY_DIFFERENCES,
    UpgradeRefusal,
};
use crate::raft::{Entry, Payload, Upgrade};
use crate::types::{Digest, Index};
use crate::wasm;

/// Most that a canary may be behind the peer's machine, in bytes of entries and replies: while it is given a large state, much comes.
const MAX_BEHIND_BYTES: usize = 256 << 20;

/// How often a canary looks whether somebody still waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Most bytes of a reply, and most keys, that a difference shows.
const MAX_SHOWN_BYTES: usize = 200;
const MAX_SHOWN_KEYS: usize = 5;

/// A canary to be begun.
pub(in crate::node) struct CanaryOrder {
    pub(in crate::node) component: Digest,
    pub(in crate::node) migration: Option<Bytes>,
    pub(in crate::node) max_commands: u64,
    pub(in crate::node) max_time: Duration,
    /// Who waits for the report. If nobody does any more, it ends.
    pub(in crate::node) reply: oneshot::Sender<CanaryReport>,
    /// Its place among those that may run.
    pub(in crate::node) permit: OwnedSemaphorePermit,
}

/// Where the peer's thread puts what it has applied.
pub(super) struct Feed {
    sender: Sender<Fed>,
    line: Arc<Line>,
}

/// What both sides of a feed know.
#[derive(Default)]
struct Line {
    behind_bytes: AtomicUsize,
    /// Why nothing more comes.
    end: OnceLock<CanaryEnd>,
}

/// Entries that the peer's machine has applied.
struct Fed {
    entries: Vec<Entry>,
    rulings: Vec<(Index, Ruling)>,
    applied: Vec<Applied>,
    size_bytes: usize,
}

/// The canary's side.
struct Canary {
    target: Target,
    past: HostPast,
    order: CanaryOrder,
    fed: Receiver<Fed>,
    line: Arc<Line>,
    report: CanaryReport,
}

impl Feed {
    /// Begins a canary that has the state of a machine which is, or is to be, at `target`. None if this node has no thread for it.
    pub(super) fn begin(target: Target, past: &HostPast, order: CanaryOrder) -> Option<Self> {
        let (sender, fed) = channel();
        let line = Arc::<Line>::default();
        let past = HostPast { is_background: true, ..past.clone() };
        let report = CanaryReport::without_commands(target.index(), CanaryEnd::Done);
        let canary = Canary { target, past, order, fed, line: Arc::clone(&line), report };
        let thread = std::thread::Builder::new().name("zraft-canary".to_owned());
        let run = || {
            yield_to_others();
            canary.run();
        };
        match thread.stack_size(wasm::GUEST_THREAD_STACK_BYTES).spawn(run) {
            Ok(_) => Some(Self { sender, line }),
            Err(error) => {
                tracing::error!(%error, "this node has no thread for a canary");
                None
            }
        }
    }

    /// The machine has applied the first entries of a run. Tells whether the canary wants more.
    pub(super) fn applied(&self, run: &Run, applied: &[Applied]) -> bool {
        let Some(last) = applied.last() else { return true };
        let entries = run.entries[..applied.len()].to_vec();
        let is_of_them = |on: Index| on <= last.position.index;
        let rulings = run.rulings.rulings.iter().filter(|(on, _)| is_of_them(*on)).cloned().collect();
        let of_entries: usize = entries.iter().map(Entry::size_bytes).sum();
        let size_bytes =
            of_entries + applied.iter().map(|applied| size_of::<Applied>() + reply_bytes(applied)).sum::<usize>();
        if self.line.behind_bytes.fetch_add(size_bytes, Ordering::Relaxed) + size_bytes > MAX_BEHIND_BYTES {
            self.end(CanaryEnd::FellBehind);
            return false;
        }
        self.sender.send(Fed { entries, rulings, applied: applied.to_vec(), size_bytes }).is_ok()
    }

    /// Says why nothing more comes.
    pub(super) fn end(&self, end: CanaryEnd) {
        // The first reason is the one.
        let _ = self.line.end.set(end);
    }
}

impl Canary {
    fn run(mut self) {
        self.report.end = self.compare_until_the_end();
        let CanaryReport { commands, differing, end, .. } = &self.report;
        tracing::info!(peer = %self.past.incarnation, component = %self.order.component, commands, differing, ?end,
            "a canary has ended");
        let CanaryOrder { reply, permit, .. } = self.order;
        // Who gets the report may begin the next.
        drop((permit, self.past));
        // Nobody may be waiting any more.
        let _ = reply.send(self.report);
    }

    fn compare_until_the_end(&mut self) -> CanaryEnd {
        let mut machine = match self.hatch() {
            Ok(machine) => machine,
            Err(end) => return end,
        };
        let deadline = Instant::now() + self.order.max_time;
        while self.report.commands < self.order.max_commands {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if self.order.reply.is_closed() {
                return CanaryEnd::Interrupted("nobody waits for it any more".to_owned());
            }
            match self.fed.recv_timeout(left.min(LOOK_EVERY)) {
                Ok(fed) => {
                    self.line.behind_bytes.fetch_sub(fed.size_bytes, Ordering::Relaxed);
                    if let Err(end) = self.compare(&mut machine, fed) {
                        return end;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let end = self.line.end.get().cloned();
                    return end.unwrap_or_else(|| CanaryEnd::Interrupted("its peer is gone".to_owned()));
                }
            }
        }
        CanaryEnd::Done
    }

    /// A machine with the peer's state on the other backend.
    fn hatch(&mut self) -> Result<Machine, CanaryEnd> {
        let interrupted = |reason: &str| CanaryEnd::Interrupted(reason.to_owned());
        let reached = self.target.reach(&mut self.past).map_err(|error: RunError<PastError>| error.to_string());
        let machine = reached.map_err(CanaryEnd::Interrupted)?;
        let mut machine = machine.ok_or_else(|| {
            interrupted("the log has given way to a new snapshot before its state was there; begin it again")
        })?;
        let (from, to) = (machine.component(), self.order.component);
        let upgrade = Upgrade { from, to, migration: self.order.migration.clone() };
        match machine.try_upgrade(&upgrade, &mut self.past) {
            Ok(Outcome::NotUpgraded(refusal)) => Err(CanaryEnd::NotUpgraded(refusal)),
            Ok(_) => Ok(machine),
            Err(Fault::Guest { kind, message }) => {
                Err(CanaryEnd::NotUpgraded(UpgradeRefusal::Fault(BackendFault { kind, message })))
            }
            Err(Fault::Host(message)) => Err(CanaryEnd::Interrupted(message)),
        }
    }

    /// Applies entries one by one: should the backend die, it is known of which.
    fn compare(&mut self, machine: &mut Machine, fed: Fed) -> Result<(), CanaryEnd> {
        // It is held to what is configured, as a leader is.
        let rulings = Rulings { budget: Budget::Configured, rulings: fed.rulings };
        for (entry, present) in fed.entries.iter().zip(&fed.applied) {
            if matches!(entry.payload, Payload::Upgrade(_)) {
                let reason = format!("entry {} moves the cluster itself to another backend", entry.index);
                return Err(CanaryEnd::Interrupted(reason));
            }
            let applied = machine.apply(std::slice::from_ref(entry), &rulings, &mut NoOthers);
            let applied = applied.map_err(|fault| match fault {
                Fault::Guest { kind, message } => {
                    CanaryEnd::Died { on: entry.index, fault: BackendFault { kind, message } }
                }
                Fault::Host(message) => CanaryEnd::Interrupted(message),
            })?;
            applied.iter().for_each(|canary| note(&mut self.report, present, canary));
            if self.report.commands >= self.order.max_commands {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Takes down what an entry came to on both sides.
fn note(report: &mut CanaryReport, present: &Applied, canary: &Applied) {
    report.commands += u64::from(reaches_backend(&present.outcome) || reaches_backend(&canary.outcome));
    if (&present.outcome, &present.changed) == (&canary.outcome, &canary.changed) {
        return;
    }
    report.differing += 1;
    if report.differences.len() < MAX_CANARY_DIFFERENCES {
        let index = present.position.index;
        report.differences.push(CanaryDifference { index, present: in_words(present), canary: in_words(canary) });
    }
}

fn reaches_backend(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Written(_) | Outcome::Answered { .. } | Outcome::Ended { .. } | Outcome::Orphaned { .. })
}

fn reply_bytes(applied: &Applied) -> usize {
    let reply = match &applied.outcome {
        Outcome::Written(reply) | Outcome::Answered { reply, .. } => reply.as_ref().map_or(0, Bytes::len),
        _ => 0,
    };
    reply + applied.changed.iter().map(Key::len).sum::<usize>()
}

fn in_words(applied: &Applied) -> String {
    let outcome = match &applied.outcome {
        Outcome::Written(reply) | Outcome::Answered { reply, .. } => reply_in_words(reply),
        Outcome::Ended { session, .. } => format!("session {session} ended"),
        other => shorten(&format!("{other:?}")),
    };
    if applied.changed.is_empty() {
        return outcome;
    }
    let shown = applied.changed.iter().take(MAX_SHOWN_KEYS).map(|key| quoted(key)).collect::<Vec<_>>().join(", ");
    let more = if applied.changed.len() > MAX_SHOWN_KEYS { ", …" } else { "" };
    format!("{outcome}, changed {shown}{more}")
}

fn reply_in_words(reply: &CommandReply) -> String {
    match reply {
        Ok(reply) => quoted(reply),
        Err(CommandError::Refused(reason)) => format!("refused: {}", shorten(reason)),
        Err(CommandError::Fault(fault)) => format!("skipped: {}", shorten(&fault.to_string())),
        Err(CommandError::Denied(denied)) => shorten(&denied.to_string()),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MAX_SHOWN_BYTES)];
    let more = if shown.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}

fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_SHOWN_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::HashChain;
    use crate::types::{LogPosition, Term};

    fn written(reply: CommandReply, changed: &[&'static str]) -> Applied {
        let changed = changed.iter().map(|key| Key::from_static(key.as_bytes())).collect();
        let position = LogPosition::new(Term(1), Index(1));
        Applied { position, outcome: Outcome::Written(reply), changed, chain: HashChain::default() }
    }

    #[test]
    fn a_canary_that_is_too_far_behind_gets_no_more() {
        let (sender, fed) = channel();
        let feed = Feed { sender, line: Arc::default() };
        let entry = Entry { term: Term(1), index: Index(1), time_ms: 0, payload: Payload::Noop };
        let run = Run { entries: vec![entry], rulings: Rulings::default() };
        let large = [written(Ok(Bytes::from(vec![0; MAX_BEHIND_BYTES / 2 - 1000])), &[])];
        assert!(feed.applied(&run, &large) && feed.applied(&run, &large));
        assert!(!feed.applied(&run, &large));
        assert_eq!(feed.line.end.get(), Some(&CanaryEnd::FellBehind));
        feed.end(CanaryEnd::Done);
        assert_eq!(feed.line.end.get(), Some(&CanaryEnd::FellBehind), "the first reason stays");
        assert_eq!(fed.try_iter().count(), 2);
    }

    #[test]
    fn few_differences_are_told_one_by_one_and_all_are_counted() {
        let mut report = CanaryReport::without_commands(Index(0), CanaryEnd::Done);
        let (one, other) = (written(Ok("a".into()), &[]), written(Ok("a".into()), &["k"]));
        note(&mut report, &one, &one);
        assert_eq!((report.commands, report.differing), (1, 0));
        let count = MAX_CANARY_DIFFERENCES as u64 + 5;
        (0..count).for_each(|_| note(&mut report, &one, &other));
        assert_eq!((report.commands, report.differing), (count + 1, count));
        assert_eq!(report.differences.len(), MAX_CANARY_DIFFERENCES);
        assert_eq!(report.differences[0].canary, "\"a\", changed \"k\"", "what else changed is a difference too");
    }

    #[test]
    fn what_is_long_is_cut() {
        let reply = in_words(&written(Ok(vec![0; 5000].into()), &["k"; 9]));
        assert!(reply.len() < 1000 && reply.contains('…'), "{reply}");
        let refusal = in_words(&written(Err(CommandError::Refused("é".repeat(5000))), &[]));
        assert!(refusal.len() < 300 && refusal.starts_with("refused: é"), "{refusal}");
    }
}

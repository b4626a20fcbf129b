//! Ephemeral entries: there while their session lives, and gone once it is over.
//!
//! A write of a session that was acknowledged shows that it was alive when the write was called. That it is over is known
//! from the cluster's own word, a notice; a session whose client went away is over some time later. Keys are never used again.

use std::collections::HashMap;

use super::{Outcome, describe, seconds};
use crate::history::{Answer, Call, Notice, Operation, Outcome as Ended, SessionNotice};

/// Once all faults are over, an entry must be gone so long after its session was closed or its client went away: several
/// times the timeout of a session, since each new leader grants it anew.
pub const GONE_WITHIN_NS: u64 = 30_000_000_000;

pub fn check(operations: &[&Operation], notices: &[&SessionNotice]) -> Outcome {
    match check_all(operations, notices) {
        Ok(None) => Outcome::Valid { operations: operations.len() },
        Ok(Some(unknown)) => Outcome::Unknown(unknown),
        Err(why) => Outcome::Violation(why),
    }
}

/// What is known of a session.
#[derive(Default)]
struct Life {
    /// The latest moment at which it was alive.
    alive_ns: u64,
    /// The earliest at which it was over.
    over_ns: Option<u64>,
    /// When its client gave it up.
    left_ns: Option<u64>,
}

/// A read of all entries.
struct Look<'a> {
    operation: &'a Operation,
    owners: HashMap<u32, u64>,
}

/// Why it cannot be said, if so.
fn check_all(operations: &[&Operation], notices: &[&SessionNotice]) -> Result<Option<String>, String> {
    let lives = lives(operations, notices);
    let mut looks: Vec<_> = operations
        .iter()
        .filter_map(|operation| match &operation.outcome {
            Ended::Ok(Answer::Owners(owners)) => Some(Look { operation, owners: owners.iter().copied().collect() }),
            _ => None,
        })
        .collect();
    looks.sort_by_key(|look| look.operation.called_ns);
    let puts = operations.iter().filter_map(|operation| match operation.call {
        Call::PutEphemeral { session, key } => Some((key, (session, *operation))),
        _ => None,
    });
    let puts: HashMap<_, _> = puts.collect();
    for look in &looks {
        for (key, owner) in &look.owners {
            let is_owner = |(session, put): &(u64, &Operation)| {
                session == owner && !matches!(put.outcome, Ended::Failed(_)) && put.called_ns <= look.operation.ended_ns
            };
            if !puts.get(key).is_some_and(is_owner) {
                return Err(format!("entry {key} of session {owner} was never put, in {}", describe(look.operation)));
            }
        }
    }
    let mut unknown = None;
    for (key, (session, put)) in &puts {
        let Some(life) = lives.get(session) else { continue };
        check_entry(*key, put, life, &looks)?;
        unknown = unknown.or(check_end(*key, put, life, &looks)?);
    }
    Ok(unknown)
}

fn lives(operations: &[&Operation], notices: &[&SessionNotice]) -> HashMap<u64, Life> {
    let mut lives = HashMap::<u64, Life>::new();
    for operation in operations {
        let is_ok = matches!(operation.outcome, Ended::Ok(_));
        match operation.call {
            Call::PutEphemeral { session, .. } | Call::Live { session } => {
                let life = lives.entry(session).or_default();
                if is_ok {
                    life.alive_ns = life.alive_ns.max(operation.called_ns);
                }
            }
            Call::Close { session } => {
                let life = lives.entry(session).or_default();
                life.left_ns = Some(operation.called_ns);
            }
            _ => {}
        }
    }
    for notice in notices {
        let life = lives.entry(notice.session).or_default();
        match &notice.notice {
            Notice::Ended { .. } => life.over_by(notice.at_ns),
            Notice::Abandoned => life.left_ns = Some(notice.at_ns),
            Notice::Fired { .. } | Notice::Suspended | Notice::Resumed => {}
        }
    }
    lives
}

impl Life {
    fn over_by(&mut self, at_ns: u64) {
        self.over_ns = Some(self.over_ns.map_or(at_ns, |over_ns| over_ns.min(at_ns)));
    }
}

/// What every look shows of an entry; they are in the order of their calls.
fn check_entry(key: u32, put: &Operation, life: &Life, looks: &[Look<'_>]) -> Result<(), String> {
    let is_put = matches!(put.outcome, Ended::Ok(_));
    let from = looks.partition_point(|look| look.operation.called_ns <= put.ended_ns);
    // The look that shows first that the entry is gone.
    let mut gone: Option<&Operation> = None;
    for Look { operation, owners } in &looks[from..] {
        if !owners.contains_key(&key) {
            if is_put && operation.ended_ns < life.alive_ns {
                return Err(format!(
                    "entry {key} is not there, and its session was alive at {}: {}",
                    seconds(life.alive_ns),
                    describe(operation)
                ));
            }
            if is_put && gone.is_none_or(|gone| operation.ended_ns < gone.ended_ns) {
                gone = Some(operation);
            }
            continue;
        }
        if let Some(over_ns) = life.over_ns.filter(|over_ns| *over_ns < operation.called_ns) {
            return Err(format!(
                "entry {key} is there, and its session was over at {}: {}",
                seconds(over_ns),
                describe(operation)
            ));
        }
        if let Some(gone) = gone.filter(|gone| gone.ended_ns < operation.called_ns) {
            return Err(format!("entry {key} came back: gone in {}, there in {}", describe(gone), describe(operation)));
        }
    }
    Ok(())
}

/// Whether the entry is gone at the end, if that is to be expected; why it cannot be said.
fn check_end(key: u32, put: &Operation, life: &Life, looks: &[Look<'_>]) -> Result<Option<String>, String> {
    if !matches!(put.outcome, Ended::Ok(_)) {
        return Ok(None);
    }
    let left_ns = life.over_ns.or(life.left_ns);
    match (looks.last(), left_ns) {
        (None, _) => Ok(Some("nobody could look for ephemeral entries".to_owned())),
        (_, None) => Ok(Some(format!("the session of entry {key} was never ended"))),
        (Some(last), Some(left_ns)) if last.owners.contains_key(&key) => {
            if last.operation.called_ns > left_ns + GONE_WITHIN_NS {
                return Err(format!("entry {key} stays, though its session was left at {}", seconds(left_ns)));
            }
            Ok(Some(format!("entry {key} is there at the end, and not for long enough to say that it stays")))
        }
        (Some(_), Some(_)) => Ok(None),
    }
}

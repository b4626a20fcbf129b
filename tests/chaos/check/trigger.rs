//! Triggers: each fires once, for a change behind the state on which it was armed, and none is lost while its session lives.

use std::collections::{BTreeMap, HashMap};

use super::{Outcome, describe, seconds};
use crate::history::{Answer, Call, Notice, Operation, Outcome as Ended, SessionNotice};

/// On a session's stream a trigger comes before any answer that shows what it fired for. Both then pass through tasks of the
/// harness, which may be late by this much.
pub const GRACE_NS: u64 = 2_000_000_000;

pub fn check(operations: &[&Operation], notices: &[&SessionNotice]) -> Outcome {
    match check_all(operations, notices) {
        Ok(()) => Outcome::Valid { operations: operations.len() },
        Err(why) => Outcome::Violation(why),
    }
}

/// A trigger of a session.
struct Armed<'a> {
    watch: &'a Operation,
    key: u32,
    index: u64,
    fired: Option<&'a SessionNotice>,
}

/// All of a session.
#[derive(Default)]
struct Session<'a> {
    triggers: BTreeMap<u64, Armed<'a>>,
    /// What was read in it: every key's index, in the order of calls.
    reads: Vec<(&'a Operation, HashMap<u32, u64>)>,
    /// The latest moment at which it was served.
    served_ns: u64,
    ended_ns: Option<u64>,
}

fn check_all(operations: &[&Operation], notices: &[&SessionNotice]) -> Result<(), String> {
    let mut changes = HashMap::<u32, Vec<&Operation>>::new();
    for operation in operations {
        if let Call::Change { key, .. } = operation.call
            && !matches!(operation.outcome, Ended::Failed(_))
        {
            changes.entry(key).or_default().push(operation);
        }
    }
    for (id, session) in sessions(operations, notices)? {
        session.check(&changes).map_err(|why| format!("session {id}: {why}"))?;
    }
    Ok(())
}

fn sessions<'a>(
    operations: &[&'a Operation],
    notices: &[&'a SessionNotice],
) -> Result<BTreeMap<u64, Session<'a>>, String> {
    let mut sessions = BTreeMap::<u64, Session<'a>>::new();
    for operation in operations {
        let (Call::Watch { session, .. } | Call::ReadWatched { session }) = operation.call else { continue };
        let Ended::Ok(answer) = &operation.outcome else { continue };
        let session = sessions.entry(session).or_default();
        session.served_ns = session.served_ns.max(operation.called_ns);
        match (operation.call, answer) {
            (Call::Watch { key, .. }, Answer::Armed { trigger, index }) => {
                let armed = Armed { watch: operation, key, index: *index, fired: None };
                if session.triggers.insert(*trigger, armed).is_some() {
                    return Err(format!("trigger {trigger} was armed before {}", describe(operation)));
                }
            }
            (_, Answer::Indexes(indexes)) => session.reads.push((operation, indexes.iter().copied().collect())),
            _ => return Err(format!("the answer fits no such call: {}", describe(operation))),
        }
    }
    for notice in notices {
        let session = sessions.entry(notice.session).or_default();
        match &notice.notice {
            Notice::Fired { trigger, .. } => {
                // Nobody knows of a trigger whose query was given up.
                let Some(armed) = session.triggers.get_mut(trigger) else { continue };
                if armed.fired.replace(notice).is_some() {
                    return Err(format!("trigger {trigger} of session {} fired twice", notice.session));
                }
            }
            Notice::Ended { .. } => session.ended_ns = Some(notice.at_ns),
            Notice::Suspended | Notice::Resumed | Notice::Abandoned => {}
        }
    }
    for session in sessions.values_mut() {
        session.reads.sort_by_key(|(read, _)| read.called_ns);
    }
    Ok(sessions)
}

impl Session<'_> {
    fn check(&self, changes: &HashMap<u32, Vec<&Operation>>) -> Result<(), String> {
        for (trigger, armed) in &self.triggers {
            self.check_kept(armed).map_err(|why| format!("trigger {trigger} was lost: {why}"))?;
            if let Some(fired) = armed.fired {
                self.check_fired(armed, fired, changes).map_err(|why| format!("trigger {trigger}: {why}"))?;
            }
        }
        Ok(())
    }

    /// It has fired if it must have.
    fn check_kept(&self, armed: &Armed<'_>) -> Result<(), String> {
        let fired_ns = armed.fired.map_or(u64::MAX, |fired| fired.at_ns);
        if let Some(ended_ns) = self.ended_ns
            && armed.watch.ended_ns < ended_ns
            && fired_ns > ended_ns.saturating_add(GRACE_NS)
        {
            return Err(format!("the session was over at {}, and it had not fired", seconds(ended_ns)));
        }
        let from = self.reads.partition_point(|(read, _)| read.called_ns <= armed.watch.called_ns);
        let has_changed = |(_, indexes): &&(&Operation, HashMap<u32, u64>)| {
            indexes.get(&armed.key).is_some_and(|index| *index > armed.index)
        };
        let Some((read, _)) = self.reads[from..].iter().find(has_changed) else { return Ok(()) };
        let due_ns = read.ended_ns.max(armed.watch.ended_ns) + GRACE_NS;
        if fired_ns > due_ns && self.served_ns > due_ns {
            return Err(format!("{} was followed by {}", describe(armed.watch), describe(read)));
        }
        Ok(())
    }

    /// It fired for a reason, and nothing older was read since.
    fn check_fired(
        &self,
        armed: &Armed<'_>,
        fired: &SessionNotice,
        changes: &HashMap<u32, Vec<&Operation>>,
    ) -> Result<(), String> {
        if !matches!(fired.notice, Notice::Fired { data_changed: true, .. }) {
            return Ok(());
        }
        let may_be_why = |change: &&Operation| {
            let is_behind = match change.outcome {
                Ended::Ok(Answer::Index(index)) => index > armed.index,
                _ => true,
            };
            change.called_ns <= fired.at_ns && is_behind
        };
        if !changes.get(&armed.key).is_some_and(|changes| changes.iter().copied().any(|change| may_be_why(&change))) {
            return Err(format!(
                "it fired at {}, and nothing had changed since {}",
                seconds(fired.at_ns),
                describe(armed.watch)
            ));
        }
        let from = self.reads.partition_point(|(read, _)| read.called_ns <= fired.at_ns);
        let is_old = |(_, indexes): &&(&Operation, HashMap<u32, u64>)| {
            indexes.get(&armed.key).is_none_or(|index| *index <= armed.index)
        };
        match self.reads[from..].iter().find(is_old) {
            Some((read, _)) => {
                Err(format!("it fired at {}, and an older state was read: {}", seconds(fired.at_ns), describe(read)))
            }
            None => Ok(()),
        }
    }
}

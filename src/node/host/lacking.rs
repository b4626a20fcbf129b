//! A machine that cannot be made because the file of its component is missing here, or damaged: it is made once the component was
//! had from another node, and does then what it was given meanwhile.

use std::collections::VecDeque;

use crate::node::host::{Host, HostEvent, HostJob};
use crate::replica::Job;
use crate::types::Digest;

/// A component without which there is no machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its machine waits for component {component}, for which the other nodes are asked: {reason}")]
pub(in crate::node) struct Lack {
    pub(in crate::node) component: Digest,
    /// What is wrong with its file.
    pub(in crate::node) reason: String,
}

/// Jobs that wait for a component, oldest first: the first makes the machine. They are bounded by what a replica gives out at a
/// time.
#[derive(Default)]
pub(super) struct Waiting(VecDeque<HostJob>);

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the job that makes the machine.
    pub(super) fn begin(&mut self, job: HostJob) {
        self.0.push_front(job);
    }
}

/// What does the same as a job that makes a machine, where there is none.
pub(super) fn repeated(job: &HostJob) -> Option<HostJob> {
    match job {
        HostJob::Start(snapshot) => Some(HostJob::Start(snapshot.clone())),
        HostJob::Replica(Job::Restore(meta)) => Some(HostJob::Start(Some(meta.clone()))),
        _ => None,
    }
}

impl Host {
    /// Does a job that concerns what waits; others wait as well.
    pub(super) fn run_or_wait(&mut self, job: HostJob) -> Vec<HostEvent> {
        match job {
            HostJob::TryAgain => self.run_waiting(),
            // The state of others takes the place of what was to be made.
            HostJob::Replica(Job::Restore(meta)) => {
                let mut events: Vec<_> = self.waiting.0.drain(..).filter_map(declined).collect();
                events.extend(self.run_now(HostJob::Start(Some(meta))));
                events
            }
            job => {
                self.waiting.0.push_back(job);
                Vec::new()
            }
        }
    }

    fn run_waiting(&mut self) -> Vec<HostEvent> {
        let mut jobs = std::mem::take(&mut self.waiting.0);
        let mut events = Vec::new();
        while let Some(job) = jobs.pop_front() {
            events.extend(self.run_now(job));
            if !self.waiting.is_empty() {
                // It is still missing.
                self.waiting.0.append(&mut jobs);
            }
        }
        events
    }
}

/// Queries that found no machine are asked anew.
fn declined(job: HostJob) -> Option<HostEvent> {
    match job {
        HostJob::Replica(Job::Query(_, queries)) => Some(HostEvent::Declined(queries)),
        _ => None,
    }
}

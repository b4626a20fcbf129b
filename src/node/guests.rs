//! The threads on which guests run: a bounded pool, one job of a peer at a time, fair across peers.
//!
//! Guests never run on the network's thread. A peer's jobs run in the order they were given; among peers, whoever
//! has work takes turns, one job each. A thread that a job holds for long is stood in for by another, so that few peers
//! cannot hold up all. Snapshots are made beside all that on a thread of their own, one at a time: they take long, and
//! nobody waits for them.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::node::host::{Host, HostEvent, HostJob, SnapshotTask};
use crate::types::Incarnation;
use crate::wasm;

/// After this long a job holds its thread, and another stands in for it.
const HELD_AFTER: Duration = Duration::from_millis(10);

/// Most threads that are stood in for at a time. When more are held, peers wait for the first that is not.
const MAX_STAND_INS: usize = 4;

/// Hears what became of jobs. Called on guest threads.
pub(super) type HostSink = Box<dyn Fn(Incarnation, HostEvent) + Send + Sync>;

/// The way to the pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Guests {
    shared: Arc<Shared>,
}

/// The pool's threads.
pub(super) struct GuestThreads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// How many jobs may run at a time, those that hold their threads not counted.
    threads: usize,
    state: Mutex<State>,
    work: Condvar,
    background_work: Condvar,
    sink: HostSink,
}

#[derive(Default)]
struct State {
    /// Peers that wait for a thread.
    turns: VecDeque<Incarnation>,
    /// The threads that run jobs, and since when.
    running: BTreeMap<usize, Instant>,
    slots: BTreeMap<Incarnation, Slot>,
    /// Snapshots to be made. A peer asks for one at a time.
    background: VecDeque<(Incarnation, SnapshotTask)>,
    stopping: bool,
}

/// One peer's place in the pool. Its queue is bounded by what a replica gives out at a time.
struct Slot {
    jobs: VecDeque<HostJob>,
    /// Absent while a thread has it.
    host: Option<Box<Host>>,
}

impl Guests {
    /// Starts threads for `threads` guests at a time, and those that stand in.
    pub(super) fn start(threads: usize, sink: HostSink) -> std::io::Result<(Self, GuestThreads)> {
        let (work, background_work) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { threads, state: Mutex::default(), work, background_work, sink });
        let thread = |name: String| std::thread::Builder::new().name(name).stack_size(wasm::GUEST_THREAD_STACK_BYTES);
        let guests = (0..threads + MAX_STAND_INS).map(|number| {
            let shared = Arc::clone(&shared);
            thread(format!("zraft-guest-{number}")).spawn(move || shared.work_until_stopped(number))
        });
        let background = std::iter::once_with(|| {
            let shared = Arc::clone(&shared);
            thread("zraft-snapshot".to_owned()).spawn(move || shared.make_snapshots())
        });
        let threads = guests.chain(background).collect::<Result<_, _>>()?;
        Ok((Self { shared: Arc::clone(&shared) }, GuestThreads { shared, threads }))
    }

    /// Adds a peer. It has no work yet.
    pub(super) fn add(&self, incarnation: Incarnation, host: Host) {
        let slot = Slot { jobs: VecDeque::new(), host: Some(Box::new(host)) };
        self.shared.lock().slots.insert(incarnation, slot);
    }

    /// Forgets a peer. A job of its that is running runs to its end, and is not heard of.
    pub(super) fn remove(&self, incarnation: Incarnation) {
        let mut state = self.shared.lock();
        let slot = state.slots.remove(&incarnation);
        state.background.retain(|(of, _)| *of != incarnation);
        drop(state);
        // Dropping a machine takes long where its state is large: not under the lock.
        drop(slot);
    }

    /// Gives a peer a job, behind those it has.
    pub(super) fn give(&self, incarnation: Incarnation, job: HostJob) {
        self.shared.give(incarnation, job);
    }
}

impl GuestThreads {
    /// Has the threads stop after their current job, and waits for them.
    pub(super) fn stop(self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        self.shared.background_work.notify_all();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a guest thread panicked");
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in single steps that leave it whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, incarnation: Incarnation, job: HostJob) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&incarnation) else { return };
        slot.jobs.push_back(job);
        if slot.jobs.len() == 1 && slot.host.is_some() {
            state.turns.push_back(incarnation);
            drop(state);
            self.work.notify_one();
        }
    }

    fn make_snapshots(&self) {
        yield_to_others();
        while let Some((incarnation, task)) = self.next_in_background() {
            let (meta, restores) = task.name();
            let made = catch_unwind(AssertUnwindSafe(|| task.run()));
            let made = made.unwrap_or_else(|_| SnapshotTask::panicked(meta, restores));
            self.give(incarnation, HostJob::SnapshotMade(made));
        }
    }

    fn next_in_background(&self) -> Option<(Incarnation, SnapshotTask)> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            match state.background.pop_front() {
                Some(task) => return Some(task),
                None => state = self.background_work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn work_until_stopped(&self, thread: usize) {
        while let Some(incarnation) = self.next_turn(thread) {
            self.run_one_job(incarnation);
        }
    }

    /// Waits until the thread, whose former job has ended, is to run a job of this peer.
    fn next_turn(&self, thread: usize) -> Option<Incarnation> {
        let mut state = self.lock();
        state.running.remove(&thread);
        loop {
            if state.stopping {
                return None;
            }
            if state.turns.is_empty() {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = Instant::now();
            let wait = wait_for_turn(self.threads, state.running.values().copied(), now);
            if wait.is_zero() {
                let turn = state.turns.pop_front()?;
                state.running.insert(thread, now);
                if !state.turns.is_empty() {
                    self.work.notify_one();
                }
                return Some(turn);
            }
            state = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run_one_job(&self, incarnation: Incarnation) {
        let Some((mut host, job)) = self.take(incarnation) else { return };
        // A defect met in one peer's job must not take the thread, and with it its neighbours. The peer stops.
        match catch_unwind(AssertUnwindSafe(|| host.run(job))) {
            Ok(events) => events.into_iter().for_each(|event| (self.sink)(incarnation, event)),
            Err(_) => {
                let reason = "a job of its machine panicked: a defect of zraft; the node's log tells more";
                (self.sink)(incarnation, HostEvent::Stopped(reason.to_owned()));
                return;
            }
        }
        let task = host.take_task();
        self.put_back(incarnation, host);
        if let Some(task) = task {
            self.lock().background.push_back((incarnation, task));
            self.background_work.notify_one();
        }
    }

    fn take(&self, incarnation: Incarnation) -> Option<(Box<Host>, HostJob)> {
        let mut state = self.lock();
        let slot = state.slots.get_mut(&incarnation)?;
        let job = slot.jobs.pop_front()?;
        Some((slot.host.take()?, job))
    }

    fn put_back(&self, incarnation: Incarnation, host: Box<Host>) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&incarnation) else {
            drop(state);
            return;
        };
        slot.host = Some(host);
        if !slot.jobs.is_empty() {
            state.turns.push_back(incarnation);
            drop(state);
            self.work.notify_one();
        }
    }
}

/// Gives the calling thread only what others leave of the processors. Snapshots and canaries take all of one for seconds, and
/// nobody's request waits for them.
#[cfg(target_os = "linux")]
pub(super) fn yield_to_others() {
    const LOWEST_PRIORITY: i32 = 19;
    // On Linux, a priority is a thread's own.
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
        tracing::warn!(%error, "what it does in the background may slow down what else it does");
    }
}

/// Elsewhere, a priority is that of the whole process.
#[cfg(not(target_os = "linux"))]
pub(super) fn yield_to_others() {}

/// How long the calling thread has had a processor.
pub(super) fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How long the next job waits where `threads` may run at a time and those that run began `since`.
fn wait_for_turn(threads: usize, since: impl Iterator<Item = Instant>, now: Instant) -> Duration {
    let held_in = |since: Instant| (since + HELD_AFTER).saturating_duration_since(now);
    let mut counted: Vec<Duration> = since.map(held_in).filter(|held_in| !held_in.is_zero()).collect();
    counted.sort_unstable();
    // One fewer than may run must be left.
    counted.len().checked_sub(threads).map_or(Duration::ZERO, |surplus| counted[surplus])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_for_long_is_stood_in_for() {
        let start = Instant::now();
        let wait = |ages_ms: &[u64]| {
            let now = start + Duration::from_secs(1);
            let since = ages_ms.iter().map(|age| now - Duration::from_millis(*age));
            wait_for_turn(2, since, now).as_millis()
        };
        assert_eq!(wait(&[]), 0);
        assert_eq!(wait(&[1]), 0);
        assert_eq!(wait(&[1, 4]), 6);
        assert_eq!(wait(&[1, 10]), 0);
        assert_eq!(wait(&[500, 10, 3]), 0);
        assert_eq!(wait(&[500, 10, 3, 8]), 2);
    }
}

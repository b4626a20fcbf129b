//! The clients at work.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::{Driven, Measured, Plan, Service};

/// How often it is told how things go.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A timer may be so late. A request whose client was free when it was due counts from when it was sent then: the delay is
/// the generator's.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// How long a client of a closed loop waits after a failure, so that a service that is down is not flooded.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan cannot be carried out.
    #[error("the load makes no sense: {0}")]
    Plan(&'static str),
    /// Clients could not be made.
    #[error("the clients could not start: {0}")]
    Connect(String),
    /// The system gave no thread or runtime.
    #[error("the system refused a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// When in a run something was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before what counts.
    WarmUp,
    /// What counts.
    Measured,
}

/// Carries out a plan. `tell` hears every second what the last one has brought.
///
/// # Errors
/// [`LoadError`]. Requests that fail are no error: they are counted.
pub fn run<S: Service>(
    service: &S,
    plan: &Plan,
    mut tell: impl FnMut(Phase, &Measured),
) -> Result<Measured, LoadError> {
    check(plan)?;
    std::thread::scope(|scope| {
        let (ready, started) = channel();
        let mut threads = Vec::with_capacity(plan.threads);
        for thread in 0..plan.threads {
            let (begin, beginning) = oneshot::channel();
            let (stop, stopped) = oneshot::channel::<()>();
            let notes = Notes::default();
            let crew = Crew { service, plan, thread, notes: notes.clone() };
            let ready = ready.clone();
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            builder.spawn_scoped(scope, move || crew.work(&ready, beginning, stopped))?;
            threads.push((notes, begin, stop));
        }
        drop(ready);
        wait_for_all(&started, plan.threads)?;
        let start = Instant::now();
        // Threads end when what stops them is dropped.
        let (mut notes, mut stops) = (Vec::new(), Vec::new());
        for (noted, begin, stop) in threads {
            // It has said that it waits for this.
            let _ = begin.send(start);
            notes.push(noted);
            stops.push(stop);
        }
        let measure_from = start + plan.warm_up;
        measure(measure_from, &notes, |measured| tell(Phase::WarmUp, measured));
        Ok(measure(measure_from + plan.duration, &notes, |measured| tell(Phase::Measured, measured)))
    })
}

fn check(plan: &Plan) -> Result<(), LoadError> {
    let wrong = [
        (plan.clients == 0, "there must be a client"),
        (plan.threads == 0 || plan.threads > plan.clients, "there must be a thread, and a client for each"),
        (plan.duration.is_zero(), "it must last for some time"),
        (plan.keys == 0, "there must be a key"),
        (plan.reads_percent > 100, "at most 100 of 100 requests are reads"),
        (plan.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0), "the rate must be a positive number"),
    ];
    let wrong = wrong.into_iter().find(|(is_wrong, _)| *is_wrong);
    wrong.map_or(Ok(()), |(_, reason)| Err(LoadError::Plan(reason)))
}

fn wait_for_all(started: &Receiver<Result<(), LoadError>>, threads: usize) -> Result<(), LoadError> {
    (0..threads).try_for_each(|_| {
        started.recv().unwrap_or_else(|_| Err(LoadError::Connect("a thread of the generator has panicked".to_owned())))
    })
}

/// Gathers what is noted until then.
fn measure(until: Instant, notes: &[Notes], mut tell: impl FnMut(&Measured)) -> Measured {
    let (mut total, mut last) = (Measured::default(), Instant::now());
    while last < until {
        let next = until.min(last + TELL_EVERY);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let mut lately = Measured { elapsed: now - last, ..Measured::default() };
        notes.iter().for_each(|notes| lately.add(&notes.take()));
        total.add(&lately);
        tell(&lately);
        last = now;
    }
    total
}

/// Where the clients of one thread note how their requests went.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Measured>>);

impl Notes {
    fn note(&self, is_read: bool, result: Result<Duration, String>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(took) if is_read => noted.reads.record(took),
            Ok(took) => noted.writes.record(took),
            Err(reason) => noted.fail(&reason, 1),
        }
    }

    fn take(&self) -> Measured {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The clients of one thread.
struct Crew<'a, S> {
    service: &'a S,
    plan: &'a Plan,
    thread: usize,
    notes: Notes,
}

impl<S: Service> Crew<'_, S> {
    /// Makes the clients, says so, and has them work from when they are to begin until they are stopped.
    fn work(
        self,
        ready: &Sender<Result<(), LoadError>>,
        beginning: oneshot::Receiver<Instant>,
        stopped: oneshot::Receiver<()>,
    ) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            // Who does not listen any more has seen another fail.
            Err(error) => return drop(ready.send(Err(error.into()))),
        };
        let numbers: Vec<_> = (self.thread..self.plan.clients).step_by(self.plan.threads).collect();
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let connected = self.service.connect(self.thread, numbers.len()).await;
            let clients = match connected {
                Ok(clients) => clients,
                Err(reason) => return drop(ready.send(Err(LoadError::Connect(reason)))),
            };
            drop(ready.send(Ok(())));
            let Ok(start) = beginning.await else { return };
            for (number, client) in numbers.into_iter().zip(clients) {
                let (plan, notes) = (self.plan.clone(), self.notes.clone());
                tokio::task::spawn_local(drive(client, plan, number, start, notes));
            }
            // It ends by being dropped.
            let _ = stopped.await;
        });
    }
}

/// One client, for ever.
async fn drive(mut client: impl Driven, plan: Plan, number: usize, start: Instant, notes: Notes) {
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed.wrapping_add(number as u64));
    let mut value = vec![0; plan.value_bytes];
    random.fill_bytes(&mut value);
    // Clients take turns.
    let step = plan.rate.map(|rate| Duration::from_secs_f64(plan.clients as f64 / rate));
    let mut due = step.map(|step| start + step.mul_f64(number as f64 / plan.clients as f64));
    loop {
        let began = match due {
            Some(due) => wait_until(due).await,
            None => Instant::now(),
        };
        let key = random.random_range(0..plan.keys);
        let is_read = random.random_range(0..100) < plan.reads_percent;
        let result = if is_read {
            client.read(key).await
        } else {
            // No two values are the same: what compresses is no fair load.
            let head = plan.value_bytes.min(8);
            random.fill_bytes(&mut value[..head]);
            client.write(key, &value).await
        };
        let has_failed = result.is_err();
        notes.note(is_read, result.map(|()| began.elapsed()));
        if let (Some(due), Some(step)) = (&mut due, step) {
            *due += step;
        } else if has_failed {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
    }
}

/// Waits until a request is due, and returns from when it counts.
async fn wait_until(due: Instant) -> Instant {
    if due <= Instant::now() {
        return due;
    }
    tokio::time::sleep_until(due.into()).await;
    let now = Instant::now();
    if now - due <= TIMER_SLACK { now } else { due }
}

//! One client: it has a connection, a number, a source of chance, and a pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use zraft::client::{Client, LightSession, Notices, Session, SessionOptions};
use zraft::transport::Credentials;
use zraft::types::PeerId;

use super::Target;
use crate::history::{Answer, Call, Notice, Operation, Outcome, Recorder, SessionNotice, Workload};

/// How long a client waits for a call, with all its attempts; and for one attempt.
const OPTIONS: SessionOptions = SessionOptions {
    request_timeout: Duration::from_secs(5),
    attempt_timeout: Duration::from_secs(2),
    fail_timeout: Duration::from_secs(2),
    leader_fail_timeout: Duration::from_millis(500),
    retry_pause: Duration::from_millis(30),
};

/// What all clients share.
#[derive(Clone)]
pub struct Shared {
    pub target: Target,
    pub recorder: Recorder,
    seed: u64,
    stopped: watch::Receiver<bool>,
    numbers: Arc<Numbers>,
}

/// Numbers that are given out once.
#[derive(Default)]
struct Numbers {
    client: AtomicU32,
    process: AtomicU32,
    value: AtomicU64,
    key: AtomicU32,
}

impl Shared {
    pub fn new(target: Target, recorder: Recorder, seed: u64, stopped: watch::Receiver<bool>) -> Self {
        Self { target, recorder, seed, stopped, numbers: Arc::default() }
    }

    /// Another client, with connections of its own.
    pub fn worker(&self, workload: Workload) -> Result<Worker, String> {
        let credentials = Credentials::load(&self.target.tls).map_err(|error| error.to_string())?;
        let client = Client::new(credentials).map_err(|error| error.to_string())?;
        let number = self.numbers.client.fetch_add(1, Ordering::Relaxed);
        let process = self.numbers.process.fetch_add(1, Ordering::Relaxed);
        let rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number.into()));
        Ok(Worker { shared: self.clone(), client, workload, number, process, rng })
    }
}

/// A client.
pub struct Worker {
    shared: Shared,
    client: Client,
    workload: Workload,
    number: u32,
    process: u32,
    pub rng: ChaCha8Rng,
}

impl Worker {
    pub fn is_stopped(&self) -> bool {
        *self.shared.stopped.borrow()
    }

    /// Waits for about so long, or until the run ends.
    pub async fn pause(&mut self, about: Duration) {
        let pause = about.mul_f64(self.rng.random_range(0.5..1.5));
        let mut stopped = self.shared.stopped.clone();
        let _ = tokio::time::timeout(pause, stopped.wait_for(|stopped| *stopped)).await;
    }

    /// A number that no other call of the run gets.
    pub fn value(&self) -> u64 {
        self.shared.numbers.value.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A key that nobody else gets.
    pub fn key(&self) -> u32 {
        self.shared.numbers.key.fetch_add(1, Ordering::Relaxed)
    }

    /// A light session with a cluster, which asks any node.
    pub fn light(&self, cluster: &str) -> LightSession {
        self.light_at(self.shared.target.peers(cluster))
    }

    /// A light session that asks the peer on one node alone, as long as it is not sent elsewhere.
    pub fn light_on(&self, cluster: &str, node: usize) -> LightSession {
        self.light_at(vec![self.shared.target.peers(cluster).swap_remove(node)])
    }

    fn light_at(&self, peers: Vec<PeerId>) -> LightSession {
        LightSession::with_options(self.client.clone(), peers, OPTIONS)
    }

    /// Opens a session; none if the run ends before there is one.
    pub async fn session(&mut self, cluster: &str, timeout: Duration) -> Option<(Session, Notices)> {
        while !self.is_stopped() {
            let peers = self.shared.target.peers(cluster);
            if let Ok(session) = Session::connect_with(self.client.clone(), peers, timeout, OPTIONS).await {
                return Some(session);
            }
            self.pause(Duration::from_millis(200)).await;
        }
        None
    }

    /// Does something, and records it.
    pub async fn record(&mut self, call: Call, act: impl Future<Output = Outcome>) -> Outcome {
        let called_ns = self.shared.recorder.now_ns();
        let outcome = act.await;
        let ended_ns = self.shared.recorder.now_ns();
        let (workload, client, process) = (self.workload, self.number, self.process);
        let recorded = outcome.clone();
        self.shared.recorder.operation(Operation {
            workload,
            client,
            process,
            call,
            called_ns,
            ended_ns,
            outcome: recorded,
        });
        if matches!(outcome, Outcome::Unknown(_)) {
            self.process = self.shared.numbers.process.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// Reads until there is an answer, but for no longer than the patience of the last reads.
    pub async fn record_until_ok<F: Future<Output = Outcome>>(
        &mut self,
        call: Call,
        act: impl Fn() -> F,
    ) -> Option<Answer> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if let Outcome::Ok(answer) = self.record(call, act()).await {
                return Some(answer);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        None
    }

    /// Who records notices of a session in a task of its own.
    pub fn reporter(&self, session: &Session) -> Reporter {
        Reporter {
            recorder: self.shared.recorder.clone(),
            workload: self.workload,
            client: self.number,
            session: session.id().0,
        }
    }
}

/// Records what becomes of a session.
#[derive(Clone)]
pub struct Reporter {
    recorder: Recorder,
    workload: Workload,
    client: u32,
    session: u64,
}

impl Reporter {
    pub fn notice(&self, notice: Notice) {
        let (workload, client, session) = (self.workload, self.client, self.session);
        self.recorder.notice(SessionNotice { workload, client, session, at_ns: self.recorder.now_ns(), notice });
    }

    /// Records what comes of `notices` until the session is over or dropped; tells of each trigger that has fired.
    pub async fn follow(self, mut notices: Notices, fired: impl Fn(u64)) {
        use zraft::client::{Ending, Notice as Told};
        use zraft::protocol::TriggerReason;
        while let Some(told) = notices.next().await {
            match told {
                Told::Fired { trigger, reason } => {
                    self.notice(Notice::Fired {
                        trigger: trigger.0,
                        data_changed: reason == TriggerReason::DataChanged,
                    });
                    fired(trigger.0);
                }
                Told::Suspended => self.notice(Notice::Suspended),
                Told::Resumed => self.notice(Notice::Resumed),
                Told::Ended(how @ (Ending::Closed | Ending::Expired)) => {
                    self.notice(Notice::Ended { how: how.to_string() });
                }
                // Who is refused does not know whether the session is over.
                Told::Ended(Ending::Refused(_)) => {}
            }
        }
    }
}

//! Increments that run exactly once, whatever becomes of nodes and connections: each answer is awaited as long as the session
//! lives.

use std::time::Duration;

use rand::Rng as _;
use zraft::client::{Api, Json, LightSession, PendingWrite, Session, SessionError, SessionFailure, Typed};

use super::outcome::{of_read, of_write};
use super::worker::Worker;
use crate::history::{Answer, Call, Outcome};

const TIMEOUT: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(200);
/// A session goes on for so many increments.
const LIFE: u32 = 300;
/// How long an answer is waited for. It comes as soon as the cluster is reached.
pub const PATIENCE: Duration = Duration::from_secs(90);

enum Counter {}

impl Api for Counter {
    type Codec = Json;
    type Command = i64;
    type Query = ();
    type Reply = i64;
}

pub async fn run(mut worker: Worker) {
    let counter = Typed::<Counter, _>::new(worker.light("counter"));
    while let Some((session, _)) = worker.session("counter", TIMEOUT).await {
        for _ in 0..LIFE {
            let outcome = if worker.rng.random_ratio(4, 5) {
                let add = async { of_write(increment(&session).await) };
                worker.record(Call::Increment, add).await
            } else {
                worker.record(Call::ReadCounter, read(&counter)).await
            };
            // After an unknown outcome the session may still have the write: another goes on.
            let is_over = session.is_suspended() || matches!(outcome, Outcome::Unknown(_));
            if is_over || worker.is_stopped() {
                break;
            }
            worker.pause(PACE).await;
        }
        let _ = session.close().await;
    }
}

async fn increment(session: &Session) -> Result<Answer, SessionFailure> {
    let pending = session.submit(b"1".as_slice()).await?;
    let written = answered(pending).await?;
    Ok(count(&written.reply))
}

/// Waits for the answer of a write that was taken in.
pub async fn answered(pending: PendingWrite) -> Result<zraft::client::Written, SessionFailure> {
    let unanswered = |_| Err(SessionFailure::Unanswered { after: PATIENCE, trouble: None });
    tokio::time::timeout(PATIENCE, pending).await.unwrap_or_else(unanswered)
}

/// A count; 0, which no increment leads to, if it is none.
fn count(reply: &[u8]) -> Answer {
    Answer::Count(serde_json::from_slice(reply).unwrap_or(0))
}

async fn read(counter: &Typed<Counter, LightSession>) -> Outcome {
    let read: Result<_, SessionError> = counter.session().query(b"null".as_slice()).await;
    of_read(read.map(|reply| count(&reply)))
}

pub async fn read_all(mut worker: Worker) {
    let counter = Typed::<Counter, _>::new(worker.light("counter"));
    worker.record_until_ok(Call::ReadCounter, || read(&counter)).await;
}

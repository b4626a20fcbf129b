//! Sessions that put ephemeral entries and end in every way, and who looks what is left of them.

use std::time::Duration;

use rand::Rng as _;
use zraft::client::{Kv, KvCommand, KvError, Session, SessionFailure};
use zraft::codec;

use super::counter::answered;
use super::outcome::{of_read, of_write};
use super::worker::Worker;
use crate::check::ephemeral::GONE_WITHIN_NS;
use crate::history::{Answer, Call, Notice, Outcome};

const TIMEOUT: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(500);
/// Most entries of a session, and most signs of life after them.
const MAX_ENTRIES: u32 = 3;
const MAX_SIGNS: u32 = 30;

const PREFIX: &str = "ephemeral/";
/// All entries that there may be at a time, and more.
const MAX_LOOKED_AT: usize = 1000;

/// Opens one session after the other, each with entries.
pub async fn own(mut worker: Worker) {
    while let Some((session, notices)) = worker.session("kv", TIMEOUT).await {
        let reporter = worker.reporter(&session);
        let follow = tokio::spawn(reporter.clone().follow(notices, |_| {}));
        let is_served = live(&mut worker, &session).await;
        if is_served && worker.rng.random_ratio(1, 3) {
            reporter.notice(Notice::Abandoned);
            drop(session);
        } else {
            let id = session.id().0;
            worker
                .record(Call::Close { session: id }, async { of_write(session.close().await.map(|()| Answer::Done)) })
                .await;
            drop(session);
        }
        // It ends with the session, or with what it tells of its end.
        follow.await.expect("notices are recorded without a panic");
    }
}

/// Puts entries, and shows for a while that the session lives. False if it may be over.
async fn live(worker: &mut Worker, session: &Session) -> bool {
    let id = session.id().0;
    for _ in 0..worker.rng.random_range(1..=MAX_ENTRIES) {
        let key = worker.key();
        let command = put(&format!("{PREFIX}{key}"), worker.value());
        let act = async { of_write(write_ephemeral(session, command).await) };
        if !matches!(worker.record(Call::PutEphemeral { session: id, key }, act).await, Outcome::Ok(_)) {
            return false;
        }
    }
    for _ in 0..worker.rng.random_range(1..=MAX_SIGNS) {
        if worker.is_stopped() {
            return true;
        }
        worker.pause(PACE).await;
        let command = put(&format!("alive/{id}"), worker.value());
        let act = async { of_write(write(session, command).await) };
        if !matches!(worker.record(Call::Live { session: id }, act).await, Outcome::Ok(_)) {
            return false;
        }
    }
    true
}

fn put(key: &str, value: u64) -> Vec<u8> {
    codec::encode(&KvCommand::Put { key: key.into(), value: value.to_string().into_bytes() })
}

async fn write_ephemeral(session: &Session, command: Vec<u8>) -> Result<Answer, SessionFailure> {
    answered(session.submit_ephemeral(command).await?).await.map(|_| Answer::Done)
}

async fn write(session: &Session, command: Vec<u8>) -> Result<Answer, SessionFailure> {
    answered(session.submit(command).await?).await.map(|_| Answer::Done)
}

/// Looks at all entries over and over.
pub async fn look(mut worker: Worker) {
    let kv = Kv::new(worker.light("kv"));
    while !worker.is_stopped() {
        worker.record(Call::Look, async { of_read(entries(&kv).await) }).await;
        worker.pause(PACE).await;
    }
}

async fn entries(kv: &Kv) -> Result<Answer, KvError> {
    let entries = kv.list(PREFIX, MAX_LOOKED_AT).await?;
    let key = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.parse().ok();
    // Session 0, which there is not, stands for what has no owner.
    let owner = |entry: &zraft::client::KvEntry| Some((key(&entry.key)?, entry.session.unwrap_or(0)));
    Ok(Answer::Owners(entries.iter().filter_map(owner).collect()))
}

/// Looks until all entries are gone, for as long as they may take.
pub async fn look_until_gone(mut worker: Worker) {
    let kv = Kv::new(worker.light("kv"));
    let patience = Duration::from_nanos(GONE_WITHIN_NS) + Duration::from_secs(5);
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let found = worker.record_until_ok(Call::Look, || async { of_read(entries(&kv).await) }).await;
        let is_gone = matches!(&found, Some(Answer::Owners(owners)) if owners.is_empty());
        if is_gone || found.is_none() || tokio::time::Instant::now() > deadline {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

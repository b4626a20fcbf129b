//! Sessions that watch keys, and who changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use zraft::client::{Kv, KvQuery, KvReply, Session, SessionFailure};
use zraft::codec;

use super::outcome::{of_read, of_write};
use super::worker::Worker;
use crate::history::{Answer, Call, Outcome};

/// Each changes every few seconds: seldom enough that the next change does not hide that the notice of one was lost.
const KEYS: u32 = 24;
const CHANGE_PACE: Duration = Duration::from_millis(250);
const READ_PACE: Duration = Duration::from_millis(400);
const TIMEOUT: Duration = Duration::from_secs(10);
/// A session goes on for about so many reads.
const LIFE: u32 = 150;

const PREFIX: &str = "trigger/";

fn name(key: u32) -> String {
    format!("{PREFIX}{key}")
}

/// Watches all keys, each again when its trigger has fired, and reads them all now and then.
pub async fn watch(mut worker: Worker) {
    while let Some((session, notices)) = worker.session("kv", TIMEOUT).await {
        let (sender, mut fired) = mpsc::channel(2 * KEYS as usize);
        // There is room for all that are armed.
        let follow = tokio::spawn(worker.reporter(&session).follow(notices, move |trigger| {
            let _ = sender.try_send(trigger);
        }));
        let mut armed = BTreeMap::new();
        let mut wanted: BTreeSet<u32> = (0..KEYS).collect();
        for _ in 0..worker.rng.random_range(LIFE / 2..LIFE * 3 / 2) {
            while let Ok(trigger) = fired.try_recv() {
                wanted.extend(armed.remove(&trigger));
            }
            for key in wanted.clone() {
                if let Some(trigger) = arm(&mut worker, &session, key).await {
                    wanted.remove(&key);
                    armed.insert(trigger, key);
                }
            }
            let id = session.id().0;
            let read =
                worker.record(Call::ReadWatched { session: id }, async { of_read(indexes(&session).await) }).await;
            let is_over = session.is_suspended() && matches!(read, Outcome::Failed(_));
            if is_over || worker.is_stopped() {
                break;
            }
            worker.pause(READ_PACE).await;
        }
        // If that fails it expires.
        let _ = session.close().await;
        drop(session);
        follow.await.expect("notices are recorded without a panic");
    }
}

/// Arms a trigger on a key, if that succeeds.
async fn arm(worker: &mut Worker, session: &Session, key: u32) -> Option<u64> {
    let call = Call::Watch { session: session.id().0, key };
    let query = codec::encode(&KvQuery::Get { key: name(key).into_bytes() });
    let act = async {
        let watched = session.query_watch(query).await;
        of_read(watched.map(|watched| Answer::Armed { trigger: watched.trigger.0, index: watched.index.0 }))
    };
    match worker.record(call, act).await {
        Outcome::Ok(Answer::Armed { trigger, .. }) => Some(trigger),
        _ => None,
    }
}

/// When each key has changed last.
async fn indexes(session: &Session) -> Result<Answer, SessionFailure> {
    let end = zraft::client::kv_api::prefix_end(PREFIX.as_bytes());
    let query = KvQuery::Range { start: PREFIX.into(), end, limit: KEYS };
    let reply = session.query(codec::encode(&query)).await?;
    let entries = match codec::decode(&reply) {
        Ok(KvReply::Entries { entries, .. }) => entries,
        // Seen as a state in which nothing was ever changed.
        _ => Vec::new(),
    };
    let key = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.parse().ok();
    Ok(Answer::Indexes(entries.iter().filter_map(|entry| Some((key(&entry.key)?, entry.index))).collect()))
}

/// Changes one key after the other.
pub async fn change(mut worker: Worker) {
    let kv = Kv::new(worker.light("kv"));
    for turn in 0.. {
        if worker.is_stopped() {
            return;
        }
        let (key, value) = (turn % KEYS, worker.value());
        let act = async { of_write(kv.put(name(key), value.to_string()).await.map(|index| Answer::Index(index.0))) };
        worker.record(Call::Change { key, value }, act).await;
        worker.pause(CHANGE_PACE).await;
    }
}

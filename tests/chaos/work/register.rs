//! Registers: a handful of keys that are put, read, and put if they are as expected.

use std::time::Duration;

use rand::Rng as _;
use zraft::client::{CompareAndSet, Kv, KvEntry, KvError, KvExpected};

use super::outcome::{of_read, of_write};
use super::worker::Worker;
use crate::history::{Answer, Call, Outcome};

const KEYS: u32 = 5;
const PACE: Duration = Duration::from_millis(120);
/// Of who reads from one node alone.
const READ_PACE: Duration = Duration::from_millis(200);

fn name(key: u32) -> String {
    format!("register/{key}")
}

/// The value of an entry; 0, which nobody puts, if it is no number.
fn value(entry: Option<KvEntry>) -> Option<u64> {
    entry.map(|entry| String::from_utf8_lossy(&entry.value).parse().unwrap_or(0))
}

/// Does everything, by whichever node.
pub async fn run(mut worker: Worker) {
    let kv = Kv::new(worker.light("kv"));
    // What it saw last of each key, to compare with.
    let mut seen = [None; KEYS as usize];
    while !worker.is_stopped() {
        let key = worker.rng.random_range(0..KEYS);
        let new = worker.value();
        let last = &mut seen[key as usize];
        let answer = match (worker.rng.random_range(0..10), *last) {
            (0..4, _) | (_, None) => read(&mut worker, &kv, key).await,
            (4..7, _) => {
                let put = async { of_write(kv.put(name(key), new.to_string()).await.map(|_| Answer::Done)) };
                worker.record(Call::Put { key, value: new }, put).await
            }
            (_, Some(expected)) => {
                let act = async { of_write(exchange(&kv, key, expected, new).await) };
                worker.record(Call::CompareAndSet { key, expected, value: new }, act).await
            }
        };
        match answer {
            Outcome::Ok(Answer::Value(found)) => *last = found.or(Some(0)),
            Outcome::Ok(_) => *last = Some(new),
            Outcome::Failed(_) | Outcome::Unknown(_) => {}
        }
        worker.pause(PACE).await;
    }
}

async fn exchange(kv: &Kv, key: u32, expected: u64, new: u64) -> Result<Answer, KvError> {
    let expected = KvExpected::Value(expected.to_string().into_bytes());
    Ok(match kv.compare_and_set(name(key), expected, Some(new.to_string().into_bytes())).await? {
        CompareAndSet::Done(_) => Answer::Done,
        CompareAndSet::Conflict(found) => Answer::Value(value(found)),
    })
}

async fn read(worker: &mut Worker, kv: &Kv, key: u32) -> Outcome {
    let get = async { of_read(kv.get(name(key)).await.map(|entry| Answer::Value(value(entry)))) };
    worker.record(Call::Get { key }, get).await
}

/// Reads from one node alone, whatever others say of it: so a leader that was left behind is asked as well.
pub async fn read_at(mut worker: Worker, node: usize) {
    let kv = Kv::new(worker.light_on("kv", node));
    while !worker.is_stopped() {
        let key = worker.rng.random_range(0..KEYS);
        read(&mut worker, &kv, key).await;
        worker.pause(READ_PACE).await;
    }
}

pub async fn read_all(mut worker: Worker) {
    let kv = Kv::new(worker.light("kv"));
    for key in 0..KEYS {
        let get = || async { of_read(kv.get(name(key)).await.map(|entry| Answer::Value(value(entry)))) };
        worker.record_until_ok(Call::Get { key }, get).await;
    }
}

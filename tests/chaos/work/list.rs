//! Lists: appended to and read whole, by light sessions. A list that is long is left for the next.

use std::time::Duration;

use rand::Rng as _;
use zraft::client::{LightSession, Typed, TypedError};

use super::bank::Bank;
use super::bank_api::{Command, Question, Reply};
use super::outcome::{of_read, of_write};
use super::worker::Worker;
use crate::history::{Answer, Call, Outcome};

/// Where a list is left.
const LONG: u64 = 200;
const PACE: Duration = Duration::from_millis(200);

type Lists = Typed<Bank, LightSession>;

pub async fn run(mut worker: Worker) {
    let lists = Lists::new(worker.light("bank"));
    let mut list = 0;
    while !worker.is_stopped() {
        let outcome = if worker.rng.random_ratio(2, 3) {
            let value = worker.value();
            let act = async { of_write(append(&lists, list, value).await) };
            worker.record(Call::Append { list, value }, act).await
        } else {
            let act = async { of_read(read(&lists, list).await) };
            worker.record(Call::ReadList { list }, act).await
        };
        let length = match outcome {
            Outcome::Ok(Answer::Length(length)) => length,
            Outcome::Ok(Answer::List(values)) => values.len() as u64,
            _ => 0,
        };
        list += u32::from(length >= LONG);
        worker.pause(PACE).await;
    }
}

async fn append(lists: &Lists, list: u32, value: u64) -> Result<Answer, TypedError> {
    match lists.write(&Command::Append { list, value }).await?.reply {
        Reply::Appended { length } => Ok(Answer::Length(length)),
        other => Err(TypedError::Malformed(format!("{other:?}"))),
    }
}

async fn read(lists: &Lists, list: u32) -> Result<Answer, TypedError> {
    match lists.query(&Question::List { list }).await?.reply {
        Reply::List { values } => Ok(Answer::List(values)),
        other => Err(TypedError::Malformed(format!("{other:?}"))),
    }
}

/// Reads all lists: the first that is empty is behind the last.
pub async fn read_all(mut worker: Worker) {
    let lists = Lists::new(worker.light("bank"));
    for list in 0.. {
        let act = || async { of_read(read(&lists, list).await) };
        match worker.record_until_ok(Call::ReadList { list }, act).await {
            Some(Answer::List(values)) if !values.is_empty() => {}
            _ => return,
        }
    }
}

//! Transfers between accounts, each made exactly once.

use std::time::Duration;

use rand::Rng as _;
use zraft::client::{Api, Bincode, Codec as _, LightSession, Session, SessionFailure, Typed, TypedError};

use super::bank_api;
use super::bank_api::{Command, MAX_LEDGER_ENTRIES, Question, Reply};
use super::counter::answered;
use super::outcome::{of_read, of_write};
use super::worker::Worker;
use crate::check::bank::{ACCOUNTS, BEGIN_WITH};
use crate::history::{Answer, Call, Outcome};

const TIMEOUT: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(200);
/// A session goes on for so many transfers.
const LIFE: u32 = 300;

/// The backend, as its clients see it.
pub enum Bank {}

impl Api for Bank {
    type Codec = Bincode;
    type Command = Command;
    type Query = Question;
    type Reply = bank_api::Answer;
}

type Accounts = Typed<Bank, LightSession>;

pub async fn run(mut worker: Worker) {
    let accounts = Accounts::new(worker.light("bank"));
    while let Some((session, _)) = worker.session("bank", TIMEOUT).await {
        for _ in 0..LIFE {
            let outcome = if worker.rng.random_ratio(2, 3) {
                let id = worker.value();
                let from = worker.rng.random_range(0..ACCOUNTS);
                let to = (from + worker.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
                // Now and then there is too little.
                let amount = worker.rng.random_range(1..=BEGIN_WITH);
                let act = async { of_write(transfer(&session, Command::Transfer { id, from, to, amount }).await) };
                worker.record(Call::Transfer { id, from, to, amount }, act).await
            } else {
                let act = async { of_read(balances(&accounts).await) };
                worker.record(Call::ReadBalances, act).await
            };
            let is_over = session.is_suspended() || matches!(outcome, Outcome::Unknown(_));
            if is_over || worker.is_stopped() {
                break;
            }
            worker.pause(PACE).await;
        }
        let _ = session.close().await;
    }
}

/// An answer that makes no sense shows as a transfer that has no number: no bank gives it.
async fn transfer(session: &Session, command: Command) -> Result<Answer, SessionFailure> {
    let bytes = Bincode::encode(&command).expect("a command has an encoding");
    let written = answered(session.submit(bytes).await?).await?;
    let bank_api::Answer { build, upgrades, reply } = Bincode::decode(&written.reply).unwrap_or(bank_api::Answer {
        build: 0,
        upgrades: 0,
        reply: Reply::Moved { number: 0, left: 0 },
    });
    Ok(match reply {
        Reply::TooLittle { number, left } => Answer::TooLittle { number, left, upgrades, build },
        Reply::Moved { number, left } => Answer::Moved { number, left, upgrades, build },
        _ => Answer::Moved { number: 0, left: 0, upgrades, build },
    })
}

async fn balances(accounts: &Accounts) -> Result<Answer, TypedError> {
    let bank_api::Answer { build, upgrades, reply } = accounts.query(&Question::Balances).await?;
    match reply {
        Reply::Balances { number, balances } => Ok(Answer::Balances { number, balances, upgrades, build }),
        other => Err(TypedError::Malformed(format!("{other:?}"))),
    }
}

/// Reads it page by page: what is there stays as it is.
async fn ledger(accounts: &Accounts) -> Result<Answer, TypedError> {
    let mut all = Vec::new();
    loop {
        let behind = all.len() as u64;
        let Reply::Ledger { ids } = accounts.query(&Question::Ledger { behind }).await?.reply else {
            return Err(TypedError::Malformed("it is no ledger".to_owned()));
        };
        let is_last = ids.len() < MAX_LEDGER_ENTRIES;
        all.extend(ids);
        if is_last {
            return Ok(Answer::List(all));
        }
    }
}

pub async fn read_all(mut worker: Worker) {
    let accounts = Accounts::new(worker.light("bank"));
    worker.record_until_ok(Call::ReadLedger, || async { of_read(ledger(&accounts).await) }).await;
    worker.record_until_ok(Call::ReadBalances, || async { of_read(balances(&accounts).await) }).await;
}

//! A bank, and lists of numbers. Every answer tells where in the history of transfers, or of its list, it stands, so that
//! a checker knows the order of all that was done without guessing; and which build gave it, so that upgrades are seen.
//!
//! Its config is the number of accounts and what each begins with: `8 100`.

pub mod api;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zraft_backend::{Apply, Backend, Bincode, Origin, Query, SerdeReader, Snapshot};

use api::{Answer, Command, MAX_LEDGER_ENTRIES, Question, Reply};

/// Which build this is.
const BUILD: u32 = if cfg!(feature = "second") { 2 } else { 1 };

/// The bank. Its own [`Snapshot`] counts upgrades.
#[derive(Debug)]
pub struct Bank(State);

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    balances: Vec<u64>,
    /// The ids of all transfers made.
    ledger: Vec<u64>,
    lists: BTreeMap<u32, Vec<u64>>,
    upgrades: u32,
}

impl Backend for Bank {
    const VERSION: &'static str = "bank 1";
    type Codec = Bincode;
    type Command = Command;
    type Query = Question;
    type Reply = Answer;

    fn init(config: &[u8]) -> Result<Self, String> {
        let wanted = "the config is the number of accounts and what each begins with, such as '8 100'";
        let text = std::str::from_utf8(config).map_err(|_| wanted)?;
        let (accounts, each) = text.split_once(' ').ok_or(wanted)?;
        let accounts = accounts.parse::<u16>().map_err(|_| wanted)?;
        let each = each.parse::<u32>().map_err(|_| wanted)?;
        Ok(Self(State { balances: vec![each.into(); accounts.into()], ..State::default() }))
    }

    fn apply(&mut self, command: Command, at: &mut Apply) -> Result<Answer, String> {
        let state = &mut self.0;
        let reply = match command {
            Command::Transfer { id, from, to, amount } => {
                at.changed("accounts");
                state.transfer(id, from, to, amount)?
            }
            Command::Append { list, value } => {
                at.changed(list.to_be_bytes());
                let values = state.lists.entry(list).or_default();
                values.push(value);
                Reply::Appended { length: values.len() as u64 }
            }
        };
        Ok(state.answer(reply))
    }

    fn query(&self, question: Question, at: &mut Query) -> Result<Answer, String> {
        let state = &self.0;
        let reply = match question {
            Question::Balances => {
                at.watch("accounts");
                Reply::Balances { number: state.ledger.len() as u64, balances: state.balances.clone() }
            }
            Question::Ledger { behind } => {
                at.watch("accounts");
                let behind = usize::try_from(behind).unwrap_or(usize::MAX);
                Reply::Ledger { ids: state.ledger.iter().skip(behind).take(MAX_LEDGER_ENTRIES).copied().collect() }
            }
            Question::List { list } => {
                at.watch(list.to_be_bytes());
                Reply::List { values: state.lists.get(&list).cloned().unwrap_or_default() }
            }
        };
        Ok(state.answer(reply))
    }
}

impl State {
    fn transfer(&mut self, id: u64, from: u32, to: u32, amount: u64) -> Result<Reply, String> {
        let (from, to) = (from as usize, to as usize);
        if from.max(to) >= self.balances.len() || from == to {
            return Err("there are no two such accounts".to_owned());
        }
        let Some(left) = self.balances[from].checked_sub(amount) else {
            return Ok(Reply::TooLittle { number: self.ledger.len() as u64, left: self.balances[from] });
        };
        // The sum of all is what the bank began with, and fits.
        self.balances[from] = left;
        self.balances[to] += amount;
        self.ledger.push(id);
        Ok(Reply::Moved { number: self.ledger.len() as u64, left })
    }

    fn answer(&self, reply: Reply) -> Answer {
        Answer { build: BUILD, upgrades: self.upgrades, reply }
    }
}

/// Serde's, but that the first state of another build counts it.
impl Snapshot for Bank {
    type Reader = SerdeReader;
    type Writer = (Vec<u8>, bool);

    fn next_chunk(&self, reader: &mut SerdeReader, max_bytes: usize) -> Option<Vec<u8>> {
        self.0.next_chunk(reader, max_bytes)
    }

    fn begin(origin: &Origin) -> Result<Self::Writer, String> {
        Ok((State::begin(origin)?, origin.migration.is_some()))
    }

    fn take_chunk((writer, _): &mut Self::Writer, chunk: Vec<u8>) -> Result<(), String> {
        State::take_chunk(writer, chunk)
    }

    fn finish((writer, is_upgrade): Self::Writer) -> Result<Self, String> {
        let mut state = State::finish(writer)?;
        state.upgrades += u32::from(is_upgrade);
        Ok(Self(state))
    }
}

zraft_backend::export!(Bank);

#[cfg(test)]
mod tests {
    use zraft_backend::testing::Cluster;

    use super::*;

    #[test]
    fn money_moves_and_never_comes_or_goes() {
        let mut cluster = Cluster::<Bank>::start(b"3 100").unwrap();
        let mut transfer = |id, from, to, amount| {
            cluster.write(&Command::Transfer { id, from, to, amount }).map(|answer| answer.reply)
        };
        assert_eq!(transfer(7, 0, 1, 60), Ok(Reply::Moved { number: 1, left: 40 }));
        assert_eq!(transfer(8, 0, 2, 60), Ok(Reply::TooLittle { number: 1, left: 40 }));
        assert_eq!(transfer(9, 1, 2, 160), Ok(Reply::Moved { number: 2, left: 0 }));
        assert!(transfer(10, 1, 3, 0).is_err() && transfer(10, 1, 1, 0).is_err());
        let balances = Reply::Balances { number: 2, balances: vec![40, 0, 260] };
        assert_eq!(cluster.query(&Question::Balances).map(|answer| answer.reply), Ok(balances));
        let ledger = cluster.query(&Question::Ledger { behind: 1 }).map(|answer| answer.reply);
        assert_eq!(ledger, Ok(Reply::Ledger { ids: vec![9] }));
        cluster.check();
    }

    #[test]
    fn lists_grow_at_their_end() {
        let mut cluster = Cluster::<Bank>::start(b"0 0").unwrap();
        for (place, value) in [5, 3, 9].into_iter().enumerate() {
            let answer = cluster.write(&Command::Append { list: 1, value }).unwrap();
            assert_eq!(answer.reply, Reply::Appended { length: place as u64 + 1 });
        }
        let mut list = |list| cluster.query(&Question::List { list }).map(|answer| answer.reply);
        assert_eq!(list(1), Ok(Reply::List { values: vec![5, 3, 9] }));
        assert_eq!(list(2), Ok(Reply::List { values: vec![] }));
        cluster.check();
    }

    #[test]
    fn an_upgrade_is_counted_and_a_restart_is_not() {
        let take = |bank: &Bank, migration| {
            let chunk = bank.next_chunk(&mut SerdeReader::default(), usize::MAX).unwrap();
            let mut writer = Bank::begin(&Origin { migration, ..Origin::default() }).unwrap();
            Bank::take_chunk(&mut writer, chunk).unwrap();
            Bank::finish(writer).unwrap()
        };
        let bank = take(&Bank::init(b"2 5").unwrap(), None);
        assert_eq!(bank.0.upgrades, 0);
        let bank = take(&take(&bank, Some(Vec::new())), None);
        assert_eq!((bank.0.upgrades, bank.0.balances), (1, vec![5, 5]));
    }

    #[test]
    fn a_config_that_names_no_bank_is_refused() {
        assert!(["", "8", "8 x", "-1 100", "8 100 "].iter().all(|config| Bank::init(config.as_bytes()).is_err()));
    }
}

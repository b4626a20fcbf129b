//! The smallest backend that shows how often each command was run: a number to which every command adds.
//!
//! A command is a number in JSON, and the reply is the sum so far; a query is `null`. A query's trigger fires at the
//! next command.

use zraft_backend::{Apply, Backend, Json, Query};

/// What every query watches and every command changes.
const VALUE: &str = "value";

/// The sum.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Counter(i64);

impl Backend for Counter {
    const VERSION: &'static str = "counter 1";
    type Codec = Json;
    type Command = i64;
    type Query = ();
    type Reply = i64;

    fn init(config: &[u8]) -> Result<Self, String> {
        if config.is_empty() { Ok(Self(0)) } else { Err("the counter backend takes no config".to_owned()) }
    }

    fn apply(&mut self, by: i64, at: &mut Apply) -> Result<i64, String> {
        self.0 = self.0.checked_add(by).ok_or("the counter is full")?;
        at.changed(VALUE);
        Ok(self.0)
    }

    fn query(&self, (): (), at: &mut Query) -> Result<i64, String> {
        at.watch(VALUE);
        Ok(self.0)
    }
}

zraft_backend::export!(Counter);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_until_it_is_full() {
        let mut counter = Counter::init(b"").unwrap();
        let mut at = Apply::at(1, 0);
        assert_eq!(counter.apply(i64::MAX - 1, &mut at), Ok(i64::MAX - 1));
        assert_eq!(counter.apply(1, &mut at), Ok(i64::MAX));
        assert!(counter.apply(1, &mut at).is_err());
        assert_eq!(counter.query((), &mut Query::default()), Ok(i64::MAX), "what was refused changes nothing");
        assert_eq!(at.into_changed(), vec![VALUE.as_bytes().to_vec(); 2]);
        assert!(Counter::init(b"fast").is_err());
    }
}

//! A replicated counter: a command is a number in JSON that is added, and the reply is the sum so far.
//!
//! A query is `null`, and its reply the sum. zraft runs this on every replica, with the same commands in the same order,
//! and all must reach the same state: follow the state and the arguments alone. A panic ends the instance; to refuse a
//! command, return `Err`. `cargo test` runs the tests below on this machine.

use zraft_backend::{Apply, Backend, Json, Query};

/// What every query watches and every command changes: it fires the triggers of those who watch.
const VALUE: &str = "value";

/// The sum: the whole state.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Counter(i64);

impl Backend for Counter {
    // Names the format of the state in snapshots. Change it when an older snapshot would be misread.
    const VERSION: &'static str = "counter 1";
    type Codec = Json;
    type Command = i64;
    type Query = ();
    type Reply = i64;

    fn init(config: &[u8]) -> Result<Self, String> {
        if config.is_empty() { Ok(Self(0)) } else { Err("the counter takes no config".to_owned()) }
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
        assert_eq!(counter.apply(i64::MAX, &mut at), Ok(i64::MAX));
        assert!(counter.apply(1, &mut at).is_err());
        assert_eq!(counter.query((), &mut Query::default()), Ok(i64::MAX), "what was refused changes nothing");
    }
}

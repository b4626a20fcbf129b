//! What clients of the bank send and receive: bincode 2, standard configuration. It needs nothing of the backend, so that
//! the harness includes it alone.

use serde::{Deserialize, Serialize};

/// Changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Moves money, unless the account has too little. Answered with [`Reply::Moved`] or [`Reply::TooLittle`].
    Transfer {
        /// Names the transfer in the ledger. The bank does not look whether it was there before.
        id: u64,
        /// The account that pays.
        from: u32,
        /// The account that is paid.
        to: u32,
        /// How much.
        amount: u64,
    },
    /// Appends to a list, which begins empty. Answered with [`Reply::Appended`].
    Append {
        /// Which list.
        list: u32,
        /// What.
        value: u64,
    },
}

/// Reads something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// All balances. Answered with [`Reply::Balances`].
    Balances,
    /// The transfers that were made, behind so many. Answered with [`Reply::Ledger`].
    Ledger {
        /// How many to pass over.
        behind: u64,
    },
    /// A list. Answered with [`Reply::List`].
    List {
        /// Which list.
        list: u32,
    },
}

/// The answer to either, with the build that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which build of the backend gave it.
    pub build: u32,
    /// How often the state went from one build to another before.
    pub upgrades: u32,
    /// What was asked for.
    pub reply: Reply,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The transfer was made.
    Moved {
        /// It is the so-manieth.
        number: u64,
        /// What is left of the payer's.
        left: u64,
    },
    /// The transfer was not made.
    TooLittle {
        /// How many were made before.
        number: u64,
        /// What the payer has.
        left: u64,
    },
    /// It was appended.
    Appended {
        /// The list's length since.
        length: u64,
    },
    /// All balances.
    Balances {
        /// How many transfers were made before.
        number: u64,
        /// The balances, by account.
        balances: Vec<u64>,
    },
    /// Ids of transfers in the order in which they were made; at most [`MAX_LEDGER_ENTRIES`].
    Ledger {
        /// The ids.
        ids: Vec<u64>,
    },
    /// A list.
    List {
        /// All of it.
        values: Vec<u64>,
    },
}

/// Most transfers in one answer.
pub const MAX_LEDGER_ENTRIES: usize = 10_000;

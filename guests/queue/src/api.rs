//! What clients of the queue backend send and receive, in JSON. It needs nothing of the backend, so that clients can be
//! built with it alone.

use serde::{Deserialize, Serialize};

/// What changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Adds an item at the end of a queue.
    Put {
        /// The queue. It is there as soon as something is in it.
        queue: String,
        /// The item.
        item: String,
    },
    /// Takes the first item of the queue of this name. Ephemeral.
    Take(String),
    /// The work on the item of this id, which the session has taken, is done. Ephemeral.
    Ack(u64),
    /// The session does not do the work on the item of this id. Ephemeral.
    GiveBack(u64),
    /// Has the dead item of this id delivered again.
    Revive(u64),
    /// Forgets the dead item of this id.
    Discard(u64),
}

/// What anybody can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How many items there are in the queue of this name.
    Count(String),
    /// Which items of the queue of this name are dead.
    Dead(String),
}

/// The answer to either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The item was added.
    Put {
        /// Names it: the log index.
        id: u64,
    },
    /// The session has this item until it acknowledges it or ends.
    Taken {
        /// Names it.
        id: u64,
        /// What was put.
        item: String,
        /// How often it has been taken.
        attempt: u32,
    },
    /// There is nothing to take.
    Empty,
    /// What was to be done was done.
    Done,
    /// How many items there are.
    Counted {
        /// To be taken.
        ready: u64,
        /// That a session has.
        taken: u64,
        /// That were taken too often.
        dead: u64,
    },
    /// The oldest dead items.
    Dead(Vec<DeadItem>),
}

/// An item that was taken too often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadItem {
    /// Names it.
    pub id: u64,
    /// What was put.
    pub item: String,
}

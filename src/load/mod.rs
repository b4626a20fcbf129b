//! A load generator: many clients that drive a service, and how long it took to answer.
//!
//! - *Closed loop*: each client asks as soon as it was answered. Shows what a service can do.
//! - *Open loop*: requests are due at a steady rate, whatever becomes of those before. One that is due while its client still
//!   waits counts from when it was due, so a service that stalls is not spared what it would have been asked meanwhile
//!   (coordinated omission).
//!
//! What is driven implements [`Service`] and [`Driven`]; `zraft bench` drives zraft, and `benches/compare` others beside it.

mod measured;
mod run;

use std::time::Duration;

pub use measured::{Latencies, Measured};
pub use run::{LoadError, Phase, run};

/// What to do, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many clients there are; each has one request at a time under way.
    pub clients: usize,
    /// Threads that the clients share.
    pub threads: usize,
    /// How long is measured.
    pub duration: Duration,
    /// How long the clients run before that.
    pub warm_up: Duration,
    /// Requests a second of all clients together; none for as many as are answered.
    pub rate: Option<f64>,
    /// So many of a hundred requests are reads, the others writes.
    pub reads_percent: u8,
    /// How many keys there are. Each request is of one, at random.
    pub keys: u64,
    /// Length of a value, in bytes.
    pub value_bytes: usize,
    /// What the choice of keys follows from.
    pub seed: u64,
}

/// One client of what is driven.
pub trait Driven {
    /// Writes a value. An error is counted by its text.
    fn write(&mut self, key: u64, value: &[u8]) -> impl Future<Output = Result<(), String>>;

    /// Reads a value.
    fn read(&mut self, key: u64) -> impl Future<Output = Result<(), String>>;
}

/// What is driven.
pub trait Service: Sync {
    /// A client of it.
    type Client: Driven + 'static;

    /// Makes `count` clients for one of the threads, on whose runtime they live.
    fn connect(&self, thread: usize, count: usize) -> impl Future<Output = Result<Vec<Self::Client>, String>>;
}

#[cfg(test)]
mod tests;

//! What calls have used, for those who want to know before a cluster's budgets do.

use std::sync::{Mutex, PoisonError};

/// Notes what the calls of instances use.
#[derive(Debug, Default)]
pub struct Meter {
    most: Mutex<Usage>,
}

/// The most that a call has used, as [`Budgets`](crate::settings::Budgets) count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Fuel of a batch of commands, or of the end of a session.
    pub apply_fuel: u64,
    /// Fuel of a query.
    pub query_fuel: u64,
    /// Fuel of a call that starts an instance, or reads or writes a part of a snapshot.
    pub chunk_fuel: u64,
    /// Linear memory of an instance, in bytes.
    pub memory_bytes: u64,
}

impl Usage {
    /// The greater of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            apply_fuel: self.apply_fuel.max(other.apply_fuel),
            query_fuel: self.query_fuel.max(other.query_fuel),
            chunk_fuel: self.chunk_fuel.max(other.chunk_fuel),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }

    /// What one call has used.
    pub(super) fn of(call: &str, fuel: u64, memory_bytes: u64) -> Self {
        let usage = Self { memory_bytes, ..Self::default() };
        match call {
            "apply" | "expire-session" => Self { apply_fuel: fuel, ..usage },
            "query" => Self { query_fuel: fuel, ..usage },
            _ => Self { chunk_fuel: fuel, ..usage },
        }
    }
}

impl Meter {
    /// The most that any call has used since this was last asked.
    pub fn take(&self) -> Usage {
        std::mem::take(&mut self.most.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, usage: Usage) {
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        *most = most.max(usage);
    }
}

//! What a cluster is created with and all its replicas share.

use serde::{Deserialize, Serialize};

/// The replicated settings of a cluster: part of the machine's state, equal on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A snapshot is due after this many entries since the last one.
    pub max_log_count: u64,
    /// How many entries behind a snapshot stay in the log, for followers that are a little behind.
    pub kept_log_count: u64,
    /// What calls into the backend may use.
    pub budgets: Budgets,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_log_count: 10_000, kept_log_count: 1_000, budgets: Budgets::default() }
    }
}

/// What one call into a backend may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Fuel for each command of a batch, and for each expiry.
    pub apply_fuel: u64,
    /// Fuel for a query.
    pub query_fuel: u64,
    /// Fuel for each chunk of a snapshot read or written, and for `init`.
    pub chunk_fuel: u64,
    /// Linear memory of an instance, in bytes.
    pub memory_bytes: u64,
}

impl Budgets {
    /// The most linear memory that may be configured, in bytes: wasm's own limit of 4 GiB leaves a factor of four
    /// for replicas that must apply what the leader could.
    pub const MAX_MEMORY_BYTES: u64 = 1 << 30;
}

impl Default for Budgets {
    fn default() -> Self {
        Self { apply_fuel: 1_000_000_000, query_fuel: 1_000_000_000, chunk_fuel: 10_000_000_000, memory_bytes: 1 << 30 }
    }
}

//! What a cluster is created with and all its replicas share.

use serde::{Deserialize, Serialize};

/// The replicated settings of a cluster: part of the machine's state, equal on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A snapshot is due after this many entries since the last one, or fewer of 64 MiB together, once they have
    /// [`Settings::min_log_percent`].
    pub max_log_count: u64,
    /// A snapshot waits until the log since the last one has this share of that one's size, in percent: it costs what the
    /// state is large, so this bounds what snapshots cost a write. With 1 GiB of log it waits no longer.
    pub min_log_percent: u64,
    /// How many entries behind a snapshot stay in the log, for followers that are a little behind.
    pub kept_log_count: u64,
    /// Most sessions that may be open at a time.
    pub max_sessions: u64,
    /// Most sessions of one client identity that may be open at a time.
    pub max_sessions_per_identity: u64,
    /// Most replies of a session that may wait for the client to acknowledge them.
    pub max_unacknowledged: u64,
    /// What calls into the backend may use.
    pub budgets: Budgets,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_log_count: 100_000,
            min_log_percent: 50,
            kept_log_count: 1_000,
            max_sessions: 100_000,
            max_sessions_per_identity: 20_000,
            max_unacknowledged: 1_024,
            budgets: Budgets::default(),
        }
    }
}

impl Settings {
    /// Whether a cluster can run with these settings.
    ///
    /// # Errors
    /// [`SettingsError`] naming the setting that is out of bounds.
    pub fn check(&self) -> Result<(), SettingsError> {
        let budgets = &self.budgets;
        let out_of_bounds = |setting, least, most| Err(SettingsError { setting, least, most });
        let counts = [("max_log_count", self.max_log_count), ("max_unacknowledged", self.max_unacknowledged)];
        if let Some((setting, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return out_of_bounds(setting, 1, u64::MAX);
        }
        if !(Budgets::MIN_MEMORY_BYTES..=Budgets::MAX_MEMORY_BYTES).contains(&budgets.memory_bytes) {
            return out_of_bounds("memory_bytes", Budgets::MIN_MEMORY_BYTES, Budgets::MAX_MEMORY_BYTES);
        }
        let fuels = [
            ("apply_fuel", budgets.apply_fuel),
            ("query_fuel", budgets.query_fuel),
            ("chunk_fuel", budgets.chunk_fuel),
        ];
        for (setting, fuel) in fuels {
            if !(Budgets::MIN_FUEL..=Budgets::MAX_FUEL).contains(&fuel) {
                return out_of_bounds(setting, Budgets::MIN_FUEL, Budgets::MAX_FUEL);
            }
        }
        Ok(())
    }
}

/// A setting is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} must be between {least} and {most}")]
pub struct SettingsError {
    /// The setting's name.
    pub setting: &'static str,
    /// The least it may be.
    pub least: u64,
    /// The most it may be.
    pub most: u64,
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
    /// The least linear memory that may be configured, in bytes.
    pub const MIN_MEMORY_BYTES: u64 = 1 << 20;
    /// The least fuel that may be configured.
    pub const MIN_FUEL: u64 = 100_000;
    /// The most fuel that may be configured: what a batch of the largest size multiplies it to still fits 64 bits.
    pub const MAX_FUEL: u64 = 1 << 40;
}

impl Default for Budgets {
    fn default() -> Self {
        Self { apply_fuel: 1_000_000_000, query_fuel: 1_000_000_000, chunk_fuel: 10_000_000_000, memory_bytes: 1 << 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_what_is_out_of_bounds_is_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().unwrap_err().setting
        };
        assert_eq!(refused(|settings| settings.max_log_count = 0), "max_log_count");
        assert_eq!(refused(|settings| settings.max_unacknowledged = 0), "max_unacknowledged");
        assert_eq!(refused(|settings| settings.budgets.memory_bytes = Budgets::MAX_MEMORY_BYTES + 1), "memory_bytes");
        assert_eq!(refused(|settings| settings.budgets.memory_bytes = Budgets::MIN_MEMORY_BYTES - 1), "memory_bytes");
        assert_eq!(refused(|settings| settings.budgets.apply_fuel = 0), "apply_fuel");
        assert_eq!(refused(|settings| settings.budgets.query_fuel = u64::MAX), "query_fuel");
        assert_eq!(refused(|settings| settings.budgets.chunk_fuel = 1), "chunk_fuel");
    }
}

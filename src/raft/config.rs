//! What can be tuned. A [`Config`] that exists is valid.

/// The tunable numbers, not checked yet. Ticks are as long as the driver makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigValues {
    /// A follower that hears no leader for this many ticks, or up to twice as many, asks for an election; a leader
    /// that hears no quorum for this long steps down.
    pub election_ticks: u32,
    /// A leader sends heartbeats every this many ticks.
    pub heartbeat_ticks: u32,
    /// A cluster falls asleep when nothing was wanted of its leader for this many ticks, and all peers have all of the log; 0,
    /// the default, means never. Who sets it must tell a peer that sleeps when its leader may be gone
    /// ([`Raft::suspect_leader`](crate::raft::Raft::suspect_leader)). With leases, nobody sleeps.
    pub quiesce_ticks: u32,
    /// The most bytes of entries in one append. A single larger entry still travels, alone.
    pub max_append_bytes: usize,
    /// The most appends on their way to one follower.
    pub max_inflight_messages: usize,
    /// The bytes of entries on their way to one follower at which the leader waits.
    pub max_inflight_bytes: usize,
    /// The bytes of uncommitted proposals at which a leader refuses more.
    pub max_uncommitted_bytes: usize,
    /// The bytes of entries given to the machine and not yet applied at which no more are given.
    pub max_apply_bytes: usize,
    /// The bytes of recent entries kept in memory. Entries that are not durable yet are kept beyond it.
    pub cached_log_bytes: usize,
    /// How long a leader that a quorum has answered serves reads without asking again; 0, the default, means that
    /// it always asks. All peers of a cluster must agree on whether this is 0.
    ///
    /// Reads are then linearizable only as long as the clocks are good: while a leader counts `lease_ticks`, no other
    /// peer may count `election_ticks - 1`. A leader that is stopped and goes on, as by SIGSTOP or a migration of its
    /// virtual machine, breaks that.
    pub lease_ticks: u32,
    /// A new peer becomes a voter when it is at most this many entries behind what is committed. A large number
    /// lets commitment wait for it, a small one lets a busy cluster's change wait.
    pub max_promotion_lag: u64,
}

impl Default for ConfigValues {
    fn default() -> Self {
        Self {
            election_ticks: 10,
            heartbeat_ticks: 2,
            quiesce_ticks: 0,
            max_append_bytes: 256 << 10,
            max_inflight_messages: 64,
            max_inflight_bytes: 4 << 20,
            max_uncommitted_bytes: 16 << 20,
            max_apply_bytes: 4 << 20,
            cached_log_bytes: 8 << 20,
            lease_ticks: 0,
            max_promotion_lag: 1000,
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    values: ConfigValues,
}

/// Why the operator's numbers cannot work. Nothing has happened; choose others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Followers would ask for elections between two heartbeats of a healthy leader.
    #[error(
        "election_ticks is {election} and heartbeat_ticks {heartbeat}: give an election at least twice the ticks of a \
         heartbeat, so that one lost heartbeat does not depose a leader"
    )]
    ElectionTooSoon {
        /// The configured election ticks.
        election: u32,
        /// The configured heartbeat ticks.
        heartbeat: u32,
    },
    /// The others would elect another leader while this one still trusts its lease.
    #[error("lease_ticks is {lease} and election_ticks {election}: a lease must end before others may be elected")]
    LeaseTooLong {
        /// The configured lease ticks.
        lease: u32,
        /// The configured election ticks.
        election: u32,
    },
    /// More ticks than any peer waits.
    #[error("election_ticks is {0}: give at most {max}", max = Config::MAX_ELECTION_TICKS)]
    ElectionTooLate(u32),
    /// A limit of zero lets nothing pass.
    #[error("{0} is 0: give at least 1")]
    Zero(&'static str),
}

impl Config {
    /// The largest election timeout, in ticks.
    pub const MAX_ELECTION_TICKS: u32 = 1_000_000;

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`ConfigError`] names the number that cannot work.
    pub fn new(values: ConfigValues) -> Result<Self, ConfigError> {
        let positive = [
            ("heartbeat_ticks", values.heartbeat_ticks as usize),
            ("max_append_bytes", values.max_append_bytes),
            ("max_inflight_messages", values.max_inflight_messages),
            ("max_inflight_bytes", values.max_inflight_bytes),
            ("max_uncommitted_bytes", values.max_uncommitted_bytes),
            ("max_apply_bytes", values.max_apply_bytes),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        if values.election_ticks > Self::MAX_ELECTION_TICKS {
            return Err(ConfigError::ElectionTooLate(values.election_ticks));
        }
        if values.election_ticks / 2 < values.heartbeat_ticks {
            let (election, heartbeat) = (values.election_ticks, values.heartbeat_ticks);
            return Err(ConfigError::ElectionTooSoon { election, heartbeat });
        }
        if values.lease_ticks >= values.election_ticks {
            let (lease, election) = (values.lease_ticks, values.election_ticks);
            return Err(ConfigError::LeaseTooLong { lease, election });
        }
        Ok(Self { values })
    }

    /// The numbers.
    #[must_use]
    pub fn values(&self) -> &ConfigValues {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Config::new(ConfigValues::default()), Ok(Config::default()));
    }

    #[test]
    fn numbers_that_cannot_work_are_refused_by_name() {
        let with = |change: fn(&mut ConfigValues)| {
            let mut values = ConfigValues::default();
            change(&mut values);
            Config::new(values).unwrap_err()
        };
        assert_eq!(with(|values| values.max_append_bytes = 0), ConfigError::Zero("max_append_bytes"));
        assert_eq!(with(|values| values.heartbeat_ticks = 0), ConfigError::Zero("heartbeat_ticks"));
        let too_soon = ConfigError::ElectionTooSoon { election: 3, heartbeat: 2 };
        assert_eq!(with(|values| values.election_ticks = 3), too_soon);
        let too_long = ConfigError::LeaseTooLong { lease: 10, election: 10 };
        assert_eq!(with(|values| values.lease_ticks = 10), too_long);
        assert_eq!(with(|values| values.election_ticks = u32::MAX), ConfigError::ElectionTooLate(u32::MAX));
    }
}

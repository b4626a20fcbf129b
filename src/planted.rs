//! Bugs that are built in on purpose, one at a time, to show that the chaos harness finds them. A harness that has never found
//! anything shows nothing.
//!
//! They are there only with the feature `planted`, which nothing turns on by itself; without it the answer is `false` wherever
//! it is asked, and the compiler leaves out what depends on it. With it, `zraft serve` starts only if the environment names a
//! bug. A simulation plants none, so the lower layers stay what their arguments make of them.

#[cfg(feature = "planted")]
use std::sync::OnceLock;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Most commits of the log are reported as durable before they are.
    AckBeforeFsync,
    /// Who thinks that it leads answers reads without asking whether it still does.
    ReadWithoutReadIndex,
    /// A snapshot lacks the open sessions.
    SessionsNotInSnapshot,
    /// A trigger that is armed again at a new leader misses what has changed since it was armed before.
    TriggerLostAtLeaderChange,
}

impl Bug {
    /// All of them, with their names.
    pub const ALL: [(&str, Self); 4] = [
        ("ack-before-fsync", Self::AckBeforeFsync),
        ("read-without-read-index", Self::ReadWithoutReadIndex),
        ("sessions-not-in-snapshot", Self::SessionsNotInSnapshot),
        ("trigger-lost-at-leader-change", Self::TriggerLostAtLeaderChange),
    ];

    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug)
    }
}

#[cfg(feature = "planted")]
static PLANTED: OnceLock<Bug> = OnceLock::new();

/// Plants a bug in this process, for good. The first counts.
#[cfg(feature = "planted")]
pub fn plant(bug: Bug) {
    PLANTED.get_or_init(|| bug);
}

/// Whether this process has the bug.
#[cfg(feature = "planted")]
pub(crate) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}

/// Whether this process has the bug: it has none.
#[cfg(not(feature = "planted"))]
pub(crate) const fn has(_bug: Bug) -> bool {
    false
}

//! What a component promises, and what was found that breaks it.

use crate::machine::{Fault, GuestFault, SnapshotError, StartError};
use crate::protocol::BackendFault;

/// Most findings of one promise that are told. The rest is likely to be the same again.
pub(super) const MAX_FINDINGS: usize = 5;

/// What a component promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Promise {
    Contract,
    Survival,
    Budgets,
    Batches,
    Queries,
    Snapshots,
    Restore,
}

impl Promise {
    pub(super) const ALL: [Self; 7] =
        [Self::Contract, Self::Survival, Self::Budgets, Self::Batches, Self::Queries, Self::Snapshots, Self::Restore];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Contract => "contract",
            Self::Survival => "survival",
            Self::Budgets => "budgets",
            Self::Batches => "batches",
            Self::Queries => "queries",
            Self::Snapshots => "snapshots",
            Self::Restore => "restore",
        }
    }

    /// The promise in words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Contract => {
                "it exports what it must and imports what there is, starts, and answers each command once"
            }
            Self::Survival => "no call traps or recurses too deeply",
            Self::Budgets => "no call takes more fuel or memory than is configured",
            Self::Batches => "two instances come to the same, however commands are cut into batches",
            Self::Queries => "queries change nothing, and one that is asked again has the same answer",
            Self::Snapshots => "equal states are written as equal bytes, however they are cut",
            Self::Restore => "it takes its own snapshots, and goes on from them as if nothing had happened",
        }
    }

    /// The promise that is broken by what a component died of.
    pub(super) fn broken_by(kind: GuestFault) -> Self {
        match kind {
            GuestFault::BrokenContract => Self::Contract,
            GuestFault::OutOfFuel | GuestFault::OutOfMemory => Self::Budgets,
            GuestFault::Trap | GuestFault::StackOverflow => Self::Survival,
        }
    }
}

/// Something that breaks a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) promise: Promise,
    pub(super) message: String,
}

impl Finding {
    pub(super) fn new(promise: Promise, message: impl Into<String>) -> Self {
        Self { promise, message: message.into() }
    }

    /// The component died where it should not.
    pub(super) fn died(what: &str, fault: &BackendFault) -> Self {
        Self::new(Promise::broken_by(fault.kind), format!("{what}: {fault}"))
    }
}

/// Why a part of the check ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The component is to blame, and there is no going on.
    Found(Finding),
    /// This machine is to blame.
    Host(String),
}

impl Stop {
    /// A call did not return in doing `what`.
    pub(super) fn of(what: &str, fault: Fault) -> Self {
        match fault {
            Fault::Guest { kind, message } => Self::Found(Finding::died(what, &BackendFault { kind, message })),
            Fault::Host(message) => Self::Host(message),
        }
    }

    /// An instance did not start in doing `what`. A refusal breaks `promise`.
    pub(super) fn of_start(what: &str, promise: Promise, error: StartError) -> Self {
        match error {
            StartError::Fault(fault) => Self::of(what, fault),
            StartError::Refused(reason) => Self::Found(Finding::new(promise, format!("{what}, it refused: {reason}"))),
            StartError::Source(reason) => Self::Host(reason),
        }
    }

    pub(super) fn of_snapshot(what: &str, error: SnapshotError) -> Self {
        match error {
            SnapshotError::Fault(fault) => Self::of(what, fault),
            SnapshotError::Sink(reason) => Self::Host(reason),
        }
    }
}

//! The journey of a write, for whoever follows one in the log of the leader's node. With `ZRAFT_LOG=zraft::request=debug` each
//! step of it is a line with the same id: received, proposed, committed, applied and answered.
//!
//! While the log does not want them, a write costs one comparison more.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::{Level, Span};

use crate::replica::{LinkId, Replica, Ticket};
use crate::types::{Incarnation, Index, LogPosition};

const TARGET: &str = "zraft::request";
/// Writes that are followed at a time: each round of the loop looks at them. Of more, only the beginning is told.
const MAX_JOURNEYS: usize = 1024;

/// How far a write has come.
pub(super) struct Journey {
    span: Span,
    begun: Instant,
    place: Option<LogPosition>,
    is_committed: bool,
    /// Nothing more is to be told.
    is_over: bool,
}

impl Journey {
    /// A write has come, unless the log does not want to know.
    pub(super) fn begin(identity: &dyn Display, to: &dyn Display, data: &[u8]) -> Option<Box<Self>> {
        /// Ids are unique in one life of the process.
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        if !tracing::enabled!(target: TARGET, Level::DEBUG) {
            return None;
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let span = tracing::debug_span!(target: TARGET, "request", id);
        span.in_scope(|| tracing::debug!(target: TARGET, %identity, %to, size_bytes = data.len(), "received"));
        Some(Box::new(Self { span, begun: Instant::now(), place: None, is_committed: false, is_over: false }))
    }

    fn follow(&mut self, asker: Asker, replica: &Replica) {
        if self.is_committed {
            return;
        }
        let _entered = self.span.enter();
        if self.place.is_none() {
            self.place = asker.place(replica);
            if let Some(LogPosition { term, index }) = self.place {
                tracing::debug!(target: TARGET, %index, %term, "proposed");
            }
        }
        // While the leader that has proposed it leads, nothing else can stand there.
        let raft = replica.raft();
        if self.place.is_some_and(|at| raft.is_leader() && raft.term() == at.term && raft.commit() >= at.index) {
            self.is_committed = true;
            tracing::debug!(target: TARGET, "committed");
        }
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if !self.is_over {
            self.span.in_scope(|| tracing::debug!(target: TARGET, "refused or given up"));
        }
    }
}

/// Who waits for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    Client(Ticket),
    /// By its stream and number.
    Session(LinkId, u64),
}

impl Asker {
    fn place(self, replica: &Replica) -> Option<LogPosition> {
        match self {
            Self::Client(ticket) => replica.place_of_write(ticket),
            Self::Session(link, seq) => replica.place_of_session_write(link, seq),
        }
    }
}

/// The writes of a node that are followed, by the peer that has them.
#[derive(Default)]
pub(super) struct Journeys(BTreeMap<(Incarnation, Asker), Box<Journey>>);

impl Journeys {
    /// A peer is given a write.
    pub(super) fn add(&mut self, peer: Incarnation, asker: Asker, journey: Option<Box<Journey>>) {
        let Some(mut journey) = journey else { return };
        if self.0.len() < MAX_JOURNEYS {
            self.0.insert((peer, asker), journey);
        } else {
            journey.is_over = true;
            journey.span.in_scope(|| tracing::debug!(target: TARGET, "not followed: too many are"));
        }
    }

    /// A peer has gone on.
    pub(super) fn follow(&mut self, peer: Incarnation, replica: &Replica) {
        for ((_, asker), journey) in self.0.iter_mut().filter(|((of, _), _)| *of == peer) {
            journey.follow(*asker, replica);
        }
    }

    /// A write is answered: with where it stands, or without success.
    pub(super) fn end<E: Display>(&mut self, peer: Incarnation, asker: Asker, result: Result<Index, &E>) {
        let Some(mut journey) = self.0.remove(&(peer, asker)) else { return };
        journey.is_over = true;
        let latency_us = u64::try_from(journey.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        journey.span.in_scope(|| match result {
            Ok(index) => tracing::debug!(target: TARGET, %index, latency_us, "applied and answered"),
            Err(error) => tracing::debug!(target: TARGET, %error, latency_us, "answered with an error"),
        });
    }

    /// A stream is gone, and nobody waits any more for what came on it.
    pub(super) fn forget_link(&mut self, link: LinkId) {
        self.0.retain(|(_, asker), _| !matches!(asker, Asker::Session(of, _) if *of == link));
    }

    /// A peer serves nobody any more.
    pub(super) fn forget_peer(&mut self, peer: Incarnation) {
        self.0.retain(|(of, _), _| *of != peer);
    }
}

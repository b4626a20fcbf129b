//! What the disk and the machines report to the loop.

use std::time::Instant;

use crate::machine::{Applied, Outcome};
use crate::node::driver::Driver;
use crate::node::host::HostEvent;
use crate::protocol::RequestError;
use crate::raft::{Entry, LogRead, WriteToken};
use crate::store::{Completion, StoreError};
use crate::types::{Incarnation, LogPosition};

impl Driver {
    pub(super) fn durable(&mut self, completion: Completion) {
        match completion {
            Completion::Written(incarnation, token) => {
                let Some(peer) = self.running(incarnation) else { return };
                peer.replica.persisted(token);
                peer.durable = token;
                self.drop_old_snapshots(incarnation);
            }
            Completion::Created(incarnation) => self.created(incarnation),
            Completion::Removed(_) => {}
        }
    }

    /// Older snapshots may go once a newer one is durable as the peer's own and the machine has reached it: until then
    /// the machine may yet restore one of them.
    pub(super) fn drop_old_snapshots(&mut self, incarnation: Incarnation) {
        let Some(peer) = self.peers.get_mut(&incarnation) else { return };
        let (durable, replica) = (peer.durable, &peer.replica);
        let is_done =
            |(token, position): &mut (WriteToken, LogPosition)| *token <= durable && replica.is_past(position.index);
        let Some((_, position)) = peer.snapshot_write.take_if(is_done) else { return };
        let snapshots = self.parts.store.snapshots();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshots.archive(incarnation, position) {
                tracing::error!(peer = %incarnation, %error, "a snapshot could not be archived");
            }
            if let Err(error) = snapshots.remove_before(incarnation, position) {
                tracing::warn!(peer = %incarnation, %error, "could not delete old snapshots");
            }
        });
    }

    pub(super) fn log_read(
        &mut self,
        incarnation: Incarnation,
        read: LogRead,
        entries: Result<Vec<Entry>, StoreError>,
    ) {
        match entries {
            Ok(entries) => {
                if let Some(peer) = self.running(incarnation) {
                    peer.replica.log_read(read, entries);
                }
            }
            // Compacted since they were asked for.
            Err(StoreError::NotInLog { .. }) => self.log_read(incarnation, read, Ok(Vec::new())),
            Err(error) => self.stop_peer(incarnation, &format!("its log cannot be read: {error}")),
        }
    }

    pub(super) fn host_event(&mut self, incarnation: Incarnation, event: HostEvent) {
        let Some(peer) = self.running(incarnation) else { return };
        match event {
            HostEvent::Started => {
                peer.lacking = None;
                self.startup.done(incarnation, Instant::now());
            }
            HostEvent::Lacks(lack) => self.lacks(incarnation, lack),
            HostEvent::Answered(answers) => peer.replica.answered(answers),
            HostEvent::Declined(queries) => peer.replica.declined(queries),
            HostEvent::Applied(applied) => {
                let moved_to = |one: &Applied| match one.outcome {
                    Outcome::Upgraded { component, .. } => Some(component),
                    _ => None,
                };
                peer.kept.extend(applied.iter().filter_map(moved_to));
                peer.replica.applied(applied);
            }
            HostEvent::Died(died) => peer.replica.died(died),
            HostEvent::Restored { meta, size_bytes, chain, sessions, access, level, component } => {
                (peer.base, peer.lacking) = (component, None);
                peer.kept.insert(component);
                peer.replica.restored(&meta, size_bytes, chain, sessions, access, level);
                self.drop_old_snapshots(incarnation);
                self.startup.done(incarnation, Instant::now());
            }
            HostEvent::SnapshotTaken(meta, size_bytes) => peer.replica.snapshot_taken(meta, size_bytes),
            HostEvent::SnapshotFailed(reason) => {
                tracing::error!(peer = %peer.record.peer, reason, "no snapshot could be taken; the log is kept");
                peer.replica.snapshot_failed();
            }
            HostEvent::Stopped(reason) => self.stop_peer(incarnation, &reason),
        }
    }

    /// Stops one peer for good, loudly. Its neighbours go on.
    pub(super) fn stop_peer(&mut self, incarnation: Incarnation, reason: &str) {
        let Some(peer) = self.peers.get_mut(&incarnation) else { return };
        tracing::error!(peer = %peer.record.peer, reason, "the peer has stopped");
        peer.stopped = Some(reason.to_owned());
        self.parts.guests.remove(incarnation);
        self.startup.done(incarnation, Instant::now());
        self.give_up_clients(incarnation, &RequestError::PeerStopped { reason: reason.to_owned() });
    }
}

//! What one identity may make a node hold at a time, over all its connections: requests without an answer, and bytes of requests
//! and replies. Connections are bounded by the transport, and what sessions ask by each of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::transport::{Budget, Role};

/// Requests of one identity without an answer.
const MAX_REQUESTS: usize = 16_384;
/// Bytes of the requests and replies of one identity.
const MAX_BYTES: usize = 128 << 20;

/// The quotas of all who are connected. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Quotas {
    by_identity: Arc<Mutex<BTreeMap<Role, Weak<Quota>>>>,
}

/// The quota of one identity.
pub(super) struct Quota {
    requests: AtomicUsize,
    bytes: Budget,
}

/// A request that counts, until it is dropped.
pub(super) struct Turn(Arc<Quota>);

impl Quotas {
    /// The quota of an identity, shared by its connections.
    pub(super) fn of(&self, identity: &Role) -> Arc<Quota> {
        let mut quotas = self.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = quotas.get(identity).and_then(Weak::upgrade) {
            return quota;
        }
        quotas.retain(|_, quota| quota.strong_count() > 0);
        let quota = Arc::new(Quota { requests: AtomicUsize::new(0), bytes: Budget::new(MAX_BYTES) });
        quotas.insert(identity.clone(), Arc::downgrade(&quota));
        quota
    }
}

impl Quota {
    /// Counts a request in, unless there are too many.
    pub(super) fn turn(self: &Arc<Self>) -> Option<Turn> {
        let turn = Turn(Arc::clone(self));
        (self.requests.fetch_add(1, Ordering::Relaxed) < MAX_REQUESTS).then_some(turn)
    }

    /// What its requests and replies are charged to.
    pub(super) fn bytes(&self) -> &Budget {
        &self.bytes
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_identity_share_a_quota_and_those_of_others_have_theirs() {
        let quotas = Quotas::default();
        let [ann, bob] = ["zraft://client/ann", "zraft://client/bob"].map(|uri| Role::from_uri(uri).unwrap());
        let (one, two, other) = (quotas.of(&ann), quotas.of(&ann), quotas.of(&bob));
        let turns: Vec<_> = (0..MAX_REQUESTS).map(|_| one.turn().unwrap()).collect();
        assert!(two.turn().is_none() && two.turn().is_none());
        assert!(other.turn().is_some());
        drop(turns);
        assert!(two.turn().is_some());
        let mut charge = two.bytes().charge();
        assert!(charge.add(MAX_BYTES) && !one.bytes().charge().add(1));
        drop((one, two));
        assert!(quotas.of(&ann).bytes().charge().add(1), "who comes anew begins anew");
    }
}

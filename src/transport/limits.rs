//! How many connections an endpoint lets in, in all and from each identity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::identity::Role;

/// Bounds on accepted connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all clients and admins together. Nodes do not count: clients must not be able to shut them out.
    pub clients: usize,
    /// Connections of one client or admin identity.
    pub per_client: usize,
    /// Connections of one node, over all protocols. Those of a killed process count until they are found dead.
    pub per_node: usize,
    /// A handshake that takes longer is given up: whoever is silent is forgotten.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients: 4096, per_client: 256, per_node: 64, handshake: Duration::from_secs(5) }
    }
}

/// Counts the accepted connections that are still held.
#[derive(Debug)]
pub(super) struct Census {
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    clients: usize,
    by_identity: BTreeMap<Role, usize>,
}

/// One connection's place in the [`Census`], given back on drop.
#[derive(Debug)]
pub(super) struct Slot {
    census: Arc<Census>,
    role: Role,
}

impl Census {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default() })
    }

    /// A place for one more connection of `role`, or the limit that forbids it.
    pub(super) fn admit(self: &Arc<Self>, role: &Role) -> Result<Slot, String> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let held = counts.by_identity.get(role).copied().unwrap_or(0);
        let allowed = if role.is_node() { self.limits.per_node } else { self.limits.per_client };
        if held >= allowed {
            return Err(format!("{role} has {held} connections, the most that one identity may have here"));
        }
        if !role.is_node() {
            if counts.clients >= self.limits.clients {
                return Err(format!("this node has {} client connections, the most it serves", counts.clients));
            }
            counts.clients += 1;
        }
        counts.by_identity.insert(role.clone(), held + 1);
        Ok(Slot { census: Arc::clone(self), role: role.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clients -= usize::from(!self.role.is_node());
        match counts.by_identity.get_mut(&self.role) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(counts.by_identity.remove(&self.role)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_and_nodes_do_not_compete_with_clients() {
        let census = Census::new(Limits { clients: 3, per_client: 2, per_node: 1, ..Limits::default() });
        let [ann, bob] = ["zraft://client/ann", "zraft://admin/bob"].map(|uri| Role::from_uri(uri).unwrap());
        let node = Role::from_uri("zraft://node/h:1").unwrap();
        let first = census.admit(&ann).unwrap();
        let _second = census.admit(&ann).unwrap();
        assert!(census.admit(&ann).unwrap_err().contains("one identity"));
        let _third = census.admit(&bob).unwrap();
        assert!(census.admit(&bob).unwrap_err().contains("the most it serves"));
        let _node = census.admit(&node).unwrap();
        assert!(census.admit(&node).is_err());
        drop(first);
        census.admit(&ann).unwrap();
    }
}

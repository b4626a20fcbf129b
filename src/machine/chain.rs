//! The hash chain: one value that two replicas share exactly when they have applied the same entries with the same
//! outcomes.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::codec;
use crate::machine::BackendOutcome;
use crate::raft::Entry;
use crate::types::Digest;

/// `H(i) = SHA-256(H(i-1), entry i, outcome of entry i)`, with H of a new cluster all zeros.
///
/// The entry brings its index, term, time and payload; the outcome is absent where an entry has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashChain(pub Digest);

impl HashChain {
    /// Links one applied entry to the chain.
    pub fn extend(&mut self, entry: &Entry, outcome: Option<&BackendOutcome>) {
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.0.0);
        hasher.update(codec::encode(&(entry, outcome)));
        self.0 = Digest(hasher.finalize().into());
    }
}

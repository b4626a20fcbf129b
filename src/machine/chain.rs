//! The hash chain: one value that two replicas share exactly when they have applied the same entries with the same
//! outcomes.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::codec;
use crate::machine::session::Standing;
use crate::machine::{Key, Outcome};
use crate::raft::Entry;
use crate::types::Digest;

/// `H(i) = SHA-256(H(i-1), entry i, what became of it, the keys it changed, where it left its session)`, with H of a new
/// cluster all zeros.
///
/// The entry brings its index, term, time and payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashChain(pub Digest);

impl HashChain {
    /// Links one applied entry to the chain.
    pub(super) fn extend(&mut self, entry: &Entry, outcome: &Outcome, changed: &[Key], standing: Option<Standing>) {
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.0.0);
        codec::with_encoded(&(entry, outcome, changed, standing), |bytes| hasher.update(bytes));
        self.0 = Digest(hasher.finalize().into());
    }
}

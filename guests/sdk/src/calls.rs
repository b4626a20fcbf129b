//! Calls of a backend in bytes, as a client's message brings them.

use crate::{Apply, Backend, Decode, Encode, Query};

/// A reply, or a refusal.
pub(crate) type Reply = Result<Vec<u8>, String>;

/// Applies a command; returns the reply and the keys that changed.
pub(crate) fn apply<B: Backend>(backend: &mut B, command: Vec<u8>, mut at: Apply) -> (Reply, Vec<Vec<u8>>) {
    let reply = B::Codec::decode(command)
        .map_err(|error| format!("malformed command: {error}"))
        .and_then(|command| backend.apply(command, &mut at))
        .and_then(|reply| B::Codec::encode(&reply));
    (reply, at.into_changed())
}

/// Answers a query; returns the reply and the keys that it depends on.
pub(crate) fn query<B: Backend>(backend: &B, request: Vec<u8>) -> (Reply, Vec<Vec<u8>>) {
    let mut at = Query::default();
    let reply = B::Codec::decode(request)
        .map_err(|error| format!("malformed query: {error}"))
        .and_then(|query| backend.query(query, &mut at))
        .and_then(|reply| B::Codec::encode(&reply));
    (reply, at.into_watched())
}

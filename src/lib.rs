//! zraft replicates any WebAssembly component.

pub mod access;
pub mod codec;
pub mod feature_level;
mod log_limit;
pub mod machine;
pub mod planted;
pub mod protocol;
pub mod raft;
pub mod replica;
pub mod settings;
pub mod types;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "load")]
pub mod load;
#[cfg(feature = "client")]
pub mod transport;

#[cfg(feature = "store")]
pub mod store;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
pub mod wasm;

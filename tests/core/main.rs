//! Tests of the layers that need neither a clock nor a disk nor a network.

mod bounds;
mod clocks;
#[cfg(feature = "store")]
mod cuts;
#[cfg(feature = "store")]
mod disk;
mod exhaustive;
mod hostile;
mod linearizable;
mod machine;
mod peer;
mod replica_sim;
mod script;
mod sim;
mod snapshots;
mod storage;
mod timeouts;
mod words;

//! Tests of the layers that need neither a clock nor a disk nor a network.

mod bounds;
mod exhaustive;
mod hostile;
mod linearizable;
mod peer;
mod replica_sim;
mod script;
mod sim;
mod timeouts;
mod words;

//! The real binary: processes with real certificates, files and sockets, killed and started again.

mod access;
mod backend;
mod backend_check;
mod bench;
mod bundled;
mod catching_up;
mod certificates;
mod compile;
mod config;
mod crashes;
mod creation;
mod departure;
mod faults;
mod full_disk;
mod harness;
mod hostile;
mod hostile_clients;
mod idle;
mod lifecycle;
mod load;
mod membership;
mod poison;
mod security;
mod sessions;
mod stopped;
mod tour;

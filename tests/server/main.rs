//! The real binary: processes with real certificates, files and sockets, killed and started again.

mod backend;
mod crashes;
mod creation;
mod faults;
mod full_disk;
mod harness;
mod idle;
mod membership;
mod security;
mod sessions;
mod stopped;
mod tour;

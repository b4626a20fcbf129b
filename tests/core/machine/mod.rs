//! The replicated machine with a backend in process: stories of sessions, and random histories against a simple model.

mod heritage;
mod impossible;
mod keys;
mod model;
mod property;
mod replica;
mod script;

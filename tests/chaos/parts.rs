//! The parts of the chaos harness that need no faults: its checkers on small histories, its report, and its clients against
//! nodes to which nothing happens.
#![allow(dead_code, reason = "the harness needs more of them")]

mod check;
#[path = "../server/harness.rs"]
mod harness;
mod history;
mod plain;
mod report;
mod timeline;
mod work;

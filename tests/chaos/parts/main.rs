//! The parts of the chaos harness that need no faults: its checkers on small histories, its report, its plan, the rules of
//! its router, and its clients against nodes to which nothing happens.
#![allow(dead_code, reason = "the harness needs more of them")]

mod brute_force;
#[path = "../check/mod.rs"]
mod check;
#[path = "../../server/harness.rs"]
mod harness;
#[path = "../history.rs"]
mod history;
mod plain;
#[path = "../plan.rs"]
mod plan;
mod plans;
#[path = "../report/mod.rs"]
mod report;
mod reported;
#[path = "../net/rules.rs"]
mod rules;
mod sessions;
#[path = "../timeline.rs"]
mod timeline;
#[path = "../work/mod.rs"]
mod work;

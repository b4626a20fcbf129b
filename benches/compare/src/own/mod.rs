//! zraft beside itself: what a write costs where there is nothing else, and what it costs where there is.

mod clusters;
mod growth;
mod lone;
mod memory;

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use zraft::load::{self, Measured, Plan};
use zraft::types::PeerId;

use crate::processes::Folder;
use crate::zraft_nodes::{Clusters, Zraft};
use crate::{DURATION, KEYS, VALUE_BYTES, WARM_UP};

/// Turns of each of two that are compared, one after the other; medians are told.
const TURNS: usize = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Section {
    /// The latency of a lone client's write beside what it waits for: one commit and two round trips.
    Lone,
    /// 256 clients of 64 clusters beside 256 of one.
    Clusters,
    /// Writes beside a long log, idle sessions and idle triggers.
    Growth,
    /// Memory under full load, for ten minutes.
    Memory,
}

impl Section {
    pub fn measure(self, zraft: &Zraft, folder: &Folder, out: Option<&Path>) {
        match self {
            Self::Lone => lone::measure(zraft, folder),
            Self::Clusters => clusters::measure(zraft),
            Self::Growth => growth::measure(zraft),
            Self::Memory => memory::measure(zraft, out),
        }
    }
}

/// Writes by so many clients, as fast as they are answered.
fn writes(clients: usize, duration: Duration) -> Plan {
    Plan {
        clients,
        threads: 1,
        duration,
        warm_up: WARM_UP,
        rate: None,
        reads_percent: 0,
        keys: KEYS,
        value_bytes: VALUE_BYTES,
        seed: 0,
    }
}

/// Drives clusters by light sessions.
fn drive(zraft: &Zraft, clusters: Vec<Vec<PeerId>>, plan: &Plan) -> Measured {
    let driven = Clusters { credentials: zraft.credentials.clone(), clusters, has_sessions: false };
    load::run(&driven, plan, |_, _| {}).expect("zraft can be driven")
}

/// Compares two by turns: the medians of their writes a second.
fn compare(
    clients: usize,
    mut first: impl FnMut(&Plan) -> Measured,
    mut second: impl FnMut(&Plan) -> Measured,
) -> [f64; 2] {
    let plan = writes(clients, DURATION);
    let turns: Vec<_> = (0..TURNS).map(|_| [first(&plan).throughput(), second(&plan).throughput()]).collect();
    [0, 1].map(|which| median(turns.iter().map(|turn| turn[which]).collect()))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

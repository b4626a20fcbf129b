//! Each kind of fault: done, shown to have bitten, and mended.

mod changes;
mod damage;
mod disks;
mod network;
mod processes;
mod tracer;

use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::plan::{Kind, Planned};
use crate::world::World;

/// None if it could not be applied, such as when another fault has the node. An error is no fault of the plan: something is
/// wrong with the nodes, or with the harness.
pub type Applied = Result<Option<Bite>, String>;

/// What came of a fault.
pub struct Bite {
    /// The nodes that it was done to.
    pub nodes: Vec<usize>,
    /// What shows that it bit; empty: it did not.
    pub proof: String,
}

impl Bite {
    fn on(node: usize, proof: String) -> Applied {
        Self::of(vec![node], proof)
    }

    fn of(nodes: Vec<usize>, proof: String) -> Applied {
        Ok(Some(Self { nodes, proof }))
    }
}

/// What a fault works with.
struct Hand<'a> {
    world: &'a World,
    random: ChaCha8Rng,
    duration: Duration,
}

/// Does it, and returns when what it broke is mended.
pub async fn apply(world: &World, planned: &Planned) -> Applied {
    let random = ChaCha8Rng::seed_from_u64(planned.seed);
    let hand = Hand { world, random, duration: planned.duration };
    match planned.kind {
        Kind::Kill => hand.kill().await,
        Kind::StopLeader => hand.stop_leader().await,
        Kind::ClockJump => hand.clock_jump().await,
        Kind::RestartAll => hand.restart_all().await,
        Kind::PowerCut => hand.power_cut().await,
        Kind::PartitionHalves => hand.partition_halves().await,
        Kind::PartitionOneWay => hand.partition_one_way().await,
        Kind::LeaderAlone => hand.leader_alone().await,
        Kind::Bridge => hand.bridge().await,
        Kind::Loss => hand.loss().await,
        Kind::Delay => hand.delay().await,
        Kind::Reorder => hand.reorder().await,
        Kind::Duplicate => hand.duplicate().await,
        Kind::FullDisk => hand.full_disk().await,
        Kind::SlowDisk => hand.slow_disk().await,
        Kind::FsyncError => hand.fsync_error().await,
        Kind::Wipe => hand.wipe().await,
        Kind::BitFlip => hand.bit_flip().await,
        Kind::Members => hand.members().await,
        Kind::Transfer => hand.transfer().await,
        Kind::Upgrade => hand.upgrade().await,
        Kind::Snapshot => hand.snapshot().await,
    }
}

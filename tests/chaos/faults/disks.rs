//! Faults of disks: no room, slow, failing.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;

use super::tracer::Tracer;
use super::{Applied, Bite, Hand};

/// With less room than this a node refuses writes, without being told otherwise.
const LEAST_ROOM_BYTES: u64 = 64 << 20;
/// How long a node may take to notice.
const NOTICE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

impl Hand<'_> {
    /// All room is taken, or so much that the node refuses writes.
    pub(super) async fn full_disk(mut self) -> Applied {
        let world = self.world;
        let Some(claim) = world.claim_leader_or_any(&mut self.random).await else { return Ok(None) };
        let node = claim.node;
        let left_bytes = if self.random.random_bool(0.5) { 0 } else { LEAST_ROOM_BYTES / 2 };
        let begin = Instant::now();
        world.nodes.disk(node).fill(left_bytes)?;
        let mut is_noticed = false;
        while !is_noticed && begin.elapsed() < NOTICE {
            tokio::time::sleep(POLL).await;
            is_noticed = world.admin.status(node).await.is_some_and(|status| status.is_disk_full);
        }
        tokio::time::sleep_until(begin + self.duration).await;
        world.nodes.disk(node).empty()?;
        let what = format!("node {node} is not full any more");
        let has_room = async || world.admin.status(node).await.filter(|status| !status.is_disk_full).map(drop);
        crate::admin::until_some(&what, has_room).await?;
        let proof = format!("node {node} said that its disk is full, with {left_bytes} bytes left");
        Bite::on(node, if is_noticed { proof } else { String::new() })
    }

    /// Syncs take long.
    pub(super) async fn slow_disk(mut self) -> Applied {
        let world = self.world;
        let Some(claim) = world.claim_leader_or_any(&mut self.random).await else { return Ok(None) };
        let node = claim.node;
        let delay_ms = self.random.random_range(20..600);
        let injection = format!("delay_enter={}", delay_ms * 1000);
        let tracer = Tracer::attach(&world.nodes.process(node)?, "fsync,fdatasync", &injection).await?;
        tokio::time::sleep(self.duration).await;
        let delayed = tracer.count("(DELAYED)");
        drop(tracer);
        let proof = format!("{delayed} syncs of node {node} took {delay_ms} ms longer");
        Bite::on(node, if delayed > 0 { proof } else { String::new() })
    }

    /// A sync of the log fails. What was written before may or may not be on the disk, so the node must stop at once.
    pub(super) async fn fsync_error(mut self) -> Applied {
        let world = self.world;
        let Some(claim) = world.claim_leader_or_any(&mut self.random).await else { return Ok(None) };
        let node = claim.node;
        let logged = world.nodes.log(node)?.len();
        let when = self.random.random_range(1..4);
        let tracer =
            Tracer::attach(&world.nodes.process(node)?, "fdatasync", &format!("error=EIO:when={when}")).await?;
        world.nodes.may_end(node);
        let ended = world.nodes.wait_for_end(node, NOTICE).await?;
        let injected = tracer.count("(INJECTED)");
        drop(tracer);
        let Some(status) = ended else {
            world.nodes.must_stay(node);
            return if injected > 0 { Err(format!("node {node} went on after a sync failed")) } else { Ok(None) };
        };
        let log = world.nodes.log(node)?;
        let word = "check the disk, then restart the node";
        if status.code() != Some(1) || !log.get(logged..).is_some_and(|log| log.contains(word)) {
            return Err(format!("node {node} ended with {status} after a sync failed, and does not say '{word}'"));
        }
        tokio::time::sleep(self.duration.mul_f64(0.3)).await;
        world.nodes.start(node)?;
        world.admin.until_answers(node).await?;
        Bite::on(node, format!("node {node} stopped when a sync of its log failed, and goes on after a restart"))
    }
}

//! Faults of what is on a disk: all of it is gone, or one bit of it is another. The node's peers are replaced by new ones.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use zraft::protocol::PeerStatus;

use super::{Applied, Bite, Hand};
use crate::admin::until_some;

/// How long a node with a damaged file may take to refuse it.
const NOTICE: Duration = Duration::from_secs(20);
/// How many bits are tried until one is found that means something.
const MAX_FLIPS: usize = 40;
/// The log's share of the bits that are flipped; the rest are snapshots'.
const LOG_SHARE: f64 = 0.6;

impl Hand<'_> {
    pub(super) async fn wipe(mut self) -> Applied {
        let Some(claim) = self.world.claim_member(&mut self.random).await? else { return Ok(None) };
        self.world.nodes.kill(claim.node)?;
        let peers = self.replace(claim.node).await?;
        Bite::on(claim.node, format!("all data of node {} gone; {peers}", claim.node))
    }

    pub(super) async fn bit_flip(mut self) -> Applied {
        let world = self.world;
        let Some(claim) = world.claim_member(&mut self.random).await? else { return Ok(None) };
        let node = claim.node;
        world.nodes.kill(node)?;
        world.was_damaged(node);
        let flipped = self.flip(node)?;
        world.nodes.may_end(node);
        world.nodes.start(node)?;
        world.nodes.may_end(node);
        let Some(flipped) = flipped else {
            world.admin.until_answers(node).await?;
            return Ok(None);
        };
        let answers = async {
            while world.admin.status(node).await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ended = tokio::select! {
            ended = world.nodes.wait_for_end(node, NOTICE) => ended?,
            () = answers => None,
        };
        if let Some(status) = ended {
            let log = world.nodes.log(node)?;
            let last = log.lines().last().unwrap_or_default().to_owned();
            if status.code() != Some(1) {
                return Err(format!("node {node} ended with {status} of {flipped}: {last}"));
            }
            let peers = self.replace(node).await?;
            return Bite::on(node, format!("{flipped}: it refused to start; {peers}"));
        }
        let stopped = self.replace_stopped(node).await?;
        world.nodes.must_stay(node);
        Bite::on(node, format!("{flipped}: it started all the same, {stopped} of its peers had stopped"))
    }

    /// Flips one bit of a file of a node that is down, such that `zraft store check` notices; returns where.
    fn flip(&mut self, node: usize) -> Result<Option<String>, String> {
        let data = self.world.nodes.data(node);
        let snapshots = snapshots_below(&data.join("snapshots"))?;
        let log = vec![data.join("log.redb")];
        for _ in 0..MAX_FLIPS {
            let of_log = snapshots.is_empty() || self.random.random_bool(LOG_SHARE);
            let files = if of_log { &log } else { &snapshots };
            let Some(path) = files.choose(&mut self.random) else { continue };
            let size = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.len();
            if size == 0 {
                continue;
            }
            let (place, bit) = (self.random.random_range(0..size), self.random.random_range(0..8));
            flip_bit(path, place, bit)?;
            if let Some(damage) = self.world.nodes.damage(node) {
                let name = path.strip_prefix(&data).unwrap_or(path).display();
                return Ok(Some(format!("bit {bit} of byte {place} in {name} of node {node} flipped ({damage})")));
            }
            // Nobody reads it: room that is free, or to be written before it is read.
            flip_bit(path, place, bit)?;
        }
        Ok(None)
    }

    /// Brings a node that is down back without its data, with new peers in place of those that it had.
    async fn replace(&mut self, node: usize) -> Result<String, String> {
        let world = self.world;
        let data = world.nodes.data(node);
        fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        // It may be back, and know nothing, before its former peers have left the clusters.
        let is_early = self.random.random_bool(0.5);
        if is_early {
            world.nodes.start(node)?;
        }
        let mut had = Vec::new();
        for cluster in &world.clusters {
            let members = world.admin.members(&cluster.name).await?;
            if members.contains(&node) {
                let others: Vec<_> = members.iter().copied().filter(|member| *member != node).collect();
                world.admin.set_members(&cluster.name, &others).await?;
                had.push((&cluster.name, members));
            }
        }
        if !is_early {
            world.nodes.start(node)?;
        }
        world.admin.until_answers(node).await?;
        for (cluster, members) in &had {
            world.admin.set_members(cluster, members).await?;
        }
        Ok(format!("{} peers of it replaced by new ones", had.len()))
    }

    /// Replaces the peers of a node that could not go on with what they have; returns how many.
    async fn replace_stopped(&self, node: usize) -> Result<usize, String> {
        let world = self.world;
        let mut count = 0;
        for cluster in &world.clusters {
            let members = world.admin.members(&cluster.name).await?;
            if !members.contains(&node) {
                continue;
            }
            let what = format!("the peer of {} on node {node} goes on or stops", cluster.name);
            let peer =
                until_some(&what, async || world.admin.peer(&cluster.name, node).await.filter(is_decided)).await?;
            if peer.stopped.is_some() {
                let others: Vec<_> = members.iter().copied().filter(|member| *member != node).collect();
                world.admin.set_members(&cluster.name, &others).await?;
                world.admin.set_members(&cluster.name, &members).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Whether it is known if a peer goes on after a start.
fn is_decided(peer: &PeerStatus) -> bool {
    peer.stopped.is_some() || peer.applied.0 > 0 && peer.quarantine.is_none()
}

fn flip_bit(path: &Path, place: u64, bit: u32) -> Result<(), String> {
    let flip = || {
        let file = fs::File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place)?;
        file.write_all_at(&[byte[0] ^ 1 << bit], place)?;
        file.sync_all()
    };
    flip().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

fn snapshots_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let describe = |error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(describe)? {
        let path = entry.map_err(describe)?.path();
        if path.is_dir() {
            files.extend(snapshots_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "snap") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

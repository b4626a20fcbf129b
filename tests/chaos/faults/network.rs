//! Faults of the network: of where packets get, and of how well.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use super::{Applied, Bite, Hand};
use crate::net::rules::{Disturbance, Effect, Path, Rules};

/// How long a leader that is cut off may take to be replaced, if that is to count.
const SUCCESSION: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// A disturbance that ends when this is dropped.
struct Disturbed {
    rules: Arc<Rules>,
    disturbance: Arc<Disturbance>,
}

impl Drop for Disturbed {
    fn drop(&mut self) {
        self.rules.stop(&self.disturbance);
    }
}

impl Hand<'_> {
    fn nodes(&self) -> Vec<usize> {
        (0..self.world.nodes.count()).collect()
    }

    fn begin(&self, effect: Effect, paths: Vec<Path>) -> Disturbed {
        let rules = Arc::clone(self.world.network.rules());
        Disturbed { disturbance: rules.begin(effect, paths), rules }
    }

    /// Disturbs these paths for as long as the fault lasts; returns how many packets that concerned.
    async fn disturb(&self, effect: Effect, paths: Vec<Path>) -> u64 {
        let disturbed = self.begin(effect, paths);
        tokio::time::sleep(self.duration).await;
        disturbed.disturbance.bites()
    }

    /// Nodes in random order, and how many of them are on one side.
    fn split(&mut self) -> (Vec<usize>, usize) {
        let mut nodes = self.nodes();
        nodes.shuffle(&mut self.random);
        let side = self.random.random_range(1..nodes.len());
        (nodes, side)
    }

    pub(super) async fn partition_halves(mut self) -> Applied {
        let (nodes, side) = self.split();
        let (left, right) = nodes.split_at(side);
        let mut paths = both_ways(left, right);
        // Clients see all nodes, or one side alone.
        let beside = if self.random.random_bool(0.5) {
            paths.extend(both_ways(&[self.world.network.rules().clients()], left));
            ", with clients on the right"
        } else {
            ""
        };
        let dropped = self.disturb(Effect::Cut, paths).await;
        let proof = dropped_packets(dropped, &format!("between {left:?} and {right:?}{beside}"));
        Bite::of(nodes, proof)
    }

    pub(super) async fn partition_one_way(mut self) -> Applied {
        let (nodes, _) = self.split();
        let (one, others) = (&nodes[..1], &nodes[1..]);
        let is_deaf = self.random.random_bool(0.5);
        let (from, to, what) = if is_deaf { (others, one, "does not hear") } else { (one, others, "is not heard") };
        let dropped = self.disturb(Effect::Cut, one_way(from, to)).await;
        Bite::on(one[0], dropped_packets(dropped, &format!("node {} {what}", one[0])))
    }

    pub(super) async fn leader_alone(mut self) -> Applied {
        let cluster = &self.world.some_cluster(&mut self.random).name;
        let Some((leader, term)) = self.world.admin.leader(cluster).await else { return Ok(None) };
        let others: Vec<_> = self.nodes().into_iter().filter(|node| *node != leader).collect();
        let begin = Instant::now();
        let disturbed = self.begin(Effect::Cut, both_ways(&[leader], &others));
        let mut proof = String::new();
        while proof.is_empty() && begin.elapsed() < SUCCESSION {
            tokio::time::sleep(POLL).await;
            if let Some((successor, _)) = self.world.admin.leader(cluster).await.filter(|(_, new)| *new > term) {
                let after = begin.elapsed().as_secs_f32();
                let dropped = disturbed.disturbance.bites();
                let what = format!("node {leader} led {cluster}, after {after:.1} s node {successor} does");
                proof = dropped_packets(dropped, &what);
            }
        }
        tokio::time::sleep_until(begin + self.duration).await;
        Bite::on(leader, proof)
    }

    pub(super) async fn bridge(mut self) -> Applied {
        let (nodes, _) = self.split();
        let (bridge, rest) = (nodes[0], &nodes[1..]);
        let (left, right) = rest.split_at(rest.len() / 2);
        let dropped = self.disturb(Effect::Cut, both_ways(left, right)).await;
        let proof = dropped_packets(dropped, &format!("{left:?} and {right:?} have only {bridge} in common"));
        Bite::of(nodes, proof)
    }

    pub(super) async fn loss(mut self) -> Applied {
        let percent = self.random.random_range(3..30);
        let lost = self.disturb(Effect::Lose { percent }, self.world.network.rules().everywhere()).await;
        Bite::of(self.nodes(), counted(lost, &format!("packets lost, {percent}% of all")))
    }

    pub(super) async fn delay(mut self) -> Applied {
        let (by_ms, jitter_ms) = (self.random.random_range(10..150), self.random.random_range(5..100));
        let effect = Effect::Delay { by: Duration::from_millis(by_ms), jitter: Duration::from_millis(jitter_ms) };
        let delayed = self.disturb(effect, self.world.network.rules().everywhere()).await;
        let proof = counted(delayed, &format!("packets delayed by {by_ms} to {} ms", by_ms + jitter_ms));
        Bite::of(self.nodes(), proof)
    }

    pub(super) async fn reorder(mut self) -> Applied {
        let (percent, by_ms) = (self.random.random_range(5..40), self.random.random_range(5..80));
        let effect = Effect::HoldBack { percent, by: Duration::from_millis(by_ms) };
        let overtaken = self.disturb(effect, self.world.network.rules().everywhere()).await;
        let proof = counted(overtaken, &format!("packets overtaken, {percent}% held back for {by_ms} ms"));
        Bite::of(self.nodes(), proof)
    }

    pub(super) async fn duplicate(mut self) -> Applied {
        let percent = self.random.random_range(10..60);
        let effect = Effect::Repeat { percent, within: Duration::from_millis(300) };
        let repeated = self.disturb(effect, self.world.network.rules().everywhere()).await;
        Bite::of(self.nodes(), counted(repeated, &format!("packets came twice, {percent}% of all")))
    }
}

fn one_way(from: &[usize], to: &[usize]) -> Vec<Path> {
    from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))).collect()
}

fn both_ways(left: &[usize], right: &[usize]) -> Vec<Path> {
    [one_way(left, right), one_way(right, left)].concat()
}

fn dropped_packets(count: u64, what: &str) -> String {
    counted(count, &format!("packets dropped: {what}"))
}

/// Nothing if there is nothing to count.
fn counted(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!("{count} {what}") }
}

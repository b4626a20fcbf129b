//! Faults of clusters: what operators do on purpose, and a peer that is away for long.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use tokio::time::Instant;

use super::{Applied, Bite, Hand};
use crate::admin::until_some;

/// How long a peer is away at most until only a snapshot can help it.
const MAX_AWAY: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(200);

impl Hand<'_> {
    /// A peer leaves, be it the leader's, and comes back; where there is a node without a peer, that one takes its place.
    pub(super) async fn members(mut self) -> Applied {
        let admin = &self.world.admin;
        let cluster = &self.world.some_cluster(&mut self.random).name;
        let members = admin.members(cluster).await?;
        let mut spare = (0..self.world.nodes.count()).filter(|node| !members.contains(node));
        let Some(leaves) = members.choose(&mut self.random).copied().filter(|_| members.len() > 1) else {
            return Ok(None);
        };
        let others: Vec<_> = members.iter().copied().filter(|member| *member != leaves).collect();
        if let Some(comes) = spare.next().filter(|_| self.random.random_bool(0.6)) {
            admin.set_members(cluster, &[&others[..], &[comes]].concat()).await?;
            let proof = format!("the peer of {cluster} on node {comes} took the place of that on node {leaves}");
            return Bite::of(vec![leaves, comes], proof);
        }
        admin.set_members(cluster, &others).await?;
        tokio::time::sleep(self.duration.mul_f64(0.5)).await;
        admin.set_members(cluster, &members).await?;
        Bite::on(leaves, format!("the peer of {cluster} on node {leaves} left, and a new one came"))
    }

    /// Leadership goes from one to the other.
    pub(super) async fn transfer(mut self) -> Applied {
        let admin = &self.world.admin;
        let begin = Instant::now();
        let (mut nodes, mut count) = (Vec::new(), 0);
        while begin.elapsed() < self.duration {
            let cluster = &self.world.some_cluster(&mut self.random).name;
            let Some((leader, _)) = admin.leader(cluster).await else { continue };
            let members = admin.members(cluster).await?;
            let to = members.into_iter().filter(|member| *member != leader).choose(&mut self.random);
            // Who is asked to lead may be down, or another may have come before.
            if let Some(to) = to
                && admin.transfer(cluster, leader, to).await.is_ok()
            {
                count += 1;
                nodes.extend([leader, to].iter().filter(|node| !nodes.contains(*node)).copied().collect::<Vec<_>>());
            }
            tokio::time::sleep(POLL).await;
        }
        let proof = if count == 0 { String::new() } else { format!("leadership handed over {count} times") };
        Bite::of(nodes, proof)
    }

    /// A cluster moves to another build of its backend, while it runs.
    pub(super) async fn upgrade(mut self) -> Applied {
        let cluster = self.world.some_cluster(&mut self.random);
        let admin = &self.world.admin;
        let (leader, _) = admin.until_leader(&cluster.name).await?;
        let runs = admin.peer(&cluster.name, leader).await.map(|peer| peer.component);
        let others = cluster.builds.iter().filter(|build| runs != Some(zraft::types::Digest::of(build)));
        let Some(build) = others.choose(&mut self.random) else { return Ok(None) };
        let entry = admin.upgrade(&cluster.name, build).await?;
        // None where the answer of an attempt was lost that had done it.
        let entry = entry.map_or(String::new(), |entry| format!(" at entry {entry}"));
        let proof = format!("{} moved to another build{entry}", cluster.name);
        Bite::of(admin.members(&cluster.name).await?, proof)
    }

    /// A follower stands still until the leader's log does not reach back to it any more.
    pub(super) async fn snapshot(mut self) -> Applied {
        let world = self.world;
        let cluster = if self.random.random_bool(0.7) {
            world.busiest_cluster().await
        } else {
            &world.some_cluster(&mut self.random).name
        };
        let (leader, _) = world.admin.until_leader(cluster).await?;
        let members = world.admin.members(cluster).await?;
        let followers = members.into_iter().filter(|member| *member != leader);
        let Some(claim) = followers.choose(&mut self.random).and_then(|node| world.claim(node)) else {
            return Ok(None);
        };
        let node = claim.node;
        let Some(before) = world.admin.peer(cluster, node).await else { return Ok(None) };
        let begin = Instant::now();
        world.nodes.pause(node)?;
        let mut first = 0;
        while first <= before.last.0 + 1 && begin.elapsed() < MAX_AWAY {
            tokio::time::sleep(POLL).await;
            if let Some((leader, _)) = world.admin.leader(cluster).await {
                first = world.admin.peer(cluster, leader).await.map_or(first, |peer| peer.first.0);
            }
        }
        world.nodes.resume(node)?;
        world.admin.until_answers(node).await?;
        if first <= before.last.0 + 1 {
            return Bite::on(node, String::new());
        }
        let what = format!("the peer of {cluster} on node {node} has a snapshot up to {first} or later");
        let has_it = async || world.admin.peer(cluster, node).await.filter(|peer| peer.snapshot.0 + 1 >= first);
        let peer = until_some(&what, has_it).await?;
        let away = begin.elapsed().as_secs_f32();
        let (last, snapshot) = (before.last, peer.snapshot);
        let proof =
            format!("node {node} was away from entry {last} of {cluster} on, {away:.0} s, and got snapshot {snapshot}");
        Bite::on(node, proof)
    }
}

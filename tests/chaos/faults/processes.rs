//! Faults of processes: they die, stand still, or have a wrong idea of the time of day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use tokio::time::Instant;

use super::{Applied, Bite, Hand};

/// How long a leader that stands still may take to be replaced, if that is to count.
const SUCCESSION: Duration = Duration::from_secs(10);
/// How long a clock that has jumped may take to show in the node's log.
const NOTICE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);
const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;

impl Hand<'_> {
    pub(super) async fn kill(mut self) -> Applied {
        let Some(claim) = self.world.claim_leader_or_any(&mut self.random).await else { return Ok(None) };
        let (node, nodes) = (claim.node, &self.world.nodes);
        let process = nodes.process(node)?;
        nodes.kill(node)?;
        tokio::time::sleep(self.duration.mul_f64(self.random.random())).await;
        nodes.start(node)?;
        self.world.admin.until_answers(node).await?;
        Bite::on(node, format!("process {process} died of SIGKILL and {} goes on", nodes.process(node)?))
    }

    pub(super) async fn stop_leader(mut self) -> Applied {
        let world = self.world;
        let cluster = &world.some_cluster(&mut self.random).name;
        let Some((leader, term)) = world.admin.leader(cluster).await else { return Ok(None) };
        let Some(_claim) = world.claim(leader) else { return Ok(None) };
        let begin = Instant::now();
        world.nodes.pause(leader)?;
        let mut proof = String::new();
        while proof.is_empty() && begin.elapsed() < SUCCESSION {
            tokio::time::sleep(POLL).await;
            if let Some((successor, _)) = world.admin.leader(cluster).await.filter(|(_, new)| *new > term) {
                let after = begin.elapsed().as_secs_f32();
                proof = format!("{cluster} is led by node {successor} instead of {leader} after {after:.1} s");
            }
        }
        tokio::time::sleep_until(begin + self.duration).await;
        world.nodes.resume(leader)?;
        world.admin.until_answers(leader).await?;
        Bite::on(leader, proof)
    }

    pub(super) async fn restart_all(self) -> Applied {
        let nodes = &self.world.nodes;
        let kill = async |all: &[usize]| all.iter().try_for_each(|node| nodes.kill(*node));
        self.all_down(kill, "died of SIGKILL at once and go on").await
    }

    /// Of what was not synced nothing is left on any disk.
    pub(super) async fn power_cut(self) -> Applied {
        let nodes = &self.world.nodes;
        let cut = async |all: &[usize]| {
            all.iter().for_each(|node| nodes.may_end(*node));
            all.iter().try_for_each(|node| nodes.disk(*node).cut_power())?;
            all.iter().try_for_each(|node| nodes.end(*node))?;
            for node in all {
                nodes.disk(*node).mount_again().await?;
            }
            Ok(())
        };
        self.all_down(cut, "lost their power at once, with what was not synced, and go on").await
    }

    async fn all_down(mut self, down: impl AsyncFnOnce(&[usize]) -> Result<(), String>, what: &str) -> Applied {
        let nodes = &self.world.nodes;
        let all: Vec<_> = (0..nodes.count()).collect();
        let claims: Vec<_> = all.iter().filter_map(|node| self.world.claim(*node)).collect();
        if claims.len() < all.len() {
            return Ok(None);
        }
        down(&all).await?;
        tokio::time::sleep(self.duration.mul_f64(self.random.random::<f64>() * 0.5)).await;
        all.iter().try_for_each(|node| nodes.start(*node))?;
        for node in &all {
            self.world.admin.until_answers(*node).await?;
        }
        let proof = format!("all {} {what}", all.len());
        Bite::of(all, proof)
    }

    /// The clock of a node jumps while it runs, or is wrong from its start on; and the node then leads, since it is the
    /// leader's clock that ends up in the log.
    pub(super) async fn clock_jump(mut self) -> Applied {
        let world = self.world;
        let Some(claim) = world.claim_member(&mut self.random).await? else { return Ok(None) };
        let node = claim.node;
        let offset = self.offset_seconds();
        let before = world.nodes.log(node)?.len();
        world.nodes.clock(node).set(offset)?;
        let how = if self.random.random_bool(0.3) {
            world.nodes.kill(node)?;
            world.nodes.start(node)?;
            world.admin.until_answers(node).await?;
            "was started with a clock that is wrong by"
        } else {
            "has a clock that jumped by"
        };
        let begin = Instant::now();
        let mut is_seen = false;
        while begin.elapsed() < NOTICE && !is_seen {
            // Whatever comes of it, roles change, and the node's log says when.
            let cluster = &world.some_cluster(&mut self.random).name;
            if let Some((leader, _)) = world.admin.leader(cluster).await {
                let (from, to) = if leader == node {
                    (node, self.random.random_range(0..world.nodes.count()))
                } else {
                    (leader, node)
                };
                // The other may be down, or no member: then another is tried.
                let _ = world.admin.transfer(cluster, from, to).await;
            }
            tokio::time::sleep(POLL).await;
            is_seen = world.nodes.log(node)?.get(before..).is_some_and(|log| has_time(log, offset));
        }
        tokio::time::sleep_until(begin + self.duration).await;
        // Back again, or it stays so until it jumps the next time.
        if self.random.random_bool(0.6) {
            world.nodes.clock(node).set(0)?;
        }
        let proof = format!("node {node} {how} {offset} s, as its log shows");
        Bite::on(node, if is_seen { proof } else { String::new() })
    }

    fn offset_seconds(&mut self) -> i64 {
        // Certificates are valid for longer than that, both ways: see `nodes`.
        let size = match self.random.random_range(0..3) {
            0 => self.random.random_range(2 * DAY_SECONDS..20 * DAY_SECONDS),
            1 => self.random.random_range(HOUR_SECONDS..DAY_SECONDS),
            _ => self.random.random_range(60..HOUR_SECONDS),
        };
        if self.random.random_bool(0.5) { size } else { -size }
    }
}

/// Whether a line of a log was written when the clock was wrong by about so much.
fn has_time(log: &str, offset_seconds: i64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    let times = log.lines().filter_map(|line| line.split_whitespace().next()).filter_map(seconds_since_1970);
    // Lines may be as old as the fault.
    times.into_iter().any(|time| (time - now - offset_seconds).abs() < 50)
}

/// The time of a log's line, such as `2026-01-31T12:00:00.000000Z`.
fn seconds_since_1970(stamp: &str) -> Option<i64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let numbers =
        |text: &str, separator| text.split(separator).map(|part| part.parse::<f64>().ok()).collect::<Option<Vec<_>>>();
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let ([year, month, day], [hours, minutes, seconds]) =
        (<[f64; 3]>::try_from(date).ok()?, <[f64; 3]>::try_from(time).ok()?);
    // Years that begin in March have the day that may be missing at their end.
    let (year, month) = if month > 2.0 { (year, month - 3.0) } else { (year - 1.0, month + 9.0) };
    let leap_days = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
    let days = year * 365.0 + leap_days + ((month * 153.0 + 2.0) / 5.0).floor() + day - 1.0 - 719_468.0;
    Some((days * 86_400.0 + hours * 3_600.0 + minutes * 60.0 + seconds) as i64)
}

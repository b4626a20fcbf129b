//! `zraft demo`: what zraft does, shown on three nodes in one process.

mod counting;
mod sessions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::local::{Local, bind_any};
use crate::cli::output::{Failure, Output};
use crate::cli::{log, runtime};
use crate::client::{Client, Kv, KvError, LightSession, SessionError, SessionOptions};
use crate::protocol::PeerStatus;
use crate::settings::Settings;
use crate::types::{Index, PeerId};

const NODES: usize = 3;
const WRITES: usize = 1000;
const WRITERS: usize = 32;
/// Writes while a node is down: more than the others keep in their logs.
const MISSED_WRITES: usize = 600;
/// What is written, before the number of the key.
const VALUE: &str = "value";
const MISSED_VALUE: &str = "written while one node was down:";
/// When a snapshot is taken: soon, so that snapshots are part of the tour.
const SNAPSHOT_AFTER: u64 = 400;
const KEPT_ENTRIES: u64 = 50;
/// How long anything in the demo may take before it is taken for broken.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Keep the nodes' files in this folder, which must not exist [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        log("off");
        let (folder, is_temporary) = match self.data {
            Some(folder) if folder.exists() => {
                return Err(Failure::usage(format!("{} exists already", folder.display())));
            }
            Some(folder) => (folder, false),
            None => (std::env::temp_dir().join(format!("zraft-demo-{}", std::process::id())), true),
        };
        let result = Tour::new(&folder, output).and_then(|tour| tour.run());
        if is_temporary {
            // What is left in the system's folder for temporary files, the system removes.
            let _ = std::fs::remove_dir_all(&folder);
        }
        result
    }
}

/// The tour and what it has set up.
struct Tour {
    output: Output,
    local: Local,
    started: Instant,
}

impl Tour {
    fn new(folder: &std::path::Path, output: Output) -> Result<Self, Failure> {
        let started = Instant::now();
        let sockets = (0..NODES).map(|_| bind_any()).collect::<Result<_, _>>()?;
        Ok(Self { output, local: Local::start(folder, sockets)?, started })
    }

    fn run(mut self) -> Result<(), Failure> {
        let runtime = runtime()?;
        let shown = runtime.block_on(self.show());
        runtime.block_on(self.local.stop())?;
        let seconds = self.started.elapsed().as_secs_f64();
        let summary = shown?;
        self.output.result(
            format_args!("\nDone in {seconds:.1} s: nothing acknowledged was lost, and all replicas are equal."),
            &json!({
                "seconds": seconds,
                "writes": WRITES,
                "writes_per_second": summary.writes_per_second,
                "failover_ms": summary.failover.as_millis(),
                "catch_up_ms": summary.catch_up.as_millis(),
                "counted": summary.counted,
                "chain": summary.chain,
            }),
        );
        Ok(())
    }

    async fn show(&mut self) -> Result<Summary, Failure> {
        let client = self.local.admin()?;
        self.step("Three nodes are up, each with a certificate of its own and a redb file:");
        for (number, node) in self.local.addresses().iter().enumerate() {
            self.output.say(format_args!("     {node}  {}", self.local.node_folder(number).display()));
        }
        self.create(&client).await?;
        let kv = self.kv(&client);
        let writes_per_second = self.write(&client).await?;
        self.read_from_each(&client).await?;
        let (stopped, failover) = self.stop_the_leader(&kv).await?;
        let catch_up = self.restart(&client, stopped).await?;
        self.read_everything(&kv).await?;
        self.use_a_session(&client, &kv).await?;
        let counted = self.count(&client).await?;
        let chain = self.compare(&client).await?;
        Ok(Summary { writes_per_second, failover, catch_up, counted, chain })
    }

    async fn create(&self, client: &Client) -> Result<(), Failure> {
        let started = Instant::now();
        let settings = Settings { max_log_count: SNAPSHOT_AFTER, kept_log_count: KEPT_ENTRIES, ..Settings::default() };
        let cluster = self.local.create_kv(client, settings).await?;
        self.step(format_args!(
            "The kv component was uploaded, checked and compiled on all three; cluster {cluster} exists ({}).",
            in_ms(started.elapsed()),
        ));
        Ok(())
    }

    async fn write(&self, client: &Client) -> Result<u64, Failure> {
        let kv = Arc::new(self.kv(client));
        // The first write waits for the first election.
        kv.put("greeting", "hello").await?;
        let took = put_many(&kv, WRITES, VALUE).await?;
        let rate = (WRITES as f64 / took.as_secs_f64()) as u64;
        let took = in_ms(took);
        self.step(format_args!(
            "{WRITES} writes by {WRITERS} writers, each on disk at a majority: {took}, {rate} a second."
        ));
        Ok(rate)
    }

    async fn read_from_each(&self, client: &Client) -> Result<(), Failure> {
        self.step("A linearizable read from each peer, by itself:");
        for peer in self.local.peers() {
            let kv = Kv::new(LightSession::new(client.clone(), vec![peer.clone()]));
            let started = Instant::now();
            let entry = kv.get(key(WRITES - 1)).await?;
            let took = in_ms(started.elapsed());
            let value = entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            let expected = format!("value {}", WRITES - 1);
            if value.as_ref() != Some(&expected) {
                return Err(Failure::failed(format!("{peer} answered {value:?} instead of '{expected}'")));
            }
            self.output.say(format_args!("     {peer}  {}  {expected:?}  ({took})", key(WRITES - 1)));
        }
        Ok(())
    }

    /// Stops the leader's node and writes until a write succeeds.
    async fn stop_the_leader(&mut self, kv: &Kv) -> Result<(usize, Duration), Failure> {
        let number = self.leader(kv).await?;
        let leader = self.local.peers()[number].clone();
        let started = Instant::now();
        self.local.stop_node(number).await?;
        // A put may be repeated: the outcome is the same.
        while let Err(error) = kv.put("first words", "of the new leader").await {
            if !matches!(error, KvError::Session(SessionError::Unknown(_))) {
                return Err(error.into());
            }
        }
        let failover = started.elapsed();
        self.step(format_args!(
            "The leader, {leader}, was stopped; the next write succeeded after {}.",
            in_ms(failover)
        ));
        Ok((number, failover))
    }

    /// The number of the node whose peer leads.
    async fn leader(&self, kv: &Kv) -> Result<usize, Failure> {
        kv.put("last words", "of the old leader").await?;
        let leader = kv.session().leader().ok_or_else(|| Failure::failed("a write succeeded without a leader"))?;
        Ok(self.number_of(&leader))
    }

    /// The number of a peer's node.
    fn number_of(&self, peer: &PeerId) -> usize {
        let addresses = self.local.addresses();
        addresses.iter().position(|node| node == peer.node()).expect("it lives on one of the three")
    }

    /// Restarts the stopped node from its files and waits until it has caught up.
    async fn restart(&mut self, client: &Client, number: usize) -> Result<Duration, Failure> {
        put_many(&Arc::new(self.kv(client)), MISSED_WRITES, MISSED_VALUE).await?;
        let started = Instant::now();
        self.local.start_node(number)?;
        let peer = self.local.peers()[number].clone();
        let target = self.most_applied(client).await;
        let caught_up = async || {
            let status = status_of(client, &peer).await?;
            (status.applied >= target).then_some(())
        };
        until("the restarted node caught up", caught_up).await?;
        let took = started.elapsed();
        self.step(format_args!(
            "{peer} was restarted from its files and caught up with {MISSED_WRITES} writes, by a snapshot and the log \
             behind it, after {}.",
            in_ms(took)
        ));
        Ok(took)
    }

    /// Every write that was acknowledged is there.
    async fn read_everything(&self, kv: &Kv) -> Result<(), Failure> {
        let entries = kv.list("key ", WRITES + 1).await?;
        let expected = (0..WRITES).map(|number| {
            let value = if number < MISSED_WRITES { MISSED_VALUE } else { VALUE };
            (key(number).into_bytes(), format!("{value} {number}").into_bytes())
        });
        if !entries.into_iter().map(|entry| (entry.key, entry.value)).eq(expected) {
            return Err(Failure::failed("a write that was acknowledged is not there"));
        }
        self.step(format_args!("All {WRITES} keys were read back, each with the value written last."));
        Ok(())
    }

    async fn most_applied(&self, client: &Client) -> Index {
        let mut most = Index::ZERO;
        for peer in self.local.peers() {
            most = most.max(status_of(client, &peer).await.map_or(Index::ZERO, |status| status.applied));
        }
        most
    }

    /// Waits until all three have applied the same, and shows that their states are equal.
    async fn compare(&self, client: &Client) -> Result<String, Failure> {
        let all_equal = async || {
            let mut states = Vec::new();
            for peer in self.local.peers() {
                states.push(status_of(client, &peer).await?);
            }
            let first = &states[0];
            let is_equal = states.iter().all(|state| (state.applied, state.chain) == (first.applied, first.chain));
            is_equal.then_some(states)
        };
        let states = until("the three replicas became equal", all_equal).await?;
        self.step("All three have applied the same entries with the same outcomes:");
        for PeerStatus { peer, applied, chain, snapshot, .. } in &states {
            let chain = &chain.to_string()[..16];
            self.output.say(format_args!("     {peer}  entry {applied}  hash chain {chain}…  snapshot at {snapshot}"));
        }
        Ok(states[0].chain.to_string())
    }

    fn kv(&self, client: &Client) -> Kv {
        let options = SessionOptions { request_timeout: PATIENCE, ..SessionOptions::default() };
        Kv::new(LightSession::with_options(client.clone(), self.local.peers(), options))
    }

    fn step(&self, text: impl std::fmt::Display) {
        self.output.say(format_args!("{:>5.1} s  {text}", self.started.elapsed().as_secs_f64()));
    }
}

/// Puts that many keys by several writers at once, and tells how long it took.
async fn put_many(kv: &Arc<Kv>, count: usize, value: &'static str) -> Result<Duration, Failure> {
    let started = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let kv = Arc::clone(kv);
        writers.spawn(async move {
            for number in (writer..count).step_by(WRITERS) {
                kv.put(key(number), format!("{value} {number}")).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    writers.join_all().await.into_iter().collect::<Result<(), _>>()?;
    Ok(started.elapsed())
}

/// What the demo measured.
struct Summary {
    writes_per_second: u64,
    failover: Duration,
    catch_up: Duration,
    counted: usize,
    chain: String,
}

fn key(number: usize) -> String {
    format!("key {number:04}")
}

fn in_ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

async fn status_of(client: &Client, peer: &PeerId) -> Option<PeerStatus> {
    let status = client.status(peer.node()).await.ok()?;
    status.peers.into_iter().find(|status| status.peer == *peer)
}

/// Asks again and again until there is an answer.
async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!("gave up waiting until {what}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

//! Clients that write as fast as they are answered, and remember what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use zraft::client::{Client, Kv, KvError, LightSession, SessionError};
use zraft::transport::{Credentials, TlsFiles};

use crate::harness::{Nodes, runtime, until};

/// How many clients write at once, and how many keys each has.
const WRITERS: u64 = 4;
const KEYS: u64 = 25;

/// What is known of a key. Its values are numbers that grow.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    attempted: u64,
}

/// What all clients ever knew.
#[derive(Clone, Default)]
pub struct Knowledge {
    keys: Arc<Mutex<BTreeMap<String, Known>>>,
    acknowledged: Arc<AtomicU64>,
    has_no_power: Arc<AtomicBool>,
}

/// How a cluster stands to what was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    /// Writes that were under way and are there.
    pub kept: u64,
    /// Writes that were under way and are not.
    pub lost: u64,
}

impl Knowledge {
    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn attempt(&self, key: &str) -> u64 {
        let mut keys = self.keys.lock().unwrap();
        let known = keys.entry(key.to_owned()).or_default();
        known.attempted += 1;
        known.attempted
    }

    /// From now on nothing counts as acknowledged: a node without power answers nobody. This one still runs, and a sync
    /// that the file system's shutdown overtakes may claim to have succeeded.
    pub fn power_fails(&self) {
        self.has_no_power.store(true, Ordering::SeqCst);
    }

    /// The power is back.
    pub fn power_returns(&self) {
        self.has_no_power.store(false, Ordering::SeqCst);
    }

    fn acknowledge(&self, key: &str, value: u64) {
        if self.has_no_power.load(Ordering::SeqCst) {
            return;
        }
        self.keys.lock().unwrap().get_mut(key).unwrap().acknowledged = value;
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks that the cluster has all that was acknowledged and nothing that was never written. What it has is what
    /// counts from then on.
    pub fn check(&self, nodes: &Nodes) -> Verdict {
        let entries = runtime().block_on(async { nodes.kv("kv").list("", usize::MAX).await.unwrap() });
        let number = |value: &[u8]| String::from_utf8_lossy(value).split('.').next().unwrap().parse().unwrap();
        let found: BTreeMap<String, u64> = entries
            .iter()
            .map(|entry| (String::from_utf8_lossy(&entry.key).into_owned(), number(&entry.value)))
            .collect();
        let mut keys = self.keys.lock().unwrap();
        assert!(found.keys().all(|key| keys.contains_key(key)), "a key is there that nobody wrote");
        let mut verdict = Verdict::default();
        for (key, known) in keys.iter_mut() {
            let value = found.get(key).copied().unwrap_or(0);
            assert!(known.acknowledged <= value, "{key} is {value}, though more was acknowledged: {known:?}");
            assert!(value <= known.attempted, "{key} is {value}, which nobody wrote: {known:?}");
            verdict.kept += value - known.acknowledged;
            verdict.lost += known.attempted - value;
            *known = Known { acknowledged: value, attempted: value };
        }
        verdict
    }
}

/// Clients at work. Each stops at its first error.
pub struct Writers {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Writers {
    pub fn start(nodes: &Nodes, knowledge: &Knowledge) -> Self {
        let (stop, stopped) = oneshot::channel();
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "admin")).unwrap();
        let (peers, knowledge) = (nodes.peers("kv"), knowledge.clone());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut writers = JoinSet::new();
                for writer in 0..WRITERS {
                    let client = Client::new(credentials.clone()).unwrap();
                    let kv = Kv::new(LightSession::new(client, peers.clone()));
                    writers.spawn(write(kv, writer, knowledge.clone()));
                }
                // Dropping them leaves what is under way unanswered.
                let _ = stopped.await;
            });
        });
        Self { thread, stop }
    }

    /// Lets them go on until so many more writes are acknowledged.
    pub fn until_acknowledged(&self, knowledge: &Knowledge, more: u64) {
        let target = knowledge.acknowledged() + more;
        until("writes are acknowledged", || knowledge.acknowledged() >= target);
    }

    pub fn stop(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap();
    }
}

async fn write(kv: Kv, writer: u64, knowledge: Knowledge) {
    for turn in 0.. {
        let key = format!("{writer}-{}", turn % KEYS);
        let number = knowledge.attempt(&key);
        // Of all sizes up to some pages.
        let padding = "x".repeat((number * 977 + turn * 131) as usize % 5_000);
        match kv.put(key.clone(), format!("{number}.{padding}")).await {
            Ok(_) => knowledge.acknowledge(&key, number),
            Err(KvError::Session(SessionError::Refused(reason))) => panic!("{reason}"),
            Err(_) => return,
        }
    }
}

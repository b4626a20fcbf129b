//! Clients that must not notice what operators do: each request is answered, or the test fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use zraft::client::{Client, Kv, KvError, KvSession, LightSession, Session, SessionOptions};
use zraft::transport::{Credentials, TlsFiles};
use zraft::types::PeerId;

use crate::harness::{Nodes, PATIENCE, runtime, until};

const WRITERS: usize = 8;
const READERS: usize = 4;

/// What clients of all kinds do until they are told to end.
#[derive(Clone, Default)]
pub struct Load {
    ends: Arc<AtomicBool>,
    /// Requests that were answered.
    answered: Arc<AtomicU64>,
}

/// Clients at work.
pub struct Running {
    load: Load,
    peers: Vec<PeerId>,
    clients: JoinHandle<(Vec<u64>, Duration)>,
}

impl Load {
    /// Starts clients of a kv cluster with the admin's certificate.
    pub fn start(nodes: &Nodes) -> Running {
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "admin")).unwrap();
        let (load, peers) = (Self::default(), nodes.peers("kv"));
        let (running, of) = (load.clone(), peers.clone());
        let clients = std::thread::spawn(move || running.run(&credentials, &of));
        Running { load, peers, clients }
    }

    /// Runs the clients. Returns what each writer wrote last, and how long anybody waited at most.
    fn run(&self, credentials: &Credentials, peers: &[PeerId]) -> (Vec<u64>, Duration) {
        runtime().block_on(async {
            let client = || Client::new(credentials.clone()).unwrap();
            let kv = || Arc::new(Kv::new(LightSession::with_options(client(), peers.to_vec(), patient())));
            let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
            for writer in 0..WRITERS {
                let (kv, load) = (kv(), self.clone());
                let put = async move |count: u64| kv.put(writer.to_string(), count.to_string()).await.map(drop);
                writers.spawn(async move { (writer, load.ask(put).await) });
            }
            for _ in 0..READERS {
                let (kv, load) = (kv(), self.clone());
                let get = async move |_| kv.get("0").await.map(drop);
                readers.spawn(async move { load.ask(get).await });
            }
            let (session, _notices) =
                Session::connect_with(client(), peers.to_vec(), Duration::from_secs(20), patient()).await.unwrap();
            let (kv, load) = (Arc::new(KvSession::new(session)), self.clone());
            let put = async move |count: u64| kv.put(WRITERS.to_string(), count.to_string()).await.map(drop);
            writers.spawn(async move { (WRITERS, load.ask(put).await) });
            let mut written = writers.join_all().await;
            written.sort_unstable_by_key(|(writer, _)| *writer);
            let waited = readers.join_all().await.into_iter().chain(written.iter().map(|(_, done)| *done));
            let longest = waited.map(|(_, longest)| longest).max().unwrap();
            (written.into_iter().map(|(_, (last, _))| last).collect(), longest)
        })
    }

    /// Asks until it is told to end, at least once; returns the number of the last request, and how long one took at most. A
    /// request that fails is a loss.
    async fn ask(&self, ask: impl AsyncFn(u64) -> Result<(), KvError>) -> (u64, Duration) {
        let mut longest = Duration::ZERO;
        for count in 0.. {
            let asked = Instant::now();
            ask(count).await.unwrap_or_else(|error| panic!("request {count} was lost: {error}"));
            longest = longest.max(asked.elapsed());
            self.answered.fetch_add(1, Ordering::Relaxed);
            if self.ends.load(Ordering::Relaxed) {
                return (count, longest);
            }
        }
        unreachable!("a count does not end")
    }
}

/// Only what is lost is to fail, not what takes long on a busy machine.
pub fn patient() -> SessionOptions {
    SessionOptions { request_timeout: PATIENCE, attempt_timeout: PATIENCE, ..SessionOptions::default() }
}

impl Running {
    /// Waits until so many more requests were answered.
    pub fn until_answered(&self, more: u64) {
        let answered = || self.load.answered.load(Ordering::Relaxed);
        let target = answered() + more;
        until("requests are answered", || answered() >= target);
    }

    /// Ends it, and checks that nothing was lost. Returns how many requests were answered, and how long the longest took.
    pub fn end(self, nodes: &Nodes) -> (u64, Duration) {
        self.load.ends.store(true, Ordering::Relaxed);
        let (written, longest) = self.clients.join().unwrap();
        for (writer, last) in written.iter().enumerate() {
            let found = nodes.run_ok(&["kv", "get", &self.peers[0].to_string(), &writer.to_string()]);
            assert_eq!(found, last.to_string(), "of writer {writer}");
        }
        (self.load.answered.load(Ordering::Relaxed), longest)
    }
}

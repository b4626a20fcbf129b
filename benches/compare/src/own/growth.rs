//! What a write costs where there is much that lies still.

use bytes::Bytes;
use tokio::task::JoinSet;
use zraft::client::{Client, KvQuery, Notices, Session, SessionOptions};
use zraft::load::Plan;

use super::{compare, drive, writes};
use crate::processes::{PATIENCE, runtime};
use crate::zraft_nodes::Zraft;

const CLIENTS: usize = 256;
const SESSIONS: usize = 10_000;
const TRIGGERS: usize = 100_000;
const TRIGGERS_A_SESSION: usize = 1_000;
/// Log that is written before it is measured again.
const LONG_LOG_SECONDS: u64 = 60;
/// Sessions of a connection, whose streams are bounded.
const SESSIONS_A_CONNECTION: usize = 500;
const OPENED_AT_ONCE: usize = 100;

pub fn measure(zraft: &Zraft) {
    for name in ["empty", "long", "sessions", "triggers"] {
        zraft.create(name);
    }
    let written = drive(zraft, vec![zraft.peers("long")], &long(CLIENTS)).writes.count();
    tell(zraft, "long", &format!("{written} entries in its log before"));
    {
        let _idle = Idle::start(zraft, "sessions", SESSIONS, 0);
        tell(zraft, "sessions", &format!("{SESSIONS} idle sessions"));
    }
    let _idle = Idle::start(zraft, "triggers", TRIGGERS / TRIGGERS_A_SESSION, TRIGGERS_A_SESSION);
    tell(zraft, "triggers", &format!("{TRIGGERS} idle triggers"));
}

fn long(clients: usize) -> Plan {
    writes(clients, std::time::Duration::from_secs(LONG_LOG_SECONDS))
}

fn tell(zraft: &Zraft, name: &str, has: &str) {
    let [empty, full] = compare(
        CLIENTS,
        |plan| drive(zraft, vec![zraft.peers("empty")], plan),
        |plan| drive(zraft, vec![zraft.peers(name)], plan),
    );
    println!(
        "writes of {CLIENTS} clients: {full:.0} a second with {has}, {empty:.0} without: a write costs {:.2} times",
        empty / full
    );
}

/// Sessions that are open and still, on a thread of their own, until this is dropped.
struct Idle {
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Idle {
    fn start(zraft: &Zraft, name: &str, sessions: usize, triggers: usize) -> Self {
        let (peers, credentials) = (zraft.peers(name), zraft.credentials.clone());
        let (end, ended) = tokio::sync::oneshot::channel();
        let (opened, ready) = std::sync::mpsc::channel();
        let work = async move {
            let connect = |_| Client::new(credentials.clone()).expect("a socket can be had");
            let connections: Vec<_> = (0..sessions.div_ceil(SESSIONS_A_CONNECTION)).map(connect).collect();
            let mut kept = Vec::with_capacity(sessions);
            let mut opening = JoinSet::new();
            for number in 0..sessions {
                if opening.len() >= OPENED_AT_ONCE {
                    kept.extend(opening.join_next().await.map(|opened| opened.expect("it is opened")));
                }
                let (client, peers) = (connections[number % connections.len()].clone(), peers.clone());
                opening.spawn(async move { open(client, peers, number, triggers).await });
            }
            kept.extend(opening.join_all().await);
            opened.send(()).expect("somebody waits");
            // An error means the same.
            let _ = ended.await;
        };
        let thread = std::thread::spawn(move || runtime().block_on(work));
        ready.recv().expect("sessions can be opened");
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the sessions are dropped");
        }
    }
}

/// A session with so many triggers on keys that nobody writes.
async fn open(client: Client, peers: Vec<zraft::types::PeerId>, number: usize, triggers: usize) -> (Session, Notices) {
    let options = SessionOptions { request_timeout: PATIENCE, ..SessionOptions::default() };
    let opened = Session::connect_with(client, peers, PATIENCE, options).await;
    let (session, notices) = opened.expect("a session can be opened");
    for trigger in 0..triggers {
        let key = format!("still-{number}-{trigger}").into_bytes();
        let query: Bytes = zraft::codec::encode(&KvQuery::Get { key }).into();
        session.query_watch(query).await.expect("a trigger can be armed");
    }
    (session, notices)
}

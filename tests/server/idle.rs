//! Many sessions that do nothing: they hold, and cost no entries.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use zraft::client::{Client, Session};
use zraft::codec;
use zraft::protocol::{
    MAX_FRAME_BYTES, PeerStatus, Request, SessionEvent, SessionRequest, SessionSecret, SessionStart,
};
use zraft::transport::{Connection, Credentials, Endpoint, FrameReader, FrameWriter, Protocol, TlsFiles};
use zraft::types::PeerId;

use crate::harness::{Nodes, PATIENCE, runtime};

/// A session on a stream of its own, without the library: its pings are counted.
struct Bare {
    writer: FrameWriter,
    reader: FrameReader,
}

impl Bare {
    async fn open(connection: &Connection, peer: &PeerId, timeout_ms: u64) -> Self {
        let (send, recv) = connection.open_bi().await.unwrap();
        let (writer, reader) = (FrameWriter::new(send, MAX_FRAME_BYTES), FrameReader::new(recv, MAX_FRAME_BYTES));
        let mut bare = Self { writer, reader };
        let start = SessionStart::Open { timeout_ms, secret: SessionSecret(7) };
        let request = Request::Session { peer: peer.name().to_owned(), start };
        bare.writer.write(&codec::encode(&request)).await.unwrap();
        let opened = bare.next().await;
        assert!(matches!(opened, SessionEvent::Attached { .. }), "{opened:?}");
        bare
    }

    async fn next(&mut self) -> SessionEvent {
        let frame = timeout(PATIENCE, self.reader.next()).await.expect("an event comes in time").unwrap();
        codec::decode(&frame.expect("the stream goes on")).unwrap()
    }

    /// Pings now and then, until it is told to end; returns how often that was answered.
    async fn idle(mut self, pause: Duration, mut end: watch::Receiver<bool>) -> u64 {
        for number in 1.. {
            self.writer.write(&codec::encode(&SessionRequest::Ping { number })).await.unwrap();
            assert_eq!(self.next().await, SessionEvent::Pong { number });
            if timeout(pause, end.wait_for(|has_ended| *has_ended)).await.is_ok() {
                return number;
            }
        }
        unreachable!("numbers do not run out")
    }
}

/// The status of a peer, without a process that would keep this thread from pinging.
async fn status(client: &Client, peer: &PeerId) -> PeerStatus {
    let ask = async {
        loop {
            if let Ok(status) = client.status(peer.node()).await {
                return status.peers.into_iter().find(|status| status.peer == *peer).unwrap();
            }
        }
    };
    timeout(PATIENCE, ask).await.expect("the node tells its status")
}

#[test]
fn two_thousand_idle_sessions_hold_and_cost_no_entries() {
    const CONNECTIONS: u64 = 4;
    const SESSIONS: u64 = 2000;
    const LIVES: Duration = Duration::from_secs(4);
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let leader = nodes.peers("kv")[nodes.leader("kv")].clone();
    runtime().block_on(async {
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "alice")).unwrap();
        let endpoint = Endpoint::client(credentials).unwrap();
        let admin = nodes.client();
        let mut idling = JoinSet::new();
        let (end, has_ended) = watch::channel(false);
        for _ in 0..CONNECTIONS {
            let connection = endpoint.connect(leader.node(), Protocol::Client).await.unwrap();
            for _ in 0..SESSIONS / CONNECTIONS {
                let (connection, leader, has_ended) = (connection.clone(), leader.clone(), has_ended.clone());
                let lives_ms = LIVES.as_millis().try_into().unwrap();
                idling.spawn(async move {
                    Bare::open(&connection, &leader, lives_ms).await.idle(LIVES / 8, has_ended).await
                });
            }
        }
        let before = until_status(&admin, &leader, |status| status.sessions == SESSIONS).await;
        // More than twice as long as a session lives without a sign of its client.
        sleep(LIVES * 2 + LIVES / 4).await;
        let after = status(&admin, &leader).await;
        assert_eq!((after.sessions, after.last), (before.sessions, before.last));
        end.send(true).unwrap();
        let pongs = idling.join_all().await;
        let fewest = pongs.iter().min();
        assert!(fewest >= Some(&3), "each was answered several times: {fewest:?}");

        // Nobody pings any more, and the streams are gone: so are the sessions, by entries.
        let gone = until_status(&admin, &leader, |status| status.sessions == 0).await;
        assert!(gone.last.0 >= after.last.0 + SESSIONS, "{}", gone.last);
    });
}

async fn until_status(client: &Client, peer: &PeerId, holds: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(client, peer).await;
        if holds(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "gave up waiting for another status than {status:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn sessions_of_the_library_keep_themselves_alive() {
    const SESSIONS: usize = 200;
    const LIVES: Duration = Duration::from_secs(2);
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let peer = nodes.peers("kv")[0].clone();
    runtime().block_on(async {
        let mut opening = JoinSet::new();
        let client = nodes.client();
        for _ in 0..SESSIONS {
            let (client, peers) = (client.clone(), nodes.peers("kv"));
            opening.spawn(async move { Session::connect(client, peers, LIVES).await.unwrap() });
        }
        let mut sessions = opening.join_all().await;
        nodes.until_equal("kv");
        let before = nodes.status(&peer).unwrap();
        assert_eq!(before["sessions"], SESSIONS);
        sleep(LIVES * 2).await;
        let after = nodes.status(&peer).unwrap();
        assert_eq!((&after["sessions"], &after["last"]), (&before["sessions"], &before["last"]));
        for (session, notices) in &mut sessions {
            assert!(!session.is_suspended());
            let noticed = timeout(Duration::ZERO, notices.next()).await;
            assert!(noticed.is_err(), "it was never in doubt: {noticed:?}");
        }
    });
}

//! Many sessions that do nothing: they hold, and cost no entries.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use zraft::client::Session;
use zraft::codec;
use zraft::protocol::{MAX_FRAME_BYTES, Request, SessionEvent, SessionRequest, SessionSecret, SessionStart};
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

    /// Pings now and then; returns how often that was answered.
    async fn idle(mut self, until: Instant, pause: Duration) -> (u64, Self) {
        for number in 1.. {
            self.writer.write(&codec::encode(&SessionRequest::Ping { number })).await.unwrap();
            assert_eq!(self.next().await, SessionEvent::Pong { number });
            if Instant::now() >= until {
                return (number, self);
            }
            sleep(pause).await;
        }
        unreachable!("numbers do not run out")
    }
}

#[test]
fn two_thousand_idle_sessions_hold_and_cost_no_entries() {
    const CONNECTIONS: usize = 4;
    const SESSIONS: usize = 2000;
    const LIVES: Duration = Duration::from_secs(4);
    let nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let leader = nodes.peers("kv")[nodes.leader("kv")].clone();
    runtime().block_on(async {
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "alice")).unwrap();
        let endpoint = Endpoint::client(credentials).unwrap();
        let mut opening = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let connection = endpoint.connect(leader.node(), Protocol::Client).await.unwrap();
            for _ in 0..SESSIONS / CONNECTIONS {
                let (connection, leader) = (connection.clone(), leader.clone());
                let lives_ms = LIVES.as_millis().try_into().unwrap();
                opening.spawn(async move { Bare::open(&connection, &leader, lives_ms).await });
            }
        }
        let sessions = opening.join_all().await;
        let before = nodes.status(&leader).unwrap();
        assert_eq!((&before["sessions"], before["committed"] == before["last"]), (&SESSIONS.into(), true));

        // More than twice as long as a session lives without a sign of its client.
        let until = Instant::now() + LIVES * 2 + LIVES / 4;
        let mut idling = JoinSet::new();
        for session in sessions {
            idling.spawn(session.idle(until, LIVES / 8));
        }
        let held = idling.join_all().await;
        let fewest = held.iter().map(|(pongs, _)| *pongs).min();
        assert!(fewest >= Some(3), "each was answered several times: {fewest:?}");
        let after = nodes.status(&leader).unwrap();
        assert_eq!((&after["sessions"], &after["last"]), (&before["sessions"], &before["last"]));

        // Nobody pings any more, and the streams are gone: so are the sessions, by entries.
        drop(held);
        let are_gone = async {
            while nodes.status(&leader).unwrap()["sessions"] != 0 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, are_gone).await.expect("sessions end");
        let end = nodes.status(&leader).unwrap()["last"].as_u64();
        assert!(end >= after["last"].as_u64().map(|last| last + SESSIONS as u64), "{end:?}");
    });
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

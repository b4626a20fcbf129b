//! Clients with good certificates and bad manners, over real QUIC: they get errors, the node stays small, and others are served.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use zraft::client::{Kv, KvCommand, KvQuery, LightSession, NewCluster};
use zraft::codec;
use zraft::protocol::{
    MAX_TRIGGERS, Reply, Request, RequestError, SessionEvent, SessionRefusal, SessionRequest, SessionSecret,
    SessionStart, TriggerId,
};
use zraft::settings::Settings;
use zraft::transport::{
    Connection, Credentials, Endpoint, FrameError, FrameReader, FrameWriter, Protocol, RecvStream, SendStream, TlsFiles,
};
use zraft::types::{PeerId, SessionId};

use crate::harness::{Nodes, PATIENCE, runtime};
use crate::load::patient;

const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");

const MAX_BYTES: usize = 32 << 20;
/// What the node may grow by in each of these cases, in bytes: what one identity may make it hold, some of it twice, and what
/// the allocator does not give back at once. Without a quota each would take a gigabyte and more.
const MAX_GROWTH_BYTES: u64 = 640 << 20;

/// The memory of a node that is in use, in bytes.
pub fn memory(nodes: &Nodes, number: usize) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", nodes.process_id(number))).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Mallory, who has a client's certificate.
pub struct Mallory {
    endpoint: Endpoint,
}

impl Mallory {
    fn new(nodes: &Nodes) -> Self {
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), "mallory")).unwrap();
        Self { endpoint: Endpoint::client(credentials).unwrap() }
    }

    async fn connect(&self, nodes: &Nodes) -> Connection {
        self.endpoint.connect(nodes.address(0), Protocol::Client).await.unwrap()
    }
}

/// Has Mallory act on a node with a kv cluster, while Alice reads and writes. Tells how much the node has grown.
pub fn while_alice_is_served<F: Future<Output = ()>>(act: impl FnOnce(Mallory, Arc<Nodes>) -> F) {
    let nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    nodes.run_ok(&["cert", "client", "mallory"]);
    let nodes = Arc::new(nodes);
    let before = memory(&nodes, 0);
    runtime().block_on(async {
        let alice = Kv::new(LightSession::with_options(nodes.client(), nodes.peers("kv"), patient()));
        alice.put("a", vec![0_u8; 1 << 19]).await.unwrap();
        let serving = async {
            for count in 0.. {
                alice.put("alice", format!("{count}")).await.unwrap();
                alice.get("alice").await.unwrap().unwrap();
            }
        };
        let acting = tokio::time::timeout(4 * PATIENCE, act(Mallory::new(&nodes), Arc::clone(&nodes)));
        tokio::select! {
            () = serving => unreachable!("it does not end"),
            acted = acting => acted.expect("Mallory comes to an end"),
        }
        alice.put("alice", "again").await.unwrap();
    });
    let grown = memory(&nodes, 0).saturating_sub(before);
    assert!(grown < MAX_GROWTH_BYTES, "the node has grown by {grown} bytes");
}

fn frames((send, recv): (SendStream, RecvStream)) -> (FrameWriter, FrameReader) {
    (FrameWriter::new(send, MAX_BYTES), FrameReader::new(recv, MAX_BYTES))
}

async fn reply(reader: &mut FrameReader) -> Reply {
    codec::decode(&reader.next().await.unwrap().unwrap()).unwrap()
}

fn query(data: &[u8]) -> Vec<u8> {
    codec::encode(&Request::Query { peer: "kv".to_owned(), request: Bytes::copy_from_slice(data), timeout_ms: 10_000 })
}

#[test]
fn garbage_is_answered_with_an_error_and_a_length_too_large_ends_its_stream_alone() {
    while_alice_is_served(async |mallory, nodes| {
        let connection = mallory.connect(&nodes).await;
        let (mut writer, mut reader) = frames(connection.open_bi().await.unwrap());
        writer.write(&[0xff; 100]).await.unwrap();
        assert!(matches!(reply(&mut reader).await, Reply::Failed(RequestError::Invalid { .. })));
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        send.write_all(&[0; 100]).await.unwrap();
        let mut reader = FrameReader::new(recv, MAX_BYTES);
        let ended = reader.next().await;
        assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
        let (mut writer, mut reader) = frames(connection.open_bi().await.unwrap());
        writer.write(&codec::encode(&Request::Status)).await.unwrap();
        assert!(matches!(reply(&mut reader).await, Reply::Status(_)), "the connection goes on");
    });
}

#[test]
fn a_stream_carries_any_number_of_requests_one_after_the_other() {
    while_alice_is_served(async |mallory, nodes| {
        let connection = mallory.connect(&nodes).await;
        let (mut writer, mut reader) = frames(connection.open_bi().await.unwrap());
        // More than the streams that a connection may have, some of them sent before others are answered.
        const ROUNDS: usize = 300;
        const AHEAD: usize = 4;
        for _ in 0..ROUNDS {
            for _ in 0..AHEAD {
                writer.write(&query(b"no query of kv")).await.unwrap();
            }
            for _ in 0..AHEAD {
                assert!(matches!(reply(&mut reader).await, Reply::Answered { reply: Err(_) }));
                reader.dealt_with();
            }
        }
        // What cannot be followed ends it.
        writer.write(&codec::encode(&Request::Status)).await.unwrap();
        assert!(matches!(reply(&mut reader).await, Reply::Status(_)));
        assert!(matches!(reader.next().await, Ok(None)), "the node ends the stream");
    });
}

#[test]
fn requests_that_are_begun_and_not_ended_are_bounded_in_memory_and_time() {
    while_alice_is_served(async |mallory, nodes| {
        let connection = mallory.connect(&nodes).await;
        let mut streams = JoinSet::new();
        // A megabyte of each arrives: a gigabyte, if it were kept.
        for _ in 0..1000 {
            let (mut send, recv) = connection.open_bi().await.unwrap();
            streams.spawn(async move {
                let size = 1_200_000_u32;
                // Some are refused before all is written.
                let _ = send.write_all(&size.to_le_bytes()).await;
                let _ = send.write_all(&vec![0; 1_000_000]).await;
                let ended = FrameReader::new(recv, MAX_BYTES).next().await;
                drop(send);
                ended
            });
        }
        let mut refused = 0;
        while let Some(ended) = streams.join_next().await {
            let ended = ended.unwrap();
            let is_overloaded =
                |frame: &Bytes| matches!(codec::decode(frame), Ok(Reply::Failed(RequestError::Overloaded)));
            match &ended {
                Ok(Some(frame)) if is_overloaded(frame) => refused += 1,
                Ok(None) | Err(FrameError::Reset { .. } | FrameError::Truncated) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 500, "{refused}");
    });
}

#[test]
fn replies_that_are_not_read_are_not_kept() {
    while_alice_is_served(async |mallory, nodes| {
        let get = codec::encode(&KvQuery::Get { key: b"a".to_vec() });
        let mut unread = Vec::new();
        // Half a megabyte each: a gigabyte, if they were kept.
        for _ in 0..4 {
            let connection = mallory.connect(&nodes).await;
            for _ in 0..500 {
                let (mut writer, reader) = frames(connection.open_bi().await.unwrap());
                writer.write(&query(&get)).await.unwrap();
                unread.push((writer, reader));
            }
        }
        // At once: what waits on all of them shares the room of their connections.
        let mut reading = JoinSet::new();
        unread.into_iter().for_each(|(writer, mut reader)| {
            reading.spawn(async move { (reply(&mut reader).await, writer) });
        });
        let (mut full, mut refused) = (0, 0);
        while let Some(read) = reading.join_next().await {
            match read.unwrap().0 {
                Reply::Answered { .. } => full += 1,
                Reply::Failed(RequestError::TooMuch | RequestError::Overloaded) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(full > 0 && refused > 0, "{full} were kept, {refused} were not");
    });
}

#[test]
fn more_connections_than_one_may_have_are_refused_and_others_come_in() {
    while_alice_is_served(async |mallory, nodes| {
        let mut connections = Vec::new();
        let refused = loop {
            match mallory.endpoint.connect(nodes.address(0), Protocol::Client).await {
                Ok(connection) => connections.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(connections.len(), 256, "{refused}");
        assert!(refused.to_string().contains("one identity"), "{refused}");
        nodes.run_ok(&["status", "--as", "alice", nodes.address(0).as_str()]);
        drop(connections);
    });
}

#[test]
fn a_session_of_another_or_with_numbers_of_its_own_is_denied() {
    while_alice_is_served(async |mallory, nodes| {
        let connection = mallory.connect(&nodes).await;
        let begin = async |start| {
            let (mut writer, reader) = frames(connection.open_bi().await.unwrap());
            writer.write(&codec::encode(&Request::Session { peer: "kv".to_owned(), start })).await.unwrap();
            (writer, reader)
        };
        let event = async |reader: &mut FrameReader| -> SessionEvent {
            codec::decode(&reader.next().await.unwrap().unwrap()).unwrap()
        };
        let secret = SessionSecret(7);
        let (mut writer, mut reader) = begin(SessionStart::Open { timeout_ms: 10_000, secret }).await;
        let SessionEvent::Attached { session } = event(&mut reader).await else { panic!("not attached") };
        let write = |seq, acked_up_to| {
            let data = Bytes::from(codec::encode(&KvCommand::Put { key: b"m".to_vec(), value: vec![] }));
            codec::encode(&SessionRequest::Write { seq, acked_up_to, is_ephemeral: false, data })
        };
        for (seq, is_run) in [(5, false), (1, true), (0, false)] {
            writer.write(&write(seq, 0)).await.unwrap();
            let SessionEvent::Written { result, .. } = event(&mut reader).await else { panic!("not written") };
            assert_eq!(result.is_ok(), is_run, "{seq}: {result:?}");
        }
        let forged = SessionStart::Resume { session, secret: SessionSecret(8) };
        let (_writer, mut reader) = begin(forged).await;
        let denied = event(&mut reader).await;
        assert_eq!(denied, SessionEvent::Detached(RequestError::NotYourSession));
        let unknown = SessionStart::Resume { session: SessionId(u64::MAX), secret };
        let (_writer, mut reader) = begin(unknown).await;
        assert!(matches!(event(&mut reader).await, SessionEvent::Ended(_)));
        // Garbage ends the stream alone.
        let (mut writer, mut reader) = begin(SessionStart::Open { timeout_ms: 10_000, secret }).await;
        assert!(matches!(event(&mut reader).await, SessionEvent::Attached { .. }));
        writer.write(&[0xff; 50]).await.unwrap();
        let ended = event(&mut reader).await;
        assert!(matches!(ended, SessionEvent::Detached(RequestError::Invalid { .. })), "{ended:?}");
    });
}

#[test]
fn triggers_and_sessions_beyond_what_one_may_have_are_refused() {
    while_alice_is_served(async |mallory, nodes| {
        const MAX_SESSIONS: u64 = 3;
        let peer: PeerId = format!("few@{}", nodes.address(0)).parse().unwrap();
        let settings = Settings { max_sessions_per_identity: MAX_SESSIONS, ..Settings::default() };
        let new = NewCluster { settings, ..NewCluster::new(vec![peer], Bytes::from_static(KV)) };
        nodes.client().create(new).await.unwrap();
        let connection = mallory.connect(&nodes).await;
        let open = async || {
            let start = SessionStart::Open { timeout_ms: 60_000, secret: SessionSecret(7) };
            let (mut writer, mut reader) = frames(connection.open_bi().await.unwrap());
            writer.write(&codec::encode(&Request::Session { peer: "few".to_owned(), start })).await.unwrap();
            let first: SessionEvent = codec::decode(&reader.next().await.unwrap().unwrap()).unwrap();
            (first, writer, reader)
        };
        let mut held = Vec::new();
        for _ in 0..MAX_SESSIONS {
            let (first, writer, reader) = open().await;
            assert!(matches!(first, SessionEvent::Attached { .. }), "{first:?}");
            held.push((writer, reader));
        }
        let refused = SessionEvent::Detached(RequestError::NotOpened(SessionRefusal::TooManyOfIdentity));
        assert_eq!(open().await.0, refused);

        let (writer, reader) = &mut held[0];
        let request = Bytes::from(codec::encode(&KvQuery::Get { key: b"a".to_vec() }));
        for id in 0..=MAX_TRIGGERS as u64 {
            let query = SessionRequest::Query { id: TriggerId(id), request: request.clone(), watch: true };
            writer.write(&codec::encode(&query)).await.unwrap();
            let event = codec::decode(&reader.next().await.unwrap().unwrap()).unwrap();
            let SessionEvent::Answered { result, .. } = event else { panic!("not answered: {event:?}") };
            match result {
                Ok(_) => assert!(id < MAX_TRIGGERS as u64, "it is one more than there may be"),
                Err(error) => assert_eq!((id, error), (MAX_TRIGGERS as u64, RequestError::TooMuch)),
            }
            reader.dealt_with();
        }
    });
}

//! What is carried: frames, peer links, bulk transfers.

use bytes::Bytes;

use super::*;

async fn one_way() -> (SendStream, RecvStream, (Connection, Connection, [Endpoint; 2])) {
    let (dialed, accepted, endpoints) = pair(Protocol::Client).await;
    let mut send = dialed.open_uni().await.unwrap();
    // The stream shows with its first bytes: an empty frame, which every test reads first.
    send.write_all(&[0; 4]).await.unwrap();
    let recv = within(accepted.accept_uni()).await.unwrap();
    (send, recv, (dialed, accepted, endpoints))
}

#[tokio::test]
async fn frames_arrive_whole_and_in_order() {
    let (send, recv, _keep) = one_way().await;
    let (mut writer, mut reader) = (FrameWriter::new(send, 1 << 20), FrameReader::new(recv, 1 << 20));
    let frames: Vec<Bytes> =
        (0..3000usize).map(|i| Bytes::from(vec![i as u8; if i % 500 == 0 { i * 100 } else { i % 300 }])).collect();
    let sending = async {
        writer.write_all(&frames[..1500]).await.unwrap();
        for frame in &frames[1500..2200] {
            writer.write(frame).await.unwrap();
        }
        for (frame, cut) in frames[2200..].iter().zip(0..) {
            let mut front = frame.clone();
            let back = front.split_off(cut % (frame.len() + 1));
            writer.write_parts([front, back]).await.unwrap();
        }
        writer.finish();
    };
    let receiving = async {
        assert_eq!(reader.next().await.unwrap().unwrap(), "");
        for frame in &frames {
            assert_eq!(&reader.next().await.unwrap().unwrap(), frame);
        }
        assert_eq!(reader.next().await.unwrap(), None);
    };
    within(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn what_is_queued_is_written_from_where_it_was_left() {
    let (send, recv, _open) = one_way().await;
    let (mut writer, mut reader) = (FrameWriter::new(send, 1 << 20), FrameReader::new(recv, 1 << 20));
    // Small and large ones, more than the receiver's window has room for.
    let sizes = [0, 1, 300_000, 700, 1 << 20, 20, 900_000, 8 << 10, 500_000, 3];
    let frames: Vec<Bytes> = (0u8..).zip(sizes).map(|(fill, size)| vec![fill; size].into()).collect();
    for frame in &frames {
        writer.queue(frame).unwrap();
    }
    assert_eq!(
        writer.queue(&vec![0; (1 << 20) + 1].into()),
        Err(FrameError::TooLarge { size: (1 << 20) + 1, max: 1 << 20 })
    );
    let write = async {
        let mut times = 0;
        while !writer.is_flushed() {
            times += 1;
            tokio::select! {
                biased;
                written = writer.flush() => written.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        times
    };
    let read = async {
        assert_eq!(reader.next().await.unwrap().unwrap(), "");
        for frame in &frames {
            assert_eq!(reader.next().await.unwrap().unwrap(), frame);
        }
    };
    let (times, ()) = within(async { tokio::join!(write, read) }).await;
    assert!(times > 1, "it was given up on the way");
}

#[tokio::test]
async fn a_frame_too_large_is_refused_by_its_header_alone() {
    let (mut send, recv, _keep) = one_way().await;
    let mut reader = FrameReader::new(recv, 100);
    assert_eq!(within(reader.next()).await.unwrap().unwrap(), "");
    send.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let error = within(reader.next()).await.unwrap_err();
    assert_eq!(error, FrameError::TooLarge { size: u32::MAX as usize, max: 100 });
    let mut writer = FrameWriter::new(send, 100);
    let error = within(writer.write(&[0; 101])).await.unwrap_err();
    assert_eq!(error, FrameError::TooLarge { size: 101, max: 100 });
    let parts = [Bytes::from_static(&[0; 51]), Bytes::from_static(&[0; 50])];
    let error = within(writer.write_parts(parts)).await.unwrap_err();
    assert_eq!(error, FrameError::TooLarge { size: 101, max: 100 });
}

#[tokio::test]
async fn every_way_in_which_a_stream_ends_is_told_apart() {
    let (mut send, recv, _keep) = one_way().await;
    let mut reader = FrameReader::new(recv, 100);
    within(reader.next()).await.unwrap();
    send.write_all(&[9, 0, 0, 0, 1, 2]).await.unwrap();
    send.finish().unwrap();
    assert_eq!(within(reader.next()).await.unwrap_err(), FrameError::Truncated);

    let (mut send, recv, _keep) = one_way().await;
    let mut reader = FrameReader::new(recv, 100);
    within(reader.next()).await.unwrap();
    send.reset(7u32.into()).unwrap();
    assert_eq!(within(reader.next()).await.unwrap_err(), FrameError::Reset { code: 7 });

    let (send, recv, (dialed, _accepted, _endpoints)) = one_way().await;
    let (mut reader, mut writer) = (FrameReader::new(recv, 100), FrameWriter::new(send, 100));
    within(reader.next()).await.unwrap();
    reader.stop(3);
    let error = within(async {
        loop {
            if let Err(error) = writer.write(b"x").await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(error.await, FrameError::Stopped { code: 3 });
    dialed.close(CloseCode::DONE, "bye");
    assert_eq!(within(writer.write(b"x")).await.unwrap_err(), FrameError::Lost(ConnectionLost::ClosedHere));
}

fn numbered(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame.try_into().unwrap())
}

async fn receiver(endpoint: &Endpoint) -> PeerReceiver {
    let incoming = within(endpoint.accept()).await.unwrap();
    within(PeerReceiver::accept(incoming.connection)).await.unwrap()
}

#[tokio::test]
async fn a_link_delivers_both_streams_in_order() {
    const COUNT: u32 = 20_000;
    let ca = authority();
    let ((sender, sender_addr), (server, addr)) = (node(&ca), node(&ca));
    let link = PeerLink::spawn(sender, addr);
    // Queued before the connection is there.
    for i in 0..COUNT {
        assert!(link.send(i % 2 == 0, numbered(i)));
    }
    let mut receiver = receiver(&server).await;
    assert_eq!(receiver.sender(), &sender_addr);
    let mut next = [0, 1];
    for _ in 0..COUNT {
        let number = number(&within(receiver.recv()).await.unwrap());
        let expected = &mut next[(number % 2) as usize];
        assert_eq!(number, *expected);
        *expected += 2;
    }
    assert!(matches!(link.status().state, LinkState::Connected { .. }));
    assert_eq!(link.status().dropped, 0);
    assert!(!link.send(false, Bytes::from(vec![0; MAX_PEER_FRAME_BYTES + 1])));
    assert_eq!(link.status().dropped, 1);
}

#[tokio::test]
async fn urgent_frames_pass_ordered_ones_that_nobody_reads() {
    let ca = authority();
    let ((sender, _), (server, addr)) = (node(&ca), node(&ca));
    let link = PeerLink::spawn(sender, addr);
    let mut receiver = receiver(&server).await;
    // More than the window of the stream, so that the ordered stream is stuck.
    for _ in 0..8 {
        assert!(link.send(false, Bytes::from(vec![0; 1 << 20])));
    }
    let first = within(receiver.recv()).await.unwrap();
    assert_eq!(first.len(), 1 << 20);
    assert!(link.send(true, numbered(7)));
    let mut before = 0;
    while within(receiver.recv()).await.unwrap().len() != 4 {
        before += 1;
    }
    assert!(before < 7, "the urgent frame came last");
}

#[tokio::test]
async fn a_link_drops_while_the_node_is_down_and_comes_back_with_it() {
    let ca = authority();
    let ((sender, _), (server, addr)) = (node(&ca), node(&ca));
    let link = PeerLink::spawn(sender, addr.clone());
    let first = receiver(&server).await;
    eventually("connected", || matches!(link.status().state, LinkState::Connected { .. })).await;
    drop(first);
    within(server.close("restarting")).await;
    drop(server);
    eventually("down", || matches!(link.status().state, LinkState::Down { .. })).await;
    for i in 0..1000 {
        assert!(!link.send(i % 2 == 0, numbered(i)));
    }
    assert_eq!(link.status().dropped, 1000);

    let issued = ca.issue_node(&addr, &[], 1).unwrap();
    let options = EndpointOptions {
        listen: socket_addr(&addr),
        credentials: credentials(&ca, &issued),
        limits: Limits::default(),
    };
    let mut server = None;
    eventually("the port is free again", || {
        server = Endpoint::server(options.clone()).ok();
        server.is_some()
    })
    .await;
    let server = server.unwrap();
    let mut again = receiver(&server).await;
    eventually("connected again", || link.send(false, numbered(5))).await;
    assert_eq!(number(&within(again.recv()).await.unwrap()), 5, "nothing old comes first");
}

/// A node in a thread and runtime of its own, which can be killed without a goodbye.
struct Apart {
    kill: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Apart {
    fn start(addr: &NodeAddr, credentials: &Credentials) -> Self {
        let (kill, killed) = tokio::sync::oneshot::channel();
        let options =
            EndpointOptions { listen: socket_addr(addr), credentials: credentials.clone(), limits: Limits::default() };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::spawn(serve(Endpoint::server(options).unwrap()));
                killed.await.unwrap();
            });
        });
        Self { kill, thread }
    }

    fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

async fn serve(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let mut receiver = PeerReceiver::accept(incoming.connection).await.unwrap();
            while receiver.recv().await.is_ok() {}
        });
    }
}

#[tokio::test]
async fn a_killed_and_restarted_node_is_found_long_before_the_idle_timeout() {
    let ca = authority();
    let (sender, _) = node(&ca);
    let addr: NodeAddr =
        bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap().to_string().parse().unwrap();
    let credentials = credentials(&ca, &ca.issue_node(&addr, &[], 1).unwrap());
    let killed = Apart::start(&addr, &credentials);
    let link = PeerLink::spawn(sender, addr.clone());
    let since = |link: &PeerLink| match link.status().state {
        LinkState::Connected { since } => Some(since),
        _ => None,
    };
    eventually("connected", || since(&link).is_some()).await;
    let first = since(&link);
    killed.kill();
    let restarted = Apart::start(&addr, &credentials);
    let start = Instant::now();
    eventually("connected again", || {
        link.send(true, Bytes::from_static(&[0; 64]));
        since(&link).is_some() && since(&link) != first
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(3), "found after {:?}", start.elapsed());
    restarted.kill();
}

#[tokio::test]
async fn a_node_that_has_come_is_dialed_anew_at_once() {
    let ca = authority();
    let (sender, _) = node(&ca);
    // Nobody answers here.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let link = PeerLink::spawn(sender, silent.local_addr().unwrap().to_string().parse().unwrap());
    let dialed = async || {
        let mut packet = [0; 2048];
        within(silent.recv(&mut packet)).await.unwrap();
        // RFC 9000, section 17.2: the length of the connection's id follows the first byte and the version.
        packet[6..6 + usize::from(packet[5])].to_vec()
    };
    let first = dialed().await;
    // All that leaves at first; what was lost of it is sent again much later.
    while tokio::time::timeout(Duration::from_millis(20), dialed()).await.is_ok() {}
    link.came();
    // The first attempt may say goodbye.
    let next = [dialed().await, dialed().await];
    assert!(next.iter().any(|id| *id != first), "the next packets are of another attempt, not the first one's again");
}

#[tokio::test]
async fn a_receiver_refuses_who_does_not_open_its_streams_as_a_link_does() {
    let (dialed, accepted, _endpoints) = pair(Protocol::Peer).await;
    let mut stream = dialed.open_uni().await.unwrap();
    stream.write_all(b"\x05\0\0\0hello").await.unwrap();
    let error = within(PeerReceiver::accept(accepted)).await.unwrap_err();
    assert!(matches!(error, FrameError::Violation { .. }), "{error}");
    assert!(matches!(within(dialed.closed()).await, ConnectionLost::ClosedByPeer { code: CloseCode::VIOLATION, .. }));
}

#[tokio::test]
async fn a_peer_that_announces_too_large_a_frame_is_cut_off() {
    let (dialed, accepted, _endpoints) = pair(Protocol::Peer).await;
    let mut streams = Vec::new();
    for kind in [b"\x06\0\0\0urgent".as_slice(), b"\x07\0\0\0ordered"] {
        let mut stream = dialed.open_uni().await.unwrap();
        stream.write_all(kind).await.unwrap();
        streams.push(stream);
    }
    let mut receiver = within(PeerReceiver::accept(accepted)).await.unwrap();
    streams[1].write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    assert!(matches!(within(receiver.recv()).await, Err(FrameError::TooLarge { .. })));
    assert!(matches!(within(dialed.closed()).await, ConnectionLost::ClosedByPeer { code: CloseCode::VIOLATION, .. }));
}

fn megabytes(count: usize) -> Vec<u8> {
    (0..count << 20).map(|i| ((i * 31) >> 8) as u8).collect()
}

async fn receive(connection: &Connection) -> Result<(Bytes, Vec<u8>, BulkReply), BulkError> {
    let BulkRequest { header, mut body, reply } = accept_bulk(connection.accept_bi().await.unwrap()).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next_chunk().await? {
        assert!(chunk.len() <= 256 << 10);
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes.len() as u64, body.size());
    Ok((header, bytes, reply))
}

#[tokio::test]
async fn a_bulk_transfer_arrives_and_is_answered() {
    let (dialed, accepted, _endpoints) = pair(Protocol::Bulk).await;
    for content in [megabytes(8), Vec::new(), b"short".to_vec()] {
        let receiving = async {
            let (header, bytes, reply) = receive(&accepted).await.unwrap();
            reply.send(b"thanks").await.unwrap();
            (header, bytes)
        };
        let sending = send_bulk(&dialed, b"snapshot 1", content.as_slice(), content.len() as u64);
        let (sent, (header, bytes)) = within(async { tokio::join!(sending, receiving) }).await;
        assert_eq!((sent.unwrap(), header), (Bytes::from_static(b"thanks"), Bytes::from_static(b"snapshot 1")));
        assert!(bytes == content);
    }
}

#[tokio::test]
async fn a_source_shorter_than_announced_fails_on_both_sides() {
    let (dialed, accepted, _endpoints) = pair(Protocol::Bulk).await;
    let content = megabytes(1);
    let size = content.len() as u64;
    let sending = send_bulk(&dialed, b"", content.as_slice(), size + 1);
    let (sent, received) = within(async { tokio::join!(sending, receive(&accepted)) }).await;
    assert!(
        matches!(sent, Err(BulkError::SourceTooShort { expected, found }) if (expected, found) == (size + 1, size))
    );
    assert!(matches!(received, Err(BulkError::Frame(FrameError::Reset { .. }))));
}

#[tokio::test]
async fn more_or_fewer_bytes_than_announced_are_an_error() {
    let (dialed, accepted, _endpoints) = pair(Protocol::Bulk).await;
    // A header frame of 8 bytes that announces 3 bytes, then as many as the case says.
    for sent in [2u64, 4] {
        let (mut send, _recv) = dialed.open_bi().await.unwrap();
        send.write_all(&[8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        send.write_all(&vec![1; sent as usize]).await.unwrap();
        send.finish().unwrap();
        match within(receive(&accepted)).await {
            Err(BulkError::TooShort { expected: 3, received: 2 }) => assert_eq!(sent, 2),
            Err(BulkError::TooLong { expected: 3 }) => assert_eq!(sent, 4),
            _ => panic!("{sent} bytes where 3 were announced are not an error"),
        }
    }
}

#[tokio::test]
async fn a_receiver_may_answer_before_it_has_everything_or_not_at_all() {
    let (dialed, accepted, _endpoints) = pair(Protocol::Bulk).await;
    let content = megabytes(8);
    let size = content.len() as u64;
    let refusing = async {
        let request = accept_bulk(accepted.accept_bi().await.unwrap()).await.unwrap();
        request.reply.send(b"no room").await.unwrap();
    };
    let sending = send_bulk(&dialed, b"", content.as_slice(), size);
    let (sent, ()) = within(async { tokio::join!(sending, refusing) }).await;
    assert_eq!(sent.unwrap(), "no room");

    let dropping = async { drop(accept_bulk(accepted.accept_bi().await.unwrap()).await.unwrap()) };
    let sending = send_bulk(&dialed, b"", content.as_slice(), size);
    let (sent, ()) = within(async { tokio::join!(sending, dropping) }).await;
    assert!(matches!(sent, Err(BulkError::NoReply)), "{sent:?}");
}

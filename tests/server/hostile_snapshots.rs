//! Snapshots that no correct node sends, over real QUIC: nothing of them is kept, and the cluster goes on with all that it had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use zraft::client::Client;
use zraft::codec;
use zraft::protocol::{PeerFailure, PeerStatus};
use zraft::raft::{Configuration, Envelope, Message, SnapshotMeta};
use zraft::replica::PeerMessage;
use zraft::store::SnapshotIdentity;
use zraft::transport::{Answer, Connection, Protocol, Upload, offer, send_bulk};
use zraft::types::{ClusterId, Incarnation, Index, LogPosition, NodeAddr, PeerId, Term};

use crate::harness::{Nodes, PATIENCE, runtime};
use crate::hostile_clients::memory;
use crate::hostile_peers::{
    FAR, Mallory, PeerFrame, is_whole, leader_first, number_of, prepare, status, until, until_it_knows,
};

/// Snapshots are soon there.
const OPTIONS: [&str; 4] = ["--max-log-count", "5", "--min-log-percent", "0"];
const SNAPSHOT_SUFFIX: &str = ".snap";
/// Of a snapshot of a few hundred bytes a node is sent as many more than were announced, and may not keep them.
const ENDLESS_BYTES: usize = 256 << 20;
const PIECE_BYTES: usize = 1 << 20;
const MAX_GROWTH_BYTES: u64 = 64 << 20;

/// What nodes ask and offer, as `node::frames` has it.
#[derive(Serialize)]
enum BulkRequest {
    WhereSnapshots,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "what is in some is only shown")]
enum BulkReply {
    Done,
    Failed(Vec<PeerFailure>),
    Refused(String),
    SnapshotsAt(NodeAddr),
}

#[derive(Serialize)]
struct SnapshotOffer {
    frame: PeerFrame,
    identity: SnapshotIdentity,
}

/// A snapshot's file, whole.
struct Whole {
    bytes: Vec<u8>,
    identity: SnapshotIdentity,
}

fn snapshot_folder(nodes: &Nodes, of: &PeerStatus) -> PathBuf {
    nodes.data(number_of(nodes, &of.peer)).join("snapshots").join(format!("{:016x}", of.incarnation.0))
}

fn names_in(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

fn parts_in(folder: &Path) -> usize {
    names_in(folder).iter().filter(|name| name.ends_with(".part")).count()
}

/// The newest snapshot of a peer whose node is down.
fn snapshot_of(nodes: &Nodes, peer: &PeerStatus) -> Whole {
    let folder = snapshot_folder(nodes, peer);
    let position = |name: &str| {
        let (index, term) = name.strip_suffix(SNAPSHOT_SUFFIX)?.split_once('-')?;
        Some(LogPosition::new(Term(term.parse().ok()?), Index(index.parse().ok()?)))
    };
    let newest = names_in(&folder).into_iter().filter_map(|name| Some((position(&name)?, name)));
    let (position, name) = newest.max().expect("the peer has a snapshot");
    let bytes = std::fs::read(folder.join(name)).unwrap();
    let identity = SnapshotIdentity::of(position, bytes.len() as u64, &bytes).unwrap();
    Whole { bytes, identity }
}

/// A connection to where a node takes snapshots.
async fn connect(mallory: &Mallory, to: &PeerId) -> Connection {
    let bulk = mallory.endpoint.connect(to.node(), Protocol::Bulk).await.unwrap();
    let request = codec::encode(&BulkRequest::WhereSnapshots);
    let reply = send_bulk(&bulk, &request, &[][..], 0).await.unwrap();
    let BulkReply::SnapshotsAt(at) = codec::decode(&reply).unwrap() else { panic!("it does not say where") };
    mallory.endpoint.connect_at(to.node(), &at, Protocol::Snapshot).await.unwrap()
}

async fn offer_as(
    connection: &Connection,
    cluster: ClusterId,
    (from, to): (Incarnation, Incarnation),
    identity: SnapshotIdentity,
) -> Answer {
    let meta =
        SnapshotMeta { position: identity.position, time_ms: 1, configuration: Configuration::of(BTreeMap::new()) };
    let envelope = Envelope { from, to, term: Term(FAR), message: Message::Snapshot { meta } };
    let frame = PeerFrame { cluster, message: PeerMessage { envelope, rider: None }, is_disk_full: false };
    offer(connection, &codec::encode(&SnapshotOffer { frame, identity })).await.unwrap()
}

/// Why it was not taken.
fn refusal(reply: &[u8]) -> String {
    match codec::decode(reply).unwrap() {
        BulkReply::Refused(reason) => reason,
        other => panic!("it was not refused: {other:?}"),
    }
}

fn declined(answer: Answer) -> String {
    match answer {
        Answer::Replied(reply) => refusal(&reply),
        Answer::Wanted(_) => panic!("it is wanted"),
    }
}

fn wanted(answer: Answer) -> Upload {
    match answer {
        Answer::Wanted(upload) => upload,
        Answer::Replied(reply) => panic!("it is refused: {}", refusal(&reply)),
    }
}

/// Waits until a peer has a snapshot.
async fn until_there_is_one(client: &Client, nodes: &Nodes, peer: &PeerId) -> PeerStatus {
    until("there is a snapshot", async || {
        nodes.run_ok(&["kv", "put", &peer.to_string(), "a", "before"]);
        let status = status(client, peer).await;
        (status.snapshot > Index::ZERO).then_some(status)
    })
    .await
}

#[test]
fn a_snapshot_of_who_is_not_of_the_group_is_refused_before_any_of_it_is_stored() {
    let (mut nodes, peers) = prepare(1, &OPTIONS);
    runtime().block_on(async {
        let client = nodes.client();
        let all = leader_first(&client, &peers).await;
        let (leader, follower) = (&all[0], &all[2]);
        let (cluster, other) = (leader.cluster, ClusterId(leader.cluster.0 ^ 1));
        let (from, to) = (follower.incarnation, leader.incarnation);
        until_there_is_one(&client, &nodes, &follower.peer).await;
        let refused = async || status(&client, &leader.peer).await.refused;

        // Mallory's own node has no peer of the cluster.
        let mallory = Mallory::with_the_key_of(&nodes, 3);
        let position = LogPosition::new(Term(FAR), Index(FAR));
        let any = SnapshotIdentity { position, size_bytes: 1 << 20, checksum: 0 };
        let connection = connect(&mallory, &leader.peer).await;
        let cases = [
            (cluster, to, "lives on another node, or has left the cluster"),
            (other, to, "of another cluster"),
            (cluster, Incarnation(1), "does not live here"),
        ];
        for (cluster, to, why) in cases {
            let before = refused().await;
            let reason = declined(offer_as(&connection, cluster, (from, to), any).await);
            assert!(reason.contains(why), "{reason}");
            let is_counted = to == leader.incarnation;
            assert_eq!(refused().await, before + u64::from(is_counted), "{why}");
        }
        assert_eq!(parts_in(&snapshot_folder(&nodes, leader)), 0);

        // The same from where that peer lives is wanted.
        nodes.kill(number_of(&nodes, &follower.peer));
        let mallory = Mallory::with_the_key_of(&nodes, number_of(&nodes, &follower.peer));
        let connection = connect(&mallory, &leader.peer).await;
        wanted(offer_as(&connection, cluster, (from, to), any).await).give_up();

        // Until it has left the cluster.
        let rest = [leader.peer.clone(), all[1].peer.clone()];
        client.set_new_conf(&rest[0], &rest, &peers, PATIENCE).await.unwrap();
        for peer in &rest {
            let target = until_it_knows(&client, peer, rest.len()).await;
            let connection = connect(&mallory, peer).await;
            let reason = declined(offer_as(&connection, cluster, (from, target.incarnation), any).await);
            assert!(reason.contains(cases[0].2), "{reason}");
        }
        is_whole(&nodes, &rest);
    });
}

#[test]
fn a_snapshot_that_is_not_what_was_announced_or_does_not_end_leaves_nothing() {
    let (mut nodes, peers) = prepare(0, &OPTIONS);
    runtime().block_on(async {
        let client = nodes.client();
        let all = leader_first(&client, &peers).await;
        let (leader, liar) = (&all[0], &all[2]);
        until_there_is_one(&client, &nodes, &liar.peer).await;
        nodes.kill(number_of(&nodes, &liar.peer));
        let Whole { bytes, identity } = snapshot_of(&nodes, liar);
        let mallory = Mallory::with_the_key_of(&nodes, number_of(&nodes, &liar.peer));
        let connection = connect(&mallory, &leader.peer).await;
        let folder = snapshot_folder(&nodes, leader);
        let mine = async |identity| {
            offer_as(&connection, leader.cluster, (liar.incarnation, leader.incarnation), identity).await
        };

        // No disk has so much room.
        let reason = declined(mine(SnapshotIdentity { size_bytes: u64::MAX / 2, ..identity }).await);
        assert!(reason.contains("no room"), "{reason}");

        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        let longer = [&bytes[..], &[0]].concat();
        let (position, size_bytes, checksum) = (identity.position, identity.size_bytes, identity.checksum);
        let later = LogPosition { index: position.index.next(), ..position };
        let lies = [
            (flipped, identity, "checksum"),
            (bytes.clone(), SnapshotIdentity { checksum: checksum ^ 1, ..identity }, "another than was announced"),
            (bytes.clone(), SnapshotIdentity { position: later, ..identity }, "it is the snapshot"),
            (longer, SnapshotIdentity { size_bytes: size_bytes + 1, ..identity }, "something follows its end"),
            (vec![0x5a; bytes.len()], identity, "does not begin like a snapshot"),
        ];
        for (sent, identity, why) in lies {
            let mut upload = wanted(mine(identity).await);
            assert_eq!(upload.from(), 0, "nothing of what was sent before is kept");
            upload.send(sent.into()).await.unwrap();
            let reason = refusal(&upload.finish().await.unwrap());
            assert!(reason.contains(why), "{reason}");
            assert_eq!(parts_in(&folder), 0, "{why}");
        }

        // Less than was announced might go on; of a peer one such file is kept.
        for cut in [bytes.len() / 2, bytes.len() - 1] {
            let mut upload = wanted(mine(identity).await);
            upload.send(Bytes::copy_from_slice(&bytes[..cut])).await.unwrap();
            upload.finish().await.unwrap_err();
            assert!(parts_in(&folder) <= 1);
        }

        // What never ends is not read to its end, and not kept.
        let before = memory(&nodes, number_of(&nodes, &leader.peer));
        let endless = async {
            let mut upload = wanted(mine(SnapshotIdentity { checksum: checksum ^ 1, ..identity }).await);
            let mut sent_bytes = 0;
            while sent_bytes < ENDLESS_BYTES && upload.send(vec![0; PIECE_BYTES].into()).await.is_ok_and(|more| more) {
                sent_bytes += PIECE_BYTES;
            }
            sent_bytes
        };
        let sent_bytes = timeout(PATIENCE, endless).await.expect("it comes to an end");
        assert!(sent_bytes < ENDLESS_BYTES, "all of it was read");
        let grown = memory(&nodes, number_of(&nodes, &leader.peer)).saturating_sub(before);
        assert!(grown < MAX_GROWTH_BYTES, "the node has grown by {grown} bytes");

        drop((connection, mallory));
        is_whole(&nodes, &[all[0].peer.clone(), all[1].peer.clone()]);
        let kept: u64 = names_in(&folder)
            .iter()
            .map(|name| std::fs::metadata(folder.join(name)).map_or(0, |file| file.len()))
            .sum();
        assert!(kept < PIECE_BYTES as u64, "{kept} bytes are kept");
    });
    // With its own node back, all three are equal.
    let number = (0..3).find(|number| nodes.status(&peers[*number]).is_none()).unwrap();
    nodes.start_node(number);
    nodes.until_equal("kv");
    is_whole(&nodes, &peers);
}

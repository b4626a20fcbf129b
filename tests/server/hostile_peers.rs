//! Nodes with good certificates that say what no node of their kind would, over real QUIC: they are refused, the log says so,
//! and the cluster goes on with all that it had.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{sleep, timeout};
use zraft::client::Client;
use zraft::codec;
use zraft::feature_level::FeatureLevel;
use zraft::machine::HashChain;
use zraft::protocol::PeerStatus;
use zraft::raft::{AppendReply, Configuration, Entry, Envelope, Message, Payload, SnapshotMeta};
use zraft::replica::{PeerMessage, Report, Rider};
use zraft::transport::{Credentials, Endpoint, PeerLink, TlsFiles};
use zraft::types::{ClusterId, Digest, Incarnation, Index, LogPosition, NodeAddr, PeerId, Term};

use crate::harness::{Nodes, PATIENCE, runtime};

/// No election gets there by itself.
pub const FAR: u64 = 1_000_000;
const REFUSED: &str = "refused a message of a peer";

/// What nodes say to each other, as `node::frames` has it.
#[derive(Serialize)]
enum NodeFrame {
    Peer(PeerFrame),
}

#[derive(Serialize)]
pub struct PeerFrame {
    pub cluster: ClusterId,
    pub message: PeerMessage,
    pub is_disk_full: bool,
}

/// Mallory, who has the key of a node.
pub struct Mallory {
    pub endpoint: Endpoint,
    links: BTreeMap<NodeAddr, PeerLink>,
}

impl Mallory {
    pub fn with_the_key_of(nodes: &Nodes, number: usize) -> Self {
        let stem = nodes.address(number).as_str().replace(':', "-");
        let credentials = Credentials::load(&TlsFiles::in_folder(&nodes.certs(), &stem)).unwrap();
        Self { endpoint: Endpoint::client(credentials).unwrap(), links: BTreeMap::new() }
    }

    fn say(&mut self, to: &PeerId, cluster: ClusterId, envelope: Envelope, rider: Option<Rider>) {
        let endpoint = self.endpoint.clone();
        let link = self.links.entry(to.node().clone()).or_insert_with(|| PeerLink::spawn(endpoint, to.node().clone()));
        let frame = PeerFrame { cluster, message: PeerMessage { envelope, rider }, is_disk_full: false };
        link.send(true, codec::encode(&NodeFrame::Peer(frame)).into());
    }
}

/// A cluster of three, and nodes besides on which it has no peer. Those are not running.
pub fn prepare(others: usize, options: &[&str]) -> (Nodes, Vec<PeerId>) {
    let mut nodes = Nodes::prepare(3 + others);
    (0..3).for_each(|number| nodes.start_node(number));
    let peers = nodes.peers("kv");
    let names: Vec<_> = peers[..3].iter().map(ToString::to_string).collect();
    let create = ["create", "--backend", "kv", &names[0], &names[1], &names[2]];
    nodes.run_ok(&[&create, options].concat());
    nodes.run_ok(&["kv", "put", &names[0], "a", "before"]);
    (nodes, peers[..3].to_vec())
}

pub async fn status(client: &Client, peer: &PeerId) -> PeerStatus {
    // A connection may be to a life of the node that is over.
    let node = until("the node answers", async || client.status(peer.node()).await.ok()).await;
    let found = node.peers.iter().find(|status| status.peer == *peer);
    found.unwrap_or_else(|| panic!("there is no {peer}: {node:?}")).clone()
}

/// Waits until a peer knows that its cluster has so many members now.
pub async fn until_it_knows(client: &Client, peer: &PeerId, members: usize) -> PeerStatus {
    until("the peer knows of the change", async || {
        let status = status(client, peer).await;
        let is_done = status.members.len() == members && status.leaving.is_empty() && status.commit == status.last;
        is_done.then_some(status)
    })
    .await
}

/// Does something until it has led to something: links lose what they cannot send.
pub async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let attempts = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, attempts).await.unwrap_or_else(|_| panic!("gave up waiting until {what}"))
}

/// The peers, the leader first.
pub async fn leader_first(client: &Client, peers: &[PeerId]) -> Vec<PeerStatus> {
    until("there is a leader", async || {
        let mut all = Vec::new();
        for peer in peers {
            all.push(status(client, peer).await);
        }
        let leader = all.iter().position(|status| status.leader.as_ref() == Some(&status.peer))?;
        all.swap(0, leader);
        Some(all)
    })
    .await
}

pub fn number_of(nodes: &Nodes, peer: &PeerId) -> usize {
    nodes.peers("kv").iter().position(|other| other == peer).unwrap()
}

fn lines_with(nodes: &Nodes, peer: &PeerId, words: &str) -> usize {
    nodes.log(number_of(nodes, peer)).lines().filter(|line| line.contains(words)).count()
}

/// What a peer says that wants to be heard: each of these raises the term of who believes it.
fn of_a_far_term() -> Vec<Message> {
    let last = LogPosition::new(Term(FAR), Index(FAR));
    vec![
        Message::HeartbeatReply { round: 0 },
        Message::Vote { last, appointed: true },
        Message::Heartbeat { commit: Index::ZERO, round: 1 },
        Message::Append { prev: LogPosition::ZERO, entries: Vec::new(), commit: Index::ZERO },
        Message::TimeoutNow,
    ]
}

pub fn is_whole(nodes: &Nodes, peers: &[PeerId]) {
    let any = peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    assert_eq!(nodes.run_ok(&["kv", "get", &any, "a"]), "before");
    nodes.run_ok(&["kv", "put", &any, "b", "after"]);
    assert_eq!(nodes.run_ok(&["kv", "get", &any, "b"]), "after");
    for peer in peers {
        assert!(!nodes.log(number_of(nodes, peer)).contains("panicked"));
    }
}

#[test]
fn messages_of_another_cluster_from_another_node_or_to_nobody_change_nothing() {
    let (mut nodes, peers) = prepare(1, &[]);
    runtime().block_on(async {
        let client = nodes.client();
        let all = leader_first(&client, &peers).await;
        let (leader, follower) = (&all[0], &all[1]);
        let mut mallory = Mallory::with_the_key_of(&nodes, 3);
        let far = |from, to, message| Envelope { from, to, term: Term(FAR), message };
        let (from, to) = (follower.incarnation, leader.incarnation);
        let (cluster, other) = (leader.cluster, ClusterId(leader.cluster.0 ^ 1));
        for message in of_a_far_term() {
            for (cluster, from) in [(other, from), (other, Incarnation(7)), (cluster, from)] {
                let before = status(&client, &leader.peer).await.refused;
                until("it is refused", async || {
                    mallory.say(&leader.peer, cluster, far(from, Incarnation(1), message.clone()), None);
                    mallory.say(&leader.peer, cluster, far(from, to, message.clone()), None);
                    sleep(Duration::from_millis(10)).await;
                    (status(&client, &leader.peer).await.refused > before).then_some(())
                })
                .await;
            }
        }
        assert!(lines_with(&nodes, &leader.peer, REFUSED) > 0);
        for peer in &peers {
            assert!(status(&client, peer).await.term < Term(FAR), "{peer} has believed it");
        }
        is_whole(&nodes, &peers);
        // The same from the follower's own node counts: it might be true.
        let follower_number = number_of(&nodes, &follower.peer);
        nodes.kill(follower_number);
        let mut mallory = Mallory::with_the_key_of(&nodes, follower_number);
        until("it is believed", async || {
            mallory.say(&leader.peer, cluster, far(from, to, Message::HeartbeatReply { round: 0 }), None);
            (status(&client, &leader.peer).await.term >= Term(FAR)).then_some(())
        })
        .await;
    });
}

#[test]
fn nobody_listens_to_a_peer_that_was_removed_whoever_has_its_key() {
    let (mut nodes, peers) = prepare(0, &[]);
    runtime().block_on(async {
        let client = nodes.client();
        let all = leader_first(&client, &peers).await;
        let (rest, gone) = ([all[0].peer.clone(), all[1].peer.clone()], &all[2]);
        client.set_new_conf(&rest[0], &rest, &peers, PATIENCE).await.unwrap();
        let number = number_of(&nodes, &gone.peer);
        nodes.kill(number);
        let refuse_all = async |nodes: &Nodes| {
            let mut mallory = Mallory::with_the_key_of(nodes, number);
            for peer in &rest {
                let target = until_it_knows(&client, peer, rest.len()).await;
                for message in of_a_far_term() {
                    let before = status(&client, peer).await.refused;
                    until("it is refused", async || {
                        let (from, to, message) = (gone.incarnation, target.incarnation, message.clone());
                        let envelope = Envelope { from, to, term: Term(FAR), message };
                        mallory.say(peer, target.cluster, envelope, None);
                        sleep(Duration::from_millis(10)).await;
                        let status = status(&client, peer).await;
                        assert!(status.term < Term(FAR), "{peer} has believed it");
                        (status.refused > before).then_some(())
                    })
                    .await;
                }
            }
            is_whole(nodes, &rest);
        };
        refuse_all(&nodes).await;
        // They have not forgotten it after a restart.
        for peer in &rest {
            let number = number_of(&nodes, peer);
            nodes.kill(number);
            nodes.start_node(number);
        }
        refuse_all(&nodes).await;
    });
}

#[test]
fn a_member_that_says_what_cannot_be_true_is_refused_and_nothing_is_lost() {
    let (mut nodes, peers) = prepare(0, &[]);
    runtime().block_on(async {
        let client = nodes.client();
        let all = leader_first(&client, &peers).await;
        let number = number_of(&nodes, &all[2].peer);
        nodes.kill(number);
        let living = [all[0].peer.clone(), all[1].peer.clone()];
        let now = leader_first(&client, &living).await;
        let (leader, cluster, liar) = (&now[0], now[0].cluster, all[2].incarnation);
        let (leads, to) = (&leader.peer, leader.incarnation);
        let mut mallory = Mallory::with_the_key_of(&nodes, number);

        // A state that is not the majority's.
        until("the leader sees that it differs", async || {
            let status = status(&client, leads).await;
            let applied = Some((status.applied, HashChain(Digest::of(b"a lie"))));
            let level = FeatureLevel::NEWEST;
            let report = Rider::Report(Report { applied, mark: None, trial: None, needs_after: None, level });
            let message = Message::HeartbeatReply { round: 0 };
            mallory.say(leads, cluster, Envelope { from: liar, to, term: status.term, message }, Some(report));
            let of_liar = status.followers.into_iter().find(|follower| follower.peer == all[2].peer)?;
            of_liar.machine?.differs
        })
        .await;
        assert!(nodes.run_ok(&["status", &leads.to_string()]).contains("DIFFERS from entry"));

        let entry = |term, index, payload| Entry { term: Term(term), index: Index(index), time_ms: 1, payload };
        let append = |prev, entries| Message::Append { prev, entries, commit: Index::ZERO };
        let term = status(&client, leads).await.term.0;
        let last = LogPosition::new(Term(term), Index(u64::MAX));
        let unsound = Payload::Membership(Configuration::default());
        let beyond = Index(FAR);
        let first = LogPosition::new(Term(1), Index(1));
        // In this term somebody else leads; in a later one it may be this peer itself.
        let lies = [
            (u64::MAX, append(LogPosition::ZERO, Vec::new()), "a term or index that no cluster reaches"),
            (term, Message::Heartbeat { commit: Index(u64::MAX), round: 1 }, "a term or index that no cluster reaches"),
            (term, Message::Vote { last, appointed: true }, "a term or index that no cluster reaches"),
            (FAR, append(first, vec![entry(1, 9, Payload::Noop)]), "entries with gaps"),
            (FAR, append(first, vec![entry(FAR + 1, 2, Payload::Noop)]), "of a later term than the message"),
            (FAR, append(first, vec![entry(1, 2, unsound)]), "a configuration that no leader makes"),
            (term, Message::AppendReply(AppendReply::Accepted { matched: beyond }), "an answer to what was never sent"),
            (term, Message::Heartbeat { commit: Index::ZERO, round: 1 }, "a second leader in the term"),
            (FAR, Message::Heartbeat { commit: beyond, round: 1 }, "the commit of an entry that was never sent"),
            (FAR, append(first, vec![entry(FAR, 2, Payload::Noop)]), "contradicts the committed entry 2"),
        ];
        for (term, message, why) in lies {
            let before = status(&client, leads).await.refused;
            until(why, async || {
                let message = message.clone();
                mallory.say(leads, cluster, Envelope { from: liar, to, term: Term(term), message }, None);
                sleep(Duration::from_millis(10)).await;
                (status(&client, leads).await.refused > before && lines_with(&nodes, leads, why) > 0).then_some(())
            })
            .await;
        }
        // A snapshot whose file never came would leave the peer without a state.
        until("the connection is closed", async || {
            let position = LogPosition::new(Term(FAR), Index(FAR));
            let configuration = Configuration::of(BTreeMap::from([(liar, all[2].peer.clone())]));
            let message = Message::Snapshot { meta: SnapshotMeta { position, time_ms: 1, configuration } };
            mallory.say(leads, cluster, Envelope { from: liar, to, term: Term(FAR), message }, None);
            sleep(Duration::from_millis(10)).await;
            (lines_with(&nodes, leads, "without the file") > 0).then_some(())
        })
        .await;
        drop(mallory);
        is_whole(&nodes, &living);
    });
    // With its own node back, all three are equal.
    let number = (0..3).find(|number| nodes.status(&peers[*number]).is_none()).unwrap();
    nodes.start_node(number);
    nodes.until_equal("kv");
    is_whole(&nodes, &peers);
}

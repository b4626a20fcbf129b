//! The peers of a cluster change under way: more, fewer, others, without the leader; and what is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use zraft::client::{
    Kv, KvCommand, KvExpected, KvReply, KvSession, LightSession, MembershipError, Session, SessionError, SessionOptions,
};
use zraft::codec;
use zraft::protocol::{ChangeRefusal, MAX_DATA_BYTES, RequestError};
use zraft::types::PeerId;

use crate::harness::{Nodes, PATIENCE, runtime, until, until_some};

/// A cluster on the first nodes of several.
fn create_on(nodes: &Nodes, count: usize) -> Vec<PeerId> {
    let peers = nodes.peers("kv");
    let words: Vec<_> = peers[..count].iter().map(ToString::to_string).collect();
    nodes.run_ok(&[&["create", "--backend", "kv"], &words.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    peers
}

fn list(peers: &[PeerId]) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn members(nodes: &Nodes, peer: &PeerId) -> Value {
    serde_json::from_str(&nodes.run_ok(&["members", "--json", &peer.to_string()])).unwrap()
}

fn leader_among(nodes: &Nodes, peers: &[PeerId]) -> usize {
    let leads = |peer: &PeerId| nodes.status(peer).is_some_and(|status| status["role"] == "leader");
    until_some("there is a leader", || peers.iter().position(leads))
}

/// Waits until these peers have applied the same.
fn until_equal(nodes: &Nodes, peers: &[PeerId]) {
    until("the peers are equal", || {
        let all: Option<Vec<_>> = peers.iter().map(|peer| nodes.status(peer)).collect();
        all.is_some_and(|all| {
            let place = |status: &Value| (status["applied"].clone(), status["chain"].clone());
            all.iter().all(|status| place(status) == place(&all[0]) && status["applied"] == status["last"])
        })
    });
}

/// Waits until nothing of a cluster is left on a node.
fn until_gone(nodes: &Nodes, number: usize) {
    let names = |folder: &str| nodes.data(number).join(folder).read_dir().map_or(0, Iterator::count);
    until("the peer is gone", || nodes.run_ok(&["status", nodes.address(number).as_str()]).contains("no peers"));
    // The folder of snapshots says whose it is.
    until("so are its files", || (names("components"), names("compiled"), names("snapshots")) == (0, 0, 1));
}

/// A session that counts, one write after the other, each only if exactly those before it were done.
struct Load {
    ends: Arc<AtomicBool>,
    counting: JoinHandle<u64>,
}

impl Load {
    async fn start(nodes: &Nodes, peers: &[PeerId]) -> Self {
        Self::start_from(nodes, peers, 0).await
    }

    /// Goes on counting where another has ended.
    async fn start_from(nodes: &Nodes, peers: &[PeerId], first: u64) -> Self {
        let options = SessionOptions { request_timeout: PATIENCE, ..SessionOptions::default() };
        let session = Session::connect_with(nodes.client(), peers.to_vec(), Duration::from_secs(20), options).await;
        let (session, _notices) = session.unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ends);
        let counting = tokio::spawn(async move {
            let mut count = first;
            while !has_ended.load(Ordering::Relaxed) {
                let digits = |number: u64| number.to_string().into_bytes();
                let expected = if count == 0 { KvExpected::Absent } else { KvExpected::Value(digits(count)) };
                let new = Some(digits(count + 1));
                let command = KvCommand::CompareAndSet { key: b"count".to_vec(), expected, new };
                let reply = session.write(codec::encode(&command)).await.unwrap().reply;
                assert!(matches!(codec::decode(&reply).unwrap(), KvReply::Written { .. }), "write {count}");
                count += 1;
            }
            session.close().await.unwrap();
            count
        });
        Self { ends, counting }
    }

    /// Ends the load, and checks that all of it is there.
    async fn end(self, nodes: &Nodes, peers: &[PeerId]) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        let count = self.counting.await.unwrap();
        for peer in peers {
            assert_eq!(nodes.run_ok(&["kv", "get", &peer.to_string(), "count"]), count.to_string());
        }
        count
    }
}

#[test]
fn three_peers_become_five_and_three_others_while_clients_write() {
    let nodes = Nodes::start(5);
    let peers = create_on(&nodes, 3);
    runtime().block_on(async {
        let load = Load::start(&nodes, &peers[..3]).await;
        let admin = nodes.client();
        admin.set_new_conf(&peers[1], &peers, &peers[..3], PATIENCE).await.unwrap();
        let now = admin.get_conf(&peers[4], PATIENCE).await.unwrap();
        assert!(now.is_stable());
        assert_eq!(now.peers.len(), 5);
        // The leader may be among those that go: the session and the change go on.
        admin.set_new_conf(&peers[0], &peers[2..], &peers, PATIENCE).await.unwrap();
        assert_eq!(admin.get_conf(&peers[2], PATIENCE).await.unwrap().peers.len(), 3);
        let count = load.end(&nodes, &peers[2..]).await;
        assert!(count > 0);
    });
    until_equal(&nodes, &peers[2..]);
    until_gone(&nodes, 0);
    until_gone(&nodes, 1);
}

#[test]
fn every_peer_is_replaced_one_after_another_while_clients_write() {
    let nodes = Nodes::start(4);
    let peers = create_on(&nodes, 3);
    runtime().block_on(async {
        let load = Load::start(&nodes, &peers[..3]).await;
        let admin = nodes.client();
        let mut now = peers[..3].to_vec();
        // Each time the free node takes a peer in and another becomes free: the names come back with new lives.
        for step in 0..4 {
            let (leaves, joins) = (peers[step % 4].clone(), peers[(step + 3) % 4].clone());
            let new: Vec<_> = now.iter().filter(|peer| **peer != leaves).cloned().chain([joins.clone()]).collect();
            admin.set_new_conf(&now[1], &new, &now, PATIENCE).await.unwrap();
            now = new;
        }
        let set = |peers: &[PeerId]| peers.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(&now), set(&peers[..3]), "a full turn");
        load.end(&nodes, &now).await;
        until_equal(&nodes, &now);
    });
    until_gone(&nodes, 3);
}

#[test]
fn a_dead_peer_is_replaced_and_knows_when_it_comes_back() {
    let mut nodes = Nodes::start(4);
    let peers = create_on(&nodes, 3);
    nodes.kill(2);
    nodes.run_ok(&["kv", "put", &peers[0].to_string(), "a", "1"]);
    let new = [peers[0].clone(), peers[1].clone(), peers[3].clone()];
    let arguments = ["members", "--json", &peers[0].to_string(), "--set", &list(&new), "--from", &list(&peers[..3])];
    nodes.run_ok(&arguments);
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[3].to_string(), "a"]), "1");
    // Asking for what there is already changes nothing.
    nodes.run_ok(&arguments);
    let before = nodes.status(&new[leader_among(&nodes, &new)]).unwrap();
    nodes.start_node(2);
    until_gone(&nodes, 2);
    let after = nodes.status(&new[leader_among(&nodes, &new)]).unwrap();
    assert_eq!((&before["term"], &before["leader"]), (&after["term"], &after["leader"]), "it has disturbed nobody");
}

#[test]
fn a_leader_that_is_removed_hands_over_and_goes() {
    let nodes = Nodes::start(3);
    let peers = create_on(&nodes, 3);
    let leader = leader_among(&nodes, &peers);
    let rest: Vec<_> = (0..3).filter(|number| *number != leader).map(|number| peers[number].clone()).collect();
    nodes.run_ok(&["kv", "put", &peers[0].to_string(), "a", "1"]);
    nodes.run_ok(&["members", &peers[leader].to_string(), "--set", &list(&rest), "--from", &list(&peers)]);
    until_gone(&nodes, leader);
    nodes.run_ok(&["kv", "put", &rest[0].to_string(), "a", "2"]);
    assert_eq!(nodes.run_ok(&["kv", "get", &rest[1].to_string(), "a"]), "2");
    runtime().block_on(async {
        // Who still has the old list finds the others.
        let session = LightSession::new(nodes.client(), peers.clone());
        session.write(codec::encode(&KvCommand::Put { key: b"a".to_vec(), value: b"3".to_vec() })).await.unwrap();
        // Who knows nobody else is told that there is no such peer.
        let session = LightSession::new(nodes.client(), vec![peers[leader].clone()]);
        let error = session.query("anything").await.unwrap_err();
        assert!(matches!(error, SessionError::Failed(RequestError::NoSuchPeer { .. })), "{error}");
        let error = nodes.client().get_conf(&peers[leader], PATIENCE).await.unwrap_err();
        assert!(matches!(error, MembershipError::Failed(RequestError::NoSuchPeer { .. })), "{error}");
    });
}

/// A leader whom nobody hears is replaced meanwhile: it comes back to a cluster that it does not belong to.
#[test]
fn a_leader_that_is_cut_off_is_replaced_and_does_no_harm_when_it_is_back() {
    let nodes = Nodes::start(4);
    let peers = create_on(&nodes, 3);
    runtime().block_on(async {
        let load = Load::start(&nodes, &peers[..3]).await;
        let admin = nodes.client();
        let leader = leader_among(&nodes, &peers[..3]);
        let rest: Vec<_> = (0..3).filter(|number| *number != leader).map(|number| peers[number].clone()).collect();
        nodes.pause(leader);
        let new = [&rest[..], &peers[3..]].concat();
        admin.set_new_conf(&rest[0], &new, &peers[..3], PATIENCE).await.unwrap();
        let writes = load.end(&nodes, &rest).await;
        assert!(writes > 0);
        let load = Load::start_from(&nodes, &new, writes).await;
        nodes.resume(leader);
        let now = admin.get_conf(&new[0], PATIENCE).await.unwrap();
        assert!(!now.peers.contains(&peers[leader]), "{now:?}");
        until_gone(&nodes, leader);
        load.end(&nodes, &new).await;
        until_equal(&nodes, &new);
    });
}

/// The peers that came while it was away have to tell it, though it has never heard of them.
#[test]
fn a_peer_that_has_slept_through_a_change_is_found_by_those_that_came() {
    let mut nodes = Nodes::start(5);
    let peers = create_on(&nodes, 3);
    nodes.run_ok(&["kv", "put", &peers[0].to_string(), "a", "1"]);
    nodes.kill(2);
    nodes.run_ok(&["members", &peers[0].to_string(), "--set", &list(&peers[2..]), "--from", &list(&peers[..3])]);
    until_gone(&nodes, 0);
    until_gone(&nodes, 1);
    nodes.kill(0);
    nodes.kill(1);
    nodes.start_node(2);
    nodes.run_ok(&["kv", "put", &peers[3].to_string(), "a", "2"]);
    until_equal(&nodes, &peers[2..]);
    // Its vote counts: of the three, one may go.
    let leader = 2 + leader_among(&nodes, &peers[2..]);
    nodes.kill(leader);
    let left = list(&peers[2..].iter().filter(|peer| **peer != peers[leader]).cloned().collect::<Vec<_>>());
    nodes.run_ok(&["kv", "put", &left, "a", "3"]);
}

#[test]
fn a_change_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut nodes = Nodes::start(5);
    let peers = create_on(&nodes, 3);
    let any = peers[0].to_string();
    let (three, four) = (list(&peers[..3]), list(&peers[..4]));
    leader_among(&nodes, &peers[..3]);
    until("the leader has committed something", || members(&nodes, &peers[0])["stable"] == true);

    let complaint = nodes.run_err(1, &["members", &any, "--set", &four, "--from", &list(&peers[..2])]);
    assert!(complaint.contains("not the expected ones"), "{complaint}");
    for peer in &peers[..3] {
        assert!(complaint.contains(&peer.to_string()), "the peers that there are: {complaint}");
    }
    let complaint = nodes.run_err(1, &["members", "--as", "alice", &any, "--set", &four, "--from", &three]);
    assert!(complaint.contains("admin access"), "{complaint}");
    nodes.run_err(2, &["members", &any, "--set", &four]);
    let complaint = nodes.run_err(1, &["members", &any, "--set", &format!("{three},{any}"), "--from", &three]);
    assert!(complaint.contains("named twice"), "{complaint}");
    nodes.run_err(5, &["members", &peers[3].to_string()]);

    // Of two new peers one cannot be made: it is named, and nothing is left of the other.
    nodes.kill(4);
    let complaint = nodes.run_err(1, &["members", &any, "--set", &list(&peers), "--from", &three]);
    assert!(
        complaint.contains(&format!("{}: ", peers[4])) && !complaint.contains(&format!("{}: ", peers[3])),
        "{complaint}"
    );
    until_gone(&nodes, 3);
    let now = members(&nodes, &peers[0]);
    assert_eq!((&now["peers"].as_array().unwrap().len(), &now["stable"]), (&3, &json!(true)));
    // What was refused leaves nothing in the way.
    nodes.run_ok(&["members", &any, "--set", &four, "--from", &three]);
}

#[test]
fn of_two_changes_at_once_one_is_refused() {
    let nodes = Nodes::start(5);
    let peers = create_on(&nodes, 3);
    leader_among(&nodes, &peers[..3]);
    until("the leader has committed something", || members(&nodes, &peers[0])["stable"] == true);
    runtime().block_on(async {
        let (one, other) = (nodes.client(), nodes.client());
        let second = [&peers[..3], &peers[4..]].concat();
        let (first, second) = tokio::join!(
            one.set_new_conf(&peers[0], &peers[..4], &peers[..3], PATIENCE),
            other.set_new_conf(&peers[1], &second, &peers[..3], PATIENCE),
        );
        let (refused, added, other) = match (first, second) {
            (Ok(()), Err(error)) => (error, &peers[3], &peers[4]),
            (Err(error), Ok(())) => (error, &peers[4], &peers[3]),
            neither => panic!("{neither:?}"),
        };
        // Whichever came first, nothing of the other is left.
        let is_expected =
            |refusal: &ChangeRefusal| matches!(refusal, ChangeRefusal::InProgress | ChangeRefusal::PeersChanged { .. });
        assert!(matches!(&refused, MembershipError::NotChanged(refusal) if is_expected(refusal)), "{refused}");
        assert!(one.get_conf(&peers[0], PATIENCE).await.unwrap().peers.contains(added));
        let number = peers.iter().position(|peer| peer == other).unwrap();
        until_gone(&nodes, number);
    });
}

#[test]
fn a_change_whose_new_peer_does_not_catch_up_goes_on_until_it_is_withdrawn() {
    let mut nodes = Nodes::start(2);
    let peers = create_on(&nodes, 1);
    runtime().block_on(async {
        let admin = nodes.client();
        let kv = nodes.kv("kv");
        // It takes a while to send all this.
        for number in 0..64 {
            kv.put(format!("large {number}"), vec![b'x'; MAX_DATA_BYTES - 100]).await.unwrap();
        }
        let (changing, all, old) = (nodes.client(), peers.clone(), peers[..1].to_vec());
        let change = tokio::spawn(async move { changing.set_new_conf(&old[0], &all, &old, PATIENCE).await });
        let joining = async {
            while admin.get_conf(&peers[0], PATIENCE).await.unwrap().joining.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, joining).await.expect("the new peer learns");
        nodes.kill(1);
        let now = admin.get_conf(&peers[0], PATIENCE).await.unwrap();
        assert_eq!((&now.peers[..], &now.joining[..]), (&peers[..1], &peers[1..]));
        let other = admin.set_new_conf(&peers[0], &peers[1..], &peers[..1], PATIENCE).await.unwrap_err();
        assert!(matches!(other, MembershipError::NotChanged(ChangeRefusal::InProgress)), "{other}");
        kv.put("meanwhile", "all goes on").await.unwrap();
        admin.set_new_conf(&peers[0], &peers[..1], &peers[..1], PATIENCE).await.unwrap();
        let overtaken = change.await.unwrap().unwrap_err();
        assert!(matches!(overtaken, MembershipError::NotChanged(ChangeRefusal::Overtaken { .. })), "{overtaken}");
        assert!(admin.get_conf(&peers[0], PATIENCE).await.unwrap().is_stable());
        // What was made in vain is told so once it can be.
        nodes.start_node(1);
        until_gone(&nodes, 1);
        admin.set_new_conf(&peers[0], &peers, &peers[..1], PATIENCE).await.unwrap();
    });
}

/// Nobody waits for the new peer: not the clients, and not a leader that takes over meanwhile.
#[test]
fn a_change_waits_for_a_peer_that_stands_still_and_for_a_new_leader_while_clients_write() {
    let nodes = Nodes::start(4);
    let peers = create_on(&nodes, 3);
    runtime().block_on(async {
        let admin = nodes.client();
        let kv = Kv::new(LightSession::new(nodes.client(), peers[..3].to_vec()));
        // It takes a while to send all this.
        for number in 0..64 {
            kv.put(format!("large {number}"), vec![b'x'; MAX_DATA_BYTES - 100]).await.unwrap();
        }
        let load = Load::start(&nodes, &peers[..3]).await;
        let written = async || {
            let entry = kv.get("count").await.unwrap();
            entry.map_or(0, |entry| String::from_utf8(entry.value.to_vec()).unwrap().parse::<u64>().unwrap())
        };
        let until_more_is_written = async || {
            let before = written().await;
            let more = async {
                while written().await < before + 10 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, more).await.expect("clients are served");
        };
        let (changing, all, old) = (nodes.client(), peers.clone(), peers[..3].to_vec());
        let change = tokio::spawn(async move { changing.set_new_conf(&old[0], &all, &old, PATIENCE).await });
        let joining = async {
            while admin.get_conf(&peers[0], PATIENCE).await.unwrap().joining.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, joining).await.expect("the new peer learns");
        nodes.pause(3);
        until_more_is_written().await;
        let leader = leader_among(&nodes, &peers[..3]);
        let status = nodes.status(&peers[leader]).unwrap();
        assert_eq!((&status["joining"], &status["leaving"]), (&json!([peers[3].to_string()]), &json!([])), "{status}");
        let followers = status["followers"].as_array().unwrap();
        let learner = followers.iter().find(|follower| follower["peer"] == peers[3].to_string()).unwrap();
        assert!(learner["behind"].as_u64().unwrap() > 0, "{status}");

        nodes.pause(leader);
        until_more_is_written().await;
        let rest: Vec<_> = (0..3).filter(|number| *number != leader).map(|number| peers[number].clone()).collect();
        let now = admin.get_conf(&rest[0], PATIENCE).await.unwrap();
        assert_eq!((&now.joining[..], now.peers.len()), (&peers[3..], 3), "the next leader goes on with it");
        nodes.resume(leader);
        nodes.resume(3);
        let done = async {
            while !admin.get_conf(&rest[0], PATIENCE).await.is_ok_and(|now| now.is_stable() && now.peers.len() == 4) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("the change goes through");
        // Who has asked may have been told that the leader changed.
        let _ = change.await.unwrap();
        until_more_is_written().await;
        assert!(load.end(&nodes, &peers).await > 0);
    });
    until_equal(&nodes, &peers);
}

/// The machine of the newcomer is the others': sessions and their ephemeral data come with the state.
#[test]
fn a_peer_that_joins_after_the_log_was_cut_gets_a_snapshot() {
    let nodes = Nodes::start(2);
    let peers = nodes.peers("kv");
    let first = peers[0].to_string();
    nodes.run_ok(&["create", "--backend", "kv", "--max-log-count", "20", "--kept-log-count", "2", &first]);
    runtime().block_on(async {
        let (session, _notices) = Session::connect(nodes.client(), vec![peers[0].clone()], PATIENCE).await.unwrap();
        let kv = KvSession::new(session);
        kv.put_ephemeral("lock", "mine").await.unwrap();
        for number in 0..60 {
            kv.put("a", number.to_string()).await.unwrap();
        }
        until("the log was cut", || nodes.status(&peers[0]).unwrap()["first"].as_u64().unwrap() > 1);
        nodes.client().set_new_conf(&peers[0], &peers, &peers[..1], PATIENCE).await.unwrap();
        nodes.client().set_new_conf(&peers[0], &peers[1..], &peers, PATIENCE).await.unwrap();
        until_gone(&nodes, 0);
        assert_eq!(nodes.run_ok(&["kv", "get", &peers[1].to_string(), "lock"]), "mine");
        assert_eq!(nodes.run_ok(&["kv", "get", &peers[1].to_string(), "a"]), "59");
    });
}

#[test]
fn an_empty_state_travels_too() {
    let nodes = Nodes::start(2);
    let peers = nodes.peers("kv");
    let first = peers[0].to_string();
    nodes.run_ok(&["create", "--backend", "kv", "--max-log-count", "5", "--kept-log-count", "0", &first]);
    for _ in 0..4 {
        nodes.run_ok(&["kv", "put", &first, "a", "1"]);
        nodes.run_ok(&["kv", "del", &first, "a"]);
    }
    until("the log was cut", || nodes.status(&peers[0]).unwrap()["first"].as_u64().unwrap() > 1);
    nodes.run_ok(&["members", &first, "--set", &list(&peers), "--from", &first]);
    let second = peers[1].to_string();
    assert_eq!(nodes.run_ok(&["kv", "list", &second]), "");
    until_equal(&nodes, &peers);
    assert!(nodes.status(&peers[1]).unwrap()["first"].as_u64().unwrap() > 1, "it came as a snapshot");
}

/// A node whose files are gone does not answer for what it has forgotten, until it is told to begin anew.
#[test]
fn a_peer_that_has_lost_its_files_comes_back_by_a_change_of_the_peers() {
    let mut nodes = Nodes::start(3);
    let peers = create_on(&nodes, 3);
    nodes.run_ok(&["kv", "put", &peers[0].to_string(), "a", "1"]);
    nodes.kill(2);
    std::fs::remove_dir_all(nodes.data(2)).unwrap();
    nodes.start_node(2);
    nodes.run_err(5, &["status", &peers[2].to_string()]);
    let (any, all, two) = (peers[0].to_string(), list(&peers), list(&peers[..2]));
    nodes.run_ok(&["members", &any, "--set", &two, "--from", &all]);
    nodes.run_ok(&["members", &any, "--set", &all, "--from", &two]);
    until_equal(&nodes, &peers);
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[2].to_string(), "a"]), "1");
}

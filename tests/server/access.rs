//! Who may do what on a cluster: clients with certificates of their own, and a list that is changed while they are there.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use zraft::access::{Access, AccessControl, AccessDenied, AccessList, AccessListError, AccessRefusal};
use zraft::client::{
    Client, Ending, Kv, KvError, KvSession, LightSession, MembershipError, Notice, Notices, Session, SessionError,
    SessionFailure,
};
use zraft::protocol::{RequestError, TriggerReason};
use zraft::transport::{Credentials, TlsFiles};

use crate::harness::{Nodes, PATIENCE, runtime, until};

const LIVES: Duration = Duration::from_secs(20);

/// Nodes with a kv cluster, and with certificates for bob and carol besides alice.
fn start(count: usize, options: &[&str]) -> Nodes {
    let nodes = Nodes::start(count);
    for name in ["bob", "carol"] {
        nodes.run_ok(&["cert", "client", name]);
    }
    nodes.create("kv", "kv", options);
    nodes
}

fn names(nodes: &Nodes) -> Vec<String> {
    nodes.peers("kv").iter().map(ToString::to_string).collect()
}

/// Must be called within a runtime.
fn client(nodes: &Nodes, name: &str) -> Client {
    Client::new(Credentials::load(&TlsFiles::in_folder(&nodes.certs(), name)).unwrap()).unwrap()
}

fn kv(nodes: &Nodes, name: &str) -> Kv {
    Kv::new(LightSession::new(client(nodes, name), nodes.peers("kv")))
}

async fn session(nodes: &Nodes, name: &str) -> Result<(KvSession, Notices), SessionFailure> {
    let (session, notices) = Session::connect(client(nodes, name), nodes.peers("kv"), LIVES).await?;
    Ok((KvSession::new(session), notices))
}

fn denied(client: &str, needed: Access) -> AccessDenied {
    AccessDenied { client: client.to_owned(), needed }
}

#[track_caller]
fn assert_denied<T: std::fmt::Debug>(result: Result<T, KvError>, client: &str, needed: Access) {
    let error = result.expect_err("it may not");
    let expected = RequestError::AccessDenied(denied(client, needed));
    assert!(matches!(&error, KvError::Session(SessionError::Failed(error)) if *error == expected), "{error}");
}

fn list(nodes: &Nodes, peer: &str) -> Value {
    serde_json::from_str(&nodes.run_ok(&["access", "--json", peer])).unwrap()
}

#[test]
fn a_client_without_access_is_refused_everything_until_it_is_granted() {
    let nodes = start(3, &["--default-access", "none", "--grant", "alice=read"]);
    let peers = names(&nodes);
    nodes.run_ok(&["kv", "put", &peers[0], "a", "1"]);
    runtime().block_on(async {
        let bob = kv(&nodes, "bob");
        assert_denied(bob.put("a", "2").await, "bob", Access::Write);
        // Each peer reads by the same list.
        for peer in nodes.peers("kv") {
            let at = Kv::new(LightSession::new(client(&nodes, "bob"), vec![peer]));
            assert_denied(at.get("a").await, "bob", Access::Read);
        }
        let refused = session(&nodes, "bob").await.err().expect("it may not");
        assert_eq!(refused, SessionFailure::Failed(RequestError::AccessDenied(denied("bob", Access::Read))));
    });
    let told = nodes.run_err(1, &["kv", "put", "--as", "bob", &peers[1], "a", "2"]);
    assert!(told.contains("client 'bob'") && told.contains("zraft access PEER --grant bob=write"), "{told}");
    for (peer, access) in peers.iter().zip(["read", "write", "read"]) {
        nodes.run_ok(&["access", peer, "--grant", &format!("bob={access}")]);
        nodes.run_ok(&["kv", "get", "--as", "bob", peer, "a"]);
        let code = i32::from(access == "read");
        let written = nodes.zraft(&["kv", "put", "--as", "bob", peer, "b", access]);
        assert_eq!(written.status.code(), Some(code), "with {access}");
    }
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[0], "a"]), "1", "nothing that was denied was done");
    assert_eq!(nodes.run_ok(&["kv", "get", &peers[0], "b"]), "write");
    nodes.until_equal("kv");
}

#[test]
fn a_client_that_may_only_read_reads_also_in_a_session_which_survives_its_denied_writes() {
    let nodes = start(1, &["--default-access", "read"]);
    let peer = names(&nodes).remove(0);
    runtime().block_on(async {
        let (light, admin) = (kv(&nodes, "alice"), nodes.kv("kv"));
        assert_eq!(light.get("a").await.unwrap(), None);
        assert_denied(light.put("a", "1").await, "alice", Access::Write);
        let (kv, mut notices) = session(&nodes, "alice").await.unwrap();
        let watched = kv.watch("a").await.unwrap();
        for _ in 0..3 {
            let error = kv.put_ephemeral("a", "1").await.expect_err("it may not");
            let expected = SessionFailure::Denied(denied("alice", Access::Write));
            assert!(matches!(&error, KvError::InSession(failure) if *failure == expected), "{error}");
        }
        assert_eq!(kv.get("a").await.unwrap(), None);
        nodes.run_ok(&["access", &peer, "--grant", "alice=write"]);
        kv.put("b", "1").await.expect("it may now, in the same session");
        admin.put("a", "2").await.unwrap();
        let fired = Notice::Fired { trigger: watched.trigger, reason: TriggerReason::DataChanged };
        assert_eq!(timeout(PATIENCE, notices.next()).await.unwrap(), Some(fired));
        kv.session().close().await.unwrap();
    });
}

#[test]
fn a_revocation_ends_an_open_session_and_its_triggers_and_lets_no_later_write_in() {
    let nodes = start(3, &[]);
    let peers = names(&nodes);
    nodes.run_ok(&["kv", "put", &peers[0], "a", "1"]);
    let runtime = runtime();
    runtime.block_on(async {
        let (kv, mut notices) = session(&nodes, "bob").await.unwrap();
        let (other, mut others) = session(&nodes, "alice").await.unwrap();
        let watched = [kv.watch("a").await.unwrap(), other.watch("a").await.unwrap()];
        let light = self::kv(&nodes, "bob");
        let (admin, peer) = (nodes.client(), nodes.peers("kv").remove(0));
        let AccessControl { mut list, set_at } = admin.access(&peer, PATIENCE).await.unwrap();
        (list.default, list.named) = (None, [("alice".to_owned(), Access::Write)].into());
        // Writes of bob go on while he is revoked.
        let writing = async {
            let mut last = 0;
            for number in 1u64.. {
                match light.put("count", number.to_string()).await {
                    Ok(_) => last = number,
                    Err(KvError::Session(SessionError::Failed(error))) => {
                        assert_eq!(error, RequestError::AccessDenied(denied("bob", Access::Write)));
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            last
        };
        let revoking = async {
            for _ in 0..50 {
                self::kv(&nodes, "alice").get("a").await.unwrap();
            }
            let revoked_at = admin.set_access(&peer, &list, set_at, PATIENCE).await.unwrap();
            let entry = other.get("count").await.unwrap().expect("bob has written");
            (revoked_at, entry)
        };
        let (last, (revoked_at, entry)) = tokio::join!(writing, revoking);
        assert_eq!(entry.value, last.to_string().into_bytes(), "what was written last stood before the revocation");
        assert!(last > 0 && entry.index < revoked_at.0, "{entry:?}, revoked at {revoked_at}");

        let over = Ending::Refused(RequestError::AccessDenied(denied("bob", Access::Read)));
        let fired = |watched: &zraft::client::KvWatched, reason| Notice::Fired { trigger: watched.trigger, reason };
        let notices = async {
            let mut all = Vec::new();
            while let Some(notice) = notices.next().await {
                all.push(notice);
            }
            all
        };
        let told = timeout(PATIENCE, notices).await.unwrap();
        assert_eq!(told, [fired(&watched[0], TriggerReason::SessionExpired), Notice::Ended(over.clone())]);
        let error = kv.put("a", "2").await.expect_err("it is over");
        assert!(matches!(&error, KvError::InSession(SessionFailure::Ended(ending)) if *ending == over), "{error}");

        other.put("a", "3").await.unwrap();
        let fired = fired(&watched[1], TriggerReason::DataChanged);
        assert_eq!(timeout(PATIENCE, others.next()).await.unwrap(), Some(fired), "others hear of it");
        let stale = admin.set_access(&peer, &list, set_at, PATIENCE).await.unwrap_err();
        let changed = RequestError::AccessNotSet(AccessRefusal::Changed { now: revoked_at });
        assert!(matches!(&stale, MembershipError::Failed(error) if *error == changed), "{stale}");
    });
}

#[test]
fn the_list_outlives_leaders_snapshots_and_restarts() {
    let mut nodes = start(3, &["--max-log-count", "5", "--kept-log-count", "0", "--min-log-percent", "0"]);
    let peers = names(&nodes);
    nodes.run_ok(&["access", &peers[2], "--default", "none", "--grant", "alice=write", "--grant", "carol=admin"]);
    let before = list(&nodes, &peers[0]);
    assert_eq!((&before["default"], &before["named"]["carol"]), (&Value::from("none"), &Value::from("admin")));
    let check = |nodes: &Nodes, peer: &str, value: &str| {
        nodes.run_ok(&["kv", "put", "--as", "alice", peer, "a", value]);
        assert_eq!(nodes.run_ok(&["kv", "get", "--as", "alice", peer, "a"]), value);
        nodes.run_err(1, &["kv", "put", "--as", "bob", peer, "a", "bob"]);
        nodes.run_err(1, &["kv", "get", "--as", "bob", peer, "a"]);
    };
    for to in &peers {
        nodes.run_ok(&["transfer", &peers[0], "--to", to]);
        check(&nodes, to, to);
    }
    let set_at = before["set_at"].as_u64().unwrap();
    let is_past = |nodes: &Nodes| {
        let all = nodes.peers("kv").into_iter().map(|peer| nodes.status(&peer).unwrap());
        all.map(|status| (status["snapshot"].as_u64().unwrap(), status["first"].as_u64().unwrap())).collect::<Vec<_>>()
    };
    until("each peer's log begins behind the list", || {
        nodes.run_ok(&["kv", "put", &peers[0], "more", "1"]);
        is_past(&nodes).into_iter().all(|(snapshot, first)| snapshot > set_at && first > set_at)
    });
    (0..3).for_each(|number| nodes.kill(number));
    (0..3).for_each(|number| nodes.start_node(number));
    check(&nodes, &peers[1], "after");
    assert_eq!(list(&nodes, &peers[1]), before);
    nodes.until_equal("kv");
}

#[test]
fn a_cluster_that_is_created_closed_is_never_open() {
    let nodes = Nodes::start(3);
    nodes.run_ok(&["cert", "client", "bob"]);
    let peers = nodes.peers("kv");
    let made = std::thread::scope(|scope| {
        let making = scope.spawn(|| {
            nodes.create("kv", "kv", &["--default-access", "none", "--grant", "alice=write"]);
        });
        // Bob tries from before it is there until after.
        runtime().block_on(async {
            let bobs: Vec<_> = peers
                .iter()
                .map(|peer| Kv::new(LightSession::new(client(&nodes, "bob"), vec![peer.clone()])))
                .collect();
            let mut denials = 0;
            while !making.is_finished() || denials < 10 {
                for bob in &bobs {
                    let error = bob.put("a", "bob").await.expect_err("it was never open");
                    denials += u32::from(error.to_string().contains("needs write access"));
                    let error = bob.get("a").await.expect_err("it was never open");
                    denials += u32::from(error.to_string().contains("needs read access"));
                }
            }
        });
        making.join()
    });
    made.unwrap();
    let listed = list(&nodes, &peers[0].to_string());
    assert_eq!(listed, serde_json::json!({ "named": { "alice": "write" }, "default": "none", "set_at": 2 }));
    nodes.run_err(5, &["kv", "get", "--as", "alice", &peers[0].to_string(), "a"]);
}

#[test]
fn whom_the_list_makes_an_admin_changes_the_cluster_and_nobody_else_does() {
    let nodes = start(3, &["--grant", "carol=admin"]);
    let peers = names(&nodes);
    let (all, two) = (peers.join(","), peers[..2].join(","));
    let change =
        |by: &'static str| ["members", "--as", by, &peers[0], "--from", &all, "--set", &two].map(str::to_owned);
    let run_err = |arguments: &[&str]| {
        let told = nodes.run_err(1, arguments);
        assert!(told.contains("admin access") && told.contains("'alice'"), "{arguments:?}: {told}");
    };
    let of_alice = change("alice");
    run_err(&of_alice.iter().map(String::as_str).collect::<Vec<_>>());
    run_err(&["transfer", "--as", "alice", &peers[0], "--to", &peers[1]]);
    run_err(&["delete", "--yes", "--as", "alice", &peers[0]]);
    run_err(&["access", "--as", "alice", &peers[0]]);
    run_err(&["access", "--as", "alice", &peers[0], "--grant", "alice=admin"]);
    runtime().block_on(async {
        // Whatever a client of her own making sends.
        let (alice, peer) = (client(&nodes, "alice"), nodes.peers("kv").remove(0));
        let carol = client(&nodes, "carol");
        let AccessControl { list, set_at } = carol.access(&peer, PATIENCE).await.unwrap();
        let all_are_admins = AccessList { default: Some(Access::Admin), ..list.clone() };
        let refused = carol.set_access(&peer, &all_are_admins, set_at, PATIENCE).await.unwrap_err();
        let expected = RequestError::AccessNotSet(AccessRefusal::Invalid(AccessListError::AllAreAdmins));
        assert!(matches!(&refused, MembershipError::Failed(error) if *error == expected), "{refused}");
        let refused = alice.set_access(&peer, &list, set_at, PATIENCE).await.unwrap_err();
        let expected = RequestError::AccessDenied(denied("alice", Access::Admin));
        assert!(matches!(&refused, MembershipError::Failed(error) if *error == expected), "{refused}");
    });

    for to in &peers {
        assert_eq!(nodes.run_ok(&["transfer", "--as", "carol", &peers[0], "--to", to]), format!("{to} leads"));
    }
    let of_carol = change("carol");
    nodes.run_ok(&of_carol.iter().map(String::as_str).collect::<Vec<_>>());
    until("the third has left", || nodes.status(&nodes.peers("kv")[2]).is_none());
    let refused = nodes.run_err(1, &["create", "--as", "carol", "--backend", "kv", &format!("x@{}", nodes.address(0))]);
    assert!(refused.contains("admin certificate"), "{refused}");
    let refused = nodes.run_err(1, &["delete", "--yes", "--force", "--as", "carol", &peers[0]]);
    assert!(refused.contains("admin certificate"), "{refused}");
    nodes.run_ok(&["access", "--as", "carol", &peers[0], "--grant", "alice=admin", "--revoke", "carol"]);
    nodes.run_err(1, &["access", "--as", "carol", &peers[0]]);
    nodes.run_err(5, &["access", "--as", "alice", &peers[0], "--revoke", "carol"]);
    nodes.run_ok(&["delete", "--yes", "--as", "alice", &peers[0]]);
    nodes.run_err(5, &["status", &peers[0]]);
}

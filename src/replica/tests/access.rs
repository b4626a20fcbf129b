//! What clients may do: who may not read any more is served on no stream, and a leader denies only what it knows.

use super::*;
use crate::access::{Access, AccessDenied, AccessList};
use crate::feature_level::FeatureLevel;
use crate::protocol::TriggerReason;

const TIMEOUT_MS: u64 = 300;

fn list(default: Option<Access>, named: &[(&str, Access)]) -> AccessList {
    AccessList { default, named: named.iter().map(|(name, access)| ((*name).to_owned(), *access)).collect() }
}

fn denied(client: &str, needed: Access) -> AccessDenied {
    AccessDenied { client: client.to_owned(), needed }
}

impl Hands {
    fn set_access(&mut self, list: AccessList) {
        self.propose_list(list);
        self.work();
        assert!(matches!(self.answers.remove(&Ticket(99)), Some(Ok(_))));
    }

    fn propose_list(&mut self, list: AccessList) {
        let expected = self.replica.access().set_at;
        self.replica.write(Ticket(99), Command::SetAccess { by: None, expected, list }.encode(), FOREVER_MS);
        self.settle();
    }

    fn open_as(&mut self, link: u64, identity: &str) -> SessionId {
        self.attach_as(link, identity, open(TIMEOUT_MS));
        self.work();
        let [SessionEvent::Attached { session }] = self.told(link)[..] else { panic!("attached") };
        session
    }
}

#[test]
fn a_stream_ends_with_the_right_to_read_and_its_triggers_with_it() {
    let mut hands = Hands::alone(settings());
    hands.open_as(1, "zraft://client/alice");
    hands.open_as(2, "zraft://client/bob");
    hands.open_as(3, "zraft://admin/alice");
    for link in [1, 2, 3] {
        hands.ask(link, SessionRequest::Query { id: TriggerId(1), request: "key".into(), watch: true });
    }
    hands.work();
    assert!([1, 2, 3].iter().all(|link| matches!(hands.told(*link)[..], [SessionEvent::Answered { .. }])));
    hands.set_access(list(Some(Access::Read), &[("bob", Access::Write)]));
    assert_eq!([1, 2, 3].map(|link| hands.told(link)), [vec![], vec![], vec![]], "all may still read");
    hands.set_access(list(None, &[("bob", Access::Write)]));
    let end = SessionEvent::Detached(RequestError::AccessDenied(denied("alice", Access::Read)));
    assert_eq!([1, 2, 3].map(|link| hands.told(link)), [vec![end], vec![], vec![]]);
    hands.write(7, "key");
    hands.settle();
    hands.work();
    let fired = SessionEvent::Fired { id: TriggerId(1), reason: TriggerReason::DataChanged };
    let told = [1, 2, 3].map(|link| hands.told(link));
    assert_eq!(told, [vec![], vec![fired.clone()], vec![fired]], "nothing is told after the end");
}

#[test]
fn who_may_not_read_takes_up_no_session_and_may_again_once_the_list_lets_it() {
    let mut hands = Hands::alone(settings());
    let session = hands.open_as(1, "zraft://client/alice");
    hands.set_access(list(None, &[]));
    hands.attach_as(2, "zraft://client/alice", resume(session));
    let end = SessionEvent::Detached(RequestError::AccessDenied(denied("alice", Access::Read)));
    assert_eq!(hands.told(2), [end]);
    hands.set_access(list(None, &[("alice", Access::Read)]));
    hands.attach_as(3, "zraft://client/alice", resume(session));
    assert_eq!(hands.told(3), [SessionEvent::Attached { session }]);
}

#[test]
fn what_a_session_asks_is_asked_for_its_client() {
    let mut hands = Hands::alone(settings());
    hands.open_as(1, "zraft://client/alice");
    hands.open_as(2, "zraft://admin/ann");
    for link in [1, 2] {
        hands.ask(link, SessionRequest::Query { id: TriggerId(1), request: Bytes::new(), watch: false });
    }
    let queries = hands.jobs.iter().flat_map(|job| match job {
        Job::Query(_, queries) => queries.clone(),
        _ => vec![],
    });
    assert_eq!(queries.map(|query| query.client).collect::<Vec<_>>(), [Some("alice".to_owned()), None]);
}

#[test]
fn a_list_from_a_snapshot_counts() {
    let mut hands = Hands::alone(settings());
    let access = AccessControl { list: list(None, &[]), set_at: Index(2) };
    let at = SnapshotMeta { position: LogPosition::new(Term(hands.term()), hands.last()), ..meta(1, 1) };
    hands.replica.restored(&at, 0, chain_at(at.position.index), vec![], access.clone(), FeatureLevel::FIRST);
    assert_eq!(hands.replica.access(), &access);
    assert_eq!(hands.replica.check_access("alice", Access::Read), Err(denied("alice", Access::Read)));
}

#[test]
fn a_leader_denies_only_once_its_machine_has_applied_an_entry_of_its_own_term() {
    let mut hands = Hands::leader();
    hands.replicate();
    hands.work();
    hands.propose_list(list(None, &[]));
    hands.replicate();
    hands.work();
    assert_eq!(hands.replica.check_access("alice", Access::Read), Err(denied("alice", Access::Read)));
    hands.hear(TWO, hands.term() + 1, Message::Heartbeat { commit: Index(1), round: 1 });
    assert!(!hands.replica.raft().is_leader());
    assert_eq!(hands.replica.check_access("alice", Access::Read), Ok(()), "another may have let it");
    hands.win();
    assert_eq!(hands.replica.check_access("alice", Access::Read), Ok(()), "the log may");
    hands.replicate();
    hands.work();
    assert_eq!(hands.replica.check_access("alice", Access::Read), Err(denied("alice", Access::Read)));
}

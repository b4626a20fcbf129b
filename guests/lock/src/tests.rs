use super::*;
use zraft_backend::testing::{Cluster, Session};

fn acquire(cluster: &mut Cluster<Locks>, session: Session) -> Answer {
    cluster.write_ephemeral(session, &Command::Acquire("door".to_owned())).unwrap()
}

fn place(session: Session) -> Question {
    Question::Place { lock: "door".to_owned(), session: session.id() }
}

fn holder() -> Question {
    Question::Holder("door".to_owned())
}

/// Three sessions, of which the first has the lock and the others wait.
fn line() -> (Cluster<Locks>, [Session; 3]) {
    let mut cluster = Cluster::start(b"").unwrap();
    let sessions = [(); 3].map(|()| cluster.open_session());
    assert_eq!(acquire(&mut cluster, sessions[0]), Answer::Granted { token: 4 });
    assert_eq!(acquire(&mut cluster, sessions[1]), Answer::Waiting { ahead: 0 });
    assert_eq!(acquire(&mut cluster, sessions[2]), Answer::Waiting { ahead: 1 });
    (cluster, sessions)
}

#[test]
fn a_lock_is_handed_on_in_order_with_greater_tokens_and_each_is_told_of_its_own_turn() {
    let (mut cluster, [first, second, third]) = line();
    let (_, of_second) = cluster.watch(&place(second));
    let (_, of_third) = cluster.watch(&place(third));
    // The first dies.
    cluster.end_session(first);
    assert!(cluster.has_fired(of_second) && !cluster.has_fired(of_third));
    let Answer::Granted { token } = cluster.query(&place(second)).unwrap() else { panic!("it is not its turn") };
    assert!(token > 4);
    assert_eq!(cluster.query(&place(third)), Ok(Answer::Waiting { ahead: 0 }));

    let release = Command::Release("door".to_owned());
    assert_eq!(cluster.write_ephemeral(second, &release), Ok(Answer::Released));
    assert!(cluster.has_fired(of_third));
    assert_eq!(cluster.query(&place(third)), Ok(Answer::Granted { token: cluster.index() }));
    assert_eq!(cluster.write_ephemeral(third, &release), Ok(Answer::Released));
    assert_eq!(cluster.query(&holder()), Ok(Answer::Free));
    assert_eq!(*cluster.state(), Locks::default(), "nothing is left of what nobody wants");
    cluster.check();
}

#[test]
fn who_asks_again_has_what_it_had() {
    let (mut cluster, [first, second, third]) = line();
    assert_eq!(acquire(&mut cluster, first), Answer::Granted { token: 4 });
    assert_eq!(acquire(&mut cluster, third), Answer::Waiting { ahead: 1 });
    assert!(cluster.changed().is_empty());
    let attempt = Command::TryAcquire("door".to_owned());
    assert_eq!(cluster.write_ephemeral(second, &attempt), Ok(Answer::Waiting { ahead: 0 }));
    let passer_by = cluster.open_session();
    assert_eq!(cluster.write_ephemeral(passer_by, &attempt), Ok(Answer::Held { by: first.id() }));
    assert_eq!(cluster.query(&place(passer_by)), Ok(Answer::None));
    let held = Answer::HeldBy { session: first.id(), token: 4, waiting: 2 };
    assert_eq!(cluster.query(&holder()), Ok(held));
    cluster.check();
}

#[test]
fn who_waits_may_leave_and_nobody_behind_is_told_that_it_is_their_turn() {
    let (mut cluster, [first, second, third]) = line();
    let (_, of_first) = cluster.watch(&place(first));
    let (_, of_second) = cluster.watch(&place(second));
    let (_, of_third) = cluster.watch(&place(third));
    let (_, of_lock) = cluster.watch(&holder());
    cluster.end_session(second);
    assert!(!cluster.has_fired(of_first) && cluster.has_fired(of_second) && !cluster.has_fired(of_third));
    assert!(cluster.has_fired(of_lock));
    assert_eq!(cluster.query(&place(third)), Ok(Answer::Waiting { ahead: 0 }));
    cluster.check();
}

#[test]
fn a_session_takes_all_its_locks_along() {
    let mut cluster = Cluster::<Locks>::start(b"").unwrap();
    let session = cluster.open_session();
    for name in ["a", "b"] {
        cluster.write_ephemeral(session, &Command::Acquire(name.to_owned())).unwrap();
    }
    cluster.end_session(session);
    assert_eq!(*cluster.state(), Locks::default());
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::<Locks>::start(b"").unwrap();
    let acquire = |name: &str| Command::Acquire(name.to_owned());
    assert!(cluster.write(&acquire("door")).unwrap_err().contains("ephemeral"));
    let session = cluster.open_session();
    assert!(cluster.write_ephemeral(session, &acquire("")).is_err());
    assert!(cluster.write_ephemeral(session, &acquire(&"x".repeat(MAX_NAME_BYTES + 1))).is_err());
    assert!(cluster.write_ephemeral(session, &Command::Release("door".to_owned())).is_err());
    assert!(cluster.write_bytes(b"{\"acquire\":7}").unwrap_err().contains("malformed"));
    assert_eq!(*cluster.state(), Locks::default());
    assert!(Cluster::<Locks>::start(b"fast").is_err());
}

#[test]
fn a_line_has_an_end() {
    let mut locks = Locks::default();
    let mut acquire =
        |session| locks.apply(Command::Acquire("door".to_owned()), &mut Apply::at(1, 0).ephemeral(Some(session)));
    for session in 0..=MAX_WAITING as u64 {
        acquire(session).unwrap();
    }
    assert!(acquire(u64::MAX).is_err());
}

/// The samples for `zraft backend check`, which the default tests of zraft run.
#[test]
fn the_samples_are_those_of_a_line() {
    let (mut cluster, [first, second, third]) = line();
    let attempt = Command::TryAcquire("door".to_owned());
    cluster.write_ephemeral(third, &Command::TryAcquire("window".to_owned())).unwrap();
    cluster.write_ephemeral(first, &Command::TryAcquire("window".to_owned())).unwrap();
    for question in [place(first), place(second), holder()] {
        cluster.query(&question).unwrap();
    }
    cluster.end_session(first);
    cluster.write_ephemeral(second, &Command::Release("door".to_owned())).unwrap();
    cluster.write_ephemeral(second, &attempt).unwrap();
    cluster.end_session(third);
    cluster.check();
    assert_eq!(cluster.samples(), include_str!("../samples.txt"));
}

use super::*;
use zraft_backend::testing::{Cluster, Session};

fn mail() -> String {
    "mail".to_owned()
}

fn put(cluster: &mut Cluster<Queues>, item: &str) -> u64 {
    let put = Command::Put { queue: mail(), item: item.to_owned() };
    let Ok(Answer::Put { id }) = cluster.write(&put) else { panic!("it is put") };
    id
}

fn take(cluster: &mut Cluster<Queues>, session: Session) -> Option<(u64, u32)> {
    match cluster.write_ephemeral(session, &Command::Take(mail())).unwrap() {
        Answer::Taken { id, attempt, .. } => Some((id, attempt)),
        Answer::Empty => None,
        other => panic!("{other:?}"),
    }
}

fn counts(cluster: &mut Cluster<Queues>) -> (u64, u64, u64) {
    match cluster.query(&Question::Count(mail())) {
        Ok(Answer::Counted { ready, taken, dead }) => (ready, taken, dead),
        other => panic!("{other:?}"),
    }
}

#[test]
fn items_are_taken_in_order_and_gone_once_they_are_acknowledged() {
    let mut cluster = Cluster::start(b"").unwrap();
    let (first, second) = (put(&mut cluster, "first"), put(&mut cluster, "second"));
    let session = cluster.open_session();
    let taken = cluster.write_ephemeral(session, &Command::Take(mail()));
    assert_eq!(taken, Ok(Answer::Taken { id: first, item: "first".to_owned(), attempt: 1 }));
    assert_eq!(take(&mut cluster, session), Some((second, 1)));
    assert_eq!(take(&mut cluster, session), None);
    assert_eq!(counts(&mut cluster), (0, 2, 0));
    for id in [first, second] {
        assert_eq!(cluster.write_ephemeral(session, &Command::Ack(id)), Ok(Answer::Done));
    }
    assert_eq!(*cluster.state(), Queues::init(b"").unwrap(), "nothing is left of what is done");
    cluster.check();
}

#[test]
fn what_a_dead_worker_had_comes_back_before_what_was_put_later_and_its_late_word_counts_for_nothing() {
    let mut cluster = Cluster::start(b"").unwrap();
    let ids = ["a", "b", "c"].map(|item| put(&mut cluster, item));
    let (worker, other) = (cluster.open_session(), cluster.open_session());
    assert_eq!(take(&mut cluster, worker), Some((ids[0], 1)));
    assert_eq!(take(&mut cluster, worker), Some((ids[1], 1)));
    assert_eq!(take(&mut cluster, other), Some((ids[2], 1)));
    assert_eq!(take(&mut cluster, other), None);
    let (_, trigger) = cluster.watch(&Question::Count(mail()));
    cluster.end_session(worker);
    assert!(cluster.has_fired(trigger), "there is something to take");
    assert_eq!(take(&mut cluster, other), Some((ids[0], 2)));
    assert!(cluster.write_ephemeral(worker, &Command::Ack(ids[0])).is_err());
    assert_eq!(cluster.write_ephemeral(other, &Command::GiveBack(ids[0])), Ok(Answer::Done));
    assert_eq!(take(&mut cluster, other), Some((ids[0], 3)));
    assert_eq!(counts(&mut cluster), (1, 2, 0));
    cluster.check();
}

#[test]
fn what_is_never_acknowledged_dies_and_may_be_revived_or_discarded() {
    let mut cluster = Cluster::start(br#"{"max_attempts":2}"#).unwrap();
    let (first, second) = (put(&mut cluster, "first"), put(&mut cluster, "second"));
    let (_, dies) = cluster.watch(&Question::Dead(mail()));
    let session = cluster.open_session();
    for attempt in 1..=2 {
        for id in [first, second] {
            assert_eq!(take(&mut cluster, session), Some((id, attempt)));
        }
        assert!(!cluster.has_fired(dies));
        cluster.end_session(session);
    }
    assert!(cluster.has_fired(dies));
    assert_eq!((take(&mut cluster, session), counts(&mut cluster)), (None, (0, 0, 2)));
    let dead = |id, item: &str| DeadItem { id, item: item.to_owned() };
    assert_eq!(
        cluster.query(&Question::Dead(mail())),
        Ok(Answer::Dead(vec![dead(first, "first"), dead(second, "second")]))
    );
    assert_eq!(cluster.write(&Command::Revive(first)), Ok(Answer::Done));
    assert!(cluster.write(&Command::Discard(first)).is_err());
    assert_eq!(cluster.write(&Command::Discard(second)), Ok(Answer::Done));
    assert_eq!(take(&mut cluster, session), Some((first, 1)));
    cluster.check();
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::<Queues>::start(b"").unwrap();
    let id = put(&mut cluster, "item");
    let session = cluster.open_session();
    assert!(cluster.write(&Command::Take(mail())).unwrap_err().contains("ephemeral"));
    assert!(cluster.write_ephemeral(session, &Command::Ack(id)).is_err(), "it was not taken");
    assert!(cluster.write(&Command::Revive(id)).is_err());
    for queue in [String::new(), "x".repeat(MAX_NAME_BYTES + 1)] {
        assert!(cluster.write(&Command::Put { queue, item: String::new() }).is_err());
    }
    assert_eq!(counts(&mut cluster), (1, 0, 0));
    for config in ["fast", r#"{"max_attempts":0}"#, r#"{"max_attempts":1,"more":1}"#] {
        assert!(Cluster::<Queues>::start(config.as_bytes()).is_err(), "{config}");
    }
}

/// The samples for `zraft backend check`, which the default tests of zraft run.
#[test]
fn the_samples_are_those_of_a_working_day() {
    let mut cluster = Cluster::start(b"").unwrap();
    let ids = ["a", "b", "c"].map(|item| put(&mut cluster, item));
    let (worker, other) = (cluster.open_session(), cluster.open_session());
    take(&mut cluster, worker);
    take(&mut cluster, other);
    cluster.write_ephemeral(worker, &Command::Ack(ids[0])).unwrap();
    for _ in 0..DEFAULT_MAX_ATTEMPTS {
        take(&mut cluster, worker);
        cluster.write_ephemeral(worker, &Command::GiveBack(ids[2])).unwrap();
    }
    cluster.query(&Question::Dead(mail())).unwrap();
    counts(&mut cluster);
    cluster.write(&Command::Revive(ids[2])).unwrap();
    cluster.end_session(other);
    cluster.check();
    assert_eq!(cluster.samples(), include_str!("../samples.txt"));
}

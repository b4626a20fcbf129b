//! The lock and the queue that come with zraft, for clients that die.

use std::time::Duration;

use tokio::time::timeout;
use zraft::client::{Api, Json, Notice, Notices, Session, Typed, TypedError};
use zraft::protocol::TriggerReason;

use crate::harness::{Nodes, PATIENCE, runtime};

/// The messages, from the backends' own sources.
#[path = "../../guests/lock/src/api.rs"]
#[allow(dead_code, reason = "the test does not use all of it")]
mod lock_api;
#[path = "../../guests/queue/src/api.rs"]
#[allow(dead_code, reason = "the test does not use all of it")]
mod queue_api;

/// Long enough for an election.
const LONG: Duration = Duration::from_secs(20);
/// Short enough to wait for.
const SHORT: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Lock {}

impl Api for Lock {
    type Codec = Json;
    type Command = lock_api::Command;
    type Query = lock_api::Question;
    type Reply = lock_api::Answer;
}

#[derive(Debug)]
enum Queue {}

impl Api for Queue {
    type Codec = Json;
    type Command = queue_api::Command;
    type Query = queue_api::Question;
    type Reply = queue_api::Answer;
}

async fn connect<A: Api>(nodes: &Nodes, name: &str, lives: Duration) -> (Typed<A, Session>, Notices) {
    let (session, notices) = Session::connect(nodes.client(), nodes.peers(name), lives).await.unwrap();
    (Typed::new(session), notices)
}

async fn data_has_changed(notices: &mut Notices) {
    let notice = timeout(PATIENCE, notices.next()).await.expect("a notice comes in time");
    assert!(matches!(notice, Some(Notice::Fired { reason: TriggerReason::DataChanged, .. })), "{notice:?}");
}

#[test]
fn a_lock_passes_on_with_a_greater_token_when_its_holder_dies() {
    use lock_api::{Answer, Command, Question};
    let mut nodes = Nodes::start(3);
    nodes.create("lock", "lock", &[]);
    runtime().block_on(async {
        let acquire = Command::Acquire("door".to_owned());
        let place = |session: &Typed<Lock, Session>| Question::Place {
            lock: "door".to_owned(),
            session: session.session().id().0,
        };
        let (holder, _notices) = connect::<Lock>(&nodes, "lock", LONG).await;
        let Ok(Answer::Granted { token: first }) = holder.write_ephemeral(&acquire).await else { panic!("it is free") };
        let (waiter, mut notices) = connect::<Lock>(&nodes, "lock", LONG).await;
        assert_eq!(waiter.write_ephemeral(&acquire).await.unwrap(), Answer::Waiting { ahead: 0 });
        assert_eq!(waiter.watch(&place(&waiter)).await.unwrap().reply, Answer::Waiting { ahead: 0 });
        let error = waiter.write(&acquire).await.unwrap_err();
        assert!(matches!(error, TypedError::InSession(_)) && error.to_string().contains("ephemeral"), "{error}");

        // A leader that dies takes nothing from the holder.
        let leader = nodes.leader("lock");
        nodes.kill(leader);
        assert_eq!(holder.query(&place(&holder)).await.unwrap(), Answer::Granted { token: first });
        nodes.start_node(leader);

        // The holder is never heard of again. Its session was granted its whole time anew; another dies sooner.
        holder.session().close().await.unwrap();
        // The trigger may have fired for the change of leaders as well: then it is asked again.
        let second = loop {
            if let Answer::Granted { token } = waiter.watch(&place(&waiter)).await.unwrap().reply {
                break token;
            }
            timeout(PATIENCE, notices.next()).await.expect("a notice comes in time");
        };
        assert!(second > first);

        let (silent, _notices) = connect::<Lock>(&nodes, "lock", SHORT).await;
        assert_eq!(silent.write_ephemeral(&Command::Acquire("window".to_owned())).await.map(drop).ok(), Some(()));
        let (next, mut notices) = connect::<Lock>(&nodes, "lock", LONG).await;
        let window = Command::Acquire("window".to_owned());
        assert_eq!(next.write_ephemeral(&window).await.unwrap(), Answer::Waiting { ahead: 0 });
        let place = Question::Place { lock: "window".to_owned(), session: next.session().id().0 };
        next.watch(&place).await.unwrap();
        drop(silent);
        data_has_changed(&mut notices).await;
        assert!(matches!(next.query(&place).await.unwrap(), Answer::Granted { token } if token > second));
    });
}

#[test]
fn an_item_comes_back_when_its_worker_dies_until_it_was_tried_too_often() {
    use queue_api::{Answer, Command, DeadItem, Question};
    let nodes = Nodes::start(3);
    nodes.create("jobs", "queue", &["--config", r#"{"max_attempts":2}"#]);
    runtime().block_on(async {
        let (boss, mut notices) = connect::<Queue>(&nodes, "jobs", LONG).await;
        let put = Command::Put { queue: "mail".to_owned(), item: "hello".to_owned() };
        let Ok(Answer::Put { id }) = boss.write(&put).await else { panic!("it is put") };
        let take = Command::Take("mail".to_owned());
        let taken = |attempt| Answer::Taken { id, item: "hello".to_owned(), attempt };

        let (worker, _notices) = connect::<Queue>(&nodes, "jobs", SHORT).await;
        assert_eq!(worker.write_ephemeral(&take).await.unwrap(), taken(1));
        let ready = boss.watch(&Question::Count("mail".to_owned())).await.unwrap().reply;
        assert_eq!(ready, Answer::Counted { ready: 0, taken: 1, dead: 0 });
        drop(worker);
        data_has_changed(&mut notices).await;

        let (worker, _notices) = connect::<Queue>(&nodes, "jobs", LONG).await;
        assert_eq!(worker.write_ephemeral(&take).await.unwrap(), taken(2));
        boss.watch(&Question::Dead("mail".to_owned())).await.unwrap();
        worker.session().close().await.unwrap();
        data_has_changed(&mut notices).await;
        let dead = vec![DeadItem { id, item: "hello".to_owned() }];
        assert_eq!(boss.query(&Question::Dead("mail".to_owned())).await.unwrap(), Answer::Dead(dead));
        assert_eq!(boss.write_ephemeral(&take).await.unwrap(), Answer::Empty);

        assert_eq!(boss.write(&Command::Revive(id)).await.unwrap(), Answer::Done);
        assert_eq!(boss.write_ephemeral(&take).await.unwrap(), taken(1));
        assert_eq!(boss.write_ephemeral(&Command::Ack(id)).await.unwrap(), Answer::Done);
        let left = boss.query(&Question::Count("mail".to_owned())).await.unwrap();
        assert_eq!(left, Answer::Counted { ready: 0, taken: 0, dead: 0 });
    });
}

//! Snapshots come from disks and networks: what no machine can have written is refused, and nothing panics.

use bytes::Bytes;
use zraft::machine::{Command, SessionTerms, StartError};
use zraft::protocol::{CommandError, SessionSecret};
use zraft::raft::{Entry, Payload};
use zraft::settings::Settings;
use zraft::types::{Index, SessionId, Term};

use super::replica::{Replica, Row, Table};

/// What is wrong, and how to make it so.
type Forgery = (&'static str, Box<dyn Fn(&mut Table)>);

const SESSION: SessionId = SessionId(1);

fn entry(index: u64, command: &Command) -> Entry {
    Entry { term: Term(1), index: Index(index), time_ms: 0, payload: Payload::Data(command.encode()) }
}

/// A replica with a session that has run three commands and acknowledged one, by entries 1 to 4.
fn replica() -> Replica {
    let mut replica = Replica::start(Settings::default());
    let terms = SessionTerms { identity: "alice".to_owned(), secret: SessionSecret(1).digest(), timeout_ms: 1_000 };
    let write = |seq, acked_up_to| Command::SessionWrite {
        session: SESSION,
        seq,
        acked_up_to,
        is_ephemeral: false,
        data: Bytes::from_static(b"add n 1"),
    };
    let commands = [Command::OpenSession(terms), write(1, 0), write(2, 0), write(3, 1)];
    let entries: Vec<_> = (1..).zip(&commands).map(|(index, command)| entry(index, command)).collect();
    replica.apply(&entries);
    replica
}

#[test]
fn a_snapshot_with_impossible_sessions_is_refused() {
    let row = |table: &mut Table| table.remove(&SESSION).expect("it is open");
    let changed = |change: fn(&mut Row)| move |table: &mut Table| change(table.get_mut(&SESSION).expect("it is open"));
    let forgeries: [Forgery; 10] = [
        ("the first command is 0", Box::new(changed(|row| row.next = 0))),
        ("nothing comes after the last number", Box::new(changed(|row| row.next = u64::MAX))),
        ("a reply is missing", Box::new(changed(|row| drop(row.replies.remove(&2))))),
        ("the last reply is missing", Box::new(changed(|row| drop(row.replies.remove(&3))))),
        (
            "there is a reply too many",
            Box::new(changed(|row| drop(row.replies.insert(4, (Index(4), Err(CommandError::Refused(String::new()))))))),
        ),
        ("an acknowledged reply is remembered", Box::new(changed(|row| row.acked_up_to = 2))),
        ("what has not run is acknowledged", Box::new(changed(|row| row.acked_up_to = u64::MAX))),
        (
            "it was opened after the snapshot",
            Box::new(move |table| {
                let row = Row { next: 1, acked_up_to: 0, replies: [].into(), ..row(table) };
                table.insert(SessionId(5), row);
            }),
        ),
        (
            "it was opened by no entry",
            Box::new(move |table| {
                let row = row(table);
                table.insert(SessionId(0), row);
            }),
        ),
        (
            "it has run more commands than there are entries",
            Box::new(move |table| {
                let row = row(table);
                table.insert(SessionId(2), row);
            }),
        ),
    ];
    for (what, forge) in forgeries {
        let mut replica = replica();
        let snapshot = replica.snapshot().forged(forge);
        let refused = replica.restore(&snapshot);
        assert!(matches!(refused, Err(StartError::Source(_))), "{what}: {refused:?}");
    }
    let mut replica = replica();
    let snapshot = replica.snapshot().forged(|_| {});
    assert_eq!(replica.restore(&snapshot), Ok(()), "what a machine has written is not refused");
}

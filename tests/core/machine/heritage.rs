//! Defects of zraft_lib that this machine must not have: see `docs/heritage.md`.

use bytes::Bytes;
use zraft::machine::{Command, Outcome, SessionTerms};
use zraft::protocol::{SessionRefusal, SessionSecret};
use zraft::raft::{Entry, Payload};
use zraft::settings::Settings;
use zraft::types::{Index, SessionId, Term};

use super::replica::Replica;

/// Commands as entries, from index 1 on, an hour apart: whoever expires sessions by the clock has all of them gone.
fn entries(commands: impl IntoIterator<Item = Command>) -> Vec<Entry> {
    const HOUR_MS: u64 = 3_600_000;
    let entry = |(index, command): (u64, Command)| {
        let payload = Payload::Data(command.encode());
        Entry { term: Term(1), index: Index(index), time_ms: index * HOUR_MS, payload }
    };
    (1..).zip(commands).map(entry).collect()
}

fn open() -> Command {
    let secret = SessionSecret(1).digest();
    Command::OpenSession(SessionTerms { identity: "alice".to_owned(), secret, timeout_ms: 1_000 })
}

fn send(session: u64, seq: u64, acked_up_to: u64, is_ephemeral: bool, text: &'static str) -> Command {
    let data = Bytes::from_static(text.as_bytes());
    Command::SessionWrite { session: SessionId(session), seq, acked_up_to, is_ephemeral, data }
}

fn expire(session: u64) -> Command {
    Command::ExpireSession { session: SessionId(session) }
}

/// zraft_lib expired sessions once a batch, by the batch's time, so replicas that got other batches parted.
#[test]
fn sessions_expire_at_their_entries_however_entries_are_batched() {
    let history = entries([
        open(),
        open(),
        send(1, 1, 0, true, "put a 1"),
        send(2, 1, 0, true, "put b 1"),
        expire(1),
        send(1, 2, 0, false, "put a 2"),
        send(2, 2, 0, false, "add n 1"),
        expire(2),
        send(2, 3, 0, false, "add n 1"),
    ]);
    let states = (1..=history.len()).map(|size| {
        let mut replica = Replica::start(Settings::default());
        let outcomes: Vec<_> = history.chunks(size).flat_map(|batch| replica.apply(batch)).collect();
        (outcomes, replica.machine.chain(), replica.query(), replica.table())
    });
    let states: Vec<_> = states.collect();
    assert!(states.iter().all(|state| *state == states[0]));
    let (outcomes, _, data, table) = &states[0];
    assert_eq!((data.as_ref(), table.len()), (&b"n=1"[..], 0), "each ran while its session was open");
    let refused = |index: usize| matches!(outcomes[index - 1].outcome, Outcome::Refused(SessionRefusal::Expired));
    assert_eq!((1..=history.len()).filter(|index| refused(*index)).collect::<Vec<_>>(), [6, 9]);
}

/// zraft_lib forgot acknowledged replies, and with them that their commands had run: a late copy ran again.
#[test]
fn a_late_copy_of_an_acknowledged_command_does_not_run_again() {
    let mut replica = Replica::start(Settings::default());
    let history = entries([
        open(),
        send(1, 1, 0, false, "add n 1"),
        send(1, 2, 1, false, "add n 1"),
        send(1, 1, 0, false, "add n 1"),
        send(1, 2, 0, false, "add n 1"),
    ]);
    let applied = replica.apply(&history);
    assert!(matches!(applied[3].outcome, Outcome::Refused(SessionRefusal::AlreadyAcknowledged)), "{applied:?}");
    assert!(matches!(applied[4].outcome, Outcome::Answered { seq: 2, index: Index(3), .. }), "{applied:?}");
    let snapshot = replica.snapshot();
    replica.restore(&snapshot).unwrap();
    assert_eq!(replica.query(), "n=2", "also after a snapshot");
}

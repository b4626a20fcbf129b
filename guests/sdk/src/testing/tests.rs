//! A backend for each breach that the harness is to find.

use std::cell::Cell;

use super::*;
use crate::{Query, Raw, Snapshot};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breach {
    None,
    QueriesChange,
    Forgets,
    Cuts,
    Refuses,
    Empty,
}

/// Strings together what it is told.
struct Text {
    breach: Breach,
    bytes: Vec<u8>,
    queries: Cell<u8>,
}

impl Text {
    fn start(breach: Breach) -> Cluster<Self> {
        let mut cluster = Cluster::start(format!("{breach:?}").as_bytes()).unwrap();
        cluster.write(&b"some".to_vec()).unwrap();
        let session = cluster.open_session();
        cluster.write_ephemeral(session, &b"thing".to_vec()).unwrap();
        cluster.query(&b"?".to_vec()).unwrap();
        cluster.end_session(session);
        cluster
    }
}

impl Backend for Text {
    const VERSION: &'static str = "text 1";
    type Codec = Raw;
    type Command = Vec<u8>;
    type Query = Vec<u8>;
    type Reply = Vec<u8>;

    fn init(config: &[u8]) -> Result<Self, String> {
        let all = [Breach::None, Breach::QueriesChange, Breach::Forgets, Breach::Cuts, Breach::Refuses, Breach::Empty];
        let breach = all.into_iter().find(|breach| format!("{breach:?}").as_bytes() == config);
        Ok(Self { breach: breach.ok_or("no such breach")?, bytes: Vec::new(), queries: Cell::new(0) })
    }

    fn apply(&mut self, command: Vec<u8>, at: &mut Apply) -> Result<Vec<u8>, String> {
        if command.contains(&0) {
            return Err("a zero".to_owned());
        }
        self.bytes.extend(command);
        at.changed("text");
        Ok(self.bytes.clone())
    }

    fn query(&self, _query: Vec<u8>, at: &mut Query) -> Result<Vec<u8>, String> {
        at.watch("text");
        self.queries.set(self.queries.get() + u8::from(self.breach == Breach::QueriesChange));
        Ok(self.bytes.clone())
    }

    fn expire_session(&mut self, session: u64, at: &mut Apply) {
        self.bytes.extend(session.to_string().bytes());
        at.changed("text");
    }
}

impl Snapshot for Text {
    type Reader = (bool, usize);
    type Writer = (Text, Vec<u8>);

    fn next_chunk(&self, (began, position): &mut (bool, usize), max_bytes: usize) -> Option<Vec<u8>> {
        if !std::mem::replace(began, true) {
            let cut = if self.breach == Breach::Cuts { (max_bytes % 251) as u8 } else { 0 };
            return Some(vec![cut ^ self.queries.get()]);
        }
        let end = self.bytes.len().min(*position + max_bytes);
        let chunk = self.bytes[*position..end].to_vec();
        *position = end;
        (!chunk.is_empty() || self.breach == Breach::Empty).then_some(chunk)
    }

    fn begin(origin: &Origin) -> Result<(Text, Vec<u8>), String> {
        let text = Text::init(&origin.config)?;
        if text.breach == Breach::Refuses { Err("no good".to_owned()) } else { Ok((text, Vec::new())) }
    }

    fn take_chunk((_, bytes): &mut (Text, Vec<u8>), chunk: Vec<u8>) -> Result<(), String> {
        bytes.extend(chunk);
        Ok(())
    }

    fn finish((mut text, mut bytes): (Text, Vec<u8>)) -> Result<Text, String> {
        if text.breach == Breach::Forgets && bytes.len() > 1 {
            bytes.pop();
        }
        text.bytes = bytes.split_off(1);
        Ok(text)
    }
}

fn complaint(of: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(of).expect_err("the breach is found");
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().expect("a message").to_string(),
    }
}

#[test]
fn what_keeps_its_promises_passes() {
    let mut cluster = Text::start(Breach::None);
    cluster.restart();
    cluster.check();
    assert_eq!(cluster.state().bytes, b"something2");
}

#[test]
fn each_breach_is_found() {
    for (breach, expected) in [
        (Breach::QueriesChange, "without the queries, the state is written otherwise"),
        (Breach::Forgets, "what was restored is written otherwise"),
        (Breach::Cuts, "how a snapshot is cut shows"),
        (Breach::Refuses, "refused its own snapshot: no good"),
        (Breach::Empty, "a chunk of 0 bytes"),
    ] {
        let found = complaint(move || Text::start(breach).check());
        assert!(found.contains(expected), "{breach:?}: {found}");
    }
    assert!(Cluster::<Text>::start(b"fast").is_err());
}

#[test]
fn triggers_fire_for_what_changes_after_their_query() {
    let mut cluster = Text::start(Breach::None);
    let (reply, trigger) = cluster.watch(&b"?".to_vec());
    assert_eq!(reply.unwrap(), b"something2");
    assert_eq!(cluster.write_bytes(b"\0"), Err("a zero".to_owned()));
    assert!(!cluster.has_fired(trigger));
    assert!(cluster.changed().is_empty());
    cluster.write(&b"!".to_vec()).unwrap();
    assert!(cluster.has_fired(trigger));
    assert_eq!((cluster.changed(), cluster.index()), (&[b"text".to_vec()][..], 6));
}

#[test]
fn samples_tell_what_was_done() {
    let mut cluster = Text::start(Breach::None);
    cluster.wait_ms(50);
    cluster.write(&b"hex:".to_vec()).unwrap();
    cluster.write(&vec![1, 255]).unwrap();
    let expected =
        "write some\nsession s2\nephemeral s2 thing\nquery ?\nend s2\nwait 50\nwrite hex:6865783a\nwrite hex:01ff\n";
    assert_eq!(cluster.samples(), expected);
}

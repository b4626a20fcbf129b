//! The demo's second half: a session whose leader goes away in the middle of it.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{PATIENCE, Tour, in_ms};
use crate::cli::output::Failure;
use crate::client::{Client, Kv, KvCommand, KvExpected, KvReply, KvSession, Notice, Notices, Session, SessionOptions};
use crate::codec;

/// How long a session lives without a sign of its client: longer than an election.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const SESSION_WRITES: usize = 1000;
const COUNTER: &str = "counter";
const LOCK: &str = "lock";

impl Tour {
    /// Writes, locks and watches by a session while the leader is stopped.
    pub(super) async fn use_a_session(&mut self, client: &Client, kv: &Kv) -> Result<(), Failure> {
        let (session, mut notices) = self.open(client).await?;
        session.put_ephemeral(LOCK, "held by a session").await?;
        let watched = session.watch(COUNTER).await?;
        self.step("A session was opened; it holds an ephemeral key and watches another.");

        let stopped = self.count_by(session.session(), kv).await?;
        let held = session.get(LOCK).await?.is_some();
        expect(held, "an ephemeral key went with a connection")?;
        let fired = next(&mut notices).await?;
        let is_it = matches!(fired, Notice::Fired { trigger, .. } if trigger == watched.trigger);
        expect(is_it, "the trigger did not fire")?;
        self.step(
            "Its ephemeral key outlived the connection, and its trigger fired, once, at the first of the writes.",
        );

        let started = Instant::now();
        session.session().close().await?;
        expect(kv.get(LOCK).await?.is_none(), "an ephemeral key outlived its session")?;
        expect(matches!(next(&mut notices).await?, Notice::Ended(_)), "a trigger fired twice")?;
        self.step(format_args!(
            "The session was closed, and its ephemeral key is gone ({}).",
            in_ms(started.elapsed())
        ));
        self.local.start_node(stopped)
    }

    async fn open(&self, client: &Client) -> Result<(KvSession, Notices), Failure> {
        let options = SessionOptions { request_timeout: PATIENCE, ..SessionOptions::default() };
        let (session, notices) =
            Session::connect_with(client.clone(), self.local.peers(), SESSION_TIMEOUT, options).await?;
        Ok((KvSession::new(session), notices))
    }

    /// Counts up by writes each of which is done only where exactly those before it were, and stops the leader's node in
    /// the middle. Returns which node that was.
    async fn count_by(&mut self, session: &Session, kv: &Kv) -> Result<usize, Failure> {
        let started = Instant::now();
        let mut pending = Vec::with_capacity(SESSION_WRITES);
        let mut stopped = 0;
        for number in 0..SESSION_WRITES {
            let expected = match number.checked_sub(1) {
                None => KvExpected::Absent,
                Some(before) => KvExpected::Value(before.to_string().into_bytes()),
            };
            let (key, new) = (COUNTER.as_bytes().to_vec(), Some(number.to_string().into_bytes()));
            let command = codec::encode(&KvCommand::CompareAndSet { key, expected, new });
            pending.push(session.submit(command).await?);
            if number == SESSION_WRITES / 2 {
                stopped = self.leader(kv).await?;
                self.local.stop_node(stopped).await?;
            }
        }
        for written in pending {
            let reply = codec::decode(&written.await?.reply).map_err(|error| Failure::failed(error.to_string()))?;
            expect(matches!(reply, KvReply::Written { .. }), "a write of a session was run twice, or out of order")?;
        }
        self.step(format_args!(
            "{SESSION_WRITES} writes of the session, with the leader stopped in the middle: each was run once, in order ({}).",
            in_ms(started.elapsed())
        ));
        Ok(stopped)
    }
}

async fn next(notices: &mut Notices) -> Result<Notice, Failure> {
    let notice = timeout(PATIENCE, notices.next()).await.ok().flatten();
    notice.ok_or_else(|| Failure::failed("the session had nothing to tell"))
}

fn expect(holds: bool, what_failed: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::failed(what_failed)) }
}

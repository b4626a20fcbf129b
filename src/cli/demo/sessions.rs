//! A session whose leader goes away: what it holds and watches stays.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{PATIENCE, Tour, in_ms};
use crate::cli::output::Failure;
use crate::client::{Client, Kv, KvSession, Notice, Notices, Session, SessionOptions};

/// How long a session lives without a sign of its client: longer than an election.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const WATCHED: &str = "watched";
const LOCK: &str = "lock";

impl Tour {
    /// Locks and watches by a session while the leader is stopped.
    pub(super) async fn use_a_session(&mut self, client: &Client, kv: &Kv) -> Result<(), Failure> {
        let (session, mut notices) = self.open(client).await?;
        session.put_ephemeral(LOCK, "held by a session").await?;
        let watched = session.watch(WATCHED).await?;
        self.step("A session was opened; it holds an ephemeral key and watches another.");

        let stopped = self.leader(kv).await?;
        self.local.stop_node(stopped).await?;
        session.put(WATCHED, "changed").await?;
        let held = session.get(LOCK).await?.is_some();
        expect(held, "an ephemeral key went with a connection")?;
        let fired = next(&mut notices).await?;
        let is_it = matches!(fired, Notice::Fired { trigger, .. } if trigger == watched.trigger);
        expect(is_it, "the trigger did not fire")?;
        self.step(
            "The leader was stopped: the ephemeral key outlived the connection, and the trigger fired, once, at the next write.",
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
}

async fn next(notices: &mut Notices) -> Result<Notice, Failure> {
    let notice = timeout(PATIENCE, notices.next()).await.ok().flatten();
    notice.ok_or_else(|| Failure::failed("the session had nothing to tell"))
}

pub(super) fn expect(holds: bool, what_failed: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::failed(what_failed)) }
}

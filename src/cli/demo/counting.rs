//! A counter shows how often each write was run: a session's run once, though its leader goes away in the middle.

use std::time::Instant;

use bytes::Bytes;

use super::sessions::{SESSION_TIMEOUT, expect};
use super::{PATIENCE, Tour, in_ms};
use crate::cli::cluster::BUNDLED_COUNTER;
use crate::cli::output::Failure;
use crate::client::{Client, NewCluster, Session, SessionOptions};
use crate::types::PeerId;

const WRITES: usize = 1000;
const COUNTER: &str = "counter";

impl Tour {
    /// Counts to a thousand by the writes of a session, and stops the leader's node at half of it. Returns how far it
    /// counted.
    pub(super) async fn count(&mut self, client: &Client) -> Result<usize, Failure> {
        let peers = self.local.peers_named(COUNTER);
        let component = Bytes::from_static(BUNDLED_COUNTER);
        client.create(NewCluster::new(peers.clone(), component)).await?;
        let options = SessionOptions { request_timeout: PATIENCE, ..SessionOptions::default() };
        let (session, _notices) =
            Session::connect_with(client.clone(), peers.clone(), SESSION_TIMEOUT, options).await?;

        let started = Instant::now();
        let mut pending = Vec::with_capacity(WRITES);
        let mut stopped = 0;
        for number in 0..WRITES {
            pending.push(session.submit("1").await?);
            if number == WRITES / 2 {
                stopped = self.number_of(&leader(client, &peers).await?);
                self.local.stop_node(stopped).await?;
            }
        }
        for (before, written) in pending.into_iter().enumerate() {
            let sum = written.await?.reply;
            expect(sum == (before + 1).to_string(), "a write of a session was run twice, or out of order")?;
        }
        let sum = session.query("null").await?;
        expect(sum == WRITES.to_string(), "the counter has not counted every write once")?;
        self.step(format_args!(
            "A second cluster was created, of a counter. {WRITES} writes of a session, with the leader stopped in the \
             middle, counted to {WRITES}: each was run once, in order ({}).",
            in_ms(started.elapsed())
        ));
        session.close().await?;
        self.local.start_node(stopped)?;
        Ok(WRITES)
    }
}

async fn leader(client: &Client, peers: &[PeerId]) -> Result<PeerId, Failure> {
    Ok(client.get_conf(&peers[0], PATIENCE).await?.leader)
}

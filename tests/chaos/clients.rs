//! The workloads on a thread of their own, so that nothing that the harness waits for delays a client.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::history::History;
use crate::work::{ClusterInfo, Target, Workloads};

/// Clients that run until they are told to end.
pub struct Clients {
    clusters: Vec<ClusterInfo>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<History>,
}

impl Clients {
    /// Creates the clusters and starts the clients.
    pub async fn start(target: Target, seed: u64, start: Instant) -> Result<Self, String> {
        let ((end, told), (tell, ended), (started, has_started)) =
            (oneshot::channel(), oneshot::channel(), oneshot::channel());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot make a runtime: {error}"))?;
        let run = async move {
            let workloads = Workloads::start(target, seed, start).await;
            // Whoever does not wait any more has given the run up.
            match workloads {
                Ok(workloads) => {
                    let _ = started.send(Ok(workloads.clusters()));
                    let _ = told.await;
                    let _ = tell.send(workloads.finish().await);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("clients".to_owned()).spawn(move || runtime.block_on(run));
        thread.map_err(|error| format!("cannot start the clients: {error}"))?;
        let clusters = has_started.await.map_err(|_| "the clients have panicked")??;
        Ok(Self { clusters, end, ended })
    }

    /// The clusters that they use.
    pub fn clusters(&self) -> &[ClusterInfo] {
        &self.clusters
    }

    /// Lets them come to an end, and returns what they have seen.
    pub async fn finish(self) -> Result<History, String> {
        // An error is told by the other channel as well.
        let _ = self.end.send(());
        self.ended.await.map_err(|_| "the clients have panicked".to_owned())
    }
}

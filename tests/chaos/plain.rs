//! All clients against three nodes to which nothing happens.

use std::time::{Duration, Instant};

use zraft::transport::TlsFiles;

use crate::check::{self, Outcome};
use crate::harness::{Nodes, runtime};
use crate::history::{Outcome as Ended, Workload};
use crate::work::{Target, Workloads};

/// How long the clients work: long enough for several snapshots of each cluster.
const SECONDS: u64 = 20;

#[test]
fn everything_is_valid_when_nothing_fails() {
    let nodes = Nodes::start(3);
    let target = Target {
        addresses: (0..3).map(|number| nodes.address(number).clone()).collect(),
        tls: TlsFiles::in_folder(&nodes.certs(), "alice"),
        admin: TlsFiles::in_folder(&nodes.certs(), "admin"),
    };
    let history = runtime().block_on(async {
        let workloads = Workloads::start(target, 7, Instant::now()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        workloads.finish().await
    });
    for workload in Workload::ALL {
        let (all, ok) = history.of(workload).fold((0, 0), |(all, ok), operation| {
            (all + 1, ok + usize::from(matches!(operation.outcome, Ended::Ok(_))))
        });
        eprintln!("{}: {ok} of {all} operations went well", workload.name());
        assert!(ok > 40 && ok == all, "{}: {ok} of {all}", workload.name());
    }
    for verdict in check::check(&history) {
        assert!(matches!(verdict.outcome, Outcome::Valid { .. }), "{verdict:?}");
    }
}

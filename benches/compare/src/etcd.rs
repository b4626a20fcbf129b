//! Three nodes of etcd, with its own settings.

use std::process::Command;

use etcd_client::Client;
use zraft::load::{self, Driven, Measured, Plan, Service};

use crate::processes::{Folder, Process, free_port, runtime, until_some};
use crate::{CLIENTS_A_CONNECTION, Kind, Scenario, System};

const NODES: usize = 3;

pub struct Etcd {
    nodes: Vec<Process>,
    endpoints: Vec<String>,
}

impl Etcd {
    /// Starts it, if it is there.
    pub fn start(folder: &Folder) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            eprintln!("etcd is not on the PATH and is left out");
            return None;
        }
        let url = || format!("http://127.0.0.1:{}", free_port());
        let (endpoints, peers): (Vec<_>, Vec<_>) = (0..NODES).map(|_| (url(), url())).unzip();
        let names: Vec<_> = peers.iter().enumerate().map(|(number, peer)| format!("n{number}={peer}")).collect();
        let nodes = (0..NODES).map(|number| {
            let data = folder.make(&format!("etcd-{number}"));
            let (endpoint, peer) = (&endpoints[number], &peers[number]);
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("n{number}"), "--log-level", "error"]).arg("--data-dir").arg(&data).args(
                [
                    "--listen-client-urls",
                    endpoint,
                    "--advertise-client-urls",
                    endpoint,
                    "--listen-peer-urls",
                    peer,
                    "--initial-advertise-peer-urls",
                    peer,
                    "--initial-cluster",
                    &names.join(","),
                ],
            );
            Process::start(&mut command, &data)
        });
        let etcd = Self { nodes: nodes.collect(), endpoints };
        until_some("an election of etcd", || runtime().block_on(etcd.leader()));
        Some(etcd)
    }

    /// The endpoint of its leader: clients that ask it are served fastest.
    async fn leader(&self) -> Option<String> {
        for endpoint in &self.endpoints {
            let Ok(mut client) = Client::connect([endpoint], None).await else { continue };
            let Ok(status) = client.status().await else { continue };
            let me = status.header().map(etcd_client::ResponseHeader::member_id);
            if me == Some(status.leader()) {
                return Some(endpoint.clone());
            }
        }
        None
    }
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn measure(&self, scenario: &Scenario, plan: &Plan) -> Option<Measured> {
        let is_known = matches!(scenario.kind, Kind::Writes | Kind::Reads);
        is_known.then(|| load::run(self, plan, |_, _| {}).expect("etcd can be driven"))
    }

    fn memory_bytes(&self) -> u64 {
        self.nodes.iter().map(Process::memory_bytes).sum()
    }
}

impl Service for Etcd {
    type Client = One;

    async fn connect(&self, _thread: usize, count: usize) -> Result<Vec<One>, String> {
        let leader = self.leader().await.ok_or("etcd has no leader")?;
        let mut connections = Vec::new();
        for _ in 0..count.div_ceil(CLIENTS_A_CONNECTION) {
            connections.push(Client::connect([&leader], None).await.map_err(|error| error.to_string())?);
        }
        Ok((0..count).map(|number| One(connections[number % connections.len()].clone())).collect())
    }
}

pub struct One(Client);

impl Driven for One {
    async fn write(&mut self, key: u64, value: &[u8]) -> Result<(), String> {
        self.0.put(name(key), value, None).await.map(drop).map_err(|error| error.to_string())
    }

    async fn read(&mut self, key: u64) -> Result<(), String> {
        // Linearizable unless it is asked for otherwise.
        self.0.get(name(key), None).await.map(drop).map_err(|error| error.to_string())
    }
}

fn name(key: u64) -> String {
    format!("key-{key:012}")
}

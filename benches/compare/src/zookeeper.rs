//! Three nodes of ZooKeeper, with its own settings.

use std::path::Path;
use std::process::Command;

use zookeeper_client::{Acls, Client, CreateMode, Error};
use zraft::load::{self, Driven, Measured, Plan, Service};

use crate::processes::{Folder, Process, free_port, runtime, until_some};
use crate::{CLIENTS_A_CONNECTION, KEYS, Kind, Scenario, System};

/// Where Debian has it.
const SERVER: &str = "/usr/share/zookeeper/bin/zkServer.sh";
const NODES: usize = 3;
/// Above all nodes that are written.
const ROOT: &str = "/compare";
/// Creations under way at a time.
const CREATING: usize = 256;

pub struct ZooKeeper {
    nodes: Vec<Process>,
    servers: Vec<String>,
}

impl ZooKeeper {
    /// Starts it, if it is there, and makes the nodes that are written.
    pub fn start(folder: &Folder) -> Option<Self> {
        if !Path::new(SERVER).exists() {
            eprintln!("there is no {SERVER}: ZooKeeper is left out");
            return None;
        }
        let ports: Vec<_> = (0..NODES).map(|_| (free_port(), free_port(), free_port())).collect();
        let members: String = ports
            .iter()
            .enumerate()
            .map(|(number, (_, peer, election))| format!("server.{}=127.0.0.1:{peer}:{election}\n", number + 1))
            .collect();
        let nodes = ports.iter().enumerate().map(|(number, (client, ..))| {
            let data = folder.make(&format!("zookeeper-{number}"));
            let config = data.join("zoo.cfg");
            let text = format!(
                "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\nadmin.enableServer=false\n\
                 dataDir={}\nclientPort={client}\n{members}",
                data.display()
            );
            std::fs::write(data.join("myid"), (number + 1).to_string()).expect("the folder can be written");
            std::fs::write(&config, text).expect("the folder can be written");
            let mut command = Command::new(SERVER);
            command
                .arg("start-foreground")
                .arg(&config)
                .env("ZOO_LOG_DIR", &data)
                .env("ZOO_LOG4J_PROP", "ERROR,CONSOLE");
            Process::start(&mut command, &data)
        });
        let nodes = nodes.collect();
        let servers = ports.iter().map(|(client, ..)| format!("127.0.0.1:{client}")).collect();
        let zookeeper = Self { nodes, servers };
        until_some("an election of ZooKeeper", || runtime().block_on(zookeeper.fill()).ok());
        Some(zookeeper)
    }

    async fn fill(&self) -> Result<(), Error> {
        let client = Client::connect(&self.servers.join(",")).await?;
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let made = |result: Result<_, Error>| match result {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(error),
        };
        made(client.create(ROOT, b"", &options).await)?;
        let names: Vec<_> = (0..KEYS).map(name).collect();
        for names in names.chunks(CREATING) {
            // They are sent as they are made, and answered in this order.
            let creating: Vec<_> = names.iter().map(|name| client.create(name, b"", &options)).collect();
            for one in creating {
                made(one.await)?;
            }
        }
        Ok(())
    }
}

impl System for ZooKeeper {
    fn name(&self) -> &'static str {
        "ZooKeeper"
    }

    fn measure(&self, scenario: &Scenario, plan: &Plan) -> Option<Measured> {
        let is_known = matches!(scenario.kind, Kind::Writes | Kind::Reads);
        is_known.then(|| load::run(self, plan, |_, _| {}).expect("ZooKeeper can be driven"))
    }

    fn memory_bytes(&self) -> u64 {
        self.nodes.iter().map(Process::memory_bytes).sum()
    }
}

impl Service for ZooKeeper {
    type Client = One;

    async fn connect(&self, _thread: usize, count: usize) -> Result<Vec<One>, String> {
        let mut connections = Vec::new();
        for number in 0..count.div_ceil(CLIENTS_A_CONNECTION) {
            // Over all servers in turn.
            let server = &self.servers[number % NODES];
            connections.push(Client::connect(server).await.map_err(|error| error.to_string())?);
        }
        Ok((0..count).map(|number| One(connections[number % connections.len()].clone())).collect())
    }
}

pub struct One(Client);

impl Driven for One {
    async fn write(&mut self, key: u64, value: &[u8]) -> Result<(), String> {
        self.0.set_data(&name(key), value, None).await.map(drop).map_err(|error| error.to_string())
    }

    /// A read is linearizable behind a sync; both are sent at once.
    async fn read(&mut self, key: u64) -> Result<(), String> {
        let name = name(key);
        let (sync, read) = tokio::join!(self.0.sync(&name), self.0.get_data(&name));
        sync.map_err(|error| error.to_string())?;
        read.map(drop).map_err(|error| error.to_string())
    }
}

fn name(key: u64) -> String {
    format!("{ROOT}/key-{key:012}")
}

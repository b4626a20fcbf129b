//! A network of the harness's own: each node in a namespace, and every packet through a router that does harm.
//!
//! Each place (a node's namespace, or the root namespace for the clients) has a TUN device whose other end the harness
//! holds. So no packet gets from one place to another but by [`router`], which asks [`rules`] what becomes of it.

mod router;
pub mod rules;

use std::net::Ipv4Addr;
use std::sync::Arc;

use router::Router;
use rules::Rules;
use tun_rs::DeviceBuilder;
use zraft::types::NodeAddr;

use crate::shell;

/// What the names of all namespaces of the harness begin with; the id of its process and the node's number follow.
const PREFIX: &str = "zraft-chaos-";
/// The clients' address in the network: the last part of it. Nodes count from one.
const CLIENTS_HOST: u8 = 100;
const PORT: u16 = 7400;
const MTU: u16 = 1500;

/// The namespaces, and the router between them. Taken down when dropped.
pub struct Network {
    /// Its third part; the first two are 10.77.
    subnet: u8,
    namespaces: Vec<String>,
    rules: Arc<Rules>,
    router: Option<Router>,
}

impl Network {
    /// Makes a network for so many nodes, and one place more for clients in the root namespace.
    pub fn make(nodes: usize, seed: u64) -> Result<Self, String> {
        let process = std::process::id();
        let mut network =
            Self { subnet: free_subnet()?, namespaces: Vec::new(), rules: Arc::new(Rules::new(nodes)), router: None };
        let mut places = Vec::new();
        let runtime = router::runtime()?;
        for node in 0..nodes {
            let (namespace, device) = (format!("{PREFIX}{process}-{node}"), format!("zc{process}n{node}"));
            shell::run("ip", &["netns", "add", &namespace])?;
            network.namespaces.push(namespace.clone());
            places.push((network.ip(node), tun(&runtime, &device)?));
            let address = format!("{}/24", network.ip(node));
            shell::run("ip", &["link", "set", &device, "netns", &namespace])?;
            shell::run("ip", &["-n", &namespace, "address", "add", &address, "dev", &device])?;
            shell::run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
            shell::run("ip", &["-n", &namespace, "link", "set", &device, "up"])?;
        }
        let device = format!("zc{process}c");
        let clients = Ipv4Addr::new(10, 77, network.subnet, CLIENTS_HOST);
        places.push((clients, tun(&runtime, &device)?));
        shell::run("ip", &["address", "add", &format!("{clients}/24"), "dev", &device])?;
        shell::run("ip", &["link", "set", &device, "up"])?;
        network.router = Some(Router::start(runtime, places, Arc::clone(&network.rules), seed)?);
        Ok(network)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: usize) -> &str {
        &self.namespaces[node]
    }

    /// The address that a node advertises.
    pub fn address(&self, node: usize) -> NodeAddr {
        format!("{}:{PORT}", self.ip(node)).parse().expect("an IP address and a port")
    }

    /// What becomes of packets.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    fn ip(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, u8::try_from(node + 1).expect("a handful of nodes"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The devices go with the router, which holds their other ends.
        self.router = None;
        for namespace in &self.namespaces {
            if let Err(error) = shell::run("ip", &["netns", "delete", namespace]) {
                eprintln!("a namespace is left: {error}");
            }
        }
    }
}

/// Removes namespaces of runs that are over, and ends the nodes that are still in them.
pub fn remove_leftovers() -> Result<(), String> {
    for line in shell::run("ip", &["netns", "list"])?.lines() {
        let Some(namespace) = line.split_whitespace().next().filter(|name| name.starts_with(PREFIX)) else { continue };
        let owner = namespace[PREFIX.len()..].split('-').next().and_then(|process| process.parse().ok());
        if owner.is_some_and(shell::is_alive) {
            continue;
        }
        for process in shell::run("ip", &["netns", "pids", namespace])?.split_whitespace() {
            // It may have ended by itself meanwhile.
            let _ = shell::run("kill", &["-KILL", process]);
        }
        shell::run("ip", &["netns", "delete", namespace])?;
    }
    Ok(())
}

fn tun(runtime: &tokio::runtime::Runtime, name: &str) -> Result<tun_rs::AsyncDevice, String> {
    let _inside = runtime.enter();
    let device = DeviceBuilder::new().name(name).mtu(MTU).enable(false).build_async();
    device.map_err(|error| format!("cannot make the TUN device {name}: {error}"))
}

/// A network 10.77.N.0/24 that nothing here uses; runs that go on at once begin to look at different places.
fn free_subnet() -> Result<u8, String> {
    let used = shell::run("ip", &["-4", "-oneline", "address"])? + &shell::run("ip", &["-4", "route"])?;
    let first = std::process::id() % 254;
    let candidates = (0..254).map(|step| u8::try_from((first + step) % 254 + 1).expect("below 255"));
    let mut free = candidates.filter(|subnet| !used.contains(&format!("10.77.{subnet}.")));
    free.next().ok_or_else(|| "every network 10.77.N.0/24 is in use".to_owned())
}

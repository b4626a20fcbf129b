//! Measures zraft beside etcd and ZooKeeper: three nodes of each on this machine, with fsync on, driven by one generator.
//!
//! ```text
//! cargo run --release --manifest-path benches/compare/Cargo.toml             # everything; a quarter of an hour
//! cargo run --release --manifest-path benches/compare/Cargo.toml -- --quick  # once and shorter
//! cargo run --release --manifest-path benches/compare/Cargo.toml -- --own lone,clusters,growth,memory
//! ```
//!
//! It installs nothing: `etcd` must be on the PATH, ZooKeeper where Debian's package `zookeeper` puts it, and `protoc` builds
//! the client of etcd. Who is not there is left out. It works in a folder of its own under `target/`, which must be on a real
//! disk. Other load disturbs the figures. With `--own` it compares zraft with itself: see [`own::Section`].

mod etcd;
mod own;
mod processes;
mod table;
mod zookeeper;
mod zraft_nodes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use zraft::load::{Measured, Plan};

use processes::Folder;
use table::Table;

/// Each scenario is measured so often, one system after the other; medians are told.
const RUNS: usize = 5;
const DURATION: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(1);
/// With `--quick`.
const QUICK_DURATION: Duration = Duration::from_secs(2);

const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 128;
/// Clients that share a connection.
const CLIENTS_A_CONNECTION: usize = 64;

/// Measures zraft beside etcd and ZooKeeper.
#[derive(Parser)]
struct Arguments {
    /// Each scenario once, and shorter.
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Leave these systems out.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Compare zraft with itself instead.
    #[arg(long, value_enum, value_delimiter = ',')]
    own: Vec<own::Section>,
    /// The zraft binary. [default: the one that `cargo build --release` makes]
    #[arg(long)]
    zraft: Option<PathBuf>,
    /// Print tables of Markdown into this file as well; with `--own memory`, draw a picture into it.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Three nodes of something.
trait System {
    fn name(&self) -> &'static str;

    /// Measures; `None` where it has no such thing.
    fn measure(&self, scenario: &Scenario, plan: &Plan) -> Option<Measured>;

    /// How much memory its processes hold together, in bytes.
    fn memory_bytes(&self) -> u64;
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Writes,
    Reads,
    SessionWrites,
}

/// What is measured at once.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    kind: Kind,
    clients: usize,
}

impl Scenario {
    fn all() -> Vec<Self> {
        let of =
            |kind, clients: &[usize]| clients.iter().map(move |clients| Self { kind, clients: *clients }).collect();
        let scenarios: [Vec<_>; 3] = [
            of(Kind::Writes, &[1, 16, 64, 256, 1024]),
            of(Kind::Reads, &[1, 16, 64, 256, 1024]),
            of(Kind::SessionWrites, &[64, 256]),
        ];
        scenarios.concat()
    }

    fn name(self) -> String {
        let kind = match self.kind {
            Kind::Writes => "writes",
            Kind::Reads => "linearizable reads",
            Kind::SessionWrites => "session writes",
        };
        format!("{kind}, {} clients", self.clients)
    }

    fn plan(self, is_quick: bool) -> Plan {
        Plan {
            clients: self.clients,
            threads: 1,
            duration: if is_quick { QUICK_DURATION } else { DURATION },
            warm_up: WARM_UP,
            rate: None,
            reads_percent: if self.kind == Kind::Reads { 100 } else { 0 },
            keys: KEYS,
            value_bytes: VALUE_BYTES,
            seed: 0,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let folder = Folder::new();
    let binary = arguments.zraft.clone().unwrap_or_else(zraft_nodes::build);
    if !arguments.own.is_empty() {
        let zraft = zraft_nodes::Zraft::start(&folder, &binary);
        arguments.own.iter().for_each(|section| section.measure(&zraft, &folder, arguments.out.as_deref()));
        return ExitCode::SUCCESS;
    }
    let is_wanted = |name: &str| !arguments.without.iter().any(|without| without == name);
    let mut systems: Vec<Box<dyn System>> = Vec::new();
    if is_wanted("zraft") {
        systems.push(Box::new(zraft_nodes::Zraft::start(&folder, &binary)));
    }
    if is_wanted("etcd") {
        systems.extend(etcd::Etcd::start(&folder).map(|etcd| Box::new(etcd) as Box<dyn System>));
    }
    if is_wanted("zookeeper") {
        systems.extend(zookeeper::ZooKeeper::start(&folder).map(|zookeeper| Box::new(zookeeper) as Box<dyn System>));
    }
    let mut table = Table::new(systems.iter().map(|system| system.name()).collect());
    let runs = if arguments.quick { 1 } else { RUNS };
    println!("{}", table.head());
    for scenario in Scenario::all().into_iter().filter(|scenario| scenario.name().contains(&arguments.only)) {
        let plan = scenario.plan(arguments.quick);
        let mut measured: Vec<Vec<Measured>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..runs {
            for (system, measured) in systems.iter().zip(&mut measured) {
                measured.extend(system.measure(&scenario, &plan));
            }
        }
        println!("{}", table.add(scenario.name(), &measured));
    }
    for system in &systems {
        println!("{}: {} MiB in its processes at the end", system.name(), system.memory_bytes() >> 20);
    }
    if let Some(out) = &arguments.out
        && let Err(error) = std::fs::write(out, table.markdown())
    {
        eprintln!("cannot write {}: {error}", out.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

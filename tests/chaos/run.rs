//! One run: the world is made, harmed and mended, and judged.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::check::{self, Outcome, Verdict};
use crate::clients::Clients;
use crate::history::History;
use crate::nemesis::Nemesis;
use crate::net::{self, Network};
use crate::nodes::{Nodes, Program};
use crate::plan::{Kind, Plan};
use crate::report::{self, RunInfo};
use crate::scratch::{self, Scratch};
use crate::timeline::FaultRecord;
use crate::work::{ClusterInfo, Target};
use crate::world::{Cluster, World};
use crate::{Options, shell, verdict};

/// How long clients go on once all faults are over.
const CALM: Duration = Duration::from_secs(10);
/// How long they may take to come to an end then.
const FINISH: Duration = Duration::from_secs(180);
/// In the log of a node that was told to have a bug.
const SAYS_THAT_IT_IS_PLANTED: &str = "planted on purpose";

/// Runs it, and returns whether it is a pass.
pub async fn run(options: &Options, seed: u64) -> Result<bool, String> {
    require()?;
    net::remove_leftovers()?;
    scratch::remove_leftovers()?;
    let mut kinds = if options.only.is_empty() { Kind::ALL.to_vec() } else { options.only.clone() };
    let folder = folder(options, seed)?;
    let scratch = Scratch::make()?;
    let network = Network::make(options.nodes.into(), seed)?;
    let program = Program { binary: options.binary.clone(), planted: options.planted.clone() };
    let nodes = Nodes::prepare(&network, options.nodes.into(), program, &folder, scratch.path())?;
    if (0..nodes.count()).any(|node| !nodes.disk(node).has_power()) {
        println!("{} is left out: disks in memory have no power to cut", Kind::PowerCut.name());
        kinds.retain(|kind| *kind != Kind::PowerCut);
    }
    let admin = Admin::new(&nodes.admin(), nodes.addresses())?;
    let facts = facts(options, &nodes)?;
    for node in 0..nodes.count() {
        nodes.start(node)?;
    }
    for node in 0..nodes.count() {
        admin.until_answers(node).await?;
        if let Some(bug) = &options.planted
            && !nodes.log(node)?.contains(SAYS_THAT_IT_IS_PLANTED)
        {
            return Err(format!(
                "{} does not have the bug {bug}: build it with the feature `planted`",
                options.binary.display()
            ));
        }
    }
    let start = Instant::now();
    let target = Target { addresses: nodes.addresses(), tls: nodes.client(), admin: nodes.admin() };
    let clients = Clients::start(target, seed, start).await?;
    let clusters = clients.clusters().iter().map(cluster).collect::<Result<_, _>>()?;
    let world = Rc::new(World::new(nodes, network, admin, clusters, scratch));
    println!("{} nodes, clusters {}, report in {}", options.nodes, names(&world), folder.display());

    let length = Duration::from_secs(options.seconds);
    let plan = Plan::new(seed, kinds.clone(), length);
    let (records, result) = Nemesis::new(Rc::clone(&world), plan, &kinds, start).run(length).await;
    let mut failures: Vec<String> = result.err().into_iter().collect();
    failures.iter().for_each(|failure| println!("cut short: {failure}"));
    failures.extend(world.nodes.mend());
    let calm_since = start.elapsed();
    println!("{:7.1} s            all faults are over", calm_since.as_secs_f32());
    tokio::time::sleep(CALM).await;
    let finished = tokio::time::timeout(FINISH, clients.finish()).await;
    let history = match finished.unwrap_or_else(|_| Err("the clients do not come to an end".to_owned())) {
        Ok(history) => history,
        Err(error) => {
            failures.push(error);
            History::default()
        }
    };
    failures.extend(world.nodes.ended_unexpectedly().err());
    if failures.is_empty() {
        // Of a run that was cut short nobody expects it, and it would wait for long.
        failures.extend(verdict::unequal(&world).await);
    }
    failures.extend(verdict::wrong_in_logs(&world));
    failures.extend(verdict::without_bite(&kinds, &records));
    failures.extend(verdict::without_success(&history.successes_since(calm_since)));
    let verdicts = check::check(&history);
    let is_pass = failures.is_empty() && verdicts.iter().all(verdict::is_good);
    world.nodes.kill_all();
    if !is_pass {
        world.nodes.keep_data()?;
    }
    show(&kinds, &records, &verdicts, &failures);
    let info = RunInfo { seed, nodes: options.nodes.into(), took: start.elapsed(), facts, failures };
    report::write(&folder, &info, &history, &records, &verdicts).map_err(|error| format!("the report: {error}"))?;
    println!("{} (seed {seed}); report in {}", if is_pass { "PASS" } else { "FAIL" }, folder.display());
    Ok(is_pass)
}

/// Checks what an earlier run has recorded, and returns whether all is good.
pub fn check_again(history: &Path) -> Result<bool, String> {
    let history = History::read(history).map_err(|error| format!("{}: {error}", history.display()))?;
    let verdicts = check::check(&history);
    verdicts.iter().for_each(show_verdict);
    Ok(verdicts.iter().all(verdict::is_good))
}

/// Refuses to go on where it cannot.
fn require() -> Result<(), String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        return Err("namespaces and devices need root: run this as root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("there is no /dev/net/tun: the kernel needs the module tun".to_owned());
    }
    let tools = ["ip", "nsenter", "mkfs.ext4", "losetup", "mount", "umount", "strace", "perl", "env", "kill", "cp"];
    tools.iter().try_for_each(|tool| shell::is_there(tool).then_some(()).ok_or(format!("{tool} is needed: install it")))
}

fn folder(options: &Options, seed: u64) -> Result<PathBuf, String> {
    let usual = || {
        Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("chaos").join(format!("{seed}-{}", std::process::id()))
    };
    let folder = options.out.clone().unwrap_or_else(usual);
    let parent = folder.parent().unwrap_or(Path::new("."));
    let made = fs::create_dir_all(parent).and_then(|()| fs::create_dir(&folder)).and_then(|()| folder.canonicalize());
    made.map_err(|error| format!("the folder for the report, {}: {error}", folder.display()))
}

fn facts(options: &Options, nodes: &Nodes) -> Result<Vec<(String, String)>, String> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let kinds = options.only.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    Ok(vec![
        fact("zraft", nodes.zraft(&["--version"])?.trim().to_owned()),
        fact("binary", options.binary.display().to_string()),
        fact("seconds of faults", options.seconds.to_string()),
        fact("kinds of faults", if kinds.is_empty() { "all".to_owned() } else { kinds }),
        fact("planted bug", options.planted.clone().unwrap_or_else(|| "none".to_owned())),
    ])
}

fn cluster(info: &ClusterInfo) -> Result<Cluster, String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let build = read(&info.backend)?;
    let other = match &info.other_backend {
        Some(path) => read(path)?,
        None => another_build(&build),
    };
    Ok(Cluster { name: info.name.clone(), builds: vec![build.into(), other.into()] })
}

/// The same component with a section more that means nothing: so its digest is another.
fn another_build(component: &[u8]) -> Vec<u8> {
    const CUSTOM_SECTION: &[u8] = b"\x00\x06\x05chaos";
    [component, CUSTOM_SECTION].concat()
}

fn names(world: &World) -> String {
    world.clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn show(kinds: &[Kind], records: &[FaultRecord], verdicts: &[Verdict], failures: &[String]) {
    println!("\nfault              applied  bit");
    for (kind, (applied, bit)) in verdict::bites(kinds, records) {
        println!("{kind:17} {applied:8} {bit:4}");
    }
    println!();
    verdicts.iter().for_each(show_verdict);
    failures.iter().for_each(|failure| println!("FAILURE: {failure}"));
}

fn show_verdict(Verdict { workload, outcome }: &Verdict) {
    match outcome {
        Outcome::Valid { operations } => println!("{workload:10} valid, {operations} operations"),
        Outcome::Violation(what) => println!("{workload:10} VIOLATION: {what}"),
        Outcome::Unknown(why) => println!("{workload:10} UNKNOWN: {why}"),
    }
}

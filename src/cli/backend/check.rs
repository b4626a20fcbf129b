//! `zraft backend check`: has a component live the same life several times over, as replicas would, and compares.
//!
//! The machines are those that a node runs, so hash chains, sessions and verdicts are the real ones. What is not tried is the
//! network, and the log on a disk.

mod batches;
mod history;
mod promises;
mod queries;
mod report;
mod samples;
mod snapshots;
mod trial;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use crate::cli::cluster::read_component;
use crate::cli::compile;
use crate::cli::output::{Failure, Output};
use crate::machine::Genesis;
use crate::raft::{Configuration, SnapshotMeta};
use crate::settings::{Budgets, Settings};
use crate::types::{ClusterId, Digest, LogPosition};
use crate::wasm::{CompileLimits, Compiler, ComponentError, GUEST_THREAD_STACK_BYTES, Meter, Usage, Wasm};
use history::History;
use promises::{Finding, Promise, Stop};
use report::{MadeUp, Ran, Report};
use samples::Step;
use trial::{FirstLife, Trial};

#[derive(Debug, Args)]
#[command(after_help = samples::HELP)]
pub(in crate::cli) struct Check {
    /// The component: a file, or one that comes with zraft, such as `kv`.
    file: PathBuf,
    /// What it is initialized with: text.
    #[arg(long, default_value = "")]
    config: String,
    /// Messages that the backend knows; see below.
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// How many steps to draw from the samples, behind all of them in order; or to make up, without samples.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    steps: usize,
    /// Decides what is drawn or made up, and how batches and snapshots are cut.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Fuel for a command.
    #[arg(long, value_name = "N", default_value_t = Budgets::default().apply_fuel)]
    apply_fuel: u64,
    /// Fuel for a query.
    #[arg(long, value_name = "N", default_value_t = Budgets::default().query_fuel)]
    query_fuel: u64,
    /// Fuel for a start, and for a chunk of a snapshot.
    #[arg(long, value_name = "N", default_value_t = Budgets::default().chunk_fuel)]
    chunk_fuel: u64,
    /// Linear memory of an instance, in bytes.
    #[arg(long, value_name = "N", default_value_t = Budgets::default().memory_bytes)]
    memory_bytes: u64,
}

impl Check {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let component = read_component(&self.file)?;
        let plan = self.plan()?;
        let folder = PrivateFolder::new()?;
        let compiler = compile::compiler()?;
        let compiled = folder.0.clone();
        // Guests want large stacks.
        let thread = std::thread::Builder::new().name("check".to_owned()).stack_size(GUEST_THREAD_STACK_BYTES);
        let report = std::thread::scope(|scope| {
            let checking = thread.spawn_scoped(scope, || check(&component, plan, &compiled, compiler));
            let checking =
                checking.map_err(|error| Failure::failed(format!("the system refused a thread: {error}")))?;
            checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        output.result(report.as_text(&self.file), &report.as_json(&self.file));
        match report.broken() {
            0 => Ok(()),
            broken => Err(Failure::failed(format!("{broken} of {} promises are broken", Promise::ALL.len()))),
        }
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let Self { apply_fuel, query_fuel, chunk_fuel, memory_bytes, .. } = *self;
        let budgets = Budgets { apply_fuel, query_fuel, chunk_fuel, memory_bytes };
        let settings = Settings { budgets, ..Settings::default() };
        settings.check().map_err(|error| Failure::usage(error.to_string()))?;
        let samples = self.samples.as_ref().map(|path| read_samples(path)).transpose()?;
        Ok(Plan { config: Bytes::from(self.config.clone()), settings, samples, steps: self.steps, seed: self.seed })
    }
}

fn read_samples(path: &Path) -> Result<Vec<Step>, Failure> {
    let wrong = |error: String| Failure::usage(format!("the samples {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    samples::parse(&text).map_err(wrong)
}

/// What is to be tried.
struct Plan {
    config: Bytes,
    settings: Settings,
    samples: Option<Vec<Step>>,
    steps: usize,
    seed: u64,
}

impl Plan {
    /// Whether queries are from samples.
    fn knows_queries(&self) -> bool {
        self.samples.iter().flatten().any(|step| matches!(step, Step::Query(_)))
    }

    fn history(&self) -> History {
        let mut rng = ChaCha12Rng::seed_from_u64(self.seed);
        let Some(samples) = &self.samples else { return History::of(samples::make_up(self.steps, &mut rng)) };
        let mut steps = samples.clone();
        steps.extend(samples::draw(samples, self.steps, &mut rng));
        // Something must be asked.
        if !self.knows_queries() {
            let made_up = samples::make_up(self.steps, &mut rng);
            let mut queries = made_up.into_iter().filter(|step| matches!(step, Step::Query(_)));
            steps = steps.into_iter().flat_map(|step| [Some(step), queries.next()]).flatten().collect();
        }
        History::of(steps)
    }
}

/// Must run on a guest's stack. `compiled` is an empty folder where nobody else writes.
fn check(component: &Bytes, plan: Plan, compiled: &Path, compiler: Compiler) -> Result<Report, Failure> {
    let digest = Digest::of(component);
    let (budgets, seed) = (plan.settings.budgets, plan.seed);
    let mut report = Report { size_bytes: component.len(), digest, budgets, seed, run: None, findings: Vec::new() };
    let wasm = Wasm::new(compiled, compiler, CompileLimits::default());
    let wasm = wasm.map_err(|error| Failure::failed(error.to_string()))?;
    let backend = match wasm.compile(component) {
        Ok(backend) => backend,
        Err(error @ (ComponentError::Host(_) | ComponentError::Compiler(_))) => {
            return Err(Failure::failed(error.to_string()));
        }
        Err(error) => {
            report.findings.push(Finding::new(Promise::Contract, error.to_string()));
            return Ok(report);
        }
    };
    let history = plan.history();
    let made_up = match (&plan.samples, plan.knows_queries()) {
        (None, _) => MadeUp::All,
        (Some(_), false) => MadeUp::Queries,
        (Some(_), true) => MadeUp::Nothing,
    };
    let genesis = Genesis { cluster: ClusterId(1), component: digest, config: plan.config, settings: plan.settings };
    let meter = Arc::new(Meter::default());
    let factory = backend.factory(genesis.cluster, budgets).metered(Arc::clone(&meter));
    let trial = Trial { factory: &factory, meter: &meter, genesis, history };
    match live(&trial, seed, &mut report.findings) {
        Ok((first, version)) => {
            let History { commands, ephemerals, ends, .. } = trial.history;
            let run = Ran {
                version,
                is_one_by_one: backend.is_one_by_one(),
                made_up,
                entries: trial.history.entries.len(),
                commands,
                ephemerals,
                ends,
                queries: trial.history.queries.len(),
                refused: first.refused,
                is_broken_off: first.lived.len() < trial.history.entries.len(),
                // Later lives have many commands in a call.
                usage: Usage { apply_fuel: first.usage.apply_fuel, ..first.usage.max(meter.take()) },
                thirstiest: first.thirstiest.map(|index| (index, trial.history.describe(index))),
                state_bytes: first.state.as_ref().map(Vec::len),
            };
            report.run = Some(run);
        }
        Err(Stop::Found(finding)) => report.findings.push(finding),
        Err(Stop::Host(message)) => {
            return Err(Failure::failed(format!("this machine could not run the component: {message}")));
        }
    }
    Ok(report)
}

/// Lets the component live: once to see what it comes to, and then to see whether it comes to the same again.
fn live(trial: &Trial<'_>, seed: u64, findings: &mut Vec<Finding>) -> Result<(FirstLife, String), Stop> {
    let nowhere = SnapshotMeta { position: LogPosition::ZERO, time_ms: 0, configuration: Configuration::default() };
    let version = trial.start()?.snapshot_head(nowhere).host.backend_version;
    if version.is_empty() {
        findings.push(Finding::new(Promise::Contract, "its version is empty: no snapshot could tell what it is of"));
    }
    let mut first = trial.first_life()?;
    findings.append(&mut first.findings);
    findings.extend(batches::check(trial, &first, seed)?);
    findings.extend(queries::check(trial, &first)?);
    findings.extend(snapshots::check(trial, &first, seed)?);
    Ok((first, version))
}

/// A folder for compiled components, where nobody else can write: they are run as machine code. Removed in the end.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new() -> Result<Self, Failure> {
        let failed = |error: String| Failure::failed(format!("cannot make a folder for temporary files: {error}"));
        let name = getrandom::u64().map_err(|error| failed(error.to_string()))?;
        let path = std::env::temp_dir().join(format!("zraft-check-{name:016x}"));
        let created = std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path);
        created.map_err(|error| failed(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What is left in the system's folder for temporary files, the system removes.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! The command line: one file a family of commands. `main` parses, runs one command and exits.

mod access;
mod backend;
mod bench;
mod cert;
mod cluster;
mod compile;
mod config;
mod connect;
mod data;
mod demo;
mod dev;
mod kv;
mod lifecycle;
mod local;
mod members;
mod output;
mod serve;
mod session;
mod store;
mod units;
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::wasm::COMPILE_COMMAND;
use output::{Failure, Output};

/// Replicates any WebAssembly component: upload a state machine, get a linearizable, fault-tolerant service.
///
/// Exit codes: 0 done; 1 it failed and nothing was changed; 2 wrong usage or configuration; 3 it is not known whether
/// a write was applied, or a change has not ended yet; 4 no node could be reached; 5 what was asked for is not there.
#[derive(Debug, Parser)]
#[command(name = "zraft", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print results as JSON, a line each.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run three nodes in this process and show what zraft does: a guided tour that exits 0.
    Demo(demo::Demo),
    /// Run a cluster of the kv backend on this machine, with certificates ready, until Ctrl-C.
    Dev(dev::Dev),
    /// Run one node.
    Serve(Box<serve::Serve>),
    /// Look at a node's settings without starting it.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make certificates: a CA, then one for each node and client.
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Begin, build and examine a backend of your own.
    #[command(subcommand)]
    Backend(backend::Backend),
    /// Create a cluster: upload a component to the nodes of its peers.
    Create(cluster::Create),
    /// Show how nodes and their peers are.
    Status(cluster::Status),
    /// Show the peers of a cluster, or change them.
    Members(members::Members),
    /// Show who may do what on a cluster, or change it.
    Access(access::AccessCommand),
    /// Show which clusters live on nodes.
    List(lifecycle::List),
    /// Move a cluster to another backend, while it runs.
    Upgrade(upgrade::Upgrade),
    /// Have leadership of a cluster handed to another peer.
    Transfer(lifecycle::Transfer),
    /// Delete a cluster with all its data.
    Delete(lifecycle::Delete),
    /// Have a cluster apply a command.
    Write(data::Write),
    /// Have a cluster answer a query.
    Query(data::Query),
    /// Open a session and type into it: writes that run once, ephemeral data, triggers.
    Session(session::Session),
    /// Use a cluster of the bundled key-value backend.
    #[command(subcommand)]
    Kv(kv::Kv),
    /// Drive a cluster of the bundled key-value backend with many clients, and measure it.
    Bench(bench::Bench),
    /// Check the files of a stopped node, or show its log.
    #[command(subcommand)]
    Store(store::Store),
    /// Compile a component for the node that has started this process.
    #[command(name = COMPILE_COMMAND, hide = true)]
    Compile(compile::Compile),
}

impl Arguments {
    /// Whether the command runs nodes until it is told to stop.
    #[must_use]
    pub fn runs_nodes(&self) -> bool {
        matches!(self.command, Command::Dev(_) | Command::Serve(_))
    }
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let output = Output::new(arguments.json);
    let result = match arguments.command {
        Command::Demo(demo) => demo.run(output),
        Command::Dev(dev) => dev.run(output),
        Command::Serve(serve) => serve.run(),
        Command::Config(config) => config.run(output),
        Command::Cert(cert) => cert.run(output),
        Command::Backend(backend) => backend.run(output),
        Command::Create(create) => create.run(output),
        Command::Status(status) => status.run(output),
        Command::Members(members) => members.run(output),
        Command::Access(access) => access.run(output),
        Command::List(list) => list.run(output),
        Command::Upgrade(upgrade) => upgrade.run(output),
        Command::Transfer(transfer) => transfer.run(output),
        Command::Delete(delete) => delete.run(output),
        Command::Write(write) => write.run(output),
        Command::Query(query) => query.run(output),
        Command::Session(session) => session.run(output),
        Command::Kv(kv) => kv.run(output),
        Command::Bench(bench) => bench.run(output),
        Command::Store(store) => store.run(output),
        Command::Compile(compile) => compile.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output),
    }
}

/// A runtime for one command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("the system refused a runtime: {error}")))
}

/// Runs a command to its end, and has its connections say goodbye: nodes would count them for as long as they may be silent.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    /// What is dropped wakes a connection's task, and that its endpoint's.
    const TURNS: usize = 16;
    let runtime = runtime()?;
    let result = runtime.block_on(command);
    runtime.block_on(async {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    });
    result
}

/// Logs to standard error, as `ZRAFT_LOG` or else `default` says.
fn log(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ZRAFT_LOG").unwrap_or_else(|_| default.into());
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // Logging may be on already when several commands run in one process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .try_init();
}

//! `zraft bench`: drives a cluster and tells how fast it answers.

mod driven;
mod plot;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::connect::{Identity, Peers};
use crate::cli::output::{Failure, Output};
use crate::load::{self, LoadError, Phase, Plan};

use driven::{Cluster, Requests};
use report::Step;

/// The most clients: each has a timer and a request.
const MAX_CLIENTS: usize = 1 << 16;

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Peers of the cluster, name@host:port, separated by commas.
    peers: Peers,
    #[command(flatten)]
    identity: Identity,
    /// Clients; each has one request at a time under way.
    #[arg(long, value_name = "NUMBER", default_value_t = 64)]
    clients: usize,
    /// Connections that the clients share. [default: one for each 64 clients]
    #[arg(long, value_name = "NUMBER")]
    connections: Option<usize>,
    /// Threads of this process.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    threads: usize,
    /// Open loop: requests a second of all clients together, whether those before are answered or not. [default: closed loop,
    /// each client asks as soon as it was answered]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    warm_up: f64,
    /// So many of a hundred requests are linearizable reads.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    reads: u8,
    /// Number of keys.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    keys: u64,
    /// Length of a value, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    value_bytes: usize,
    /// Each client opens a session, so that its writes run exactly once.
    #[arg(long)]
    sessions: bool,
    /// Instead of puts to the bundled kv, this command, for a cluster of any backend.
    #[arg(long, value_name = "TEXT")]
    write: Option<String>,
    /// Instead of gets of the bundled kv, this query, for a cluster of any backend.
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// Measure with 1, 2, 4 and so on up to all clients, or with an open loop at tenths of the rate, and draw latency against
    /// throughput.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Bench {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let steps = self.steps()?;
        let cluster = self.cluster()?;
        output.say(report::HEADER);
        let mut measured = Vec::with_capacity(steps.len());
        for plan in steps {
            let step = self.measure(&cluster, plan, output)?;
            output.result(&step, &step.as_json());
            measured.push(step);
        }
        if let Some(path) = &self.plot {
            plot::draw(path, &measured).map_err(|error| {
                Failure::failed(format!("the measurements cannot be drawn to {}: {error}", path.display()))
            })?;
            output.say(format_args!("drawn to {}", path.display()));
        }
        Ok(())
    }

    fn measure(&self, cluster: &Cluster, plan: Plan, output: Output) -> Result<Step, Failure> {
        let mut live = report::Live::new(output);
        let measured = load::run(cluster, &plan, |phase, lately| live.tell(phase, lately));
        live.end();
        let measured = measured.map_err(|error| match error {
            LoadError::Plan(_) => Failure::usage(error.to_string()),
            LoadError::Connect(_) | LoadError::Thread(_) => Failure::failed(error.to_string()),
        })?;
        if measured.all().count() == 0 {
            let reasons: Vec<_> = measured.failures.keys().map(String::as_str).collect();
            return Err(Failure::failed(match reasons.as_slice() {
                [] => "not one request was answered in this time".to_owned(),
                reasons => format!("not one request was answered: {}", reasons.join("; ")),
            }));
        }
        Ok(Step { plan, measured })
    }

    /// What is measured one after the other.
    fn steps(&self) -> Result<Vec<Plan>, Failure> {
        if self.clients > MAX_CLIENTS {
            return Err(Failure::usage(format!("--clients is at most {MAX_CLIENTS}")));
        }
        let seconds = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|error| Failure::usage(format!("--{name} {seconds} is no time: {error}")))
        };
        let whole = Plan {
            clients: self.clients,
            threads: self.threads,
            duration: seconds("duration", self.duration)?,
            warm_up: seconds("warm-up", self.warm_up)?,
            rate: self.rate,
            reads_percent: self.reads,
            keys: self.keys,
            value_bytes: self.value_bytes,
            seed: 0,
        };
        Ok(match (&self.plot, self.rate) {
            (None, _) => vec![whole],
            (Some(_), Some(rate)) => {
                let tenth = |tenths: u32| Plan { rate: Some(rate * f64::from(tenths) / 10.0), ..whole.clone() };
                (1..=10).map(tenth).collect()
            }
            (Some(_), None) => {
                let doubled = std::iter::successors(Some(1), |clients| Some(clients * 2));
                let fewer = doubled.take_while(|clients| *clients < self.clients);
                let of = |clients: usize| Plan { clients, threads: self.threads.min(clients), ..whole.clone() };
                fewer.chain([self.clients]).map(of).collect()
            }
        })
    }

    fn cluster(&self) -> Result<Cluster, Failure> {
        let requests = match (&self.write, &self.query) {
            (None, None) => Requests::Kv,
            (write, query) => {
                let lacks = (self.reads < 100 && write.is_none()).then_some("--write");
                if let Some(option) = lacks.or_else(|| (self.reads > 0 && query.is_none()).then_some("--query")) {
                    return Err(Failure::usage(format!("{option} must say what to ask a backend that is not kv")));
                }
                Requests::any(write.as_deref(), query.as_deref())
            }
        };
        Ok(Cluster {
            credentials: self.identity.credentials()?,
            peers: self.peers.0.clone(),
            connections: self.connections.unwrap_or(self.clients.div_ceil(64)).max(1),
            threads: self.threads,
            has_sessions: self.sessions,
            requests,
        })
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::WarmUp => "warming up",
            Self::Measured => "measuring",
        }
    }
}

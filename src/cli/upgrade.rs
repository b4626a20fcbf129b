//! `zraft upgrade`, and the canary before it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use crate::cli::block_on;
use crate::cli::cluster::read_component;
use crate::cli::connect::Identity;
use crate::cli::data::bytes_of;
use crate::cli::output::{Failure, Output};
use crate::protocol::{CanaryEnd, CanaryReport, MAX_CANARY_MS, MAX_MIGRATION_BYTES};
use crate::types::{Digest, PeerId};

#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// Any peer of the cluster, name@host:port; with --canary, the one whose node runs it: not the leader, unless it is alone.
    peer: PeerId,
    /// What becomes the backend: a component or core module in a file, or one that comes with zraft: `kv`, `lock`, `queue` or
    /// `counter`. It gets the state of the present one.
    #[arg(long, value_name = "FILE")]
    backend: PathBuf,
    /// What the new backend is told along with the state, as it understands it; `-` reads standard input.
    #[arg(long, value_name = "DATA")]
    migrate: Option<String>,
    /// Upgrade nothing. Have the peer's node run the new backend beside the present one: it is given the state, and then all that
    /// the peer applies. What comes to something else is printed, and makes the exit code 1.
    #[arg(long)]
    canary: bool,
    /// After how many commands the canary ends.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "canary")]
    commands: u64,
    /// After how long the canary ends, in milliseconds; at most an hour.
    #[arg(long, value_name = "MS", default_value_t = 60_000, requires = "canary",
        value_parser = clap::value_parser!(u64).range(1..=MAX_CANARY_MS))]
    canary_ms: u64,
    /// How long to wait, in milliseconds: the nodes may have to compile the component.
    #[arg(long, value_name = "MS", default_value_t = 360_000, conflicts_with = "canary")]
    timeout_ms: u64,
    #[command(flatten)]
    identity: Identity,
}

impl Upgrade {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let component = read_component(&self.backend)?;
        let migration = self.migrate.map(bytes_of).transpose()?.map(Bytes::from);
        if migration.as_ref().is_some_and(|migration| migration.len() > MAX_MIGRATION_BYTES) {
            return Err(Failure::usage(format!("--migrate takes at most {MAX_MIGRATION_BYTES} bytes")));
        }
        let (peer, digest, timeout) = (self.peer, Digest::of(&component), Duration::from_millis(self.timeout_ms));
        if self.canary {
            let max_time = Duration::from_millis(self.canary_ms);
            let report = block_on(async {
                let client = self.identity.client()?;
                Ok(client.canary(&peer, component, migration, self.commands, max_time).await?)
            })?;
            return show(&report, &peer, output);
        }
        block_on(async {
            let index = self.identity.client()?.upgrade(&peer, component, migration, timeout).await?;
            let text = match index {
                Some(index) => format!("the cluster of {peer} runs {digest} from entry {index} on"),
                None => format!("the cluster of {peer} runs {digest} already"),
            };
            output.result(text, &json!({ "backend": digest.to_string(), "index": index.map(|index| index.0) }));
            Ok(())
        })
    }
}

/// Prints what a canary has seen. It has gone well only if it ran something, and all of it came to the same.
fn show(report: &CanaryReport, peer: &PeerId, output: Output) -> Result<(), Failure> {
    let CanaryReport { from, commands, differing, differences, end } = report;
    for difference in differences {
        output.say(format_args!("entry {}", difference.index));
        output.say(format_args!("  present: {}", difference.present));
        output.say(format_args!("  new:     {}", difference.canary));
    }
    let more = differing.saturating_sub(differences.len() as u64);
    if more > 0 {
        output.say(format_args!("and {more} more"));
    }
    let problem = match end {
        CanaryEnd::Done if *commands == 0 => Some("no command came, so nothing was compared".to_owned()),
        CanaryEnd::Done if *differing > 0 => Some(format!("{differing} of {commands} commands came to something else")),
        CanaryEnd::Done => None,
        CanaryEnd::NotUpgraded(refusal) => Some(format!("an upgrade would fail: {refusal}")),
        CanaryEnd::Died { on, fault } => Some(format!(
            "the new backend died of entry {on}, after {commands} commands, {differing} of which came to something else: {fault}"
        )),
        CanaryEnd::FellBehind => Some(format!(
            "commands come faster than the canary can run them beside what else its node does; it has run {commands}, and {differing} came to \
             something else"
        )),
        CanaryEnd::Interrupted(reason) => Some(format!(
            "the canary ended early, after {commands} commands, {differing} of which came to something else: {reason}"
        )),
    };
    let text = format!(
        "beside {peer}, the new backend took the state after entry {from} and ran {commands} commands to the same outcomes"
    );
    let differences: Vec<_> = differences
        .iter()
        .map(|difference| json!({ "index": difference.index.0, "present": difference.present, "new": difference.canary }))
        .collect();
    let json = json!({
        "from": from.0, "commands": commands, "differing": differing, "differences": differences,
        "is_good": problem.is_none(), "problem": problem,
    });
    let Some(problem) = problem else {
        output.result(text, &json);
        return Ok(());
    };
    if output.is_json() {
        // It has the problem in it.
        output.result("", &json);
        return Err(Failure::failed(problem).shown());
    }
    Err(Failure::failed(problem))
}

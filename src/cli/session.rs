//! `zraft session`: a shell in which one writes, reads and watches, and sees triggers arrive. Scripts feed it lines.

mod line;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;

use crate::cli::block_on;
use crate::cli::connect::{Identity, Peers};
use crate::cli::kv::entry_as_json;
use crate::cli::output::{Failure, Output, bytes_as_json};
use crate::client::{self, Ending, KvEntry, KvSession, Notice, Notices};
use crate::protocol::TriggerId;
use line::{HELP, Line};

/// Lines that were read and not run.
const MAX_UNRUN_LINES: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Session {
    /// A peer of the cluster, name@host:port; several separated by commas.
    peers: Peers,
    /// How long the session lives when nobody hears of it.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u64,
    /// Leave the session to its timeout at the end of input, instead of closing it.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    identity: Identity,
}

impl Session {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        block_on(async {
            let client = self.identity.client()?;
            let peers = match self.peers.0.as_slice() {
                [peer] => client.members(peer).await?,
                peers => peers.to_vec(),
            };
            let timeout = Duration::from_millis(self.timeout_ms);
            let (session, notices) = client::Session::connect(client, peers, timeout).await?;
            let id = session.id();
            output.result(format_args!("session {id} is open; `help` tells what to type"), &json!({ "session": id.0 }));
            Shell { kv: KvSession::new(session), notices, output, failure: None, has_told: false }.run(self.keep).await
        })
    }
}

/// A session with somebody who types.
struct Shell {
    kv: KvSession,
    notices: Notices,
    output: Output,
    /// The first line that failed decides the exit code.
    failure: Option<Failure>,
    /// Whether a notice was shown since the last `wait`. A trigger may fire before the reply to what fired it.
    has_told: bool,
}

impl Shell {
    async fn run(mut self, keep: bool) -> Result<(), Failure> {
        let mut lines = read_lines()?;
        loop {
            prompt(self.output);
            let line = tokio::select! {
                line = lines.recv() => line,
                notice = self.notices.next() => match notice {
                    Some(notice) => {
                        self.tell(&notice);
                        continue;
                    }
                    None => return self.done(),
                },
            };
            match line.as_deref().map(Line::parse) {
                None if keep => return self.done(),
                None | Some(Ok(Some(Line::Close))) => return self.close().await,
                Some(Ok(None)) => {}
                Some(Ok(Some(Line::Wait))) => {
                    if !self.has_told {
                        let Some(notice) = self.notices.next().await else { return self.done() };
                        self.tell(&notice);
                    }
                    self.has_told = false;
                }
                Some(Ok(Some(line))) => self.carry_out(line).await,
                Some(Err(error)) => failed(Failure::usage(error), self.output, &mut self.failure),
            }
        }
    }

    fn tell(&mut self, notice: &Notice) {
        show(notice, self.output, &mut self.failure);
        self.has_told = true;
    }

    fn done(self) -> Result<(), Failure> {
        self.failure.map_or(Ok(()), Err)
    }

    /// Ends the session. Triggers that are armed have no more to tell.
    async fn close(self) -> Result<(), Failure> {
        self.kv.session().close().await?;
        self.output.result("the session was closed", &json!({ "ended": Ending::Closed.to_string() }));
        self.done()
    }

    /// Does what a line says, and shows what there is to tell meanwhile.
    async fn carry_out(&mut self, line: Line) {
        let work = carry_out(line, &self.kv, self.output);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut work => break result,
                Some(notice) = self.notices.next() => {
                    show(&notice, self.output, &mut self.failure);
                    self.has_told = true;
                }
            }
        };
        if let Err(failure) = result {
            failed(failure, self.output, &mut self.failure);
        }
    }
}

fn failed(mut failure: Failure, output: Output, first: &mut Option<Failure>) {
    failure.show(output);
    first.get_or_insert(failure);
}

fn show(notice: &Notice, output: Output, first: &mut Option<Failure>) {
    match notice {
        Notice::Fired { trigger: TriggerId(trigger), reason } => output.result(
            format_args!("trigger {trigger} fired: {reason}"),
            &json!({ "trigger": trigger, "fired": reason.to_string() }),
        ),
        Notice::Suspended => {
            let text = "the cluster is out of reach: the session may have expired";
            output.result(text, &json!({ "suspended": true }));
        }
        Notice::Resumed => output.result("the session is alive", &json!({ "suspended": false })),
        Notice::Ended(ending) => {
            output.result(format_args!("the session {ending}"), &json!({ "ended": ending.to_string() }));
            failed(Failure::failed(format!("the session {ending}")), output, first);
        }
    }
}

async fn carry_out(line: Line, kv: &KvSession, output: Output) -> Result<(), Failure> {
    let session = kv.session();
    match line {
        Line::Write { data, is_ephemeral } => {
            let written = if is_ephemeral { session.write_ephemeral(data).await? } else { session.write(data).await? };
            output.reply(&written.reply, json!({ "index": written.index.0 }));
        }
        Line::Query(data) => output.reply(&session.query(data).await?, json!({})),
        Line::Watch(data) => {
            let watched = session.query_watch(data).await?;
            let (index, trigger) = (watched.index.0, watched.trigger.0);
            output.reply(&watched.reply, json!({ "index": index, "trigger": trigger }));
            output.say(format_args!("trigger {trigger} is armed as of index {index}"));
        }
        Line::Disarm(trigger) => {
            session.disarm(TriggerId(trigger)).await?;
            output.result("disarmed", &json!({ "disarmed": trigger }));
        }
        Line::Put { key, value, is_ephemeral } => {
            let index = if is_ephemeral { kv.put_ephemeral(key, value).await? } else { kv.put(key, value).await? };
            output.result(format_args!("written at index {index}"), &json!({ "index": index.0 }));
        }
        Line::Delete(key) => match kv.delete(key.clone()).await? {
            true => output.result("deleted", &json!({ "deleted": true })),
            false => return Err(absent(&key)),
        },
        Line::Get(key) => match kv.get(key.clone()).await? {
            Some(entry) => output.result(value_of(&entry), &entry_as_json(&entry)),
            None => return Err(absent(&key)),
        },
        Line::WatchGet(key) => {
            let watched = kv.watch(key).await?;
            let (index, trigger) = (watched.index.0, watched.trigger.0);
            let value = watched.entry.as_ref().map_or("(none)".into(), value_of);
            let json = watched.entry.as_ref().map(|entry| bytes_as_json(&entry.value));
            output.result(
                format_args!("{value}\ntrigger {trigger} is armed as of index {index}"),
                &json!({ "value": json, "index": index, "trigger": trigger }),
            );
        }
        Line::Help => output.say(HELP),
        Line::Close | Line::Wait => {}
    }
    Ok(())
}

fn value_of(entry: &KvEntry) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&entry.value)
}

fn absent(key: &str) -> Failure {
    Failure::absent(format!("there is no key '{key}'"))
}

fn prompt(output: Output) {
    if !output.is_json() && std::io::stdin().is_terminal() {
        let mut out = std::io::stdout().lock();
        // Who cannot see the prompt can do without.
        let _ = out.write_all(b"> ").and_then(|()| out.flush());
    }
}

/// Reads standard input on a thread of its own, which ends with the process: nothing interrupts a read.
fn read_lines() -> Result<mpsc::Receiver<String>, Failure> {
    let (sender, lines) = mpsc::channel(MAX_UNRUN_LINES);
    let read = move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    let spawned = std::thread::Builder::new().name("zraft-stdin".to_owned()).spawn(read);
    spawned.map_err(|error| Failure::failed(format!("the system refused a thread: {error}")))?;
    Ok(lines)
}

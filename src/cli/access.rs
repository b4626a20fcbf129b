//! `zraft access`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::access::{Access, AccessControl, AccessList, AccessParseError, is_name};
use crate::cli::block_on;
use crate::cli::connect::Identity;
use crate::cli::output::{Failure, Output};
use crate::types::PeerId;

/// Shows the access list of a cluster. With --grant, --revoke or --default it is changed, unless somebody else has changed it
/// meanwhile.
#[derive(Debug, Args)]
pub(super) struct AccessCommand {
    /// Any peer of the cluster, name@host:port.
    peer: PeerId,
    /// Give a client access, by the name in its certificate: NAME=read, NAME=write (which includes read) or NAME=admin (all).
    /// For several, say it again.
    #[arg(long, value_name = "NAME=ACCESS")]
    grant: Vec<Grant>,
    /// Name a client no more: it may do what those may who are not named. For several, say it again.
    #[arg(long, value_name = "NAME")]
    revoke: Vec<String>,
    /// What clients may do that are not named: none, read or write.
    #[arg(long, value_name = "ACCESS")]
    default: Option<DefaultAccess>,
    /// How long to wait, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u64,
    #[command(flatten)]
    identity: Identity,
}

/// A client and what it may do, as it is typed.
#[derive(Clone, Debug)]
pub(super) struct Grant(pub(super) String, pub(super) Access);

/// What those may do who are not named, as it is typed.
#[derive(Clone, Copy, Debug)]
pub(super) struct DefaultAccess(pub(super) Option<Access>);

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("'{text}' is not NAME=ACCESS: write for example alice=write");
        let (name, access) = text.split_once('=').filter(|(name, _)| is_name(name)).ok_or_else(malformed)?;
        Ok(Self(name.to_owned(), access.parse().map_err(|error: AccessParseError| error.to_string())?))
    }
}

impl FromStr for DefaultAccess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("none", _) => Ok(Self(None)),
            (_, Ok(access @ (Access::Read | Access::Write))) => Ok(Self(Some(access))),
            _ => Err(format!("'{text}' is not what all may do: write none, read or write; admins are named")),
        }
    }
}

impl fmt::Display for DefaultAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(access) => access.fmt(f),
        }
    }
}

impl AccessCommand {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let timeout = Duration::from_millis(self.timeout_ms);
        block_on(async {
            let client = self.identity.client()?;
            let mut access = client.access(&self.peer, timeout).await?;
            let is_change = !self.grant.is_empty() || !self.revoke.is_empty() || self.default.is_some();
            if is_change {
                self.change(&mut access.list)?;
                access.list.check().map_err(|error| Failure::usage(error.to_string()))?;
                access.set_at = client.set_access(&self.peer, &access.list, access.set_at, timeout).await?;
            }
            output.result(as_text(&access), &as_json(&access));
            Ok(())
        })
    }

    fn change(&self, list: &mut AccessList) -> Result<(), Failure> {
        for name in &self.revoke {
            if list.named.remove(name).is_none() {
                return Err(Failure::absent(format!("'{name}' is not on the access list; nothing was changed")));
            }
        }
        list.named.extend(self.grant.iter().map(|Grant(name, access)| (name.clone(), *access)));
        list.default = self.default.map_or(list.default, |DefaultAccess(default)| default);
        Ok(())
    }
}

fn as_text(AccessControl { list, set_at }: &AccessControl) -> String {
    let mut lines: Vec<_> = list.named.iter().map(|(name, access)| format!("{name} {access}")).collect();
    lines.push(format!("all other clients {}", DefaultAccess(list.default)));
    lines.push(match set_at.0 {
        0 => "never set".to_owned(),
        set_at => format!("set at index {set_at}"),
    });
    lines.join("\n")
}

fn as_json(AccessControl { list, set_at }: &AccessControl) -> Value {
    let named = list.named.iter().map(|(name, access)| (name.clone(), json!(access.to_string())));
    json!({
        "named": named.collect::<serde_json::Map<_, _>>(),
        "default": DefaultAccess(list.default).to_string(),
        "set_at": set_at.0,
    })
}

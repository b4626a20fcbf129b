//! What commands print, and how they fail.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client::{CallError, CreateError, KvError, MembershipError, SessionError, SessionFailure};
use crate::node::{ConfigError, NodeError};
use crate::protocol::RequestError;
use crate::transport::{TlsError, TransportError};

/// Prints results: for people, or one line of JSON for scripts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    is_json: bool,
}

impl Output {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    /// Whether results are for programs.
    pub(super) fn is_json(self) -> bool {
        self.is_json
    }

    /// Prints a result in the form wanted.
    pub(super) fn result(self, text: impl Display, json: &Value) {
        if self.is_json {
            print_line(json);
        } else {
            print_line(text);
        }
    }

    /// Prints what is only for people.
    pub(super) fn say(self, text: impl Display) {
        if !self.is_json {
            print_line(text);
        }
    }

    /// Prints a backend's reply: its bytes as they are, or in JSON as text where they are text.
    pub(super) fn reply(self, reply: &[u8], mut json: Value) {
        if self.is_json {
            json["reply"] = bytes_as_json(reply);
            print_line(json);
        } else {
            let mut out = std::io::stdout().lock();
            // A reader that has gone, such as `head`, has seen enough.
            let _ = out.write_all(reply).and_then(|()| out.write_all(b"\n"));
        }
    }
}

fn print_line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Text as a string; other bytes as `{"hex": …}`.
pub(super) fn bytes_as_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// Why a command failed, and the exit code that says so.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
    is_shown: bool,
}

impl Failure {
    const FAILED: u8 = 1;
    const USAGE: u8 = 2;
    const UNKNOWN: u8 = 3;
    const UNREACHABLE: u8 = 4;
    const ABSENT: u8 = 5;

    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), is_shown: false }
    }

    /// It failed, and nothing was changed.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Self::FAILED, message)
    }

    /// The person who typed the command can mend it.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Self::USAGE, message)
    }

    /// What was asked for is not there.
    pub(super) fn absent(message: impl Into<String>) -> Self {
        Self::new(Self::ABSENT, message)
    }

    /// The same, where it was said already.
    pub(super) fn shown(self) -> Self {
        Self { is_shown: true, ..self }
    }

    pub(super) fn report(mut self, output: Output) -> ExitCode {
        self.show(output);
        ExitCode::from(self.code)
    }

    /// Says it, once.
    pub(super) fn show(&mut self, output: Output) {
        if std::mem::replace(&mut self.is_shown, true) {
            return;
        }
        if output.is_json {
            print_line(json!({ "error": self.message, "exit_code": self.code }));
        }
        let _ = writeln!(std::io::stderr().lock(), "error: {}", self.message);
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let code = match &error {
            SessionError::Refused(_) | SessionError::Failed(_) => Self::FAILED,
            SessionError::NoPeers => Self::USAGE,
            SessionError::Unknown(_) => Self::UNKNOWN,
            SessionError::AllFailed(_) | SessionError::Timeout { .. } | SessionError::Call(_) => Self::UNREACHABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SessionFailure> for Failure {
    fn from(failure: SessionFailure) -> Self {
        let code = match &failure {
            SessionFailure::Refused(_)
            | SessionFailure::Skipped { .. }
            | SessionFailure::Denied(_)
            | SessionFailure::Ended(_)
            | SessionFailure::NotRun(_)
            | SessionFailure::TooManyTriggers
            | SessionFailure::Failed(_) => Self::FAILED,
            SessionFailure::TooLarge { .. } | SessionFailure::NoPeers => Self::USAGE,
            SessionFailure::Unanswered { .. }
            | SessionFailure::Unknown(_)
            | SessionFailure::ReplyLost
            | SessionFailure::Dropped => Self::UNKNOWN,
            SessionFailure::Timeout { .. } | SessionFailure::AllFailed(_) => Self::UNREACHABLE,
        };
        Self::new(code, failure.to_string())
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let code = match &error {
            CreateError::Peers(_) | CreateError::Refused(_) => Self::FAILED,
            CreateError::Unreachable(_) => Self::UNREACHABLE,
            CreateError::Unknown(_) => Self::UNKNOWN,
            CreateError::NoPeers => Self::USAGE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        let code = match &error {
            MembershipError::NotChanged(refusal) if refusal.has_begun() => Self::UNKNOWN,
            MembershipError::NotChanged(_) => Self::FAILED,
            MembershipError::Failed(RequestError::NoSuchPeer { .. }) => Self::ABSENT,
            MembershipError::Failed(RequestError::PartlyDeleted { .. } | RequestError::Unknown) => Self::UNKNOWN,
            MembershipError::Failed(_) => Self::FAILED,
            MembershipError::Unknown(_) => Self::UNKNOWN,
            MembershipError::Timeout { .. } | MembershipError::Call(_) => Self::UNREACHABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        match error {
            KvError::Session(error) => error.into(),
            KvError::InSession(failure) => failure.into(),
            KvError::Malformed(_) | KvError::Mismatched => Self::failed(error.to_string()),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::new(Self::UNREACHABLE, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::failed(error.to_string())
    }
}

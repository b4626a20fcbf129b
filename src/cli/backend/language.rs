//! The languages that backends are begun and built in.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use include_dir::{Dir, include_dir};

use crate::cli::output::Failure;

/// A language that zraft begins and builds backends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    /// Rust, with the SDK.
    Rust,
    /// C, with bindings made from the contract.
    C,
    /// Python, by componentize-py.
    Python,
    /// JavaScript, by componentize-js.
    Js,
}

/// The contract, as projects have it that are not in Rust.
pub(super) const CONTRACT: &str = include_str!("../../../wit/zraft.wit");

/// The SDK for Rust, as a folder of the project.
pub(super) static SDK: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/guests/sdk");

static RUST: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/cli/backend/templates/rust");
static C: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/cli/backend/templates/c");
static PYTHON: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/cli/backend/templates/python");
static JS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/cli/backend/templates/js");

impl Language {
    /// The language of the project in a folder, by the file that such a project must have.
    pub(super) fn of(dir: &Path) -> Result<Self, Failure> {
        let all = Self::value_variants().iter().copied();
        all.into_iter().find(|language| dir.join(language.mark()).is_file()).ok_or_else(|| {
            let marks: Vec<_> = Self::value_variants().iter().map(|language| language.mark()).collect();
            let folder = dir.display();
            Failure::usage(format!("there is no project in {folder}: none of {} is there", marks.join(", ")))
        })
    }

    fn mark(self) -> &'static str {
        match self {
            Self::Rust => "Cargo.toml",
            Self::C => "machine.c",
            Self::Python => "machine.py",
            Self::Js => "machine.js",
        }
    }

    /// What a project begins as.
    pub(super) fn template(self) -> &'static Dir<'static> {
        match self {
            Self::Rust => &RUST,
            Self::C => &C,
            Self::Python => &PYTHON,
            Self::Js => &JS,
        }
    }

    /// What must be run once before the first build, in the project's folder, if anything.
    pub(super) fn preparation(self) -> Option<&'static str> {
        match self {
            Self::Rust | Self::C => None,
            Self::Python => Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"),
            Self::Js => Some("npm install"),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "Rust",
            Self::C => "C",
            Self::Python => "Python",
            Self::Js => "JavaScript",
        })
    }
}

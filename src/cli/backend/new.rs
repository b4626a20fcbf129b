//! `zraft backend new`: the small project that an author begins with.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use include_dir::Dir;
use serde_json::json;

use super::language::{CONTRACT, Language, SDK};
use crate::cli::output::{Failure, Output};

/// What stands in templates for the project's name.
const NAME: &str = "{{name}}";

/// The folder of the SDK in a project in Rust.
const SDK_FOLDER: &str = "zraft-backend";

/// The longest name of a project.
const MAX_NAME_BYTES: usize = 64;

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// The backend's name: small letters, digits, - and _. It becomes a folder here.
    #[arg(value_parser = parse_name)]
    name: String,
    /// The language.
    #[arg(long, value_enum)]
    lang: Language,
}

/// What package managers of all languages take for a name.
fn parse_name(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(is_allowed) {
        return Err("a name begins with a small letter and has only small letters, digits, - and _".to_owned());
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(format!("a name has at most {MAX_NAME_BYTES} characters"));
    }
    Ok(text.to_owned())
}

impl New {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let folder = PathBuf::from(&self.name);
        // Into a folder of its own, so that nothing is overwritten.
        fs::create_dir(&folder).map_err(|error| cannot_write(&folder, &error))?;
        let files = self.files();
        for (path, text) in &files {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(&folder);
            let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text.as_bytes()));
            written.map_err(|error| cannot_write(&path, &error))?;
        }
        let names: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
        let json = json!({ "folder": self.name, "language": self.lang.to_string(), "files": names });
        output.result(self.next_steps(), &json);
        Ok(())
    }

    /// The project's files, by their paths in its folder.
    fn files(&self) -> Vec<(PathBuf, Cow<'static, str>)> {
        let mut files = Vec::new();
        collect(self.lang.template(), &mut files);
        for (path, text) in &mut files {
            *path = real_name(path);
            if text.contains(NAME) {
                *text = text.replace(NAME, &self.name).into();
            }
        }
        if self.lang == Language::Rust {
            let mut sdk = Vec::new();
            collect(&SDK, &mut sdk);
            files.extend(sdk.into_iter().map(|(path, text)| (Path::new(SDK_FOLDER).join(path), text)));
        } else {
            files.push((PathBuf::from("wit/zraft.wit"), CONTRACT.into()));
        }
        files.sort_unstable();
        files
    }

    fn next_steps(&self) -> String {
        let name = &self.name;
        let preparation = self.lang.preparation().map(|command| format!("  {command}\n")).unwrap_or_default();
        format!(
            "{name}/ is a counter in {}, to be made something of. Next:\n\n  cd {name}\n{preparation}  zraft backend build\n  \
             zraft backend inspect backend.wasm\n\nREADME.md there tells more.",
            self.lang
        )
    }
}

fn collect(dir: &Dir<'static>, files: &mut Vec<(PathBuf, Cow<'static, str>)>) {
    for file in dir.files() {
        let text = file.contents_utf8().expect("templates and SDK are text");
        files.push((file.path().to_owned(), text.into()));
    }
    dir.dirs().for_each(|dir| collect(dir, files));
}

/// Some files would mean something where the templates are, and have another name there.
fn real_name(path: &Path) -> PathBuf {
    match path.to_str() {
        Some("manifest.toml") => PathBuf::from("Cargo.toml"),
        Some("gitignore") => PathBuf::from(".gitignore"),
        _ => path.to_owned(),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} exists already: choose another name, or remove it", path.display()))
        }
        _ => Failure::failed(format!("cannot write {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(lang: Language) -> Vec<String> {
        let new = New { name: "counter2".to_owned(), lang };
        let files = new.files();
        assert!(files.iter().all(|(_, text)| !text.contains(NAME)), "a name is left to be filled in");
        files.into_iter().map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn a_project_has_what_it_takes_to_build_it() {
        let rust = paths(Language::Rust);
        for path in ["Cargo.toml", "src/lib.rs", "zraft-backend/Cargo.toml", "zraft-backend/src/lib.rs"] {
            assert!(rust.iter().any(|there| there == path), "{path} is not in {rust:?}");
        }
        assert!(rust.iter().any(|there| there == "zraft-backend/wit/zraft.wit"), "{rust:?}");
        for lang in [Language::C, Language::Python, Language::Js] {
            let files = paths(lang);
            assert!(files.iter().any(|path| path == "wit/zraft.wit"), "{files:?}");
            assert!(files.iter().any(|path| path == ".gitignore"), "{files:?}");
        }
    }

    #[test]
    fn names_are_such_that_every_package_manager_takes_them() {
        for good in ["a", "counter2", "my-backend", "x_1"] {
            assert_eq!(parse_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "2x", "-x", "a/b", "..", "A", "a b", "ä", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}

//! The order of the house: layers, and what must stay the same in two places.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rooms of `src` and the height of each. Arrows point down only; rooms of one height never see each other.
const ROOMS: [(&str, u32); 19] = [
    ("types", 0),
    ("log_limit", 0),
    ("feature_level", 0),
    ("planted", 0),
    ("access", 1),
    ("codec", 1),
    ("settings", 1),
    ("protocol", 2),
    ("raft", 3),
    ("machine", 4),
    ("replica", 5),
    ("store", 6),
    ("wasm", 6),
    ("transport", 6),
    ("load", 6),
    ("client", 7),
    ("node", 7),
    ("cli", 8),
    ("main", 9),
];

fn height(room: &str) -> Option<u32> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, height)| *height)
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names by `crate::room`.
fn rooms_named_in(text: &str) -> Vec<&str> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let code = text.lines().filter(is_code);
    let names = code.flat_map(|line| line.match_indices("crate::").map(move |(at, found)| &line[at + found.len()..]));
    names.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()).collect()
}

#[test]
fn arrows_between_layers_point_down_only() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in rust_files(&root().join("src")) {
        let room = room_of(&file);
        if room == "lib" || room == "main" {
            continue;
        }
        let here = height(&room).unwrap_or_else(|| panic!("{} is in no known room", file.display()));
        let text = std::fs::read_to_string(&file).unwrap();
        for other in rooms_named_in(&text) {
            seen += 1;
            let Some(there) = height(other) else {
                wrong.push(format!("{}: 'crate::{other}' is no known room", file.display()));
                continue;
            };
            // Tests may bring rooms together.
            let is_test = file.components().any(|part| part.as_os_str().to_str().unwrap().starts_with("tests"));
            if other != room && there >= here && !is_test {
                wrong.push(format!("{}: {room} must not see {other}", file.display()));
            }
        }
    }
    assert!(seen > 100, "only {seen} arrows were found: does this test still read them right?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Up to `replica`, nothing asks the world: time, randomness and identity are arguments.
#[test]
fn the_lower_layers_ask_the_world_for_nothing() {
    const BANNED: [&str; 12] = [
        "Instant::now",
        "SystemTime",
        "std::thread",
        "std::net::Udp",
        "std::net::Tcp",
        "std::fs",
        "std::io::",
        "std::env::",
        "tokio",
        "HashMap",
        "HashSet",
        "getrandom",
    ];
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        if height(&room_of(&file)).is_none_or(|height| height > 5) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            wrong.extend(
                BANNED
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{}:{}: {word}", file.display(), number + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Stories are found by their subject, those of the core also by the names that the field gives them.
#[test]
fn every_story_is_in_the_table_once() {
    for folder in ["tests/raft", "tests/machine"] {
        check_table_of_stories(&root().join(folder));
    }
}

fn check_table_of_stories(folder: &Path) {
    let table = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let links = table.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let told: Vec<_> = links.filter(|link| link.ends_with(".golden")).map(str::to_owned).collect();
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<_> = files.filter(|name| name.ends_with(".golden")).collect();
    let in_table: BTreeSet<_> = told.iter().cloned().collect();
    assert!(!there.is_empty(), "no story is in {}", folder.display());
    assert_eq!(in_table.len(), told.len(), "a story is in the table twice");
    let missing: Vec<_> = there.difference(&in_table).collect();
    let gone: Vec<_> = in_table.difference(&there).collect();
    assert!(missing.is_empty() && gone.is_empty(), "not in the table: {missing:?}; not in the folder: {gone:?}");
}

/// The guests are a workspace of their own, so the wire format of the kv backend stands in both.
#[test]
fn the_kv_wire_format_is_the_same_in_guest_and_client() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    assert_eq!(read("guests/kv/src/api.rs"), read("src/client/kv_api.rs"), "copy one over the other");
}

/// The contract is shipped with the SDK, which must build outside of this repository.
#[test]
fn the_sdk_has_the_contract() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    assert_eq!(read("wit/zraft.wit"), read("guests/sdk/wit/zraft.wit"), "copy the first over the second");
}

/// A status names the engine; the manifest decides it.
#[test]
#[cfg(feature = "server")]
fn the_engine_is_the_one_in_the_manifest() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let version = zraft::wasm::ENGINE.strip_prefix("wasmtime ").unwrap();
    assert!(manifest.contains(&format!("wasmtime = {{ version = \"={version}\"")), "{}", zraft::wasm::ENGINE);
}

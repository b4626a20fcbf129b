//! Every component in `guests/dist` fits the contract. Point `ZRAFT_COMPONENTS` at a folder to try its components
//! instead, such as those just built by `guests/build --check`.

use std::fs;
use std::path::PathBuf;

use super::*;

#[test]
fn every_component_starts_writes_its_state_and_reads_it_back() {
    let folder = std::env::var_os("ZRAFT_COMPONENTS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/guests/dist")), PathBuf::from);
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let components: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ext| ext == "wasm")).collect();
    assert!(!components.is_empty(), "no components in {}", folder.display());
    for path in components {
        conforms(&path.display().to_string(), &fs::read(&path).unwrap());
    }
}

fn conforms(name: &str, bytes: &[u8]) {
    let backend = WASM.1.compile(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let factory = backend.factory(CLUSTER, Budgets::default());
    let mut first = factory.init(at(0), b"").unwrap_or_else(|error| panic!("{name}: {error}"));
    let version = first.version().unwrap();
    assert!(!version.is_empty(), "{name}: the version is empty");
    // Not commands it knows: it must refuse or take them, the same way each time.
    let commands: Vec<BackendCommand> = (1..20).map(|index| command(index, vec![index as u8; 40])).collect();
    let outcomes = first.apply(&commands).unwrap();
    let chunks = snapshot(&mut *first, 1 << 16);
    let mut second = restore(&backend, &version, chunks.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(snapshot(&mut *second, 1 << 16).concat(), chunks.concat(), "{name}: a restored state is another");
    let mut third = factory.init(at(0), b"").unwrap();
    let one_by_one: Vec<BackendOutcome> =
        commands.chunks(1).flat_map(|command| third.apply(command).unwrap()).collect();
    assert_eq!(one_by_one, outcomes, "{name}: batches matter");
}

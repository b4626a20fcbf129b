//! The cache of compiled components.

use std::fs;

use super::*;

fn files(folder: &TempDir) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn works(backend: &WasmBackend) {
    let mut instance = backend.factory(CLUSTER, SMALL).init(at(0), b"").unwrap();
    assert_eq!(instance.version().unwrap(), "kv 1");
}

#[test]
fn what_was_compiled_is_found_again_and_what_was_damaged_is_compiled_again() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("compiled");
    let wasm = Wasm::in_process(&folder).unwrap();
    let compiled = wasm.compile(KV).unwrap();
    works(&compiled);
    assert!(wasm.has_compiled(compiled.digest()));
    let [file] = &fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()[..] else {
        panic!("one file in the cache")
    };
    assert!(file.file_name().unwrap().to_str().unwrap().starts_with(&compiled.digest().to_string()));
    let bytes = fs::read(file).unwrap();

    // Another node's life on the same folder: the file is used, not written again.
    let modified = fs::metadata(file).unwrap().modified().unwrap();
    works(&Wasm::in_process(&folder).unwrap().compile(KV).unwrap());
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), modified);

    for damage in [&bytes[..bytes.len() - 1], &[][..]] {
        fs::write(file, damage).unwrap();
        works(&wasm.compile(KV).unwrap());
        assert_eq!(fs::read(file).unwrap(), bytes, "the damaged file is replaced");
    }
    assert_eq!(files(&cache).len(), 1, "no temporary files are left");
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Wasm::in_process(file.path()).unwrap_err().to_string();
    assert!(error.contains(file.path().to_str().unwrap()), "{error}");
}

#[test]
fn without_the_cache_components_still_run() {
    let cache = tempfile::tempdir().unwrap();
    let wasm = Wasm::in_process(&cache.path().join("gone")).unwrap();
    fs::remove_dir(cache.path().join("gone")).unwrap();
    works(&wasm.compile(KV).unwrap());
}

#[test]
fn what_is_not_kept_is_deleted() {
    let cache = tempfile::tempdir().unwrap();
    let wasm = Wasm::in_process(cache.path()).unwrap();
    let kept = wasm.compile(KV).unwrap().digest();
    fs::write(cache.path().join("left-by-another.cwasm"), b"x").unwrap();
    wasm.forget_all_but(&[kept].into()).unwrap();
    assert_eq!(files(&cache).len(), 1);
    assert!(wasm.has_compiled(kept));
    wasm.forget_all_but(&[].into()).unwrap();
    assert!(!wasm.has_compiled(kept));
}

#[test]
fn one_component_can_be_compiled_by_many_at_once() {
    let cache = tempfile::tempdir().unwrap();
    let wasm = Wasm::in_process(cache.path()).unwrap();
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(|| works(&wasm.compile(KV).unwrap()))));
    });
    assert_eq!(files(&cache).len(), 1);
    works(&wasm.compile(KV).unwrap());
}

//! Components are compiled by children of a node, which have limits and never outlive it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use zraft::wasm::{CompileLimits, Compiler, ComponentError, Wasm};

use crate::harness::{Nodes, until, until_some};

const ZRAFT: &str = env!("CARGO_BIN_EXE_zraft");
const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");
const MINIMAL: &str = include_str!("../components/minimal.wat");

/// A backend that takes long to compile, and much memory.
fn heavy() -> Vec<u8> {
    let function = "(func (param i64) (result i64) (i64.mul (local.get 0) (local.get 0)))";
    wat::parse_str(MINIMAL.replace("(;functions;)", &function.repeat(100_000))).unwrap()
}

/// Begins to create a cluster of it on the only node.
fn begin_to_create(nodes: &Nodes, component: &Path) -> Child {
    Command::new(ZRAFT)
        .args(["create", "--backend", component.to_str().unwrap(), &nodes.peers("heavy")[0].to_string()])
        .env("ZRAFT_CERTS", nodes.certs())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn complaint(creation: Child) -> String {
    let Output { status, stderr, .. } = creation.wait_with_output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

/// The process that compiles, once there is one.
fn compiler_of(nodes: &Nodes) -> String {
    const SAYS: &str = "compiling a component process=";
    let last = |log: String| log.rsplit_once(SAYS).map(|(_, rest)| rest.lines().next().unwrap().to_owned());
    let process = until_some("a component is compiled", || last(nodes.log(0)).filter(|process| is_running(process)));
    assert!(command_line(&process).contains("compile-component"), "{process}");
    process
}

fn command_line(process: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()).into_owned()
}

/// Whether it has not ended. Who has ended and was not waited for has no command line.
fn is_running(process: &str) -> bool {
    !command_line(process).is_empty()
}

/// Which components a node keeps, and which compiled ones.
fn kept(nodes: &Nodes) -> (usize, usize) {
    let count = |folder: &str| nodes.data(0).join(folder).read_dir().map_or(0, Iterator::count);
    (count("components"), count("compiled"))
}

fn heavy_file(nodes: &Nodes) -> PathBuf {
    let path = nodes.folder().join("heavy.wasm");
    std::fs::write(&path, heavy()).unwrap();
    path
}

#[test]
fn a_component_that_takes_too_much_is_refused_with_the_reason_and_leaves_nothing() {
    let mut nodes = Nodes::start(1);
    nodes.create("kv", "kv", &[]);
    let component = heavy_file(&nodes);
    for (settings, expected) in [
        ("compile_deadline_ms = 100", "takes more than 100 ms: make it smaller"),
        ("compile_memory_bytes = 268435456", "takes more than 268435456 bytes of memory: make it smaller"),
    ] {
        nodes.kill(0);
        nodes.start_node_with(0, settings);
        let complaint = complaint(begin_to_create(&nodes, &component));
        assert!(complaint.contains(expected), "{settings}: {complaint}");
        assert!(complaint.contains(&nodes.peers("heavy")[0].to_string()), "{complaint}");
        until("nothing is left", || kept(&nodes) == (1, 1));
        nodes.run_ok(&["kv", "put", &nodes.peers("kv")[0].to_string(), "a", "1"]);
    }
    assert!(!nodes.log(0).contains("ERROR"), "{}", nodes.log(0));
}

#[test]
fn a_compiler_that_is_killed_is_told_of_and_another_tries_again() {
    let nodes = Nodes::start(1);
    let component = heavy_file(&nodes);
    let creation = begin_to_create(&nodes, &component);
    assert!(Command::new("kill").args(["-9", &compiler_of(&nodes)]).status().unwrap().success());
    let complaint = complaint(creation);
    assert!(complaint.contains("the process on this node that compiled it ended by signal: 9"), "{complaint}");
    until("nothing is left", || kept(&nodes) == (0, 0));
    nodes.create("kv", "kv", &[]);
}

#[test]
fn a_node_that_stops_or_dies_leaves_no_compiler_behind() {
    let mut nodes = Nodes::start(1);
    let component = heavy_file(&nodes);

    let creation = begin_to_create(&nodes, &component);
    let compiler = compiler_of(&nodes);
    assert!(nodes.terminate(0), "{}", nodes.log(0));
    until("it has ended", || !is_running(&compiler));
    complaint(creation);

    nodes.start_node(0);
    let creation = begin_to_create(&nodes, &component);
    let compiler = compiler_of(&nodes);
    nodes.kill(0);
    until("it has ended", || !is_running(&compiler));
    complaint(creation);
}

/// Where somebody calls the library, it may have others compile.
fn with_compiler(folder: &Path, program: &str) -> Wasm {
    Wasm::new(folder, Compiler::Child(program.into()), CompileLimits::default()).unwrap()
}

#[test]
fn a_child_compiles_to_the_same_bytes() {
    let module = wat::parse_str(include_str!("../components/core.wat")).unwrap();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (in_process, by_child) = (Wasm::in_process(here.path()).unwrap(), with_compiler(there.path(), ZRAFT));
    for component in [KV, &module[..]] {
        in_process.compile(component).unwrap();
        by_child.compile(component).unwrap();
    }
    for entry in here.path().read_dir().unwrap() {
        let name = entry.unwrap().file_name();
        let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
        assert!(read(here.path()) == read(there.path()), "{} differs", name.display());
    }
    for refused in [&KV[..5000], b"\0asm\x01\0\0\0\x05\x01\0"] {
        assert_eq!(in_process.compile(refused).unwrap_err(), by_child.compile(refused).unwrap_err());
    }
}

#[test]
fn a_program_that_does_not_compile_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    for (program, expected) in [
        ("/no/such/program", "/no/such/program cannot be started to compile it"),
        ("false", "ended by exit status: 1"),
        ("true", "answered what makes no sense"),
        ("echo", "answered what makes no sense"),
        ("ls", "memory-bytes"),
    ] {
        let error = with_compiler(folder.path(), program).compile(KV).unwrap_err();
        assert!(error.to_string().contains(expected), "{program}: {error}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

/// Whoever reads types does so by recursion, and a component is not bounded where it describes itself.
#[test]
fn a_component_that_overflows_the_stack_of_the_compiler_is_refused() {
    // The type of an instance that declares one type, which is again the type of such an instance, and so on.
    let content = [&[1], &[0x42, 1, 1].repeat(1 << 20)[..], &[0x42, 0]].concat();
    let length = [0, 7, 14, 21].map(|shift| (content.len() >> shift) as u8 | 0x80);
    let component = [b"\0asm\x0d\0\x01\0\x07", &length[..], &[0], &content].concat();
    let nodes = Nodes::start(1);
    let path = nodes.folder().join("deep.wasm");
    std::fs::write(&path, component).unwrap();
    let complaint = complaint(begin_to_create(&nodes, &path));
    assert!(complaint.contains("what it declares is nested too deeply"), "{complaint}");
    nodes.create("kv", "kv", &[]);
}

/// Where the compiled form is lost, or the engine is another.
#[test]
fn a_component_that_was_taken_in_before_may_take_more() {
    let folder = tempfile::tempdir().unwrap();
    let limits = CompileLimits { memory_bytes: CompileLimits::MIN_MEMORY_BYTES, ..CompileLimits::default() };
    let wasm = Wasm::new(folder.path(), Compiler::Child(ZRAFT.into()), limits).unwrap();
    let error = wasm.compile(&heavy()).unwrap_err();
    assert_eq!(error, ComponentError::CompileMemory(CompileLimits::MIN_MEMORY_BYTES));
    wasm.compile_again(&heavy()).unwrap();
}

#[test]
fn what_has_stopped_compiles_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = with_compiler(folder.path(), ZRAFT);
    wasm.compile(KV).unwrap();
    wasm.stop();
    wasm.compile(KV).unwrap();
    let error = wasm.compile(&heavy()).unwrap_err();
    assert_eq!(error, ComponentError::Stopping);
}

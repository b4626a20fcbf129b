//! Compiles components: in this process, or in a child process that a stranger's component can at worst end.
//!
//! A component is small, and what it takes to compile it is not: its author decides how much time and memory. So a node has
//! a child do it (`child`), of low priority and on one thread, with an address space of a set size. The child is killed when
//! its time is up and when the node stops, and it ends by itself when the node has died. It sees the component and nothing
//! else: what it has made comes back through a pipe, and the node writes the files.

mod child;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use wasmtime::Engine;

use super::component::{ComponentError, MAX_COMPONENT_BYTES};

pub use child::compile_for_parent;

/// The command of this program by which the child is started.
pub const COMPILE_COMMAND: &str = "compile-component";

/// The flag of that command: the most address space, in bytes.
pub const MEMORY_FLAG: &str = "--memory-bytes";

/// The largest compiled form, in bytes. Those of real components are four times as large as they are, at most.
const MAX_COMPILED_BYTES: usize = 8 * MAX_COMPONENT_BYTES;

/// Most bytes of what a child complains about that are read.
const MAX_COMPLAINT_BYTES: u64 = 4 << 10;

/// What Rust says before it aborts, when there is no memory and when there is no stack left.
const NO_MEMORY: &str = "memory allocation of";
const NO_STACK: &str = "has overflowed its stack";

/// Who compiles components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// This process, on the calling thread and whatever it takes: for components that are trusted.
    InProcess,
    /// A child process each, of this program: zraft's own, which knows the command [`COMPILE_COMMAND`].
    Child(PathBuf),
}

impl Compiler {
    /// Children of the program that is running. It must be zraft's.
    ///
    /// # Errors
    /// What the operating system says when it does not tell which program that is.
    pub fn this_program() -> io::Result<Self> {
        // The file that was started, also when another version has taken its place since: its engine might be another.
        let started = Path::new("/proc/self/exe");
        Ok(Self::Child(if started.exists() { started.to_owned() } else { std::env::current_exe()? }))
    }
}

/// What a child may use to compile one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space, in bytes; the program itself has some of it.
    pub memory_bytes: u64,
    /// Time, in milliseconds.
    pub deadline_ms: u64,
}

impl CompileLimits {
    /// Least address space: the program does not start with less.
    pub const MIN_MEMORY_BYTES: u64 = 256 << 20;
    /// Longest time: who waits for a component to be taken in gives up after five minutes.
    pub const MAX_DEADLINE_MS: u64 = 240_000;

    /// How many times as much a component may take that was taken in before. Refusing it would stop a replica, and how long
    /// compiling takes depends on what else the machine does.
    const FACTOR_IF_ACCEPTED: u64 = 4;

    pub(super) fn if_accepted(self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_mul(Self::FACTOR_IF_ACCEPTED),
            deadline_ms: self.deadline_ms.saturating_mul(Self::FACTOR_IF_ACCEPTED),
        }
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, deadline_ms: 120_000 }
    }
}

/// A [`Compiler`], and the children that it has.
pub(super) struct Compiling {
    compiler: Compiler,
    children: Mutex<Children>,
}

#[derive(Default)]
struct Children {
    is_stopping: bool,
    next: u64,
    /// They are waited for by whoever takes them out: until then, their process ids belong to nobody else.
    running: BTreeMap<u64, Child>,
}

/// The ends of a child's pipes.
struct Pipes {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// What came out of a child.
struct Said {
    answer: Vec<u8>,
    complaint: String,
}

impl Compiling {
    pub(super) fn new(compiler: Compiler) -> Self {
        Self { compiler, children: Mutex::default() }
    }

    /// The compiled form of a component, or of the component that is made of a core module.
    ///
    /// # Errors
    /// [`ComponentError`] when it cannot be compiled, or not within `limits`; or when there is no child to do it, or it
    /// was ended.
    pub(super) fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
        limits: CompileLimits,
    ) -> Result<Vec<u8>, ComponentError> {
        match &self.compiler {
            Compiler::InProcess => child::compile(engine, bytes),
            Compiler::Child(program) => self.compile_in_child(program, bytes, limits),
        }
    }

    /// Ends all children, and starts no more.
    pub(super) fn stop(&self) {
        let mut children = self.lock();
        children.is_stopping = true;
        // Who waits for them hears of it.
        children.running.values_mut().for_each(kill);
    }

    fn compile_in_child(&self, program: &Path, bytes: &[u8], limits: CompileLimits) -> Result<Vec<u8>, ComponentError> {
        let (id, pipes) = self.start(program, limits)?;
        let (done, heard) = mpsc::sync_channel(1);
        let said = thread::scope(|scope| {
            let talk = || drop(done.send(talk(pipes, bytes)));
            let talking = thread::Builder::new().name("zraft-compile".to_owned()).spawn_scoped(scope, talk);
            let said = match talking {
                Ok(_) => heard.recv_timeout(Duration::from_millis(limits.deadline_ms)).map_err(|error| match error {
                    RecvTimeoutError::Timeout => ComponentError::CompileTime(limits.deadline_ms),
                    RecvTimeoutError::Disconnected => ComponentError::Host("what reads it panicked".to_owned()),
                }),
                Err(error) => Err(ComponentError::Host(format!("there is no thread that talks to the child: {error}"))),
            };
            // Whoever talks to it hears nothing more: so there is an end.
            self.lock().running.get_mut(&id).into_iter().for_each(kill);
            said
        });
        let (child, is_stopping) = {
            let mut children = self.lock();
            (children.running.remove(&id), children.is_stopping)
        };
        let status = child.expect("only its own call takes it out").wait();
        if is_stopping {
            return Err(ComponentError::Stopping);
        }
        understand(said?, status.map_err(|error| ComponentError::Host(error.to_string()))?, limits)
    }

    fn start(&self, program: &Path, limits: CompileLimits) -> Result<(u64, Pipes), ComponentError> {
        let mut children = self.lock();
        if children.is_stopping {
            return Err(ComponentError::Stopping);
        }
        let spawned = Command::new(program)
            .arg0("zraft")
            .args([COMPILE_COMMAND, MEMORY_FLAG, &limits.memory_bytes.to_string()])
            .env_clear()
            // Its allocator is not to take address space before it needs it.
            .env("MIMALLOC_ARENA_RESERVE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|error| {
            ComponentError::Host(format!("{} cannot be started to compile it: {error}", program.display()))
        })?;
        tracing::info!(process = child.id(), "compiling a component");
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            unreachable!("all three are piped");
        };
        let id = children.next;
        children.next += 1;
        children.running.insert(id, child);
        Ok((id, Pipes { stdin, stdout, stderr }))
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        // Nothing that panics is done under the lock.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a child, if it has not ended.
fn kill(child: &mut Child) {
    // It fails for one that has been waited for, and those are no longer among the children.
    let _ = child.kill();
}

/// Gives a child the component and reads all that it says. Its standard input stays open until then: it lives as long.
fn talk(mut pipes: Pipes, bytes: &[u8]) -> io::Result<Said> {
    // A child that does not take it all has ended, and how says why.
    let length = (bytes.len() as u64).to_le_bytes();
    let _ = pipes.stdin.write_all(&length).and_then(|()| pipes.stdin.write_all(bytes));
    let mut said = Said { answer: Vec::new(), complaint: String::new() };
    pipes.stdout.take(1 + MAX_COMPILED_BYTES as u64 + 1).read_to_end(&mut said.answer)?;
    if said.answer.len() <= 1 + MAX_COMPILED_BYTES {
        let mut complaint = Vec::new();
        pipes.stderr.take(MAX_COMPLAINT_BYTES).read_to_end(&mut complaint)?;
        said.complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    }
    Ok(said)
}

/// What an end of a child means.
fn understand(said: io::Result<Said>, status: ExitStatus, limits: CompileLimits) -> Result<Vec<u8>, ComponentError> {
    let Said { answer, complaint } =
        said.map_err(|error| ComponentError::Compiler(format!("is not heard: {error}")))?;
    if answer.len() > 1 + MAX_COMPILED_BYTES {
        return Err(ComponentError::CompiledSize(MAX_COMPILED_BYTES));
    }
    if status.signal() == Some(Signal::ABORT.as_raw()) {
        if complaint.contains(NO_MEMORY) {
            return Err(ComponentError::CompileMemory(limits.memory_bytes));
        }
        // What a component declares is read by recursion.
        if complaint.contains(NO_STACK) {
            return Err(ComponentError::Malformed("what it declares is nested too deeply".to_owned()));
        }
    }
    if !status.success() {
        let complaint = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
        return Err(ComponentError::Compiler(format!("ended by {status}{complaint}")));
    }
    child::read_answer(answer)
}

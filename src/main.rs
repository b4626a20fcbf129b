//! The `zraft` program.

use std::process::ExitCode;

use clap::Parser;
use zraft::cli::Arguments;

/// It hardly ever asks the kernel for memory. That would wait while a large instance of a component is dropped, and with it
/// everybody whom the network's thread serves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(target_os = "linux")]
    if arguments.runs_nodes() {
        allocate_for_nodes();
    }
    zraft::cli::run(arguments)
}

/// Has the allocator keep what is freed for ten seconds instead of one, and give it back in whole huge pages.
///
/// A node that is busy needs what it frees again at once. What was given back in the meantime must be cleared by the kernel
/// then, and comes as small pages, which take the processor longer to find.
///
/// The allocator takes its options from the environment, when a process starts: so the program is started once more, in
/// this process. Where it cannot be, or the environment has these options already, all goes on as it is.
#[cfg(target_os = "linux")]
fn allocate_for_nodes() {
    use std::os::unix::process::CommandExt;

    const OPTIONS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "10000"), ("MIMALLOC_ALLOW_THP", "2")];

    let unset: Vec<_> = OPTIONS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if unset.is_empty() {
        return;
    }
    let mut words = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), words.next()) else { return };
    // It returns only where it fails.
    let _ = std::process::Command::new(program).arg0(name).args(words).envs(unset).exec();
}

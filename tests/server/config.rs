//! The settings of a node: from a file, the environment and flags, and looked at without starting it.

use std::process::Command;

use crate::harness::Nodes;

#[test]
fn a_configuration_is_checked_and_flags_come_before_the_environment_and_that_before_the_file() {
    let nodes = Nodes::start(1);
    let config = nodes.folder().join("node-0.toml").display().to_string();
    let said = nodes.run_ok(&["config", "check", &config]);
    assert!(said.contains(nodes.address(0).as_str()) && said.contains("election_timeout_ms: 500"), "{said}");
    let check = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_zraft"))
            .args(["config", "check", &config])
            .args(flags)
            .env("ZRAFT_ELECTION_TIMEOUT_MS", "700")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(check(&[]).contains("election_timeout_ms: 700"));
    assert!(check(&["--election-timeout-ms", "900"]).contains("election_timeout_ms: 900"));
    // The certificates are looked at too.
    let refused = nodes.run_err(2, &["config", "check", &config, "--key", "none.pem"]);
    assert!(refused.contains("none.pem"), "{refused}");
    let text = std::fs::read_to_string(&config).unwrap().replace("guest_threads", "guest_thread");
    let wrong = nodes.folder().join("wrong.toml");
    std::fs::write(&wrong, text).unwrap();
    let refused = nodes.run_err(2, &["config", "check", &wrong.display().to_string()]);
    assert!(refused.contains("is 'guest_threads' meant?"), "{refused}");
    assert!(nodes.run_ok(&["config", "example"]).contains("election_timeout_ms = 500"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_starts_with_what_its_allocator_is_to_do_in_its_environment() {
    let nodes = Nodes::start(1);
    let environment = std::fs::read(format!("/proc/{}/environ", nodes.process_id(0))).unwrap();
    let variables: Vec<&[u8]> = environment.split(|byte| *byte == 0).collect();
    for option in ["MIMALLOC_PURGE_DELAY=10000", "MIMALLOC_ALLOW_THP=2"] {
        assert!(variables.contains(&option.as_bytes()), "{option}");
    }
}

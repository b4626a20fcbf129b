//! What a guest can do wrong, and what it is called.

use super::*;
use crate::machine::Budget;

fn apply_fault(word: &'static str) -> (GuestFault, String) {
    on_guest_thread(move || {
        let mut backend = hostile();
        backend.apply(&[command(1, "fine")]).unwrap();
        let fault = backend.apply(&[command(2, word)]).unwrap_err();
        // The instance is dead, and says so rather than run on a broken state.
        assert!(matches!(backend.query(at(2), b"fine"), Err(Fault::Host(_))));
        guest_fault(fault)
    })
}

fn guest_fault(fault: Fault) -> (GuestFault, String) {
    match fault {
        Fault::Guest { kind, message } => (kind, message),
        Fault::Host(message) => panic!("the host was blamed: {message}"),
    }
}

#[test]
fn a_panic_is_a_trap_and_tells_what_it_said() {
    let (kind, message) = apply_fault("panic");
    assert_eq!(kind, GuestFault::Trap);
    assert!(message.contains("told to panic") && message.contains("lib.rs"), "{message}");
}

#[test]
fn an_exit_is_a_trap() {
    let (kind, message) = apply_fault("exit");
    assert_eq!(kind, GuestFault::Trap);
    assert!(message.contains("exit"), "{message}");
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    assert_eq!(apply_fault("loop").0, GuestFault::OutOfFuel);
}

#[test]
fn taking_too_much_memory_is_a_fault_even_when_the_guest_could_bear_a_refusal() {
    for word in ["bomb", "try-bomb"] {
        let (kind, message) = apply_fault(word);
        assert_eq!(kind, GuestFault::OutOfMemory, "{word}: {message}");
        assert!(message.contains(&SMALL.memory_bytes.to_string()), "{message}");
    }
}

#[test]
fn recursing_without_end_overflows_the_guests_stack_and_not_the_hosts() {
    assert_eq!(apply_fault("recurse").0, GuestFault::StackOverflow);
}

#[test]
fn too_few_outcomes_break_the_contract() {
    let (kind, message) = apply_fault("short");
    assert_eq!(kind, GuestFault::BrokenContract);
    assert!(message.contains("0 outcomes for 1 commands"), "{message}");
}

#[test]
fn returning_too_much_breaks_the_contract() {
    let roomy = Budgets { memory_bytes: 256 << 20, apply_fuel: 1_000_000_000, ..SMALL };
    let mut backend = HOSTILE_BACKEND.factory(CLUSTER, roomy).init(at(0), b"").unwrap();
    let (kind, message) = guest_fault(backend.apply(&[command(1, "flood")]).unwrap_err());
    assert_eq!(kind, GuestFault::BrokenContract, "{message}");
}

#[test]
fn chunks_must_have_a_size_that_was_asked_for() {
    for (config, expected) in [("chunk 0", "of 0 bytes"), ("chunk 101", "of 101 bytes")] {
        let factory = HOSTILE_BACKEND.factory(CLUSTER, SMALL);
        let mut backend = factory.init(at(0), config.as_bytes()).unwrap();
        let failed = backend.snapshot(at(0), 100, &mut |_| Ok(()));
        let Err(crate::machine::SnapshotError::Fault(fault)) = failed else { panic!("{failed:?}") };
        let (kind, message) = guest_fault(fault);
        assert_eq!(kind, GuestFault::BrokenContract);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn other_calls_fault_like_apply() {
    let panicked = |fault| assert_eq!(guest_fault(fault).0, GuestFault::Trap);
    panicked(hostile().query(at(1), b"panic").unwrap_err());
    panicked(hostile().expire_session(at(1), 3).unwrap_err());
}

#[test]
fn the_fuel_of_a_batch_is_shared_by_its_commands() {
    // Together these use more than one command may, so each brings its own fuel.
    let spend = Budgets { apply_fuel: 300_000, ..SMALL };
    let mut backend = KV_BACKEND.factory(CLUSTER, spend).init(at(0), b"").unwrap();
    let batch: Vec<BackendCommand> = (1..500).map(|index| command(index, "garbage")).collect();
    assert_eq!(backend.apply(&batch).unwrap().len(), batch.len());
}

#[test]
fn budgets_are_those_of_the_cluster() {
    let with = |budgets| HOSTILE_BACKEND.factory(CLUSTER, budgets).init(at(0), b"").unwrap();
    let mut backend = with(Budgets { apply_fuel: 10, ..SMALL });
    assert_eq!(guest_fault(backend.apply(&[command(1, "fine")]).unwrap_err()).0, GuestFault::OutOfFuel);

    let mut backend = with(Budgets { memory_bytes: 64 << 20, apply_fuel: 1_000_000_000, ..SMALL });
    let (kind, message) = guest_fault(backend.apply(&[command(1, "bomb")]).unwrap_err());
    assert_eq!(kind, GuestFault::OutOfMemory);
    assert!(message.contains(&(64u64 << 20).to_string()), "{message}");
}

#[test]
fn what_others_could_apply_may_take_more_than_what_is_configured() {
    let with = |budgets| HOSTILE_BACKEND.factory(CLUSTER, budgets).init(at(0), b"").unwrap();
    let run = |apply_fuel, budget| {
        let mut backend = with(Budgets { apply_fuel, ..SMALL });
        backend.set_budget(budget);
        backend.apply(&[command(1, "fine")])
    };
    let enough = (0..40).map(|power| 1u64 << power).find(|fuel| run(*fuel, Budget::Configured).is_ok()).unwrap();
    assert_eq!(guest_fault(run(enough / 4, Budget::Configured).unwrap_err()).0, GuestFault::OutOfFuel);
    assert!(run(enough / 4, Budget::Relaxed).is_ok());
    assert_eq!(guest_fault(run(enough / 40, Budget::Relaxed).unwrap_err()).0, GuestFault::OutOfFuel);
    assert!(run(1, Budget::Unlimited).is_ok());

    let mut backend = with(Budgets { apply_fuel: 1_000_000_000, ..SMALL });
    backend.set_budget(Budget::Relaxed);
    let (kind, message) = guest_fault(backend.apply(&[command(1, "bomb")]).unwrap_err());
    assert_eq!(kind, GuestFault::OutOfMemory);
    assert!(message.contains(&(4 * SMALL.memory_bytes).to_string()), "{message}");
}

#[test]
fn a_start_beyond_the_memory_budget_is_the_guests_fault() {
    let tiny = Budgets { memory_bytes: 64 << 10, ..SMALL };
    let failed = HOSTILE_BACKEND.factory(CLUSTER, tiny).init(at(0), b"").err();
    let Some(StartError::Fault(fault)) = failed else { panic!("{failed:?}") };
    assert_eq!(guest_fault(fault).0, GuestFault::OutOfMemory);
}

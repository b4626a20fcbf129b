//! What a component built for WASI sees: the entry, and nothing of this machine.

use super::*;
use crate::wasm::Inspection;

fn look(backend: &mut dyn Backend, commands: &[BackendCommand]) -> Vec<String> {
    let text = |outcome: BackendOutcome| String::from_utf8(outcome.reply.unwrap().to_vec()).unwrap();
    backend.apply(commands).unwrap().into_iter().map(text).collect()
}

#[test]
fn hash_maps_clocks_and_output_work_and_are_the_same_on_every_replica() {
    let commands: Vec<BackendCommand> = (1..=3).map(|index| command(index, "look")).collect();
    let at_once = look(&mut *hostile(), &commands);
    let mut one_by_one = hostile();
    one_by_one.query(at(0), b"look").unwrap();
    let apart: Vec<String> =
        commands.iter().flat_map(|command| look(&mut *one_by_one, std::slice::from_ref(command))).collect();
    assert_eq!(at_once[0].split_once(']').map(|(_, rest)| rest), apart[0].split_once(']').map(|(_, rest)| rest));
    assert_eq!(at_once.len(), apart.len());
    assert!(at_once[0].contains(&format!(" {} ", at(1).time_ms)), "{}", at_once[0]);
    assert!(at_once[2].contains(&format!(" {} ", at(3).time_ms)), "{}", at_once[2]);
    assert!(at_once[0].ends_with(" 0 0"), "arguments or variables in {}", at_once[0]);
}

#[test]
fn a_replica_that_restarts_sees_what_the_others_see() {
    let commands: Vec<BackendCommand> = (1..=3).map(|index| command(index, "look")).collect();
    assert_eq!(look(&mut *hostile(), &commands), look(&mut *hostile(), &commands));
    let other = HOSTILE_BACKEND.factory(ClusterId(8), SMALL).init(at(0), b"");
    assert_ne!(look(&mut *hostile(), &commands), look(&mut *other.unwrap(), &commands));
}

#[test]
fn there_are_no_files() {
    assert_eq!(look(&mut *hostile(), &[command(1, "file")]), ["false"]);
}

#[test]
fn babbling_is_bounded_and_harms_nobody() {
    let roomy = Budgets { apply_fuel: 1_000_000_000, ..SMALL };
    let mut backend = HOSTILE_BACKEND.factory(CLUSTER, roomy).init(at(0), b"").unwrap();
    assert_eq!(look(&mut *backend, &[command(1, "babble")]), ["babbled"]);
}

#[test]
fn only_functions_show_the_moment_and_not_types_of_time() {
    let shows = |items: &str| {
        let text = format!(r#"(component (import "wasi:clocks/wall-clock@0.2.6" (instance {items})))"#);
        let inspection = Inspection::of(&wat::parse_str(text).unwrap(), b"", SMALL).unwrap();
        inspection.compiled.unwrap().imports[0].shows_the_moment
    };
    let datetime = r#"(type $datetime (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type $exported (eq $datetime)))"#;
    assert!(!shows(datetime));
    assert!(shows(&format!(r#"{datetime} (export "now" (func (result $exported)))"#)));
}

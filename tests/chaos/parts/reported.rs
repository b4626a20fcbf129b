//! The report of a small run.

use std::time::Duration;

use crate::check::{self, Outcome, Verdict};
use crate::history::{Answer, Call, History, Notice, Operation, Outcome as Ended, SessionNotice, Workload};
use crate::report::{self, RunInfo};
use crate::timeline::FaultRecord;

fn history() -> History {
    let operation = |number: u64| {
        let outcome = match number % 50 {
            7 => Ended::Failed("no <leader> & no peer".to_owned()),
            9 => Ended::Unknown("cut off".to_owned()),
            _ => Ended::Ok(Answer::Done),
        };
        let called_ns = number * 10_000_000 + if number > 500 { 3_000_000_000 } else { 0 };
        Operation {
            workload: Workload::Register,
            client: number as u32 % 3,
            process: number as u32,
            call: Call::Put { key: 1, value: number },
            called_ns,
            ended_ns: called_ns + 1_000_000 * (1 + number % 20),
            outcome,
        }
    };
    let notice = Notice::Ended { how: "was closed".to_owned() };
    let notice = SessionNotice { workload: Workload::Trigger, client: 1, session: 2, at_ns: 3, notice };
    History { operations: (0..1_000).map(operation).collect(), notices: vec![notice], is_cut: false }
}

fn fault(kind: &'static str, nodes: &[usize], from: u64, to: u64, bite: &str) -> FaultRecord {
    let (from, to) = (Duration::from_secs(from), Duration::from_secs(to));
    FaultRecord { kind, nodes: nodes.to_vec(), from, to, bite: bite.to_owned() }
}

#[test]
fn a_report_tells_what_was_done_and_what_was_broken() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("report");
    let history = history();
    let faults = [
        fault("kill", &[0], 1, 3, "new leader 2"),
        fault("loss & \"delay\" <both>", &[0, 1], 2, 9, "412 packets dropped"),
        fault("kill", &[], 4, 4, ""),
    ];
    let verdicts = check::check(&history);
    let run = RunInfo {
        seed: 42,
        nodes: 3,
        took: Duration::from_secs(14),
        facts: vec![("binary".to_owned(), "zraft 0.1.0 | debug".to_owned())],
        failures: vec![],
    };
    report::write(&dir, &run, &history, &faults, &verdicts).unwrap();
    assert_eq!(History::read(&dir.join("history.jsonl")).unwrap(), history);

    let page = std::fs::read_to_string(dir.join("report.md")).unwrap();
    for wanted in
        ["seed 42", "| register | valid |", "| kill | 2 | 1 |", "412 packets dropped", "zraft 0.1.0 \\| debug"]
    {
        assert!(page.contains(wanted), "{wanted} is not in {page}");
    }
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap();
    assert_eq!((&json["seed"], &json["pass"]), (&42.into(), &true.into()));
    assert_eq!(json["fault_kinds"]["kill"], serde_json::json!({ "applied": 2, "bit": 1 }));
    let register = &json["workloads"][0];
    assert_eq!((&register["ok"], &register["failed"], &register["unknown"]), (&960.into(), &20.into(), &20.into()));
    let gap_ms = register["longest_gap_ms"].as_f64().unwrap();
    assert!((3_000.0..3_050.0).contains(&gap_ms), "{gap_ms}");

    let svg = std::fs::read_to_string(dir.join("timeline.svg")).unwrap();
    assert!(svg.contains("loss &amp; &quot;delay&quot; &lt;both&gt;") && svg.contains("it did not bite"), "{svg}");
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    assert!(svg.len() < 1_000_000, "{} bytes", svg.len());
}

#[test]
fn a_run_that_shows_no_promise_kept_is_not_a_pass() {
    let run = |failures| RunInfo { seed: 1, nodes: 3, took: Duration::from_secs(1), facts: vec![], failures };
    let verdict = |outcome| [Verdict { workload: "register".to_owned(), outcome }];
    let valid = verdict(Outcome::Valid { operations: 1 });
    assert!(run(vec![]).is_pass(&valid));
    assert!(!run(vec!["'kill' never bit".to_owned()]).is_pass(&valid));
    assert!(!run(vec![]).is_pass(&verdict(Outcome::Unknown(String::new()))));
    assert!(!run(vec![]).is_pass(&verdict(Outcome::Violation(String::new()))));
}

//! What the checkers of ephemeral entries and triggers say of small histories.

use crate::check::{self, Outcome};
use crate::history::{Answer, Call, History, Notice, Operation, Outcome as Ended, SessionNotice, Workload};

const S: u64 = 1_000_000_000;

/// A history that is told line by line. Times are in seconds.
struct Story {
    workload: Workload,
    history: History,
}

impl Story {
    fn of(workload: Workload) -> Self {
        Self { workload, history: History::default() }
    }

    fn did(mut self, called: u64, ended: u64, call: Call, outcome: Ended) -> Self {
        let (workload, called_ns, ended_ns) = (self.workload, called * S, ended * S);
        self.history.operations.push(Operation { workload, client: 0, process: 0, call, called_ns, ended_ns, outcome });
        self
    }

    fn ok(self, at: u64, call: Call, answer: Answer) -> Self {
        self.did(at, at, call, Ended::Ok(answer))
    }

    fn told(mut self, at: u64, notice: Notice) -> Self {
        let notice = SessionNotice { workload: self.workload, client: 0, session: 9, at_ns: at * S, notice };
        self.history.notices.push(notice);
        self
    }

    fn verdict(&self) -> Outcome {
        let of_this = |verdict: &check::Verdict| verdict.workload == self.workload.name();
        check::check(&self.history).into_iter().find(of_this).unwrap().outcome
    }

    fn valid(self) {
        let verdict = self.verdict();
        assert!(matches!(verdict, Outcome::Valid { .. }), "{verdict:?}");
    }

    fn unknown(self) {
        let verdict = self.verdict();
        assert!(matches!(verdict, Outcome::Unknown(_)), "{verdict:?}");
    }

    fn wrong(self, why: &str) {
        let verdict = self.verdict();
        assert!(matches!(&verdict, Outcome::Violation(found) if found.contains(why)), "{verdict:?}");
    }

    /// Somebody looks for ephemeral entries.
    fn look(self, at: u64, there: &[(u32, u64)]) -> Self {
        self.ok(at, Call::Look, Answer::Owners(there.to_vec()))
    }

    fn alive(self, at: u64) -> Self {
        self.ok(at, Call::Live { session: 9 }, Answer::Done)
    }

    /// Trigger 1 is armed on key 5.
    fn armed(self, at: u64, index: u64) -> Self {
        self.ok(at, Call::Watch { session: 9, key: 5 }, Answer::Armed { trigger: 1, index })
    }

    fn changed(self, at: u64, index: u64) -> Self {
        self.ok(at, Call::Change { key: 5, value: index }, Answer::Index(index))
    }

    fn read(self, at: u64, index: u64) -> Self {
        self.ok(at, Call::ReadWatched { session: 9 }, Answer::Indexes(vec![(5, index)]))
    }

    fn fired(self, at: u64, data_changed: bool) -> Self {
        self.told(at, Notice::Fired { trigger: 1, data_changed })
    }

    fn ended(self, at: u64) -> Self {
        self.told(at, Notice::Ended { how: "has expired".to_owned() })
    }
}

/// Session 9 puts entry 3 at 1 s.
fn entry() -> Story {
    Story::of(Workload::Ephemeral).ok(1, Call::PutEphemeral { session: 9, key: 3 }, Answer::Done)
}

const CLOSE: Call = Call::Close { session: 9 };

#[test]
fn an_entry_lives_as_long_as_its_session() {
    let close = || entry().look(2, &[(3, 9)]).alive(4).ok(5, CLOSE, Answer::Done).ended(5);
    close().look(6, &[]).valid();
    close().look(6, &[(3, 9)]).wrong("its session was over");
    entry().look(2, &[]).alive(4).ended(5).look(6, &[]).wrong("its session was alive");
    // Nothing shows that it was alive when it was gone.
    entry().alive(2).look(3, &[]).ended(4).valid();
    entry().alive(2).ended(4).look(5, &[(3, 9)]).look(6, &[]).wrong("its session was over");
    entry().look(3, &[]).look(4, &[(3, 9)]).ended(5).look(6, &[]).wrong("came back");
    close().look(6, &[(4, 9)]).wrong("never put");
    close().look(6, &[(3, 8)]).wrong("never put");
}

#[test]
fn an_entry_that_may_have_been_put_may_be_there_or_not() {
    let put = |outcome| {
        Story::of(Workload::Ephemeral).did(1, 2, Call::PutEphemeral { session: 9, key: 3 }, outcome).look(3, &[])
    };
    let unknown = || put(Ended::Unknown(String::new()));
    unknown().look(4, &[(3, 9)]).ended(5).look(6, &[]).valid();
    unknown().ended(5).look(6, &[(3, 9)]).wrong("its session was over");
    put(Ended::Failed(String::new())).look(4, &[(3, 9)]).ended(5).look(6, &[]).wrong("never put");
}

#[test]
fn what_nobody_holds_any_more_goes_in_the_end() {
    let left = || entry().told(5, Notice::Abandoned).look(6, &[(3, 9)]);
    left().look(20, &[]).valid();
    left().look(20, &[(3, 9)]).unknown();
    left().look(36, &[(3, 9)]).wrong("stays");
    let timed_out = entry().did(5, 10, CLOSE, Ended::Unknown(String::new()));
    timed_out.look(36, &[(3, 9)]).wrong("stays");
    entry().look(2, &[(3, 9)]).unknown();
    entry().told(5, Notice::Abandoned).unknown();
}

fn trigger() -> Story {
    Story::of(Workload::Trigger).armed(1, 10)
}

#[test]
fn a_trigger_fires_once_and_for_a_reason() {
    trigger().changed(2, 11).fired(3, true).read(4, 11).valid();
    trigger().fired(3, false).read(4, 10).valid();
    trigger().changed(2, 11).fired(3, true).fired(4, true).wrong("fired twice");
    trigger().changed(0, 10).fired(3, true).wrong("nothing had changed");
    trigger().changed(4, 11).fired(3, true).wrong("nothing had changed");
    let maybe = |outcome| trigger().did(2, 3, Call::Change { key: 5, value: 1 }, outcome).fired(3, true);
    maybe(Ended::Unknown(String::new())).valid();
    maybe(Ended::Failed(String::new())).wrong("nothing had changed");
    trigger().changed(2, 11).fired(3, true).read(4, 10).wrong("an older state was read");
}

#[test]
fn a_trigger_is_not_lost_while_its_session_lives() {
    let seen = || trigger().changed(2, 11).read(3, 11);
    seen().read(8, 11).wrong("was lost");
    seen().fired(4, true).read(8, 11).valid();
    seen().fired(7, true).read(8, 11).wrong("was lost");
    // It may have ended meanwhile.
    seen().valid();
    trigger().changed(2, 11).read(3, 10).read(8, 10).valid();
    trigger().ended(5).wrong("had not fired");
    trigger().fired(5, false).ended(5).valid();
}

#[test]
fn of_a_history_that_is_cut_nothing_is_said() {
    let mut story = trigger().ended(5);
    story.history.is_cut = true;
    story.unknown();
}

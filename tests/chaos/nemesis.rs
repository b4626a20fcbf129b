//! Carries the plan out: up to two faults at a time, each kind at least once, and a watch on the nodes meanwhile.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

use crate::faults::{self, Applied, Bite};
use crate::plan::{Kind, MAX_AT_ONCE, Plan, Planned};
use crate::timeline::FaultRecord;
use crate::world::World;

/// How often it is looked whether a node has ended.
const WATCH: Duration = Duration::from_millis(100);
/// How much longer than planned it may take until each kind has bitten.
const MOST_TIMES_LONGER: u32 = 2;

/// The one who does it.
pub struct Nemesis {
    world: Rc<World>,
    plan: Plan,
    start: Instant,
    /// The kinds that have not bitten yet.
    missing: BTreeSet<Kind>,
    records: Vec<FaultRecord>,
    running: JoinSet<(Planned, Duration, Applied)>,
    active: Vec<Kind>,
    /// In each place where a fault may be, nothing is before then.
    pauses: Vec<Instant>,
}

impl Nemesis {
    /// One for these kinds of faults; times of records count from `start`.
    pub fn new(world: Rc<World>, plan: Plan, kinds: &[Kind], start: Instant) -> Self {
        let missing = kinds.iter().copied().collect();
        let (records, running, active) = (Vec::new(), JoinSet::new(), Vec::new());
        Self { world, plan, start, missing, records, running, active, pauses: Vec::new() }
    }

    /// Does harm for so long, and for longer if a kind has not bitten yet. Returns when all is mended, or with an error as soon
    /// as something is wrong that no fault explains; what was done is in `records` either way.
    pub async fn run(mut self, length: Duration) -> (Vec<FaultRecord>, Result<(), String>) {
        let result = self.carry_out(length).await;
        // What is still on is cut short.
        self.running.shutdown().await;
        (self.records, result)
    }

    async fn carry_out(&mut self, length: Duration) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let took = begin.elapsed();
            let is_over = took >= length && (self.missing.is_empty() || took >= length * MOST_TIMES_LONGER);
            if is_over && self.running.is_empty() {
                return Ok(());
            }
            if !is_over {
                self.start_next();
            }
            tokio::select! {
                Some(joined) = self.running.join_next() => self.note(joined)?,
                () = tokio::time::sleep(WATCH) => {}
            }
            self.world.nodes.ended_unexpectedly()?;
        }
    }

    fn start_next(&mut self) {
        let now = Instant::now();
        self.pauses.retain(|until| *until > now);
        if self.active.len() + self.pauses.len() >= MAX_AT_ONCE {
            return;
        }
        let Some(planned) = self.plan.next(&self.active) else { return };
        self.active.push(planned.kind);
        let (world, from) = (Rc::clone(&self.world), self.start.elapsed());
        self.running.spawn_local(async move {
            let result = faults::apply(&world, &planned).await;
            (planned, from, result)
        });
    }

    fn note(&mut self, joined: Result<(Planned, Duration, Applied), JoinError>) -> Result<(), String> {
        let (planned, from, result) = joined.map_err(|error| format!("the harness has failed: {error}"))?;
        let (kind, to) = (planned.kind, self.start.elapsed());
        self.active.retain(|active| *active != kind);
        self.pauses.push(Instant::now() + planned.pause);
        let Some(Bite { nodes, proof }) = result.map_err(|error| format!("{}: {error}", kind.name()))? else {
            self.plan.again(kind);
            return Ok(());
        };
        let told = if proof.is_empty() { "did not bite" } else { &proof };
        println!("{:7.1} to {:5.1} s  {:17} {told}", from.as_secs_f32(), to.as_secs_f32(), kind.name());
        if !proof.is_empty() {
            self.missing.remove(&kind);
        } else if self.missing.contains(&kind) {
            self.plan.again(kind);
        }
        self.records.push(FaultRecord { kind: kind.name(), nodes, from, to, bite: proof });
        Ok(())
    }
}

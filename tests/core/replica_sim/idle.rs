//! Many sessions that do nothing: they cost the log nothing, and none is lost.

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use zraft::machine::Genesis;
use zraft::raft::{Config, ConfigValues};
use zraft::settings::Settings;
use zraft::types::{ClusterId, Digest, Incarnation, Index};

use super::node::Plan;
use super::sessions::SessionClient;
use super::{HEALED_STEPS, STEP_MS, Sim};

const SESSIONS: u64 = 10_000;
const OPENED_A_STEP: u64 = 100;
const TIMEOUT_MS: u64 = 10_000;
/// How often the sessions' time passes.
const TIMEOUTS: u64 = 3;

fn plan() -> Plan {
    let values = ConfigValues { election_ticks: 10, heartbeat_ticks: 2, ..ConfigValues::default() };
    let settings = Settings { max_sessions: SESSIONS, max_log_count: 2 * SESSIONS, ..Settings::default() };
    let genesis = Genesis { cluster: ClusterId(7), component: Digest::of(b"numbers"), config: Bytes::new(), settings };
    Plan { config: Config::new(values).expect("a valid configuration"), genesis }
}

/// A cluster without faults, in which many clients have opened their sessions.
fn sim_with_sessions() -> Sim {
    let mut sim = Sim::with(0, ChaCha8Rng::seed_from_u64(0), 3, plan());
    sim.sessions.clear();
    sim.heal();
    // Many write at once; the disks make only so many writes durable in a step.
    sim.eagerness = 0.0;
    (0..HEALED_STEPS).for_each(|_| sim.step(false));
    let leader = sim.settled_leader();
    for _ in 0..10 * SESSIONS / OPENED_A_STEP {
        for _ in 0..OPENED_A_STEP.min(SESSIONS - sim.sessions.len() as u64) {
            let number = sim.sessions.len();
            let client = SessionClient::new(format!("client {number}"), number as u128, TIMEOUT_MS, leader);
            sim.sessions.push(client);
        }
        // Whoever chose another node to ask was sent away.
        for number in 0..sim.sessions.len() {
            if sim.sessions[number].stream.is_none() {
                sim.sessions[number].target = leader;
                sim.connect(number);
            }
        }
        sim.step(false);
        if sim.sessions.len() as u64 == SESSIONS && sim.sessions.iter().all(SessionClient::is_open) {
            return sim;
        }
    }
    panic!("not everybody could open a session: {:#?}", sim.counts);
}

impl Sim {
    /// Time passes; the sessions do nothing.
    fn idle(&mut self) {
        (0..TIMEOUTS * TIMEOUT_MS / STEP_MS).for_each(|_| self.step(false));
    }

    fn last_entries(&self) -> Vec<Index> {
        self.nodes.values().map(|node| node.replica.raft().status().last.index).collect()
    }
}

#[test]
fn ten_thousand_idle_sessions_cost_no_entries_and_outlive_their_leader() {
    let mut sim = sim_with_sessions();
    let ids: Vec<_> = sim.sessions.iter().map(|client| client.session).collect();
    let count = |sim: &Sim, what| sim.counts.get(what).copied().unwrap_or_default();
    let before = sim.last_entries();
    sim.idle();
    assert_eq!(sim.last_entries(), before, "pings cost no entries");
    assert!(count(&sim, "ping: answered") >= TIMEOUTS * SESSIONS, "everybody pings");

    let leader: Incarnation = sim.settled_leader();
    sim.crash(leader);
    sim.idle();
    sim.restart_all();
    sim.idle();
    let last = sim.last_entries();
    assert_eq!(last, vec![before[0].next(); last.len()], "but for the entry that every new leader begins with");
    assert_eq!(sim.sessions.iter().map(|client| client.session).collect::<Vec<_>>(), ids, "no session is lost");
    assert!(sim.sessions.iter().all(SessionClient::is_open), "all go on at the new leader");
    sim.check_sessions();
}

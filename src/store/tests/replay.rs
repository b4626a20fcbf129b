//! Random writes of several peers, with restarts: the store gives back what `Restored::replay` makes of them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// What the store should hold of a peer.
#[derive(Default)]
struct Model {
    restored: Restored,
    log: BTreeMap<Index, Entry>,
    term: u64,
    token: u64,
    /// How many writes in 100 are this peer's share.
    weight: u32,
}

impl Model {
    fn apply(&mut self, write: &Write) {
        self.restored.replay(write).unwrap();
        if let Some(base) = write.discard_through {
            self.log.retain(|index, _| *index > base.index);
        }
        if let Some(from) = write.truncate_from {
            self.log.retain(|index, _| *index < from);
        }
        self.log.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
    }

    fn random_write(&mut self, rng: &mut ChaCha8Rng) -> Write {
        self.token += 1;
        let mut write = Write::new(WriteToken(self.token));
        let (base, last) = (self.restored.base.index.0, self.restored.last.0);
        let mut next = last + 1;
        match rng.random_range(0..100) {
            0..10 => {
                self.term += 1;
                let vote = rng.random_bool(0.5).then_some(Incarnation(self.term));
                write.hard_state = Some(HardState { term: Term(self.term), vote, commit: Index(base) });
                return write;
            }
            10..20 if last > base => {
                self.term += 1;
                next = rng.random_range(base + 1..=last);
                write.truncate_from = Some(Index(next));
            }
            20..25 if last > base => {
                let index = rng.random_range(base + 1..=last);
                let term = self.restored.term_at(Index(index)).unwrap();
                write.snapshot = Some(snapshot_meta(term.0, index));
                write.discard_through = write.snapshot.as_ref().map(|snapshot| snapshot.position);
            }
            25..27 => {
                self.term += 1;
                write.snapshot = Some(snapshot_meta(self.term, last + 5));
                write.discard_through = write.snapshot.as_ref().map(|snapshot| snapshot.position);
                return write;
            }
            _ => {}
        }
        let count = rng.random_range(1..=6);
        write.entries = (next..next + count).map(|index| random_entry(self.term, index, rng)).collect();
        write
    }
}

fn random_entry(term: u64, index: u64, rng: &mut ChaCha8Rng) -> Entry {
    let mut entry = entry(term, index, vec![rng.random(); rng.random_range(0..200)]);
    match rng.random_range(0..20) {
        0 => entry.payload = Payload::Noop,
        1 => entry.payload = Payload::Membership(configuration(rng.random_range(1..5))),
        _ => {}
    }
    entry
}

fn check(bench: &Bench, models: &BTreeMap<Incarnation, Model>) {
    for (&peer, model) in models {
        let (base, last) = (model.restored.base.index.0, model.restored.last.0);
        match bench.read(peer, base + 1, last) {
            Ok(entries) => assert!(entries.iter().eq(model.log.values()), "the log of {peer} differs"),
            Err(error) => assert!(matches!(error, StoreError::NotInLog { .. }) && last == base, "{error}"),
        }
    }
}

fn check_restored(bench: &Bench, models: &BTreeMap<Incarnation, Model>) {
    let found: Vec<_> = bench.peers.iter().map(|peer| (peer.incarnation, &peer.record, &peer.restored)).collect();
    let records: Vec<Bytes> = models.keys().map(|peer| record(*peer)).collect();
    let expected: Vec<_> =
        models.iter().zip(&records).map(|((peer, model), record)| (*peer, record, &model.restored)).collect();
    assert_eq!(found, expected);
}

fn run(seed: u64, limits: PurgeLimits) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bench = Bench::with(limits);
    let mut models = BTreeMap::new();
    let mut created = 0;
    for step in 0..600 {
        if models.len() < 4 {
            created += 1;
            let peer = bench.create(created);
            let mut model = Model { term: 1, weight: [1, 4, 40, 60][created as usize % 4], ..Model::default() };
            model.apply(&Write::bootstrap(configuration(1), 1_000));
            models.insert(peer, model);
        }
        // One or several writes at once, so that rounds hold one or several.
        let mut last = None;
        for (peer, model) in &mut models {
            while rng.random_ratio(model.weight, 100) {
                let write = model.random_write(&mut rng);
                if let Some(meta) = &write.snapshot {
                    make_snapshot(&bench.store.snapshots(), *peer, meta.clone(), 1);
                }
                model.apply(&write);
                last = Some(Completion::Written(*peer, write.token));
                bench.store.write(*peer, write);
            }
        }
        if let Some(last) = last {
            bench.wait(last);
        }
        if rng.random_ratio(1, 150) {
            let peer = *models.keys().nth(rng.random_range(0..models.len())).unwrap();
            models.remove(&peer);
            bench.store.remove_peer(peer);
            bench.wait(Completion::Removed(peer));
        }
        if rng.random_ratio(1, 25) {
            bench = bench.reopened();
            check_restored(&bench, &models);
        }
        if step % 10 == 0 {
            check(&bench, &models);
        }
    }
    bench = bench.reopened();
    check_restored(&bench, &models);
    check(&bench, &models);
}

#[test]
fn random_writes_are_restored_as_they_replay() {
    run(1, PurgeLimits::default());
}

#[test]
fn random_writes_are_restored_as_they_replay_while_little_purges_move_entries_about() {
    for seed in 2..5 {
        run(
            seed,
            PurgeLimits {
                every_rounds: 3,
                every_bytes: 1 << 20,
                max_moved_bytes: 1_500,
                max_rounds: 12,
                max_deleted_bytes: 2_000,
            },
        );
    }
}

#[test]
fn random_writes_are_restored_as_they_replay_while_large_purges_move_entries_about() {
    for seed in 5..7 {
        run(
            seed,
            PurgeLimits {
                every_rounds: 20,
                every_bytes: 1 << 20,
                max_moved_bytes: 1 << 20,
                max_rounds: 64,
                max_deleted_bytes: 4 << 20,
            },
        );
    }
}

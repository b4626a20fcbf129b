//! What becomes of packets: every disturbance that is on now, each with the paths that it is about and a count of what it did.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// From one place to another. Nodes are places by their numbers; the clients' is the number of nodes.
pub type Path = (usize, usize);

/// What a disturbance does to a packet.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// None gets through.
    Cut,
    /// So many of a hundred are lost.
    Lose { percent: u32 },
    /// Each takes so much longer, and up to `jitter` more.
    Delay { by: Duration, jitter: Duration },
    /// So many of a hundred are held back, so that later ones overtake them.
    HoldBack { percent: u32, by: Duration },
    /// So many of a hundred come twice, the second time after up to so long.
    Repeat { percent: u32, within: Duration },
}

/// An effect on some paths.
pub struct Disturbance {
    effect: Effect,
    paths: Vec<Path>,
    /// Packets that it concerned: for [`Effect::HoldBack`] only those that were indeed overtaken.
    bites: AtomicU64,
}

impl Disturbance {
    /// How many packets it has concerned so far.
    pub fn bites(&self) -> u64 {
        self.bites.load(Ordering::Relaxed)
    }

    pub(super) fn bit(&self) {
        self.bites.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is to be done with one packet.
#[derive(Default)]
pub struct Fate {
    /// When each copy goes on; none: it is dropped.
    pub copies: Vec<Duration>,
    /// Who holds the packet back, to be told if that changed the order.
    pub held_by: Option<Arc<Disturbance>>,
}

/// All disturbances that are on.
pub struct Rules {
    nodes: usize,
    disturbances: Mutex<Vec<Arc<Disturbance>>>,
}

impl Rules {
    /// No disturbance between so many nodes and the clients.
    pub fn new(nodes: usize) -> Self {
        Self { nodes, disturbances: Mutex::default() }
    }

    /// Where the clients are.
    pub fn clients(&self) -> usize {
        self.nodes
    }

    /// All paths, those of the clients too.
    pub fn everywhere(&self) -> Vec<Path> {
        let places = self.nodes + 1;
        let all = (0..places).flat_map(|from| (0..places).map(move |to| (from, to)));
        all.filter(|(from, to)| from != to).collect()
    }

    /// Begins to disturb these paths, until what is returned is given to [`Rules::stop`].
    pub fn begin(&self, effect: Effect, paths: Vec<Path>) -> Arc<Disturbance> {
        let disturbance = Arc::new(Disturbance { effect, paths, bites: AtomicU64::new(0) });
        self.lock().push(Arc::clone(&disturbance));
        disturbance
    }

    /// Ends a disturbance.
    pub fn stop(&self, disturbance: &Arc<Disturbance>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, disturbance));
    }

    /// Decides about a packet.
    pub fn decide(&self, path: Path, random: &mut ChaCha8Rng) -> Fate {
        let mut fate = Fate { copies: vec![Duration::ZERO], held_by: None };
        for disturbance in self.lock().iter().filter(|disturbance| disturbance.paths.contains(&path)) {
            let mut hits = |percent| random.random_range(0..100) < percent;
            match disturbance.effect {
                Effect::Cut => fate.copies.clear(),
                Effect::Lose { percent } if hits(percent) => fate.copies.clear(),
                Effect::Delay { by, jitter } => {
                    let delay = by + jitter.mul_f64(random.random());
                    fate.copies.iter_mut().for_each(|copy| *copy += delay);
                }
                Effect::HoldBack { percent, by } if hits(percent) => {
                    fate.copies.iter_mut().for_each(|copy| *copy += by);
                    fate.held_by = Some(Arc::clone(disturbance));
                    continue;
                }
                Effect::Repeat { percent, within } if hits(percent) => {
                    fate.copies.push(within.mul_f64(random.random()));
                }
                Effect::Lose { .. } | Effect::HoldBack { .. } | Effect::Repeat { .. } => continue,
            }
            disturbance.bit();
            if fate.copies.is_empty() {
                break;
            }
        }
        fate
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Disturbance>>> {
        self.disturbances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

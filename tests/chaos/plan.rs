//! What is done to the nodes, in which order: it follows from the seed alone.
//!
//! When each fault begins follows from the run as well, since a fault ends once what it has broken is mended. Each kind comes
//! once before any comes again.

use std::collections::VecDeque;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How many faults there may be at one time.
pub const MAX_AT_ONCE: usize = 2;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of a node, then a start.
    Kill,
    /// The leader stands still for longer than an election timeout.
    StopLeader,
    /// The nodes fall into two halves.
    PartitionHalves,
    /// A node is heard but does not hear, or the other way round.
    PartitionOneWay,
    /// The leader is cut off from all others, but not from clients.
    LeaderAlone,
    /// Two halves that hear each other only by way of one node, which relays nothing.
    Bridge,
    /// Packets are lost.
    Loss,
    /// Packets come late.
    Delay,
    /// Packets overtake each other.
    Reorder,
    /// Packets come twice.
    Duplicate,
    /// The disk is full.
    FullDisk,
    /// Syncs of the disk take long.
    SlowDisk,
    /// A sync of the log fails: the node stops, and is started again.
    FsyncError,
    /// The wall clock jumps.
    ClockJump,
    /// A node's data is gone: its peers come back as new ones.
    Wipe,
    /// One bit in a node's files is another.
    BitFlip,
    /// Peers leave a cluster, and others come.
    Members,
    /// Leadership is handed over.
    Transfer,
    /// A cluster moves to another build of its backend.
    Upgrade,
    /// A peer is away until only a snapshot can help it.
    Snapshot,
    /// `kill -9` of all nodes at once, then a start of all.
    RestartAll,
    /// The power of all nodes fails at once, and comes back.
    PowerCut,
}

/// What a kind of fault is done to: that decides what it goes together with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// How well packets travel.
    Quality,
    /// Where packets get at all.
    Partition,
    /// One node, which then goes on with what it had.
    Node,
    /// What one node has on its disk.
    Data,
    /// A cluster.
    Cluster,
    /// All nodes.
    All,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 22] = [
        Self::Kill,
        Self::StopLeader,
        Self::PartitionHalves,
        Self::PartitionOneWay,
        Self::LeaderAlone,
        Self::Bridge,
        Self::Loss,
        Self::Delay,
        Self::Reorder,
        Self::Duplicate,
        Self::FullDisk,
        Self::SlowDisk,
        Self::FsyncError,
        Self::ClockJump,
        Self::Wipe,
        Self::BitFlip,
        Self::Members,
        Self::Transfer,
        Self::Upgrade,
        Self::Snapshot,
        Self::RestartAll,
        Self::PowerCut,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill9",
            Self::StopLeader => "stop-leader",
            Self::PartitionHalves => "partition-halves",
            Self::PartitionOneWay => "partition-one-way",
            Self::LeaderAlone => "leader-alone",
            Self::Bridge => "bridge",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Reorder => "reorder",
            Self::Duplicate => "duplicate",
            Self::FullDisk => "full-disk",
            Self::SlowDisk => "slow-disk",
            Self::FsyncError => "fsync-error",
            Self::ClockJump => "clock-jump",
            Self::Wipe => "wipe",
            Self::BitFlip => "bit-flip",
            Self::Members => "members",
            Self::Transfer => "transfer",
            Self::Upgrade => "upgrade",
            Self::Snapshot => "snapshot",
            Self::RestartAll => "restart-all",
            Self::PowerCut => "power-cut",
        }
    }

    /// Whether it may be on together with another. Never do two nodes lose data at once, so no majority is lost for good;
    /// who mends such a loss changes members, so nobody else does.
    pub fn goes_with(self, other: Self) -> bool {
        if self == other {
            return false;
        }
        let risks_data = |kind: Self| kind.class() == Class::Data || kind == Self::FsyncError;
        let needs_members = |kind: Self| kind.class() == Class::Data || matches!(kind, Self::Members | Self::Snapshot);
        if risks_data(self) && risks_data(other) || needs_members(self) && needs_members(other) {
            return false;
        }
        // No other can lead while one of three stands still, and one that is away for long has to wait for that.
        let needs_successor = |kind: Self| matches!(kind, Self::StopLeader | Self::LeaderAlone);
        let is_long = |kind: Self| kind.class() == Class::Data || kind == Self::Snapshot;
        if needs_successor(self) && is_long(other) || is_long(self) && needs_successor(other) {
            return false;
        }
        let is_of_network = |kind: Self| matches!(kind.class(), Class::Quality | Class::Partition);
        match (self.class(), other.class()) {
            (Class::All, _) => is_of_network(other),
            (_, Class::All) => is_of_network(self),
            _ => true,
        }
    }

    fn class(self) -> Class {
        match self {
            Self::Loss | Self::Delay | Self::Reorder | Self::Duplicate => Class::Quality,
            Self::PartitionHalves | Self::PartitionOneWay | Self::LeaderAlone | Self::Bridge => Class::Partition,
            Self::Kill | Self::StopLeader | Self::FullDisk | Self::SlowDisk | Self::FsyncError | Self::ClockJump => {
                Class::Node
            }
            Self::Wipe | Self::BitFlip => Class::Data,
            Self::Members | Self::Transfer | Self::Upgrade | Self::Snapshot => Class::Cluster,
            Self::RestartAll | Self::PowerCut => Class::All,
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("one of {}", names()))
    }
}

/// A fault that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub kind: Kind,
    /// What it chooses by, such as a node.
    pub seed: u64,
    /// How long it lasts at least, if that is up to us.
    pub duration: Duration,
    /// How long nothing follows it in its place.
    pub pause: Duration,
}

/// The faults to come, without end.
pub struct Plan {
    kinds: Vec<Kind>,
    random: ChaCha8Rng,
    /// Longest duration, and longest pause after it.
    pace: (Duration, Duration),
    queue: VecDeque<Planned>,
}

impl Plan {
    /// A plan of these kinds. A short run has short faults, so that all have their turn.
    pub fn new(seed: u64, kinds: Vec<Kind>, run: Duration) -> Self {
        let is_short = run < Duration::from_secs(400);
        let (longest, pause) = if is_short { (5, 1) } else { (15, 6) };
        let pace = (Duration::from_secs(longest), Duration::from_secs(pause));
        Self { kinds, random: ChaCha8Rng::seed_from_u64(seed), pace, queue: VecDeque::new() }
    }

    /// Takes the first fault that may be on together with these, if one of the next round may.
    pub fn next(&mut self, active: &[Kind]) -> Option<Planned> {
        if self.queue.len() < self.kinds.len() {
            self.add_round();
        }
        let fits = |planned: &Planned| active.iter().all(|kind| planned.kind.goes_with(*kind));
        let place = self.queue.iter().position(fits)?;
        self.queue.remove(place)
    }

    /// Puts a fault that did not bite behind the next one in the queue, to choose otherwise.
    pub fn again(&mut self, kind: Kind) {
        let planned = self.planned(kind);
        self.queue.insert(self.queue.len().min(1), planned);
    }

    fn add_round(&mut self) {
        let mut kinds = self.kinds.clone();
        kinds.shuffle(&mut self.random);
        for kind in kinds {
            let planned = self.planned(kind);
            self.queue.push_back(planned);
        }
    }

    fn planned(&mut self, kind: Kind) -> Planned {
        let (longest, pause) = self.pace;
        let seed = self.random.random();
        let duration = Duration::from_secs(2) + (longest - Duration::from_secs(2)).mul_f64(self.random.random());
        Planned { kind, seed, duration, pause: pause.mul_f64(self.random.random()) }
    }
}

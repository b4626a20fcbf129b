//! The power fails while a node writes: it stops and says why, and once the disk is back all that was acknowledged is
//! there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::ext4::Ext4;
use crate::harness::Nodes;
use crate::require;
use crate::writers::{Knowledge, Verdict, Writers};

const IMAGE_BYTES: u64 = 256 << 20;

/// From so many cuts on, some must have lost what was not acknowledged. If none did, the power never failed.
const ENOUGH_CUTS: u64 = 20;

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    require(&["mkfs.ext4", "mount", "umount", "perl"]);
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (cuts, seed) = (number("DISK_CUTS", 5), number("DISK_SEED", 1));
    println!("{cuts} power cuts, DISK_SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);

    let disk = Ext4::mount_new(IMAGE_BYTES);
    let mut nodes = Nodes::prepare(1);
    nodes.keep_data_in(&disk.path());
    nodes.start_node(0);
    nodes.create("kv", "kv", &["--max-log-count", "40", "--kept-log-count", "5"]);

    let knowledge = Knowledge::default();
    let (mut total, mut torn_snapshots) = (Verdict::default(), 0);
    for cut in 1..=cuts {
        let writers = Writers::start(&nodes, &knowledge);
        writers.until_acknowledged(&knowledge, rng.random_range(1..60));
        // Any moment will do.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..10_000)));
        knowledge.power_fails();
        disk.cut_power();
        assert!(!nodes.wait_for_end(0).success(), "a node whose disk is gone ends with an error");
        writers.stop();
        let log = nodes.log(0);
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("log.redb") && last.contains("check the disk, then restart the node"), "{last}");

        disk.unmount();
        disk.mount();
        knowledge.power_returns();
        torn_snapshots += u64::from(has_unfinished(&nodes.data(0)));
        nodes.start_node(0);
        let verdict = knowledge.check(&nodes);
        total = Verdict { kept: total.kept + verdict.kept, lost: total.lost + verdict.lost };
        if cut % 10 == 0 || cut == cuts {
            let snapshot = nodes.status(&nodes.peers("kv")[0]).unwrap()["snapshot"].clone();
            println!(
                "{cut} cuts: {} writes acknowledged and all there; of those under way {} are there and {} are not; \
                 {torn_snapshots} unfinished snapshots; the last snapshot is {snapshot}",
                knowledge.acknowledged(),
                total.kept,
                total.lost
            );
        }
    }
    assert!(cuts < ENOUGH_CUTS || total.lost > 0, "no cut lost anything: was the power really cut?");
}

/// Whether a file was being written.
fn has_unfinished(dir: &Path) -> bool {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries
        .iter()
        .any(|path| if path.is_dir() { has_unfinished(path) } else { path.extension().is_some_and(|e| e == "tmp") })
}

//! Many clusters on the same nodes.

use super::{compare, drive};
use crate::zraft_nodes::{FIRST, Zraft};

const CLUSTERS: usize = 64;
const CLIENTS: usize = 256;

pub fn measure(zraft: &Zraft) {
    let names: Vec<_> = (0..CLUSTERS).map(|number| format!("many-{number}")).collect();
    names.iter().for_each(|name| zraft.create(name));
    let many: Vec<_> = names.iter().map(|name| zraft.peers(name)).collect();
    let [one, all] =
        compare(CLIENTS, |plan| drive(zraft, vec![zraft.peers(FIRST)], plan), |plan| drive(zraft, many.clone(), plan));
    println!("writes of {CLIENTS} clients: {one:.0} a second to one cluster, {all:.0} to {CLUSTERS}: {:.2}", all / one);
}
